"""What every AWS adapter shares: clients with bounded patience, and boto3's errors as ours.

boto3 is imported on first use: importing it costs 0.2-0.4 s, and ``--help`` or file stores never need it.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from contextlib import contextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from rotator.errors import AccessDenied, ConfigurationError, Conflict, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "Forbidden", "403", "UnauthorizedOperation"})
_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
        "IncompleteSignature",
        "InvalidToken",
        "RequestExpired",
        "RequestTimeTooSkewed",
    }
)
_THROTTLED = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded", "429", "503"}
)
_NOT_OFFERED = frozenset({"NotImplemented", "MethodNotAllowed"})

#: What says where an answer ends; this status alone has no body.
_LENGTHS = frozenset({"content-length", "transfer-encoding"})
_NO_CONTENT = 204

#: boto3 builds clients from state that threads must not share while it is filled.
_building = threading.Lock()


@functools.cache
def _session() -> Any:
    import boto3

    # At DEBUG botocore writes whole requests and answers to the log, private keys among them.
    log = logging.getLogger("botocore")
    log.setLevel(max(log.level, logging.WARNING))
    return boto3.session.Session()


@functools.cache
def client(  # noqa: PLR0913 - what tells one client from another, by name
    service: str,
    region: str | None = None,
    endpoint: str | None = None,
    *,
    path_style: bool = False,
    attempts: int = 3,
    session: Any = None,
) -> Any:
    """The one client of ``service``: connect 3 s, read 10 s, ``attempts`` attempts; built once per process.

    ``session`` is a boto3 session that has the credentials; by default the SDK finds them.

    Raises:
        ConfigurationError: no region is configured.
    """
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=3,
        read_timeout=10,
        retries={"mode": "standard", "total_max_attempts": attempts},
        s3={"addressing_style": "path"} if path_style else None,
        user_agent_extra="rotator",
    )
    try:
        with _building:
            built = (session or _session()).client(service, region_name=region, endpoint_url=endpoint, config=config)
    except (BotoCoreError, ValueError) as exc:
        raise ConfigurationError(
            f"Cannot build a client for AWS {service}: {str(exc).rstrip('.')}. "
            "Set the region and credentials (AWS_REGION, a profile or a role)."
        ) from exc
    built.meta.events.register("before-parse", _whole)
    return built


def _whole(response_dict: Mapping[str, Any], **_: Any) -> None:
    """Take an answer that may end anywhere for none: botocore would parse what is there, and call the rest missing.

    Raises:
        IncompleteReadError: nothing says where the body ends (RFC 9112 section 6.3, the last rule).
    """
    from botocore.exceptions import IncompleteReadError

    names = {name.lower() for name in response_dict["headers"]}
    if response_dict["status_code"] != _NO_CONTENT and not names & _LENGTHS:
        if not isinstance(response_dict["body"], bytes):
            # A download: nobody else would close its connection.
            response_dict["body"].close()
        raise IncompleteReadError(actual_bytes=0, expected_bytes=0)


def _forget() -> None:
    """A forked child shares neither its parent's connections nor a lock that a thread of its parent held."""
    global _building  # noqa: PLW0603 - the lock of this process, whichever it is
    _building = threading.Lock()
    _session.cache_clear()
    client.cache_clear()


os.register_at_fork(after_in_child=_forget)


@contextmanager
def translated(
    action: str, resource: str, conflicts: frozenset[str] = frozenset(), *, denied: str = ""
) -> Iterator[None]:
    """Raise what boto3 raises inside as ours, naming ``action`` (as in IAM) and ``resource``.

    ``conflicts`` are the error codes (or HTTP statuses, as text) that mean a lost compare-and-swap here;
    ``denied`` is a sentence that belongs to a missing permission here.

    Raises:
        AccessDenied: the permission is missing.
        ConfigurationError: credentials are missing, wrong or expired, a bucket does not exist, the service does not
            offer the call, or a name in the configuration is not one that AWS allows.
        Conflict: one of ``conflicts``.
        StoreError: anything else; the effect may have been applied.
    """
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
        SSOError,
        TokenRetrievalError,
    )

    # What breaks off the body of an error that answers a download is not caught by botocore.
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ClientError as exc:
        code = code_of(exc)
        status = str(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        if code in conflicts or (status in conflicts and code != "NoSuchBucket"):
            raise Conflict(f"{action} on {resource}: somebody else changed it first ({code}).") from exc
        if code in _DENIED:
            said = str(exc.response.get("Error", {}).get("Message", ""))
            kms = " The KMS key behind it refuses: grant its use, too." if _blames_kms(action, said) else ""
            raise AccessDenied(
                f"{action} on {resource} is denied: grant {action} to this role (deploy/iam has the policies)."
                f"{kms}{denied and ' '}{denied}"
            ) from exc
        if code in _CREDENTIALS:
            raise ConfigurationError(
                f"{action} on {resource}: AWS does not accept the credentials ({code}). "
                "Renew them, and see that this machine's clock is right."
            ) from exc
        if code in _NOT_OFFERED:
            raise ConfigurationError(f"{action} on {resource}: this service does not offer the call ({code}).") from exc
        if code == "NoSuchBucket":
            raise ConfigurationError(
                f"{action} on {resource}: the bucket does not exist. Create it, or mend the URI in [stores]."
            ) from exc
        throttled = " AWS is throttling; the next tick tries again." if {code, status} & _THROTTLED else ""
        raise StoreError(f"{action} on {resource} failed: {code or status}.{throttled}") from exc
    except (
        NoCredentialsError,
        PartialCredentialsError,
        SSOError,
        TokenRetrievalError,
    ) as exc:
        raise ConfigurationError(
            f"{action} on {resource}: no usable AWS credentials. Configure a role, a profile or AWS_ACCESS_KEY_ID."
        ) from exc
    except ParamValidationError:
        # It quotes the parameters, and one of them may be a private key.
        raise ConfigurationError(
            f"{action} on {resource}: boto3 does not accept a name or value for it. Mend the configuration."
        ) from None
    except (BotoCoreError, HTTPError) as exc:
        raise StoreError(
            f"{action} on {resource} got no answer: {type(exc).__name__}. The next tick tries again."
        ) from exc


def _blames_kms(action: str, said: str) -> bool:
    return "kms" in said.lower() and not action.startswith("kms:")


def code_of(exc: BaseException) -> str:
    """The AWS error code of a botocore ``ClientError``; empty for anything else."""
    response = getattr(exc, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def date_of(response: Mapping[str, Any]) -> datetime | None:
    """The ``Date`` header of an AWS answer: the store's own clock in UTC, to the second."""
    value = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        date = parsedate_to_datetime(value) if value else None
    except ValueError:
        return None
    # RFC 5322 has a zone that means "unknown"; HTTP dates are UTC by definition (RFC 9110 section 5.6.7).
    return date and (date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC))
