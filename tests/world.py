"""A simulated world around the real engine: stores, an outsider, workers with their own clocks, and a checker.

Every call of an engine to a port is an *effect*. It can fail before or after it is applied, kill the worker, or let it
stall while others go on. The checker does not sample caches: it keeps every version that was ever public and asks, at
each change, whether *any* cache that obeys the policy could reject a token. A world that breaks says so at once.

    world = World()
    world.init()
    world.run(days=90)            # ticks every hour, checks everything
    assert "retired" in world.stages().values()

Ports are those of ``rotator simulate``; this world is smaller: one key set, one edge, and what a story makes happen.
"""

from __future__ import annotations

import itertools
import random
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from rotator.engine import Engine, Outcome, Report
from rotator.errors import RotatorError, StoreError
from rotator.keys import jwks
from rotator.keys.algorithms import PRIVATE_MEMBERS
from rotator.keys.keyring import Keyring, Stage, from_json
from rotator.keys.policy import KeySet, Policy, PublicDocument, staleness_of
from rotator.ports import Fetched, Headers, Pointer, Traits
from rotator.simulate import ports as simulated
from rotator.simulate.mint import Mint
from rotator.simulate.world import Killed, Violation

if TYPE_CHECKING:
    from collections.abc import Callable


START = datetime(2026, 1, 1, tzinfo=UTC)

#: Until when a key was named that never was.
NEVER = datetime(1970, 1, 1, tzinfo=UTC)

#: A policy whose gates are hours apart, so that stories can stand just before and just after each of them.
POLICY = Policy(algorithms=("EdDSA",), interval=timedelta(minutes=1))


@dataclass
class Version:
    """One version of a public document: what caches may hold, and from when until when they could fetch it."""

    body: bytes
    kids: set[str]
    staleness: timedelta
    since: datetime
    until: datetime | None = None


@dataclass
class Fault:
    """What happens to one effect: ``how`` is ``lost``, ``applied``, ``kill-before`` or ``kill-after``."""

    how: str
    at: int
    """The number of the effect, counted from the arming of the fault."""


@dataclass
class World:
    mint: ClassVar[Mint] = Mint()
    policy: Policy = POLICY
    traits: Traits = field(default_factory=Traits)
    urls: tuple[str, ...] = ()
    seed: int = 0
    keyset: KeySet = field(init=False)

    def __post_init__(self) -> None:
        self.now = START
        self.rng = random.Random(self.seed)
        self.effects: list[str] = []
        self.fault: Fault | None = None
        self.armed_at = 0
        self.skew: dict[str, timedelta] = {}
        self.reports: list[Report] = []
        self.documents: dict[str, tuple[bytes, str, Headers]] = {}
        self.versions: list[Version] = []
        self.private: dict[str, Any] = {}
        self.handles: dict[str, str] = {}
        self.kids: dict[str, str] = {}
        self.disabled: set[str] = set()
        self.destroyed: set[str] = set()
        self.discarded: set[str] = set()
        self.creations: list[tuple[str, str, datetime]] = []
        self.pointers: dict[str, Pointer] = {}
        self.pointed: list[tuple[str | None, datetime]] = []
        self.named_until: dict[str, datetime | None] = {}
        self.spent: set[str] = set()
        self.strays_staged = 0
        self.counter = itertools.count(1)
        self.turns: Turns | None = None
        self.edge_lag = timedelta(0)
        self.edge_headers: str | None = None
        self.unreachable: set[str] = set()
        self.store_date: Callable[[], datetime | None] = lambda: None
        self.invalidations: list[str] = []
        self.ledger_path = "acme/ledger.json"
        self.looked: dict[str, datetime] = {}
        self.asked: dict[str, datetime] = {}
        self.broken: set[str] = set()
        self.proved: set[tuple[str, str]] = set()
        self._ring: tuple[bytes, Keyring] | None = None
        self.configure(self.policy)

    # -- set-up --------------------------------------------------------------------------------------------------

    def configure(self, policy: Policy) -> None:
        """From now on workers run under ``policy``."""
        self.policy = policy
        self.keyset = KeySet("acme", policy, (PublicDocument("jwks", "acme/jwks.json", self.urls),))

    def engine(self, worker: str = "a") -> Engine:
        ports = Ports(self, worker)
        return Engine(
            self.keyset,
            ledger=ports,
            public=ports,
            keys=ports,
            clock=lambda: self.now + self.skew.get(worker, timedelta(0)),
            web=ports,
            elapsed=self.age,
            cdn=ports,
            report=self.reports.append,
            nonce=lambda: f"{self.seed:08x}-{next(self.counter):08x}",
        )

    def init(self) -> None:
        assert self.engine().init()

    def tick(self, worker: str = "a") -> Outcome:
        outcome = self.engine(worker).tick()
        self.check()
        return outcome

    def try_tick(self, worker: str = "a") -> BaseException | None:
        """A tick that may fail or be killed, as in life."""
        try:
            self.tick(worker)
        except (RotatorError, Killed) as exc:
            return exc
        return None

    def advance(self, step: timedelta) -> None:
        self.now += step

    def run(self, span: timedelta, every: timedelta = timedelta(hours=1), worker: str = "a") -> None:
        """Tick ``every`` so often for ``span``; no tick may fail."""
        end = self.now + span
        while self.now < end:
            self.tick(worker)
            self.advance(every)

    def age(self) -> timedelta:
        """How long this world has been going on."""
        return self.now - START

    # -- what is -------------------------------------------------------------------------------------------------

    @property
    def ring(self) -> Keyring:
        body = self.documents["acme/ledger.json"][0]
        if self._ring is None or self._ring[0] is not body:
            self._ring = (body, from_json(body, "acme"))
        return self._ring[1]

    def stages(self) -> dict[str, str]:
        return {key.id: str(key.stage) for key in self.ring.keys}

    def kid(self, stage: Stage, alg: str | None = None) -> str:
        key = next(key for key in self.ring.keys if key.stage is stage and alg in (None, key.alg))
        assert key.kid
        return key.kid

    def public_kids(self) -> set[str]:
        body = self.documents["acme/jwks.json"][0]
        parsed = jwks.parse(body)
        return parsed.kids() if parsed else set()

    def steps(self) -> list[str]:
        return [report.step for report in self.reports if report.level == "step"]

    # -- effects and faults --------------------------------------------------------------------------------------

    def arm(self, how: str, at: int) -> None:
        """The ``at``-th effect from now fails as ``how`` says."""
        self.fault, self.armed_at = Fault(how, at), len(self.effects)

    def effect(self, worker: str, name: str, apply: Callable[[], Any]) -> Any:
        if self.turns:
            self.turns.pause(worker)
        self.effects.append(name)
        self.now += timedelta(milliseconds=20)
        fault = self.fault
        if fault is None or len(self.effects) - self.armed_at - 1 != fault.at:
            return apply()
        self.fault = None
        if fault.how == "kill-before":
            raise Killed
        if fault.how == "lost":
            raise StoreError(f"{name} failed: it was not applied")
        apply()
        if fault.how == "kill-after":
            raise Killed
        raise StoreError(f"{name} failed: it was applied")

    # -- an outsider ---------------------------------------------------------------------------------------------

    def restore(self, body: bytes, headers: Headers | None = None) -> None:
        """Somebody's deployment overwrites the public document; what that breaks by itself is theirs."""
        current = self.documents["acme/jwks.json"][2]
        self._written("acme/jwks.json", body, headers or current)

    def stray(self, key_id: str, handle: str) -> None:
        """A crash of long ago left a key that no ledger knows."""
        self.creations.append((key_id, "lost-attempt", self.now))
        self.handles[key_id] = handle
        self.strays_staged += 1

    def made(self, key_id: str, handle: str, _alg: str, kid: str, private: Any) -> None:
        """A private key came to be, and beside it the ``kid`` that issuers put into tokens."""
        self.handles[key_id], self.private[handle], self.kids[key_id] = handle, private, kid

    def stopped(self, handle: str) -> bool:
        """Whether the key store signs with it no more."""
        return handle in self.disabled | self.destroyed

    def called(self, key_id: str) -> str:
        """How a violation speaks of a key."""
        key = self.ring.key(key_id)
        return str(key and key.kid)

    def fetch(self, _worker: str, _document: PublicDocument, _url: str) -> Fetched | None:
        """What one edge shows, which follows the origin ``edge_lag`` later."""
        visible = [version for version in self.versions if version.since <= self.now - self.edge_lag]
        if not visible:
            return None
        return Fetched(visible[-1].body, self.edge_headers or self.documents["acme/jwks.json"][2].cache_control)

    def move_pointer_by_hand(self, alg: str, key_id: str) -> None:
        self.point(alg, key_id)

    # -- the checker ---------------------------------------------------------------------------------------------

    def _written(self, path: str, body: bytes, headers: Headers) -> str:
        version = f"v{next(self.counter)}"
        self.documents[path] = (body, version, headers)
        if path.endswith("jwks.json"):
            parsed = jwks.parse(body)
            if self.versions:
                self.versions[-1].until = self.now
            staleness = staleness_of(headers.cache_control, self.policy.cache_tiers)
            self.versions.append(Version(body, parsed.kids() if parsed else set(), staleness, self.now))
        return version

    def point(self, alg: str, key_id: str | None) -> Pointer:
        before = self.pointers.get(alg)
        if before and before.id and before.id != key_id:
            self.named_until[before.id] = self.now
        if key_id:
            self.named_until[key_id] = None
        self.pointed.append((key_id, self.now))
        self.pointers[alg] = Pointer(key_id, f"t{next(self.counter)}")
        return self.pointers[alg]

    def views(self) -> list[Version]:
        """Every version that a verifier which obeys the policy may still hold."""
        return [
            version
            for version in self.versions
            if version.until is None or version.until + version.staleness + self.policy.verifier_cache > self.now
        ]

    def check_moved(self, _worker: str, _alg: str, key_id: str | None) -> None:
        """Invariant 1: whoever signs from now on is known to every cache. (A forced key is announced.)"""
        if key_id is None or key_id in self.named_until:
            return
        key = self.ring.key(key_id)
        assert key
        if key.forced or key.revoked_at:
            return
        for version in self.views():
            if key.kid not in version.kids:
                raise Violation(f"{key.kid} signs at {self.now}, but a cache may hold a copy without it: {version}")

    def check_written(self, kids: set[str], length: int) -> None:
        """Invariants 2 and 5: nobody leaves whose tokens live; never too many, never two with one kid."""
        ring = self.ring
        for key in ring.keys:
            if key.revoked_at or key.kid is None or key.id not in self.named_until:
                continue
            until = self.named_until[key.id]
            policy = self.policy
            alive = until is None or self.now < until + policy.signer_lag + policy.token_lifetime + (
                policy.verifier_leeway + 2 * policy.clock_skew
            )
            if alive and key.kid not in kids:
                raise Violation(f"{key.kid} left at {self.now}, but tokens it signed may be alive")
        if length != len(kids) or length > self.policy.max_keys:
            raise Violation(f"{length} keys with {len(kids)} kids in the document; max_keys {self.policy.max_keys}")

    def check_disabled(self, _worker: str, key_id: str, name: str) -> None:
        """No private half stops while issuers may sign with it."""
        until, key = self.named_until.get(key_id, NEVER), self.ring.key(key_id)
        assert key
        if not key.revoked_at and (until is None or self.now < until + self.policy.signer_lag):
            raise Violation(f"{name} was disabled while issuers may sign with it")

    def check(self) -> None:
        """What must hold between any two effects."""
        ring = self.ring
        for path, (body, _, _) in self.documents.items():
            parsed = jwks.parse(body) if path.endswith("jwks.json") else None
            if parsed and any(not PRIVATE_MEMBERS.isdisjoint(jwk) for jwk in parsed.keys):
                raise Violation("a private member is public")
        if len(self.creations) - self.strays_staged > self.effects.count("keys.create"):
            raise Violation("more keys than attempts")
        for key in ring.keys:
            for other in ring.keys:
                if key is not other and key.kid and key.kid == other.kid:
                    raise Violation("one kid twice")
            if key.stage is Stage.CURRENT and (key.handle in self.disabled or key.handle in self.destroyed):
                raise Violation(f"the current key {key.kid} cannot sign")


class Turns:
    """Lets several workers, each in a thread, run one effect at a time in an order that the seed decides."""

    def __init__(self, world: World, rng: random.Random, stall: Callable[[random.Random], timedelta]) -> None:
        self.world, self.rng, self.stall = world, rng, stall
        self.gates: dict[str, threading.Semaphore] = {}
        self.back = threading.Semaphore(0)
        self.errors: list[BaseException] = []

    def pause(self, worker: str) -> None:
        """Hand the turn back, and wait for the next one."""
        self.back.release()
        self.gates[worker].acquire()

    def run(self, tasks: dict[str, Callable[[], Any]], choose: Callable[[list[str]], str] | None = None) -> None:
        alive = dict.fromkeys(tasks)
        self.gates = {worker: threading.Semaphore(0) for worker in tasks}
        self.world.turns = self

        def body(worker: str, task: Callable[[], Any]) -> None:
            self.gates[worker].acquire()
            try:
                task()
            except (RotatorError, Killed):
                pass
            except BaseException as exc:  # noqa: BLE001 - raised again below, in the test's own thread
                self.errors.append(exc)
            finally:
                alive.pop(worker)
                self.back.release()

        threads = [threading.Thread(target=body, args=(worker, task), daemon=True) for worker, task in tasks.items()]
        for thread in threads:
            thread.start()
        while alive:
            names = sorted(alive)
            worker = choose(names) if choose else self.rng.choice(names)
            self.world.advance(self.stall(self.rng))
            self.gates[worker].release()
            self.back.acquire()
        self.world.turns = None
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]


class Ports(simulated.Ports):
    """All ports of one worker, over the one world; public documents as the world of stories checks and shows them."""

    world: World  # type: ignore[assignment]

    def __init__(self, world: World, worker: str) -> None:
        super().__init__(world, worker)  # type: ignore[arg-type]

    def _write(self, path: str, body: bytes, headers: Headers | None) -> str:
        assert headers
        if path.endswith("jwks.json"):
            parsed = jwks.parse(body)
            assert parsed
            self.world.check_written(parsed.kids(), len(parsed.keys))
        return self.world._written(path, body, headers)
