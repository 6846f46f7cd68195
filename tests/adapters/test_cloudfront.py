from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from rotator.documents.cloudfront import CloudFront
from rotator.errors import AccessDenied, ConfigurationError, StoreError
from tests.adapters.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

ERROR = "<ErrorResponse><Error><Type>Sender</Type><Code>{}</Code><Message>{}</Message></Error></ErrorResponse>"


@pytest.fixture
def wire(ministack_url: str) -> Iterator[Wire]:
    # ministack keeps the promise of CallerReference; moto counts every call.
    with Wire("cloudfront", ministack_url, attempts=1).connected() as wire:
        yield wire


def distribution_at(wire: Wire) -> str:
    config = {
        "CallerReference": str(uuid4()),
        "Comment": "",
        "Enabled": True,
        "Origins": {
            "Quantity": 1,
            "Items": [{"Id": "o", "DomainName": "b.s3.amazonaws.com", "S3OriginConfig": {"OriginAccessIdentity": ""}}],
        },
        "DefaultCacheBehavior": {"TargetOriginId": "o", "ViewerProtocolPolicy": "https-only", "MinTTL": 0},
    }
    created: dict[str, Any] = wire.client.create_distribution(DistributionConfig=config)
    wire.counted()
    return str(created["Distribution"]["Id"])


@pytest.fixture
def distribution(wire: Wire) -> str:
    return distribution_at(wire)


def batches(wire: Wire, distribution: str) -> list[list[str]]:
    listed = wire.client.list_invalidations(DistributionId=distribution)["InvalidationList"].get("Items", [])
    found = [wire.client.get_invalidation(DistributionId=distribution, Id=each["Id"]) for each in listed]
    return [each["Invalidation"]["InvalidationBatch"]["Paths"]["Items"] for each in found]


def test_one_call_invalidates_every_path(wire: Wire, distribution: str) -> None:
    CloudFront(wire, distribution).invalidate(["/acme/jwks.json", "acme/openid-configuration"], "acme-7")
    assert wire.counted() == {"CreateInvalidation": 1}
    assert batches(wire, distribution) == [["/acme/jwks.json", "/acme/openid-configuration"]]


def test_calls_with_one_reference_count_once_whatever_their_order(wire: Wire, distribution: str) -> None:
    cdn = CloudFront(wire, distribution)
    cdn.invalidate(["/a", "/b"], "acme-7")
    cdn.invalidate(["/b", "/a", "/a"], "acme-7")
    cdn.invalidate(["/c"], "acme-7")
    assert batches(wire, distribution) == [["/a", "/b"]]
    cdn.invalidate(["/a", "/b"], "acme-8")
    assert len(batches(wire, distribution)) == 2


def test_a_reference_that_counted_before_is_no_error_under_its_other_name_either(wire: Wire, distribution: str) -> None:
    said = "Your request contains a caller reference that was used for a previous invalidation batch"
    wire.answer("CreateInvalidation", 400, ERROR.format("InvalidArgument", said).encode())
    CloudFront(wire, distribution).invalidate(["/a"], "acme-7")


def test_a_path_is_sent_as_cloudfront_wants_it(wire: Wire, distribution: str) -> None:
    CloudFront(wire, distribution).invalidate(["/clé/jwks.json", "/acme/*"], "r")
    assert batches(wire, distribution) == [["/acme/*", "/cl%C3%A9/jwks.json"]]


def test_nothing_to_invalidate_is_no_call(wire: Wire, distribution: str) -> None:
    CloudFront(wire, distribution).invalidate([], "r")
    assert not wire.counted()


@pytest.mark.parametrize(
    ("status", "code", "ours"),
    [
        (403, "AccessDenied", AccessDenied),
        (400, "TooManyInvalidationsInProgress", StoreError),
        (400, "Throttling", StoreError),
        (400, "InvalidArgument", StoreError),
        (404, "NoSuchDistribution", ConfigurationError),
    ],
)
def test_what_cloudfront_refuses_names_the_distribution(
    wire: Wire, distribution: str, status: int, code: str, ours: type[Exception]
) -> None:
    wire.answer("CreateInvalidation", status, ERROR.format(code, "staged").encode())
    with pytest.raises(ours, match=distribution) as raised:
        CloudFront(wire, distribution).invalidate(["/a"], "r")
    assert type(raised.value) is ours


def test_an_unknown_distribution_is_configuration(wire: Wire) -> None:
    with pytest.raises(ConfigurationError, match="ENOSUCHDISTRIB"):
        CloudFront(wire, "ENOSUCHDISTRIB").invalidate(["/a"], "r")
    with pytest.raises(ConfigurationError, match="ID"):
        CloudFront(wire, "https://d111.cloudfront.net")


def test_moto_takes_the_same_call(moto_url: str) -> None:
    with Wire("cloudfront", moto_url).connected() as wire:
        distribution = distribution_at(wire)
        CloudFront(wire, distribution).invalidate(["/b", "/a"], "acme-7")
        assert batches(wire, distribution) == [["/a", "/b"]]
