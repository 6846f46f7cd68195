"""IAM as AWS documents it, in front of an emulator: what a role may do is decided by the files in ``deploy/iam``.

Two judges look at every call, and both must agree:

* :class:`Account` judges in the client, before a request is sent: resources, conditions, the second action that some
  calls need, and AWS's delay before it authorizes by the tags of a new KMS key;
* moto judges on its side by action, resource and signature, if it was started with :func:`enforcing_moto`. Its own IAM
  knows no resource of Secrets Manager; ``python -m tests.iam`` is moto's server with one that does.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import urllib.request
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from string import Template
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from tests import emulators

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Context = Mapping[str, str]

ROOT = Path(__file__).parent.parent
POLICIES = ROOT / "deploy" / "iam"

REGION, ACCOUNT = "eu-west-1", "123456789012"

#: "It might take up to five minutes for tag and alias changes to affect KMS key authorization."
TAG_LAG = timedelta(minutes=5)


# -- policies ----------------------------------------------------------------------------------------------------------


def policy(*names: str, **placeholders: str) -> list[dict[str, Any]]:
    """The statements of these files of ``deploy/iam``, with every placeholder replaced."""
    statements: list[dict[str, Any]] = []
    for name in names:
        text = (POLICIES / f"{name}.json").read_text(encoding="utf-8")
        statements += json.loads(Template(text).substitute(placeholders))["Statement"]
    return statements


def without(statements: Sequence[Mapping[str, Any]], action: str, resource: str = "*") -> list[dict[str, Any]]:
    """The same, but ``action`` is no longer granted on the resources that match ``resource``."""
    left: list[dict[str, Any]] = []
    for statement in statements:
        resources, actions = many(statement["Resource"]), many(statement["Action"])
        others = [each for each in actions if each != action]
        rest = [each for each in resources if not _matches(resource, each)]
        left += [{**statement, "Action": others}] if others else []
        if action in actions and rest:
            left += [{**statement, "Sid": f"Rest{len(left)}", "Action": action, "Resource": rest}]
    return left


def many(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def grants(statements: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """Every (action, pattern of resources) that is granted."""
    return {(a, r) for statement in statements for a in many(statement["Action"]) for r in many(statement["Resource"])}


def _matches(pattern: str, value: str) -> bool:
    wild = "".join({"*": ".*", "?": "."}.get(sign, re.escape(sign)) for sign in pattern)
    return re.fullmatch(wild, value) is not None


def _fulfilled(conditions: Mapping[str, Mapping[str, Any]], context: Context) -> bool:
    """Whether every condition holds. A key that the request lacks fulfils none but ``Null``."""
    for operator, keys in conditions.items():
        for key, wanted in keys.items():
            if operator == "Null":
                held = (key not in context) is (wanted == "true")
            elif operator in {"StringEquals", "ForAnyValue:StringEquals"}:
                held = context.get(key) in many(wanted)
            else:
                raise NotImplementedError(operator)
            if not held:
                return False
    return True


@dataclass(frozen=True)
class Demand:
    """One thing that a call needs to be allowed."""

    action: str
    resource: str
    context: Context = field(default_factory=dict)


@dataclass
class Role:
    """Whoever calls: what is granted, and what of it was used."""

    statements: Sequence[Mapping[str, Any]]
    used: Counter[tuple[str, str]] = field(default_factory=Counter)

    def allows(self, demand: Demand) -> bool:
        found = [
            (action, pattern)
            for statement in self.statements
            for action in many(statement["Action"])
            for pattern in many(statement["Resource"])
            if action == demand.action
            and _matches(pattern, demand.resource)
            and _fulfilled(statement.get("Condition", {}), demand.context)
        ]
        self.used.update(found[:1])
        return bool(found)


# -- the account -------------------------------------------------------------------------------------------------------


@functools.cache
def _session() -> boto3.session.Session:
    # It reads the description of a service once; each client has event handlers of its own.
    return boto3.session.Session()


@dataclass
class _Key:
    tags: Context
    created_at: datetime


class Account:
    """One AWS account, played by the emulator at ``url``. Its clock is the story's clock, in every answer, too."""

    def __init__(self, url: str, now: datetime) -> None:
        self.url = url
        self.now = now
        self.calls: Counter[str] = Counter()
        self._keys: dict[str, _Key] = {}
        self._aliases: dict[str, str] = {}
        self._encrypted: dict[str, str] = {}

    def clock(self) -> datetime:
        return self.now

    def client(
        self, service: str, role: Role | None = None, credentials: tuple[str, str] | None = None, attempts: int = 3
    ) -> Any:
        """A client of ``service`` for ``role``; without one, for somebody who may do everything."""
        # ministack takes twelve digits for the number of an account.
        id_, secret = credentials or (ACCOUNT, "testing")
        client = _session().client(
            service,  # type: ignore[call-overload]
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id=id_,
            aws_secret_access_key=secret,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": attempts}, s3={"addressing_style": "path"}
            ),
        )

        def note(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
            context["called with"] = dict(params)

        def judge(model: Any, context: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]] | None:
            self.calls[f"{service}:{model.name}"] += 1
            denied = [
                demand
                for demand in self._demands(service, model.name, context["called with"])
                if role and not role.allows(demand)
            ]
            return _denial(denied[0]) if denied else None

        def learn(model: Any, context: dict[str, Any], parsed: dict[str, Any], **_: Any) -> None:
            self._learn(service, model.name, context["called with"], parsed)
            parsed["ResponseMetadata"].setdefault("HTTPHeaders", {})["date"] = format_datetime(self.now, usegmt=True)
            if role and parsed.get("Error", {}).get("Code") == "NoSuchKey":
                demand = Demand("s3:ListBucket", f"arn:aws:s3:::{context['called with']['Bucket']}")
                if not role.allows(demand):
                    parsed["Error"]["Code"] = "AccessDenied"

        for event, handler in {"before-parameter-build": note, "before-call": judge, "after-call": learn}.items():
            client.meta.events.register(f"{event}.{client.meta.service_model.service_id.hyphenize()}", handler)
        return client

    # What calls need

    def _demands(self, service: str, operation: str, params: Mapping[str, Any]) -> list[Demand]:
        kinds = {"resourcegroupstaggingapi": "tag"}
        return list(getattr(self, f"_{service}")(operation, f"{kinds.get(service, service)}:{operation}", params))

    def _s3(self, operation: str, action: str, params: Mapping[str, Any]) -> Iterator[Demand]:
        if operation == "ListObjectVersions":
            yield Demand("s3:ListBucketVersions", f"arn:aws:s3:::{params['Bucket']}")
        if "Key" not in params:
            return
        where = f"arn:aws:s3:::{params['Bucket']}/{params['Key']}"
        yield Demand("s3:GetObjectVersion" if "VersionId" in params else action, where)
        if "IfMatch" in params:
            yield Demand("s3:GetObject", where)
        key = params.get("SSEKMSKeyId") or self._encrypted.get(where)
        if key and operation != "DeleteObject":
            yield self._through("s3", "GenerateDataKey" if operation == "PutObject" else "Decrypt", key)

    def _secretsmanager(self, operation: str, action: str, params: Mapping[str, Any]) -> Iterator[Demand]:
        name = params.get("SecretId") or params["Name"]
        # AWS appends six characters to the name of a secret that exists.
        where = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name}{'-AbC1dE' * (operation != 'CreateSecret')}"
        context = {f"secretsmanager:{key}": params[key] for key in ("VersionStage", "VersionId") if key in params}
        yield Demand(action, where, context)
        if params.get("Tags"):
            yield Demand("secretsmanager:TagResource", where)
        key = params.get("KmsKeyId") or self._encrypted.get(name)
        if key and operation in {"CreateSecret", "PutSecretValue"}:
            yield self._through("secretsmanager", "GenerateDataKey", key)
        if key and operation in {"CreateSecret", "PutSecretValue", "GetSecretValue"}:
            yield self._through("secretsmanager", "Decrypt", key)

    def _through(self, service: str, operation: str, key: str) -> Demand:
        """What a service does with an encryption key on behalf of who calls it."""
        where = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key}"
        return Demand(f"kms:{operation}", where, {"kms:ViaService": f"{service}.{REGION}.amazonaws.com"})

    def _kms(self, operation: str, action: str, params: Mapping[str, Any]) -> Iterator[Demand]:
        if operation == "CreateKey":
            tags = {f"aws:RequestTag/{tag['TagKey']}": tag["TagValue"] for tag in params["Tags"]}
            yield Demand(action, "*", {**tags, "kms:KeyUsage": params["KeyUsage"]})
            # "A permission that isn't restricted to particular KMS keys."
            yield Demand("kms:TagResource", "*", tags)
        elif operation == "ListAliases":
            yield Demand(action, "*")
        else:
            alias = params.get("AliasName")
            if alias:
                yield Demand(action, f"arn:aws:kms:{REGION}:{ACCOUNT}:{alias}")
            asked = {f"aws:RequestTag/{tag['TagKey']}": tag["TagValue"] for tag in params.get("Tags", ())}
            named = [params.get("TargetKeyId"), params.get("KeyId"), operation != "CreateAlias" and alias]
            for key in filter(None, named):
                arn = self._aliases.get(key) if key.startswith("alias/") else key
                if arn:
                    yield Demand(action, arn, {**self._tags(arn), **asked})

    def _tags(self, arn: str) -> Context:
        key = self._keys[arn]
        return key.tags if self.now - key.created_at >= TAG_LAG else {}

    def _resourcegroupstaggingapi(self, _operation: str, action: str, _params: Mapping[str, Any]) -> Iterator[Demand]:
        yield Demand(action, "*")

    def _cloudfront(self, _operation: str, action: str, params: Mapping[str, Any]) -> Iterator[Demand]:
        yield Demand(action, f"arn:aws:cloudfront::{ACCOUNT}:distribution/{params.get('DistributionId', '')}")

    # What calls leave behind

    def _learn(self, service: str, operation: str, params: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        if "Error" in answer:
            return
        if operation == "CreateKey":
            tags = {f"aws:ResourceTag/{tag['TagKey']}": tag["TagValue"] for tag in params.get("Tags", ())}
            self._keys[answer["KeyMetadata"]["Arn"]] = _Key(tags, self.now)
        elif operation == "TagResource" and service == "kms":
            tags = {f"aws:ResourceTag/{tag['TagKey']}": tag["TagValue"] for tag in params["Tags"]}
            self._keys[params["KeyId"]] = _Key({**self._keys[params["KeyId"]].tags, **tags}, self.now)
        elif operation in {"CreateAlias", "UpdateAlias"}:
            self._aliases[params["AliasName"]] = params["TargetKeyId"]
        elif operation == "DeleteAlias":
            del self._aliases[params["AliasName"]]
        elif params.get("SSEKMSKeyId"):
            self._encrypted[f"arn:aws:s3:::{params['Bucket']}/{params['Key']}"] = params["SSEKMSKeyId"]
        elif service == "secretsmanager" and params.get("KmsKeyId"):
            self._encrypted[params["Name"]] = params["KmsKeyId"]


def _denial(demand: Demand) -> tuple[Any, dict[str, Any]]:
    error = {"Code": "AccessDeniedException", "Message": f"not authorized to perform: {demand.action}"}
    parsed = {"Error": error, "ResponseMetadata": {"HTTPStatusCode": 403, "HTTPHeaders": {}}}
    return SimpleNamespace(status_code=403), parsed


# -- moto's own judgement ----------------------------------------------------------------------------------------------


@contextmanager
def enforcing_moto() -> Iterator[tuple[str, Any]]:
    """A moto server that enforces IAM; yields its URL and an IAM client of somebody who may do everything."""
    port = emulators.free_port()
    command = [sys.executable, "-m", "tests.iam", "-H", "127.0.0.1", "-p", str(port)]
    with emulators.serving(command, {"PYTHONPATH": str(ROOT)}, f"http://127.0.0.1:{port}", "/moto-api/") as url:
        yield url, _administrator(url)


def _administrator(url: str) -> Any:
    iam = boto3.client("iam", endpoint_url=url)
    key = user(iam, "administrator", [{"Effect": "Allow", "Action": "*", "Resource": "*"}])
    # Enforce from here on. A body that claims to be a form would be read as one, and lost.
    plain = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{url}/moto-api/reset-auth", data=b"0", headers=plain, method="POST")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    return boto3.client("iam", endpoint_url=url, aws_access_key_id=key[0], aws_secret_access_key=key[1])


def user(iam: Any, name: str, statements: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The access key of a new user with this policy."""
    iam.create_user(UserName=name)
    document = json.dumps({"Version": "2012-10-17", "Statement": statements})
    iam.put_user_policy(UserName=name, PolicyName="policy", PolicyDocument=document)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def _serve() -> None:
    from moto.secretsmanager.responses import SecretsManagerResponse
    from moto.server import main

    from tests.adapters.strict_moto import strict

    def resource(self: Any) -> str:
        name = self._get_param("SecretId") or self._get_param("Name")
        secret = self.backend.secrets.get(name)
        return (
            str(secret.arn) if secret else f"arn:aws:secretsmanager:{self.region}:{self.current_account}:secret:{name}"
        )

    strict()
    SecretsManagerResponse._determine_resource = resource  # type: ignore[attr-defined]
    main()


if __name__ == "__main__":
    _serve()
