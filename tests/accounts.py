"""An AWS account on an emulator, as an operator prepares it: plain boto3, nothing of rotator's."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING

import boto3

from tests import emulators

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TOML = """
[stores]
keys = "{scheme}://{name}"
ledger = "s3://{ledger}/"
public = "s3://{public}/"
[aws]
endpoint_url = "{through}"
s3_path_style = true
"""


@contextmanager
def moto() -> Iterator[str]:
    """A server of moto with the Secrets Manager of AWS, where a token takes one value and no two calls interleave."""
    port = emulators.free_port()
    command = [sys.executable, "-m", "tests.adapters.strict_moto", "-H", "127.0.0.1", "-p", str(port)]
    with emulators.serving(command, {}, f"http://127.0.0.1:{port}", "/moto-api/") as url:
        yield url


#: The prefix that each KMS key was tagged with when it was made, by ARN: an emulator soon holds thousands of them.
_prefixes: dict[str, str | None] = {}


class Account:
    """Two buckets, of which everybody may read the public one, and a prefix for the private keys of key set acme.

    rotator reaches it ``through`` another endpoint than the operator, where one is given.
    """

    def __init__(
        self, endpoint: str, scheme: str, name: str, algorithms: Sequence[str] = ("ES256",), through: str | None = None
    ) -> None:
        self.endpoint, self.scheme, self.algorithms = endpoint, scheme, tuple(algorithms)
        self.through = through or endpoint
        self.s3 = boto3.client("s3", endpoint_url=endpoint)
        self.secrets = boto3.client("secretsmanager", endpoint_url=endpoint)
        self.kms = boto3.client("kms", endpoint_url=endpoint)
        self._prepare(name)

    def another(self, name: str) -> Account:
        """The same account under another name; its clients are the same."""
        made = copy(self)
        made._prepare(name)
        return made

    def _prepare(self, name: str) -> None:
        self.name, self.ledger, self.public = name, f"{name}-ledger", f"{name}-public"
        for bucket in (self.ledger, self.public):
            self.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        everything = f"arn:aws:s3:::{self.public}/*"
        statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": everything}
        self.s3.put_bucket_policy(
            Bucket=self.public, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        )

    @property
    def origin(self) -> str:
        """Where anybody can fetch the public documents."""
        return f"{self.through}/{self.public}"

    @property
    def toml(self) -> str:
        """The part of a configuration that is about this account."""
        return TOML.format(**vars(self))

    def private_keys_ever_made(self) -> int:
        """Every one, whoever made it and whatever became of it."""
        if self.scheme == "kms":
            return len(self.kms_keys())
        return sum(len(self.in_secret(alg)) for alg in self.algorithms)

    def private_keys_in_use(self) -> int:
        """Those that can sign (KMS), or that anything still names (Secrets Manager)."""
        if self.scheme == "kms":
            states = [self.kms.describe_key(KeyId=arn)["KeyMetadata"]["KeyState"] for arn in self.kms_keys()]
            return states.count("Enabled")
        return sum(bool(labels) for alg in self.algorithms for labels in self.in_secret(alg).values())

    def kms_keys(self) -> list[str]:
        """The ARN of every KMS key that was made here, in whatever state it is."""
        pages = self.kms.get_paginator("list_keys").paginate()
        arns = [key["KeyArn"] for page in pages for key in page["Keys"]]
        for arn in set(arns) - _prefixes.keys():
            tags = self.kms.list_resource_tags(KeyId=arn)["Tags"]
            _prefixes[arn] = {tag["TagKey"]: tag["TagValue"] for tag in tags}.get("rotator:prefix")
        return [arn for arn in arns if _prefixes[arn] == self.name]

    def in_secret(self, alg: str) -> dict[str, set[str]]:
        """The staging labels of every key in the secret, by kid. The copy that a fence makes is the same key."""
        name = f"{self.name}/acme/{alg}"
        found = self.secrets.list_secret_version_ids(SecretId=name, IncludeDeprecated=True, MaxResults=100)
        assert not found.get("NextToken")
        keys: dict[str, set[str]] = {}
        for version in found["Versions"]:
            value = self.secrets.get_secret_value(SecretId=name, VersionId=version["VersionId"])["SecretString"]
            if kid := json.loads(value).get("kid"):
                keys.setdefault(kid, set()).update(version.get("VersionStages", ()))
        return keys
