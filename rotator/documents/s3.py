"""Documents as S3 objects, for ``s3://bucket/prefix``: S3's conditional writes are the compare-and-swap."""

from __future__ import annotations

import re
import uuid
from contextlib import closing, suppress
from datetime import UTC
from typing import TYPE_CHECKING, cast

from rotator.aws import code_of, date_of, translated
from rotator.errors import ConfigurationError, Conflict, Refused, RotatorError, StoreError
from rotator.ports import LARGEST, Document, Headers, PastVersion, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import PutObjectRequestTypeDef

#: 412; 409 while another write is under way; 404 where If-Match meets nothing.
_CONFLICTS = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "NoSuchKey"})

#: The one proof that an object is missing: a 404 that does not say so may come from anything on the way to S3.
_MISSING = "NoSuchKey"

#: No version of this id; or an id that is none, or a mark of a delete.
_NO_VERSION = frozenset({"NoSuchVersion", "NoSuchKey", "InvalidArgument", "MethodNotAllowed", "405"})

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}|arn:[a-z0-9-]+:s3[a-z-]*:[A-Za-z0-9:/_-]+")
_SEGMENT = re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f\x7f]+")
_KEY_BYTES = 1024

_LIST = "Without s3:ListBucket on the bucket S3 says the same of an object that is missing."
_GET = "A compare-and-swap needs s3:GetObject on the object, too."

_PROBE = Headers("application/json", "no-store")


class S3Documents:
    """Documents in one bucket under one prefix, each replaced whole by whoever read the version before.

    A version is the object's ETag: opaque, and the same again for the same bytes. boto3 repeats a PUT whose answer
    was lost, and the repeat meets its own write as a Conflict: read again, and see whose bytes they are.

    IAM, where OBJECT is ``arn:aws:s3:::{bucket}/{prefix}/{path}``:

    * ``s3:GetObject``, ``s3:PutObject`` on OBJECT, and on ``OBJECT.probe-*`` for the probe
    * ``s3:DeleteObject`` on ``OBJECT.probe-*``; without it the probe leaves an object of one byte behind
    * ``s3:ListBucket`` on ``arn:aws:s3:::{bucket}``: without it a missing object is a denied one
    * with ``sse_kms_key``: ``kms:GenerateDataKey``, ``kms:Decrypt`` on that key
    * to recover a ledger: ``s3:ListBucketVersions`` on the bucket, ``s3:GetObjectVersion`` on OBJECT
    """

    def __init__(
        self, client: Callable[[], S3Client], bucket: str, prefix: str = "", *, sse_kms_key: str | None = None
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._sse_kms_key = sse_kms_key
        if not _BUCKET.fullmatch(bucket):
            raise ConfigurationError(f"{bucket!r} is not the name or ARN of an S3 bucket.")
        if self._prefix:
            _checked(self._prefix)

    def read(self, path: str) -> Reading:
        """See :meth:`rotator.ports.DocumentStore.read`. One GetObject; a denied one is never "missing"."""
        from botocore.exceptions import ClientError

        key = self._key(path)
        with translated("s3:GetObject", self.locate(path), denied=_LIST):
            try:
                answer = self._client().get_object(Bucket=self._bucket, Key=key)
            except ClientError as exc:
                if code_of(exc) != _MISSING:
                    raise
                return Reading(None, date_of(exc.response))
            headers = Headers(answer.get("ContentType", ""), answer.get("CacheControl"))
            if "ETag" not in answer:
                raise ConfigurationError(
                    f"{self.locate(path)}: what answers there is not S3: it sends no ETag. Mend the endpoint in [aws]."
                )
            return Reading(Document(_body(answer["Body"]), answer["ETag"], headers), date_of(answer))

    def create(self, path: str, body: bytes, headers: Headers) -> str:
        """See :meth:`rotator.ports.DocumentStore.create`. One PutObject, ``If-None-Match: *``."""
        return self._put(path, body, headers, {"IfNoneMatch": "*"})

    def replace(self, path: str, body: bytes, headers: Headers, version: str) -> str:
        """See :meth:`rotator.ports.DocumentStore.replace`. One PutObject, ``If-Match: version``."""
        return self._put(path, body, headers, {"IfMatch": version})

    def _put(self, path: str, body: bytes, headers: Headers, precondition: dict[str, str]) -> str:
        request = {
            "Bucket": self._bucket,
            "Key": self._key(path),
            "Body": body,
            "ContentType": headers.content_type,
            "ChecksumAlgorithm": "SHA256",
            **precondition,
        }
        if headers.cache_control is not None:
            request["CacheControl"] = headers.cache_control
        if self._sse_kms_key:
            request |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self._sse_kms_key}
        denied = _GET if "IfMatch" in precondition else ""
        with translated("s3:PutObject", self.locate(path), _CONFLICTS, denied=denied):
            answer = self._client().put_object(**cast("PutObjectRequestTypeDef", request))
        if "ETag" not in answer:
            raise StoreError(f"s3:PutObject on {self.locate(path)} got half an answer. The next tick tries again.")
        return answer["ETag"]

    def probe(self, path: str) -> None:
        """See :meth:`rotator.ports.DocumentStore.probe`. The throw-away object is ``{path}.probe-{random}``.

        A DeleteObject that is denied leaves one byte behind, which harms nobody.
        """
        beside = f"{_checked(path)}.probe-{uuid.uuid4().hex}"
        try:
            stale = self.create(beside, b"1", _PROBE)
            self._must_conflict("creates an object that is there already", lambda: self.create(beside, b"2", _PROBE))
            try:
                version = self.replace(beside, b"3", _PROBE, stale)
            except Conflict as exc:
                raise self._unusable("refuses to replace an object whose ETag is right") from exc
            self._must_conflict(
                "replaces an object whose ETag is stale", lambda: self.replace(beside, b"4", _PROBE, stale)
            )
            if self.read(beside).document != Document(b"3", version, _PROBE):
                raise self._unusable("does not give back the bytes, the ETag and the headers of the last write")
        finally:
            with suppress(RotatorError), translated("s3:DeleteObject", self.locate(beside)):
                self._client().delete_object(Bucket=self._bucket, Key=self._key(beside))

    def _must_conflict(self, fault: str, write: Callable[[], str]) -> None:
        with suppress(Conflict):
            write()
            raise self._unusable(fault)

    def _unusable(self, fault: str) -> ConfigurationError:
        return ConfigurationError(
            f"The store behind s3://{self._bucket} does not compare-and-swap: it {fault}. "
            "Two workers would overwrite one another; use another store."
        )

    def versions(self, path: str) -> Iterator[PastVersion]:
        """See :meth:`rotator.ports.Versioned.versions`. ListObjectVersions; without versioning there is but one."""
        key, where = self._key(path), f"arn:aws:s3:::{self._bucket}"
        pages = self._client().get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=key)
        left = iter(pages)
        while True:
            with translated("s3:ListBucketVersions", where):
                page = next(left, None)
            if page is None:
                return
            for each in page.get("Versions", ()):
                # Others whose names begin like this one come in the same list; newer ones of each come first.
                if each["Key"] == key:
                    yield PastVersion(each["VersionId"], each["LastModified"].astimezone(UTC))

    def read_version(self, path: str, version: str) -> bytes:
        """See :meth:`rotator.ports.Versioned.read_version`. One GetObject with a version id."""
        from botocore.exceptions import ClientError

        with translated("s3:GetObjectVersion", self.locate(path), denied=_LIST):
            try:
                answer = self._client().get_object(Bucket=self._bucket, Key=self._key(path), VersionId=version)
                return _body(answer["Body"])
            except ClientError as exc:
                if code_of(exc) not in _NO_VERSION:
                    raise
                raise Refused(
                    f"{self.locate(path)} has no version {version!r:.80} that can be read. Nothing was changed. 'aws"
                    f" s3api list-object-versions --bucket {self._bucket} --prefix {self._key(path)}' lists them."
                ) from None

    def locate(self, path: str) -> str:
        """See :meth:`rotator.ports.DocumentStore.locate`."""
        return f"s3://{self._bucket}/{self._key(path)}"

    def _key(self, path: str) -> str:
        _checked(path)
        return _checked(f"{self._prefix}/{path}" if self._prefix else path)


def _body(stream: StreamingBody) -> bytes:
    """The whole body, or the first ``LARGEST + 1`` bytes of one that is larger."""
    with closing(stream):
        body = stream.read(LARGEST + 1)
        # Length and checksum are compared by the read that meets the end.
        while len(body) <= LARGEST and (more := stream.read(LARGEST + 1 - len(body))):
            body += more
        return body


def _checked(key: str) -> str:
    # S3 takes any key, but browsers, CDNs and copies on disk resolve "..": such a document would be somewhere else.
    if not all(map(_SEGMENT.fullmatch, key.split("/"))) or len(key.encode()) > _KEY_BYTES:
        raise ConfigurationError(
            f"{key!r} cannot name an S3 object here: names between single slashes, none of them '.' or '..', "
            f"no backslash or control character, at most {_KEY_BYTES} bytes."
        )
    return key
