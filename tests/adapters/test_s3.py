from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from rotator.documents.s3 import S3Documents
from rotator.errors import AccessDenied, ConfigurationError, Conflict, StoreError
from rotator.ports import Document, Headers
from tests.adapters.wire import Wire, answered
from tests.contracts.document_store import JWKS, PLAIN, DocumentStoreContract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rotator.ports import DocumentStore

BUCKET = "rotator-documents"


def error(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>staged</Message></Error>".encode()


def bucket_at(wire: Wire) -> Wire:
    if BUCKET not in [each["Name"] for each in wire.client.list_buckets()["Buckets"]]:
        wire.client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    wire.counted()
    return wire


class TestOnMoto(DocumentStoreContract):
    @pytest.fixture
    def store(self, moto_url: str) -> Iterator[DocumentStore]:
        with Wire("s3", moto_url).connected() as wire:
            yield S3Documents(bucket_at(wire), BUCKET, "private/ledgers")


class TestOnMinistack(DocumentStoreContract):
    @pytest.fixture
    def store(self, ministack_url: str) -> Iterator[DocumentStore]:
        with Wire("s3", ministack_url).connected() as wire:
            yield S3Documents(bucket_at(wire), BUCKET)


@pytest.fixture
def wire(moto_url: str) -> Iterator[Wire]:
    with Wire("s3", moto_url).connected() as wire:
        yield bucket_at(wire)


@pytest.fixture
def once(moto_url: str) -> Iterator[Wire]:
    """A client that does not repeat what failed."""
    with Wire("s3", moto_url, attempts=1).connected() as wire:
        yield bucket_at(wire)


@pytest.fixture
def store(wire: Wire) -> S3Documents:
    return S3Documents(wire, BUCKET, "acme")


@pytest.fixture
def path() -> str:
    return f"{uuid4()}/jwks.json"


def keys(wire: Wire, prefix: str) -> list[str]:
    return [each["Key"] for each in wire.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]


def test_each_operation_is_one_call(wire: Wire, store: S3Documents, path: str) -> None:
    store.read(path)
    assert wire.counted() == {"GetObject": 1}
    version = store.create(path, b"1", JWKS)
    assert wire.counted() == {"PutObject": 1}
    store.replace(path, b"2", JWKS, version)
    assert wire.counted() == {"PutObject": 1}
    store.read(path)
    assert wire.counted() == {"GetObject": 1}


def test_every_write_carries_headers_and_a_checksum_that_s3_verifies(wire: Wire, store: S3Documents, path: str) -> None:
    version = store.create(path, b"1", JWKS)
    store.replace(path, b"2", JWKS, version)
    sha256 = base64.b64encode(hashlib.sha256(b"2").digest()).decode()
    kept = wire.client.head_object(Bucket=BUCKET, Key=f"acme/{path}", ChecksumMode="ENABLED")
    assert (kept["ContentType"], kept["CacheControl"]) == (JWKS.content_type, JWKS.cache_control)
    assert kept["ChecksumSHA256"] == sha256


def test_objects_are_encrypted_with_the_key_that_is_configured(wire: Wire, path: str) -> None:
    key = "arn:aws:kms:eu-west-1:123456789012:key/1b2c3d4e-0000-4000-8000-000000000000"
    version = S3Documents(wire, BUCKET, sse_kms_key=key).create(path, b"1", PLAIN)
    kept = wire.client.head_object(Bucket=BUCKET, Key=path)
    assert (kept["ServerSideEncryption"], kept["SSEKMSKeyId"]) == ("aws:kms", key)
    S3Documents(wire, BUCKET).replace(path, b"2", PLAIN, version)
    assert wire.client.head_object(Bucket=BUCKET, Key=path).get("SSEKMSKeyId") is None


def test_a_reading_carries_the_clock_of_the_store_also_when_there_is_no_document(store: S3Documents, path: str) -> None:
    store.create(path, b"1", JWKS)
    for reading in (store.read(path), store.read(path + ".missing")):
        assert reading.date is not None
        assert abs(reading.date - datetime.now(UTC)) < timedelta(seconds=30)


def test_a_document_somebody_put_by_hand_is_read_as_it_is(wire: Wire, store: S3Documents, path: str) -> None:
    etag = wire.client.put_object(Bucket=BUCKET, Key=f"acme/{path}", Body=b"by hand", ContentType="text/plain")["ETag"]
    assert store.read(path).document == Document(b"by hand", etag, Headers("text/plain", None))


def test_a_deleted_document_in_a_versioned_bucket_is_missing_and_can_be_created_again(wire: Wire, path: str) -> None:
    bucket = f"versioned-{uuid4()}"
    wire.client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    wire.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    store = S3Documents(wire, bucket)
    version = store.create(path, b"1", JWKS)
    wire.client.delete_object(Bucket=bucket, Key=path)
    assert store.read(path).document is None
    with pytest.raises(Conflict):
        store.replace(path, b"2", JWKS, version)
    store.create(path, b"3", JWKS)
    assert store.read(path).document is not None


# Denied, wrong, busy


def test_a_denied_read_is_never_missing_and_says_what_else_it_may_mean(
    wire: Wire, store: S3Documents, path: str
) -> None:
    wire.answer("GetObject", 403, error("AccessDenied"))
    with pytest.raises(AccessDenied, match="s3:ListBucket") as raised:
        store.read(path)
    assert f"s3:GetObject on s3://{BUCKET}/acme/{path}" in str(raised.value)


def test_a_denied_write_names_the_permission(wire: Wire, store: S3Documents, path: str) -> None:
    writes: list[Callable[[], object]] = [
        lambda: store.create(path, b"1", JWKS),
        lambda: store.replace(path, b"1", JWKS, '"etag"'),
    ]
    for write in writes:
        wire.answer("PutObject", 403, error("AccessDenied"))
        with pytest.raises(AccessDenied, match=r"s3:PutObject on s3://") as raised:
            write()
    # If-Match also reads.
    assert "s3:GetObject" in str(raised.value)


def test_a_missing_bucket_is_configuration_for_every_operation(wire: Wire, path: str) -> None:
    store = S3Documents(wire, f"nobody-made-{uuid4()}")
    operations: list[Callable[[], object]] = [
        lambda: store.read(path),
        lambda: store.create(path, b"1", JWKS),
        lambda: store.replace(path, b"1", JWKS, '"etag"'),
        lambda: store.probe(path),
    ]
    for operation in operations:
        with pytest.raises(ConfigurationError, match="bucket does not exist"):
            operation()


@pytest.mark.parametrize(
    ("status", "code"),
    [(412, "PreconditionFailed"), (409, "ConditionalRequestConflict"), (404, "NoSuchKey"), (412, "")],
)
def test_every_way_to_lose_a_conditional_write_is_a_conflict(once: Wire, path: str, status: int, code: str) -> None:
    store = S3Documents(once, BUCKET)
    writes: list[Callable[[], object]] = [
        lambda: store.create(path, b"1", JWKS),
        lambda: store.replace(path, b"1", JWKS, '"etag"'),
    ]
    for write in writes:
        once.answer("PutObject", status, error(code) if code else b"")
        with pytest.raises(Conflict):
            write()


@pytest.mark.parametrize(
    ("status", "code", "ours"),
    [
        (503, "SlowDown", StoreError),
        (500, "InternalError", StoreError),
        (409, "OperationAborted", StoreError),
        (400, "ExpiredToken", ConfigurationError),
        (403, "InvalidAccessKeyId", ConfigurationError),
        (403, "RequestTimeTooSkewed", ConfigurationError),
        (501, "NotImplemented", ConfigurationError),
        # Not from S3: it would name the object or the bucket.
        (404, "", StoreError),
    ],
)
def test_what_s3_answers_otherwise_is_neither_missing_nor_a_conflict(
    once: Wire, path: str, status: int, code: str, ours: type[Exception]
) -> None:
    store = S3Documents(once, BUCKET)
    for operation, call in (
        ("GetObject", lambda: store.read(path)),
        ("PutObject", lambda: store.create(path, b"1", JWKS)),
    ):
        once.answer(operation, status, error(code) if code else b"")
        with pytest.raises(ours) as raised:
            call()
        assert type(raised.value) is ours


def test_throttling_is_ridden_out_and_then_reported(wire: Wire, once: Wire, store: S3Documents, path: str) -> None:
    wire.answer("GetObject", 503, error("SlowDown"))
    assert store.read(path).document is None
    assert wire.counted() == {"GetObject": 2}
    once.answer("GetObject", 503, error("SlowDown"))
    with pytest.raises(StoreError, match="throttling; the next tick"):
        S3Documents(once, BUCKET).read(path)


def test_a_body_that_breaks_off_is_an_error_and_not_a_short_document(once: Wire, path: str) -> None:
    def truncated(request: Any) -> Any:
        response = answered(request, 200, b'{"keys"')
        response.headers["Content-Length"] = "400"
        response.headers["ETag"] = '"etag"'
        return response

    once.stage("GetObject", truncated)
    with pytest.raises(StoreError, match="got no answer"):
        S3Documents(once, BUCKET).read(path)


# Applied, but reported failed


def test_a_write_whose_answer_was_lost_is_repeated_and_meets_itself_as_a_conflict(
    wire: Wire, store: S3Documents, path: str
) -> None:
    wire.lose("PutObject")
    with pytest.raises(Conflict):
        store.create(path, b"ours", JWKS)
    assert wire.counted() == {"PutObject": 2}
    found = store.read(path).document
    assert found is not None
    assert found.body == b"ours"
    wire.lose("PutObject")
    with pytest.raises(Conflict):
        store.replace(path, b"ours, too", JWKS, found.version)
    found = store.read(path).document
    assert found is not None
    assert found.body == b"ours, too"


def test_a_write_whose_answer_was_lost_for_good_may_have_been_applied(once: Wire, path: str) -> None:
    store = S3Documents(once, BUCKET)
    once.lose("PutObject")
    with pytest.raises(StoreError, match="got no answer") as raised:
        store.create(path, b"ours", JWKS)
    assert not isinstance(raised.value, Conflict)
    found = store.read(path).document
    assert found is not None
    assert found.body == b"ours"


# The probe


def test_the_probe_leaves_nothing_behind(wire: Wire, store: S3Documents, path: str) -> None:
    store.probe(path)
    assert wire.counted() == {"PutObject": 4, "GetObject": 1, "DeleteObject": 1}
    assert keys(wire, f"acme/{path}") == []


def test_the_probe_may_not_delete_and_passes(wire: Wire, store: S3Documents, path: str) -> None:
    wire.answer("DeleteObject", 403, error("AccessDenied"))
    store.probe(path)
    [left] = keys(wire, f"acme/{path}")
    assert left.startswith(f"acme/{path}.probe-")


@pytest.mark.parametrize(
    ("header", "fault"), [("If-None-Match", "creates an object that is there"), ("If-Match", "ETag is stale")]
)
def test_a_store_that_ignores_a_precondition_is_refused(
    wire: Wire, store: S3Documents, path: str, header: str, fault: str
) -> None:
    def deaf(request: Any, **_: Any) -> None:
        del request.headers[header]

    # Before it is signed, so that the emulator accepts the request.
    wire.client.meta.events.register("before-sign.s3.PutObject", deaf)
    try:
        with pytest.raises(ConfigurationError, match=f"does not compare-and-swap: it .*{fault}"):
            store.probe(path)
    finally:
        wire.client.meta.events.unregister("before-sign.s3.PutObject", deaf)
    assert keys(wire, f"acme/{path}") == []


def test_a_store_that_refuses_the_right_etag_is_refused(wire: Wire, store: S3Documents, path: str) -> None:
    wire.stage("PutObject", lambda _: None, times=2)
    wire.answer("PutObject", 412, error("PreconditionFailed"))
    with pytest.raises(ConfigurationError, match="refuses to replace an object whose ETag is right"):
        store.probe(path)


def test_a_store_that_drops_headers_is_refused(wire: Wire, store: S3Documents, path: str) -> None:
    def forgetful(params: dict[str, Any], **_: Any) -> None:
        params.pop("CacheControl", None)

    wire.client.meta.events.register("provide-client-params.s3.PutObject", forgetful)
    try:
        with pytest.raises(ConfigurationError, match="does not give back"):
            store.probe(path)
    finally:
        wire.client.meta.events.unregister("provide-client-params.s3.PutObject", forgetful)


def test_a_store_without_conditional_writes_at_all_is_refused(wire: Wire, store: S3Documents, path: str) -> None:
    wire.answer("PutObject", 501, error("NotImplemented"))
    with pytest.raises(ConfigurationError, match="does not offer"):
        store.probe(path)


# Names


@pytest.mark.parametrize("bad", ["a//b", "a/", "a/./b", "..", "a\\..\\b", "a\nb", "a\x00b", "x" * 1025])
def test_a_path_that_others_would_resolve_elsewhere_is_refused(store: S3Documents, bad: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot name an S3 object"):
        store.read(bad)


@pytest.mark.parametrize("good", [".well-known/jwks.json", "a..b", "...", "clé/jwks.json", "x" * 1000])
def test_odd_names_that_lead_nowhere_else_are_fine(store: S3Documents, good: str) -> None:
    store.locate(good)


def test_bucket_and_prefix_are_checked_at_once() -> None:
    for bucket, prefix in (("", ""), ("my/bucket", ""), ("bucket?x", ""), ("bucket", "a/../b"), ("bucket", "a//b")):
        with pytest.raises(ConfigurationError):
            S3Documents(lambda: pytest.fail("no client is needed for this"), bucket, prefix)


def test_a_prefix_may_be_written_with_slashes_around_it(wire: Wire) -> None:
    assert S3Documents(wire, BUCKET, "/a/b/").locate("jwks.json") == f"s3://{BUCKET}/a/b/jwks.json"
    assert S3Documents(wire, BUCKET).locate("jwks.json") == f"s3://{BUCKET}/jwks.json"
