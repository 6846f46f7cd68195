"""Who stands between a token and its key: CDN edges, verifiers with their caches, issuers that follow the pointer.

They are the second witness beside the checker of :mod:`rotator.simulate.world`: a sample, as in life, of what the
checker claims for all. Verifiers are modelled after the caches of real ones; each is held to ``verifier_cache``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from rotator.keys.policy import max_age_of, staleness_of
from rotator.simulate.world import Copy, Violation

if TYPE_CHECKING:
    import random

    from rotator.keys.policy import PublicDocument
    from rotator.simulate.world import World

_MINUTE = timedelta(minutes=1)

#: Verifier → how long it keeps a set, and whether an unknown kid makes it fetch again (documentation of each).
VERIFIERS: dict[str, tuple[timedelta, bool]] = {
    "PyJWKClient": (5 * _MINUTE, True),
    "jose": (10 * _MINUTE, True),
    "jwks-rsa": (10 * _MINUTE, True),
    "aws-jwt-verify": (timedelta(days=365), True),
    "Nimbus": (5 * _MINUTE, True),
    "keyfunc": (timedelta(hours=1), True),
    "Istio": (20 * _MINUTE, False),
    "Microsoft.IdentityModel": (timedelta(hours=12), False),
    "API Gateway": (timedelta(hours=2), False),
    "the slowest allowed": (timedelta(days=3_650), False),
}

#: Edges of the CDN; every verifier sits behind one of them.
EDGES = 4


@lru_cache
def _allowed(cache_control: str | None) -> tuple[timedelta, timedelta]:
    """For how long a copy with these headers is fresh, and until what age it may be handed out."""
    return max_age_of(cache_control) or timedelta(0), staleness_of(cache_control)


@dataclass(slots=True)
class Held:
    """A copy in somebody's cache, and its age when it came there."""

    copy: Copy
    at: datetime
    age: timedelta = timedelta(0)


@dataclass(slots=True)
class Edge:
    """A place of the CDN that caches by the headers, and hands out stale copies as long as those allow."""

    name: str
    stubborn: bool
    """It serves stale for as long as it may; others only now and then."""
    deaf: bool
    """It never sees an invalidation."""
    held: dict[str, Held] = field(default_factory=dict)

    def get(self, world: World, document: PublicDocument, rng: random.Random) -> Held | None:
        """The copy that this edge hands out now, with its age."""
        held = self.held.get(document.name)
        if held:
            age = held.age + (world.now - held.at)
            fresh, longest = _allowed(held.copy.cache_control)
            if age <= fresh or (age <= longest and (self.stubborn or rng.random() < 0.5)):
                return Held(held.copy, held.at, age)
        shown = world.shown(document.name)
        if shown is None:
            return None
        self.held[document.name] = Held(shown, world.now)
        return Held(shown, world.now)


@dataclass(slots=True)
class Verifier:
    """A program that checks tokens against its own cached set."""

    name: str
    keeps: timedelta
    refetches: bool
    edge: Edge
    document: PublicDocument
    held: Held | None = None

    def knows(self, world: World, kid: str, rng: random.Random) -> bool:
        """Whether it accepts a token with ``kid`` now; a copy that an outsider spoilt is not held against us."""
        keeps = min(self.keeps, world.truth.verifier_cache)
        if self.held is None or world.now - self.held.at >= keeps:
            self._fetch(world, rng)
        if self.refetches and self.held and kid not in self.held.copy.keys:
            self._fetch(world, rng)
        return self.held is None or kid in self.held.copy.keys or kid in self.held.copy.excused

    def _fetch(self, world: World, rng: random.Random) -> None:
        got = self.edge.get(world, self.document, rng)
        if got:
            self.held = Held(got.copy, world.now)


@dataclass(slots=True)
class Issuer:
    """A token service: reads the pointer now and then, and signs with what it read."""

    alg: str
    pace: float
    """It reads the pointer after this part of ``signer_lag``."""
    key_id: str | None = None
    read_at: datetime | None = None

    def sign(self, world: World) -> tuple[str, datetime] | None:
        """The kid and the end of a token signed now; ``None``: no key signs."""
        lag = world.truth.signer_lag
        if self.read_at is None or world.now - self.read_at >= lag * self.pace:
            pointer = world.pointers.get(self.alg)
            self.key_id, self.read_at = pointer.id if pointer else None, world.now
        kid = world.kids.get(self.key_id or "")
        if kid is None or kid in world.revoked or self.key_id in world.theirs:
            return None
        if world.stopped(world.handles.get(self.key_id or "")):
            raise Violation(f"an issuer still signs with {world.called(self.key_id)}, whose private half was stopped")
        return kid, world.now + world.truth.token_lifetime


@dataclass
class Public:
    """All edges, verifiers and issuers of one world, and what became of their tokens."""

    world: World
    rng: random.Random
    verified: int = 0
    rejections: int = 0

    def __post_init__(self) -> None:
        world = self.world
        self.edges = [Edge(f"edge {n + 1}", stubborn=n % 2 == 0, deaf=n == 0) for n in range(EDGES)]
        self.verifiers = [
            Verifier(name, keeps, refetches, self.edges[n % EDGES], document)
            for document in world.keyset.documents
            for n, (name, (keeps, refetches)) in enumerate(VERIFIERS.items())
        ]
        self.issuers: list[Issuer] = []
        self.alive: dict[str, tuple[str, datetime]] = {}
        """kid → its algorithm and the end of the last token signed with it, leeway included."""

    def invalidate(self) -> None:
        """The CDN was told to drop its copies; a deaf edge does not hear it."""
        for edge in self.edges:
            if not edge.deaf:
                edge.held.clear()

    def pass_by(self) -> None:
        """Every issuer signs a token, and every verifier looks at every kid of which a token is alive.

        Raises:
            Violation: one of them is rejected, and no revoke or outsider is the reason.
        """
        world, now = self.world, self.world.now
        for alg in world.pointers.keys() - {issuer.alg for issuer in self.issuers}:
            self.issuers += [Issuer(alg, pace) for pace in (0.1, 0.5, 0.99)]
        grace = world.truth.verifier_leeway
        for issuer in self.issuers:
            token = issuer.sign(world)
            if token:
                kid, end = token
                self.alive[kid] = (issuer.alg, max(end + grace, self.alive.get(kid, (issuer.alg, end))[1]))
        for kid, (_, end) in list(self.alive.items()):
            if now >= end:
                del self.alive[kid]
        for verifier in self.verifiers:
            for kid, (alg, _) in self.alive.items():
                if not verifier.document.shows(alg) or kid in world.revoked:
                    continue
                self.verified += 1
                if not verifier.knows(world, kid, self.rng) and not self._announced(kid):
                    self.rejections += 1
                    raise Violation(
                        f"{verifier.name} behind {verifier.edge.name} rejects a live token of key"
                        f" {world.lives[kid].number} at {now:%Y-%m-%d %H:%M:%S}"
                    )

    def _announced(self, kid: str) -> bool:
        early = self.world.early.get(kid)
        return (early is not None and self.world.now < early) or any(
            self.world.kids.get(key_id) == kid for key_id in self.world.by_hand
        )
