"""Days of rotations under live signers: real engine, real key files, real ``Signer``, one clock that leaps.

One issuer reads the pointer when it should; the other meets an AWS that answers as rarely as it may, so that it signs
up to the last moment of ``signer_lag``. One verifier holds the newest document, the other the oldest that the policy
lets a cache hold. Every token must verify at both when it is made, and in the last moment in which it may be accepted.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from rotator.documents.filesystem import FilesystemDocuments
from rotator.engine import Engine
from rotator.errors import Stale, StoreError
from rotator.keys import jwks, material
from rotator.keys.algorithms import algorithm
from rotator.keys.policy import KeySet, Policy, PublicDocument
from rotator.ports import Intent, KeyRef
from rotator.signer import Clock, Signer
from rotator.signer.sources import FileSource
from rotator.stores.local import LocalKeys

if TYPE_CHECKING:
    from pathlib import Path

    from rotator.signer.sources import Named

STEP, DAYS = timedelta(minutes=10), 2
START = datetime(2026, 5, 1, tzinfo=UTC)
POLICY = Policy(
    algorithms=("ES256",),
    lifetime=timedelta(hours=12),
    token_lifetime=timedelta(hours=1),
    signer_lag=timedelta(hours=2),
    verifier_cache=timedelta(hours=2),
    cache_max_age=timedelta(minutes=5),
    cache_stale=timedelta(minutes=25),
    interval=STEP,
    # A day's worth of them.
    max_creations_per_day=20,
)
PATH = "acme/jwks.json"


class Nowhere:
    """No public URL is configured: the origin's read-back counts."""

    def fetch(self, url: str) -> NoReturn:
        raise AssertionError(url)


class Rarely:
    """A source that answers once in ``lag``, as late as it may, and is away in between."""

    def __init__(self, inner: FileSource, world: World, lag: timedelta) -> None:
        self.alg, self.where, self._inner, self._world, self._lag = inner.alg, inner.where, inner, world, lag
        self._answered: datetime | None = None

    def read(self) -> Named | None:
        if self._answered and self._world.now < self._answered + self._lag:
            raise StoreError("AWS is away.")
        self._answered = self._world.now
        return self._inner.read()


@dataclass
class World:
    root: Path
    now: datetime = START
    documents: list[tuple[datetime, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keys = LocalKeys(self.root / "keys")
        self.public = FilesystemDocuments(self.root / "public")
        self.engine = Engine(
            KeySet("acme", POLICY, (PublicDocument("jwks", PATH),)),
            ledger=FilesystemDocuments(self.root / "ledger", private=True),
            public=self.public,
            keys=self.keys,
            clock=lambda: self.now,
            web=Nowhere(),
            elapsed=lambda: self.now - START,
        )
        self.engine.init()
        self.tick()

    @property
    def seconds(self) -> float:
        return self.now.timestamp()

    def source(self) -> FileSource:
        return FileSource(self.keys, "acme", algorithm("ES256"), "the pointer")

    def signer(self, source: FileSource | Rarely, lag: timedelta = POLICY.signer_lag) -> Signer:
        clock = Clock(lambda: self.seconds, lambda: self.seconds)
        return Signer(source, signer_lag=lag, token_lifetime=POLICY.token_lifetime, background=False, clock=clock)

    def tick(self) -> None:
        self.engine.tick()
        document = self.public.read(PATH).document
        assert document
        self.documents.append((self.now, {key["kid"]: key for key in json.loads(document.body)["keys"]}))

    def held(self, at: datetime) -> dict[str, Any]:
        """The document that was the newest at ``at``."""
        return next((keys for since, keys in reversed(self.documents) if since <= at), self.documents[0][1])

    def rejections(self, token: str) -> list[str]:
        """Verifiers that do not accept ``token`` now."""
        message, _, signature = token.rpartition(".")
        kid = json.loads(urlsafe_b64decode(message.split(".")[0] + "=="))["kid"]
        oldest = self.now - POLICY.staleness - POLICY.verifier_cache
        verifiers = {"newest": self.held(self.now), "oldest": self.held(oldest)}
        return [
            f"{name} at {self.now:%d %H:%M}: {kid}"
            for name, keys in verifiers.items()
            if kid not in keys
            or not material.verify(keys[kid], algorithm("ES256"), message.encode(), material.unb64u(signature))
        ]


@dataclass
class Run:
    rejected: list[str] = field(default_factory=list)
    tokens: int = 0
    kids: set[str] = field(default_factory=set)
    stale: int = 0


def live(world: World, signers: list[Signer]) -> Run:
    run = Run()
    alive: list[tuple[datetime, str]] = []
    for _ in range(int(timedelta(days=DAYS) / STEP)):
        world.now += STEP
        # Just before the worker's turn and just after it.
        for turn in (False, True):
            if turn:
                world.tick()
            for signer in signers:
                try:
                    token = signer.sign({"exp": world.now + POLICY.token_lifetime})
                except Stale:
                    run.stale += 1
                    continue
                run.tokens += 1
                run.kids.add(signer.status().kid or "")
                run.rejected += world.rejections(token)
                alive.append((world.now + POLICY.token_lifetime + POLICY.verifier_leeway, token))
            for _, token in [each for each in alive if each[0] <= world.now]:
                run.rejected += world.rejections(token)
            alive = [each for each in alive if each[0] > world.now]
    return run


def test_no_token_of_a_signer_is_rejected_however_rarely_the_pointer_answers(tmp_path: Path) -> None:
    world = World(tmp_path)
    rare = world.signer(Rarely(world.source(), world, POLICY.signer_lag + STEP))
    run = live(world, [world.signer(world.source()), rare])
    assert run.rejected == []
    # It was put to the test: keys came and went, and the one that was not answered went silent now and then.
    assert len(run.kids) >= 4
    assert run.stale > 10
    assert run.tokens > 1000


def test_a_signer_that_oversteps_signer_lag_is_caught(tmp_path: Path) -> None:
    world = World(tmp_path)
    lag = 5 * POLICY.signer_lag
    run = live(world, [world.signer(Rarely(world.source(), world, lag), lag)])
    assert run.rejected


def test_a_volume_that_goes_away_is_an_outage_and_not_the_end_of_all_keys(tmp_path: Path) -> None:
    keys, row = LocalKeys(tmp_path / "keys"), algorithm("ES256")
    where = keys.locate_pointer("acme", row)
    source = FileSource(keys, "acme", row, where)
    assert source.read() is None, "no key was promoted yet"
    stored = keys.create(Intent("acme", "ledger", "intent-1", row, 2048, "thumbprint", "attempt"))
    ref = KeyRef("acme", row, "intent-1", jwks.kid_of(stored.spki, row, "thumbprint"), stored.handle)
    keys.move_pointer(keys.read_pointer("acme", row), ref)
    assert source.read()
    (tmp_path / "keys").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"pointer.json was there and is gone: is the directory mounted\?"):
        source.read()
    (tmp_path / "elsewhere").rename(tmp_path / "keys")
    assert source.read()
    keys.clear_pointer("acme", row, keys.read_pointer("acme", row))
    assert source.read() is None, "the algorithm was retired"
