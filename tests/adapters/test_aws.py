from __future__ import annotations

import logging
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from botocore import exceptions as boto

from rotator import aws
from rotator.errors import AccessDenied, ConfigurationError, Conflict, RotatorError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def _afresh() -> Iterator[None]:
    aws.client.cache_clear()
    aws._session.cache_clear()
    yield
    aws.client.cache_clear()
    aws._session.cache_clear()


def answer(code: str, status: int = 400, message: str = "") -> boto.ClientError:
    return boto.ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "Operation",
    )


def raised_for(exc: Exception, **how: Any) -> RotatorError:
    with pytest.raises(RotatorError) as caught, aws.translated("s3:PutObject", "s3://bucket/key", **how):
        raise exc
    return caught.value


@pytest.mark.parametrize(
    ("exc", "ours"),
    [
        (answer("AccessDenied", 403), AccessDenied),
        (answer("AccessDeniedException"), AccessDenied),
        (answer("403", 403), AccessDenied),
        (answer("ExpiredToken"), ConfigurationError),
        (answer("ExpiredTokenException"), ConfigurationError),
        (answer("UnrecognizedClientException"), ConfigurationError),
        (answer("RequestTimeTooSkewed", 403), ConfigurationError),
        (answer("NoSuchBucket", 404), ConfigurationError),
        (answer("NotImplemented", 501), ConfigurationError),
        (answer("SlowDown", 503), StoreError),
        (answer("ThrottlingException"), StoreError),
        (answer("InternalError", 500), StoreError),
        (answer("", 502), StoreError),
        (boto.NoCredentialsError(), ConfigurationError),
        (boto.UnauthorizedSSOTokenError(), ConfigurationError),
        (boto.ParamValidationError(report="Invalid bucket name"), ConfigurationError),
        # The metadata service may answer again in a moment.
        (boto.CredentialRetrievalError(provider="imds", error_msg="timeout"), StoreError),
        (boto.ConnectTimeoutError(endpoint_url="https://s3"), StoreError),
        (boto.ReadTimeoutError(endpoint_url="https://s3"), StoreError),
        (boto.EndpointConnectionError(endpoint_url="https://s3"), StoreError),
    ],
)
def test_every_error_of_boto3_becomes_one_of_ours_that_names_action_and_resource(
    exc: Exception, ours: type[RotatorError]
) -> None:
    error = raised_for(exc)
    assert type(error) is ours
    assert "s3:PutObject" in str(error)
    assert "s3://bucket/key" in str(error)


def test_what_is_not_boto3s_passes_untouched() -> None:
    with pytest.raises(KeyError), aws.translated("s3:GetObject", "x"):
        raise KeyError
    with pytest.raises(Conflict), aws.translated("s3:GetObject", "x"):
        raise Conflict("ours")


def test_a_lost_compare_and_swap_is_told_by_code_or_by_status() -> None:
    conflicts = frozenset({"PreconditionFailed", "412", "404"})
    assert type(raised_for(answer("PreconditionFailed"), conflicts=conflicts)) is Conflict
    assert type(raised_for(answer("Whatever", 412), conflicts=conflicts)) is Conflict
    assert type(raised_for(answer("ConditionalRequestConflict", 409), conflicts=conflicts)) is StoreError
    # A bucket that is not there is never somebody else's write.
    assert type(raised_for(answer("NoSuchBucket", 404), conflicts=conflicts)) is ConfigurationError


def test_throttling_says_that_the_next_tick_tries_again() -> None:
    for exc in (answer("SlowDown", 503), answer("ThrottlingException"), answer("", 429)):
        assert "throttling; the next tick" in str(raised_for(exc))
    assert "throttling" not in str(raised_for(answer("InternalError", 500)))


def test_a_denial_may_carry_a_sentence_and_names_kms_where_that_is_what_refused() -> None:
    plain = raised_for(answer("AccessDenied", message="no"), denied="Grant more.")
    assert str(plain).endswith("Grant more.")
    assert "KMS" not in str(plain)
    assert "KMS" in str(raised_for(answer("AccessDeniedException", message="Access to KMS is not allowed")))


def test_refused_parameters_are_not_quoted_anywhere() -> None:
    error = raised_for(boto.ParamValidationError(report='Invalid type for SecretString, value: {"d": "c2VjcmV0"}'))
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert "c2VjcmV0" not in str(error)


def test_the_code_of_an_error_that_has_none_is_empty() -> None:
    assert aws.code_of(answer("SlowDown")) == "SlowDown"
    assert aws.code_of(boto.NoCredentialsError()) == ""
    assert aws.code_of(KeyError()) == ""


@pytest.mark.parametrize(
    ("header", "date"),
    [
        ("Tue, 14 Oct 2025 08:30:00 GMT", datetime(2025, 10, 14, 8, 30, tzinfo=UTC)),
        ("Tue, 14 Oct 2025 10:30:00 +0200", datetime(2025, 10, 14, 8, 30, tzinfo=UTC)),
        ("Tue, 14 Oct 2025 08:30:00 -0000", datetime(2025, 10, 14, 8, 30, tzinfo=UTC)),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_the_date_of_an_answer_is_in_utc_or_absent(header: str | None, date: datetime | None) -> None:
    found = aws.date_of({"ResponseMetadata": {"HTTPHeaders": {"date": header}}})
    assert found == date
    assert found is None or found.tzinfo is UTC
    assert aws.date_of({}) is None


@pytest.mark.usefixtures("_afresh")
def test_a_client_is_built_once_and_has_bounded_patience() -> None:
    client = aws.client("s3", "eu-west-1", "http://127.0.0.1:1", path_style=True)
    assert aws.client("s3", "eu-west-1", "http://127.0.0.1:1", path_style=True) is client
    config = client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (3, 10)
    assert config.retries["total_max_attempts"] == 3
    assert config.s3["addressing_style"] == "path"
    once = aws.client("s3", "eu-west-1", "http://127.0.0.1:1", attempts=1)
    assert once.meta.config.retries["total_max_attempts"] == 1


@pytest.mark.usefixtures("_afresh")
def test_a_client_without_region_is_refused_with_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigurationError, match="AWS_REGION"):
        aws.client("secretsmanager")


@pytest.mark.usefixtures("_afresh")
def test_botocore_does_not_write_requests_to_a_debug_log() -> None:
    # At DEBUG it writes the parameters of a request and the body of an answer: private keys.
    logging.getLogger("botocore").setLevel(logging.DEBUG)
    aws.client("secretsmanager", "eu-west-1", "http://127.0.0.1:1")
    assert not logging.getLogger("botocore.endpoint").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("botocore.parsers").isEnabledFor(logging.DEBUG)
    # Who wants it quieter still keeps that.
    logging.getLogger("botocore").setLevel(logging.ERROR)
    aws._session.cache_clear()
    aws._session()
    assert logging.getLogger("botocore").level == logging.ERROR
    logging.getLogger("botocore").setLevel(logging.WARNING)


def test_importing_the_adapters_does_not_import_boto3() -> None:
    code = (
        "import sys, rotator.documents.s3, rotator.documents.cloudfront, rotator.stores.secretsmanager\n"
        "sys.exit(bool({'boto3', 'botocore', 'cryptography'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
