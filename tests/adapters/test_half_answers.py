"""Answers of AWS that break off, wherever they do: an error of ours or the truth, and never a bug or a wrong belief."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING
from uuid import uuid4

import boto3
import pytest

from rotator import aws
from rotator.documents.s3 import S3Documents
from rotator.errors import Conflict, RotatorError, StoreError
from rotator.keys.algorithms import algorithm
from rotator.ports import Document, Headers
from rotator.stores.secretsmanager import SecretsManagerKeys
from tests.proxy import half, proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.proxy import Call, Fault, Proxy

HEADERS = Headers("application/json", "no-store")
BODY = b'{"keys": []}'


@pytest.fixture
def between(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    with proxy(moto_url) as found:
        yield found


@pytest.fixture
def documents(between: Proxy, moto_url: str) -> S3Documents:
    bucket = f"half-{uuid4().hex}"
    s3 = boto3.client("s3", endpoint_url=moto_url)
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return S3Documents(lambda: aws.client("s3", "eu-west-1", between.url, path_style=True), bucket)


def cuts(between: Proxy, whole: int) -> Iterator[int]:
    """Break every answer off after so many bytes."""
    for length in range(15, whole, 23):
        between.begin(functools.partial(_cut_at, length))
        yield length


def _cut_at(length: int, _: Call) -> Fault:
    return lambda _, forward: forward()[:length]


def test_half_of_a_document_is_none(between: Proxy, documents: S3Documents) -> None:
    documents.create("there", BODY, HEADERS)
    errors = 0
    for length in cuts(between, 700):
        for path, body in (("there", BODY), ("missing", None)):
            try:
                found = documents.read(path).document
            except RotatorError:
                errors += 1
            else:
                assert (found and found.body) == body, (path, length)
    assert errors > 20


def test_half_of_an_error_that_answers_a_download_is_no_bug(between: Proxy, documents: S3Documents) -> None:
    between.begin(lambda _: half)
    with pytest.raises(StoreError, match="got no answer"):
        documents.read("missing")


def test_a_write_is_reported_as_done_or_failed_and_done_it_is(between: Proxy, documents: S3Documents) -> None:
    version, failed = documents.create("there", BODY, HEADERS), 0
    for length in cuts(between, 400):
        body = json.dumps(length).encode("ascii")
        try:
            documents.replace("there", body, HEADERS, version)
        except (StoreError, Conflict):
            failed += 1
        between.begin()
        found = documents.read("there").document
        assert found == Document(body, found.version if found else "", HEADERS)
        version = found.version
    assert failed > 10


def test_half_of_a_description_is_no_secret_without_versions(between: Proxy, moto_url: str) -> None:
    name, row = f"half-{uuid4().hex}", algorithm("ES256")
    secrets = boto3.client("secretsmanager", endpoint_url=moto_url)
    secrets.create_secret(Name=f"{name}/acme/ES256", SecretString='{"kid": "somebody else\'s"}')
    keys = SecretsManagerKeys(lambda: aws.client("secretsmanager", "eu-west-1", between.url), name)
    failed = 0
    for _ in cuts(between, 600):
        try:
            # "Nothing" would let init make a new key set where there was one.
            assert keys.holds("acme", [row]) == f"secret {name}/acme/ES256"
        except RotatorError:
            failed += 1
    assert failed > 10
