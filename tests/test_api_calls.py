"""What a rotation costs in AWS calls: a budget per phase, and next to nothing where there is nothing to do."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from rotator.app import elapsed
from rotator.documents.s3 import S3Documents
from rotator.engine import Engine
from rotator.keys.policy import KeySet, Policy, PublicDocument
from rotator.stores.secretsmanager import SecretsManagerKeys
from tests.adapters.wire import Wire
from tests.world import Ports, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rotator.engine import Report

OBSERVING = 3
"""The pointer, the public document, the ledger."""


class Counted:
    """An engine on moto whose requests are booked on the step that made them."""

    def __init__(self, url: str) -> None:
        self.s3, self.secrets = Wire("s3", url), Wire("secretsmanager", url)
        self.now = datetime.now(UTC)
        self.calls: dict[str, list[int]] = {}
        self.pending: Counter[str] = Counter()
        name = f"calls-{uuid.uuid4().hex[:8]}"
        for bucket in (f"{name}-ledger", f"{name}-public"):
            self.s3.client.create_bucket(
                Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": self.s3.client.meta.region_name}
            )
        policy = replace(Policy(), algorithms=("ES256",))
        self.engine = Engine(
            KeySet("acme", policy, (PublicDocument("jwks", "acme/jwks.json"),)),
            ledger=S3Documents(self.s3, f"{name}-ledger"),
            public=S3Documents(self.s3, f"{name}-public"),
            keys=SecretsManagerKeys(self.secrets, name),
            clock=lambda: self.now,
            web=Ports(World(), "nobody"),
            elapsed=elapsed,
            report=self._book,
        )

    def _requests(self) -> int:
        return sum((self.s3.counted() + self.secrets.counted()).values())

    def _book(self, report: Report) -> None:
        self.calls.setdefault(report.step, []).append(self._requests())

    def tick(self) -> dict[str, list[int]]:
        self.calls = {}
        self._requests()
        self.engine.tick()
        return self.calls


@pytest.fixture
def counted(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    # The story's clock is not moto's: without its Date there is nothing to compare.
    monkeypatch.setattr("rotator.documents.s3.date_of", lambda _: None)
    monkeypatch.setattr("rotator.stores.secretsmanager.date_of", lambda _: None)
    story = Counted(moto_url)
    with story.s3.connected(), story.secrets.connected():
        story.engine.init()
        story.tick()
        yield story


def phase(calls: dict[str, list[int]], *steps: str, observed_by: str) -> int:
    """The calls of one phase, with the observation that its first step would need on its own."""
    spent = sum(calls[step][-1] if step == "publish" else sum(calls[step]) for step in steps)
    return spent if steps[0] == observed_by else spent + OBSERVING


def test_each_phase_of_a_rotation_keeps_to_its_budget(counted: Counted) -> None:
    counted.now += timedelta(days=31)
    rotation = counted.tick()
    promote = phase(rotation, "promote", "activate", observed_by="promote")
    make = phase(rotation, "intend", "create", "publish", "note-published", observed_by="promote")
    counted.now += timedelta(hours=3)
    assert list(counted.tick()) == ["disable"]
    counted.now += timedelta(hours=2)
    leave = phase(counted.tick(), "withdraw", "publish", "destroy", observed_by="withdraw")
    print(f"make and publish {make}, promote {promote}, withdraw and destroy {leave}")  # noqa: T201 - quoted in the README
    assert make <= 11, "make and publish"
    assert promote <= 8, "promote"
    assert leave <= 8, "withdraw and destroy"


def test_an_idle_tick_reads_two_documents_and_one_pointer(counted: Counted) -> None:
    counted.s3.counted()
    counted.secrets.counted()
    outcome = counted.engine.tick()
    assert outcome.steps == ()
    assert counted.s3.counted() == {"GetObject": 2}
    assert counted.secrets.counted() == {"DescribeSecret": 1}
