"""When things happen in a simulated world: workers tick, people interfere, the world fails; one seed decides it all."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

from rotator.engine import Engine, Report
from rotator.errors import Outdated, RotatorError
from rotator.keys import jwks, material
from rotator.keys import plan as planning
from rotator.keys.algorithms import algorithm
from rotator.keys.keyring import Stage
from rotator.keys.policy import KeySet, Policy, text
from rotator.ports import Traits
from rotator.simulate.faults import FaultyWorld, Stalling
from rotator.simulate.ports import Ports
from rotator.simulate.world import START, Killed, Life, Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from rotator.engine import Outcome

_SECOND, _MINUTE, _HOUR, _DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

#: How often each of these happens: once in so many lifetimes of a key, on average.
_ONCE_IN = {
    "outage": 2.0,
    "gap": 6.0,
    "edge": 1.0,
    "header": 4.0,
    "outsider": 0.7,
    "ledger": 5.0,
    "key": 2.0,
    "operator": 0.4,
    "policy": 0.8,
    "algorithms": 3.0,
    "clock": 1.5,
}

#: One tick in so many stalls somewhere on its way.
_STALLS = 12

#: Algorithms that ``algorithms`` adds beside the configured ones.
_OTHERS = ("ES256", "EdDSA")

#: The durations that ``policy`` changes, and by what.
_CHANGED = (
    "lifetime",
    "token_lifetime",
    "signer_lag",
    "cache_max_age",
    "cache_stale",
    "verifier_cache",
    "verifier_leeway",
)
_FACTORS = (0.25, 0.5, 1, 1, 1, 2, 4)


@dataclass(frozen=True, slots=True)
class Order:
    """What to simulate."""

    keyset: KeySet
    seed: int
    span: timedelta
    faults: frozenset[str]
    workers: int = 3
    traits: Traits = field(default_factory=Traits)


@dataclass(slots=True)
class Result:
    """What came of it."""

    seed: int
    steps: int = 0
    span: timedelta = timedelta(0)
    rotations: int = 0
    verified: int = 0
    rejections: int = 0
    revokes: int = 0
    delay: timedelta = timedelta(0)
    """The longest time by which a rotation came late."""
    faults: Counter[str] = field(default_factory=Counter)
    lives: list[Life] = field(default_factory=list)
    began: datetime = START
    ended: datetime = START
    violation: str | None = None
    story: list[str] = field(default_factory=list)


def simulate(order: Order) -> Result:
    """Live through one world; a violation ends it and stands in the result."""
    return Schedule(order).live()


class Schedule:
    """One world from its first start to its end."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.base = order.keyset.policy
        rng = random.Random(order.seed)
        self.workers = tuple(f"worker{n + 1}" for n in range(order.workers))
        self.world = FaultyWorld(order.keyset, traits=order.traits, rng=rng, faults=order.faults, workers=self.workers)
        self.rng = random.Random(rng.random())
        self.result = Result(order.seed)
        self.queue: list[tuple[datetime, int, Callable[[], None]]] = []
        self.counter = count()
        self.engines: dict[str, tuple[KeySet, Engine]] = {}
        self.outcome: Outcome | None = None
        self.stopped_until = START
        self.violation: Violation | None = None
        self.grows: Policy | None = None
        self.failed: Counter[str] = Counter()
        self.over = False

    # -- the course of things ------------------------------------------------------------------------------------

    def live(self) -> Result:
        """Run it, then let it come to rest and check that everything is in order."""
        result, world = self.result, self.world
        try:
            self._begin()
            while not self.over and self.queue[0][0] < START + self.order.span:
                self._next()
            if not self.over:
                self._rest()
        except Violation as exc:
            result.violation = str(exc)
            result.story = list(world.story)
        finally:
            for task in list(world.stalling.values()):
                task.abandon()
        result.steps, result.span = world.steps, world.age()
        result.verified, result.rejections = world.public.verified, world.public.rejections
        result.faults = world.happened
        result.rotations = sum(life.signs is not None for life in world.lives.values())
        result.lives = [*world.lives.values()]
        result.ended = world.now
        return result

    def _begin(self) -> None:
        world = self.world
        for worker in self.workers:
            if "clock" in world.faults:
                world.set_clock(worker)
        for n, worker in enumerate(self.workers):
            self._at(START + n * _SECOND, self._ticking(worker))
        for fault, once_in in _ONCE_IN.items():
            if fault in world.faults:
                self._again(fault, once_in * self.base.lifetime)

    def _at(self, when: datetime, what: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (when, next(self.counter), what))

    def _in(self, span: timedelta, what: Callable[[], None]) -> None:
        self._at(self.world.now + span, what)

    def _next(self) -> None:
        when, _, what = heapq.heappop(self.queue)
        self._pass_until(when)
        what()
        self._judge()

    def _pass_until(self, when: datetime) -> None:
        """Let time go by; issuers sign and verifiers look on the way."""
        world = self.world
        away = when - world.now
        if away > timedelta(0):
            if away > _HOUR:
                world.now += away * self.rng.random()
                self._watched()
            world.now = max(world.now, when)
        self._watched()

    def _watched(self) -> None:
        if self.world.documents:
            self.world.public.pass_by()

    def _judge(self) -> None:
        if self.violation:
            raise self.violation
        world = self.world
        if world.ledger_path in world.documents:
            world.check()
            if (
                not world.traits.leaves_strays
                and not world.amnesia
                and not world.stalling
                and (lost := world.lost_keys())
            ):
                raise Violation(f"{world.called(lost[0])} was made, but no ledger knows it")

    # -- workers -------------------------------------------------------------------------------------------------

    def engine(self, worker: str) -> Engine:
        """The engine of ``worker``, as configured now: a changed configuration starts it anew."""
        known = self.engines.get(worker)
        if known and known[0] is self.world.keyset:
            return known[1]
        world, ports = self.world, Ports(self.world, worker)
        engine = Engine(
            world.keyset,
            ledger=ports,
            public=ports,
            keys=ports,
            clock=lambda: world.clock(worker),
            web=ports,
            cdn=ports,
            report=lambda report: self._reported(worker, report),
            nonce=world.nonce,
            elapsed=world.age,
        )
        self.engines[worker] = (world.keyset, engine)
        return engine

    def _reported(self, worker: str, report: Report) -> None:
        self.world.tell(worker, f"{report.step}: {report.reason}")
        if report.step == "activate":
            self._promoted(report)

    def _promoted(self, report: Report) -> None:
        life = self.world.lives.get(report.kid or "")
        before = [
            other
            for other in self.world.lives.values()
            if life and other.alg == life.alg and other.number < life.number and other.signs
        ]
        key = self.world.ring.by_kid(report.kid or "")
        if before and key and not key.forced:
            late = self.world.now - (
                (before[-1].signs or self.world.now) + max(self.base.lifetime, self.world.keyset.policy.lifetime)
            )
            self.result.delay = max(self.result.delay, late)

    def _ticking(self, worker: str) -> Callable[[], None]:
        return lambda: self._tick(worker)

    def _tick(self, worker: str) -> None:
        world = self.world
        if worker in world.stalling or world.now < self.stopped_until:
            self._in(max(self.stopped_until - world.now, _MINUTE), self._ticking(worker))
            return
        if "stall" in world.faults and self.rng.random() < (0.5 if self._promotion_due() else 1 / _STALLS):
            self._stalling(worker, again=True)
        else:
            self._in(self._worked(worker), self._ticking(worker))

    def _stalling(self, worker: str, *, again: bool) -> None:
        """One tick of ``worker`` that stalls on its way; ``again``: then its next one is scheduled."""
        pauses: dict[int | str, timedelta] = {}
        if self.rng.random() < 0.3:
            pauses["move pointer"] = self._stall()
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            pauses[self._anywhere()] = self._stall()

        def work() -> None:
            pause = self._worked(worker)
            if again:
                self._in(pause, self._ticking(worker))

        task = self.world.stalling[worker] = Stalling(work, pauses)
        self._resume(worker, task)

    def _promotion_due(self) -> bool:
        """Whether a promotion may happen in the next tick: that is when a stall shows most."""
        ring = self.world.ring if self.world.ledger_path in self.world.documents else None
        asked = ring is not None and any(succession.rotate_requested_at for succession in ring.successions.values())
        waits = self.outcome.plan.waits if self.outcome else ()
        return asked or any(wait.step == "promote" and wait.at and wait.at <= self.world.now for wait in waits)

    def _anywhere(self) -> int | str:
        """The number of an effect: mostly one of the first, of which every tick has some; or the name of one."""
        if self.world.calls and self.rng.random() < 0.4:
            # Some come seldom, and late in a tick.
            return self.rng.choice(sorted(self.world.calls))
        return self.rng.randrange(10) if self.rng.random() < 0.6 else self.rng.randrange(60)

    def _stall(self) -> timedelta:
        longest = self.rng.choice((_SECOND, _MINUTE, _HOUR, _DAY, self.base.lifetime * 1.5))
        return longest * self.rng.random()

    def _resume(self, worker: str, task: Stalling) -> None:
        world = self.world
        pause = task.resume()
        if pause is None:
            del world.stalling[worker]
            self._judge()
            return
        world.happened["stall"] += 1
        world.tell(worker, f"stalls for {pause} before {task.before}")
        self._in(pause, lambda: self._resume(worker, task))
        if (
            "operator" in world.faults
            and task.before in {"move pointer", "keys.sign", "fence"}
            and self.rng.random() < 0.4
        ):
            self._in(pause * self.rng.random(), self._revoke_promoting)
        # Others meet what it left half done.
        other = self.rng.choice(self.workers)
        if other != worker:
            self._in(pause * self.rng.random() * 0.5, lambda: self._hurried(other))

    def _hurried(self, worker: str) -> None:
        """A tick beside the schedule, if the worker is free."""
        if worker in self.world.stalling or self.world.now < self.stopped_until:
            return
        if "stall" in self.world.faults and self.rng.random() < 0.4:
            self._stalling(worker, again=False)
        else:
            self._worked(worker)

    def _worked(self, worker: str) -> timedelta:
        """One tick of ``worker``, whatever comes of it; returns when its next one is due."""
        world = self.world
        keyset = world.keyset
        # Who fails again and again is asked less and less often: an outage of days is no reason for thousands of ticks.
        began = world.now
        pause = self._short(_HOUR / 6) * min(self.failed[worker] + 1, 20)
        try:
            engine = self.engine(worker)
            if not world.ledgers:
                engine.init()
            outcome = engine.tick()
        except Violation as exc:
            self.violation = exc
        except Killed:
            self.engines.pop(worker, None)
            world.ended(worker, well=False)
        except RotatorError as exc:
            world.ended(worker, well=False)
            world.tell(worker, f"failed: {exc}")
            if isinstance(exc, Outdated) and not world.happened["ledger"]:
                self.violation = Violation(f"{worker} takes the ledger for an old one, which it is not: {exc}")
            world.happened["ticks failed"] += 1
            self.failed[worker] += 1
        else:
            self.outcome = outcome
            self.failed[worker] = 0
            world.ended(worker, well=True)
            world.ticked = max(world.ticked, began)
            if self.grows and keyset is world.keyset and not world.stalling:
                world.obey(self.grows)
                self.grows = None
            pause = self._until_next(outcome)
        return pause

    def _short(self, span: timedelta) -> timedelta:
        return max(_SECOND, span * self.rng.random())

    def _until_next(self, outcome: Outcome) -> timedelta:
        """Often the very moment at which something is due; now and then much later, as a daily CronJob."""
        due = outcome.plan.due
        soon = min(self.base.lifetime / 15, _DAY)
        if due and self.rng.random() < 0.6:
            jitter = self.rng.choice(
                (-_SECOND, timedelta(0), timedelta(milliseconds=50), _SECOND, _MINUTE, 10 * _MINUTE)
            )
            exactly = due - self.world.now + jitter
            if exactly < 20 * soon:
                return max(exactly, _SECOND / 10)
        return max(min(self.base.interval, _HOUR), self.rng.expovariate(1) * soon)

    # -- what goes wrong beside the effects ------------------------------------------------------------------------

    def _again(self, fault: str, mean: timedelta) -> None:
        def happen() -> None:
            getattr(self, f"_{fault}")()
            self._again(fault, mean)

        self._in(mean * self.rng.expovariate(1), happen)

    def _note(self, fault: str, what: str) -> None:
        self.world.happened[fault] += 1
        self.world.tell("world", what)

    def _outage(self) -> None:
        service = self.rng.choice(("ledger", "documents", "keys", "web", "cdn"))
        span = self.rng.choice((_HOUR, _DAY, 4 * _DAY)) * self.rng.random()
        self._note("outage", f"{service} is away for {span}")
        self.world.away[service] = self.world.now + span

    def _gap(self) -> None:
        span = self.base.lifetime * 2 * self.rng.random()
        self._note("gap", f"no worker runs for {span}")
        self.stopped_until = self.world.now + span

    def _clock(self) -> None:
        worker = self.rng.choice(self.workers)
        if self.rng.random() < 0.5:
            self.world.set_clock(worker)
        else:
            self.world.jump(worker)
        self._in(self._short(3 * _DAY), lambda: self.world.set_clock(worker))

    def _edge(self) -> None:
        span = self.rng.choice((_HOUR, _DAY)) * self.rng.random()
        self._note("edge", f"the CDN shows what it showed for {span}")
        self.world.frozen_until = self.world.now + span

    def _header(self) -> None:
        if (
            self.world.edge_headers
            or self.world.amnesia
            or not any(document.urls for document in self.world.keyset.documents)
        ):
            return
        age = self.rng.choice((3_600, 86_400, 604_800))
        self._note("header", f"the CDN sends max-age={age}")
        self.world.override_headers(f"public, max-age={age}, stale-while-revalidate=0, stale-if-error=0")
        self._in(self._short(2 * _DAY), lambda: self.world.override_headers(None))

    def _outsider(self) -> None:
        world = self.world
        if not world.past or world.amnesia or world.ledger_path not in world.documents:
            return
        kind = self.rng.choice(("restore", "restore", "restore", "garbage", "stranger", "pointer"))
        path, body, headers = self.rng.choice(world.past)
        if kind == "pointer":
            ring = world.ring
            keys = [
                key for key in ring.keys if key.public and key.alg in world.pointers and not world.stopped(key.handle)
            ]
            if keys:
                key = self.rng.choice(keys)
                self._note("outsider", f"somebody moves the pointer of {key.alg} to {world.called(key.id)}")
                world.move_pointer_by_hand(key.alg, key.id)
            return
        if kind == "garbage":
            body = self.rng.choice((b"", b"{}", b'{"keys":[]}', b"<html>", body[: len(body) // 2]))
        elif kind == "stranger":
            path, stored = world.keyset.documents[0].path, world.documents.get(world.keyset.documents[0].path)
            parsed = jwks.parse(stored[0]) if stored else None
            row = algorithm("EdDSA")
            alien = jwks.public_jwk(material.spki(material.generate(row, 0)), row)
            body = jwks.serialize([*(parsed.keys if parsed else ()), alien], parsed.revision or 0 if parsed else 0)
        self._note("outsider", f"somebody overwrites {path} ({kind})")
        world.restore(body, headers, path)

    def _ledger(self) -> None:
        world = self.world
        if world.amnesia or len(world.ledgers) < 10 or world.ledger_path not in world.documents:
            return
        if any(copy.outsider for copy in world.shown_at_origin.values()):
            # An old ledger beside an old public document is a past that nobody can tell from the present.
            return
        newest = world.documents[world.ledger_path]
        lost = self.rng.random() < 0.3
        self._note("ledger", "the ledger is lost" if lost else "an old ledger is restored")
        if lost:
            del world.documents[world.ledger_path]
        else:
            world.amnesia = True
            world.documents[world.ledger_path] = (
                self.rng.choice(world.ledgers[-40:]),
                f"v{next(world.counter)}",
                newest[2],
            )
        revision = None if lost else world.ring.revision

        def mend() -> None:
            # Where workers went on with it, it was not older than the world in any way that counts.
            if revision == (world.ring.revision if world.ledger_path in world.documents else None):
                world.documents[world.ledger_path] = (newest[0], f"v{next(world.counter)}", newest[2])
                world.amnesia = False
                world.tell("person", "puts the newest ledger back")
            else:
                # What happened between the two is forgotten for good, a promise among it perhaps.
                self.over = True

        self._in(self._short(_DAY), mend)

    def _key(self) -> None:
        world = self.world
        ready = [key for key in self._keys() if key.standby and key.handle and key.handle not in world.broken]
        if not ready:
            return
        key = self.rng.choice(ready)
        self._note("key", f"the private half of {world.called(key.id)} breaks")
        world.broken.add(key.handle or "")
        self._in(self._short(3 * _DAY), lambda: self._revoke(key.kid or ""))

    def _keys(self) -> tuple[Any, ...]:
        return self.world.ring.keys if self.world.ledger_path in self.world.documents else ()

    # -- people --------------------------------------------------------------------------------------------------

    def _operator(self) -> None:
        if self.rng.random() < 0.75:
            self._note("operator", "a person wants to rotate as soon as it is allowed")
            self._hasty(30)
        else:
            public = [key for key in self._keys() if key.public]
            kid = self.rng.choice(public).kid if public else "unknown"
            self._revoke(kid or "")

    def _hasty(self, tries: int) -> None:
        world = self.world
        alg = self.rng.choice(world.keyset.policy.algorithms)
        try:
            self.engine("person").rotate([alg])
        except (RotatorError, Killed):
            if tries:
                # Exactly when the gate opens, if anybody knows; else again soon.
                opens = (
                    [wait.at for wait in self.outcome.plan.waits if wait.step == "promote" and wait.at]
                    if self.outcome
                    else []
                )
                span = min((at - world.now for at in opens if at > world.now), default=_HOUR)
                self._in(min(span, self._short(6 * _HOUR)) + _SECOND / 50, lambda: self._hasty(tries - 1))
        except Violation as exc:
            self.violation = exc
        else:
            eager = self.rng.choice(self.workers)
            self._in(_SECOND / 50, lambda: self._hurried(eager))
            if "edge" in world.faults and self.rng.random() < 0.5:
                # The key that is made next shall meet a CDN that does not show it.
                self._edge()

    def _revoke_promoting(self) -> None:
        promoting = [key for key in self._keys() if key.promoting]
        if promoting:
            self._revoke(promoting[0].kid or "")

    def _revoke(self, kid: str, tries: int = 20) -> None:
        world = self.world
        key = next((key for key in self._keys() if key.kid == kid), None)
        person = self.engine("person")
        try:
            radius = person.blast_radius(kid)
            person.revoke(kid, "a drill")
        except (RotatorError, Killed):
            radius = None
        if key is None or (after := world.ring.by_kid(kid) if world.ledger_path in world.documents else None) is None:
            return
        if after.revoked_at and kid not in world.revoked:
            self._note("operator", f"a person revokes {world.called(key.id)} ({key.stage})")
            self.result.revokes += 1
            world.revoked[kid] = world.now
            world.lives[kid].revoked = world.now
            named = world.pointers.get(key.alg)
            if key.stage is Stage.CURRENT or key.promoting or (named and named.id == key.id):
                world.emergencies.add(key.alg)
            if radius:
                self._compare(radius, key)
            eager = self.rng.choice(self.workers)
            self._in(self._short(_MINUTE), lambda: self._hurried(eager))
        elif tries and not after.revoked_at and not after.withdrawn_at:
            self._in(self._short(_HOUR), lambda: self._revoke(kid, tries - 1))

    def _compare(self, radius: Any, key: Any) -> None:
        """The blast radius that was told must hold for every token that this world knows of."""
        world = self.world
        alive = world.public.alive.get(radius.kid)
        slack = 4 * world.truth.clock_skew + timedelta(seconds=5)
        if (
            alive
            and key.id not in world.by_hand
            and not world.amnesia
            and (radius.tokens_until is None or alive[1] > radius.tokens_until + slack)
        ):
            raise Violation(f"a revoke said that tokens end by {radius.tokens_until}, but one lives until {alive[1]}")

    def _policy(self) -> None:
        """Somebody changes durations; what has grown is obeyed once workers know, what has shrunk at once."""
        world = self.world
        algorithms = world.keyset.policy.algorithms
        for _ in range(20):
            changed: dict[str, Any] = {
                name: _whole(getattr(self.base, name) * self.rng.choice(_FACTORS))
                for name in self.rng.sample(_CHANGED, 3)
            }
            policy = replace(self.base, algorithms=algorithms, **changed)
            if not policy.faults():
                self._note("policy", "now " + ", ".join(f"{name} {text(value)}" for name, value in changed.items()))
                self._configure(policy)
                return

    def _algorithms(self) -> None:
        world = self.world
        old = world.keyset.policy
        named = old.algorithms
        pool = [alg for alg in (*self.base.algorithms, *_OTHERS) if alg not in named]
        gone = [alg for alg in {key.alg for key in self._keys() if not key.destroyed_at} if alg not in named]
        kind = self.rng.choice(("add", "remove", "retire"))
        if kind == "add" and pool and not gone:
            algorithms = (*named, self.rng.choice(pool))
        elif kind == "remove" and len(named) > 1:
            leaving = self.rng.choice(named)
            algorithms = tuple(alg for alg in named if alg != leaving)
        elif gone and kind == "retire":
            try:
                self.engine("person").retire(gone[0])
                self._note("algorithms", f"a person retires {gone[0]}")
            except (RotatorError, Killed):
                pass
            return
        elif gone:
            algorithms = (*named, gone[0])
        else:
            return
        policy = replace(old, algorithms=tuple(dict.fromkeys(algorithms)))
        if not policy.faults():
            self._note("algorithms", f"the configuration names {', '.join(policy.algorithms)}")
            self._configure(policy)

    def _configure(self, policy: Policy) -> None:
        world = self.world
        world.keyset = replace(world.keyset, policy=policy)
        smaller = {name: min(getattr(world.truth, name), getattr(policy, name)) for name in _CHANGED}
        world.obey(replace(world.truth, **smaller))
        self.grows = policy

    # -- the end -------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """No more faults: whatever happened, everything comes right by itself."""
        world = self.world
        for worker, task in list(world.stalling.items()):
            while task.resume() is not None:
                pass
            world.stalling.pop(worker, None)
            self._judge()
        if world.ledger_path not in world.documents or world.amnesia:
            # A ledger that was restored and written to since: what it forgot is not ours to count.
            return
        world.calm = True
        world.away.clear()
        world.frozen_until = world.now
        if world.edge_headers:
            world.override_headers(None)
        world.skews.clear()
        for key in self._keys():
            if key.handle in world.broken and key.standby and key.kid:
                self._revoke(key.kid)
        worker = self.workers[0]
        self.engines.clear()
        policy = world.keyset.policy
        # Where a CDN once sent a header of its own, its copies stop the clock for as long as that allowed.
        overridden = max((copy.staleness for copies in world.copies.values() for copy in copies), default=timedelta(0))
        end = world.now + policy.lifetime + 2 * (policy.prepublish + policy.retention + overridden) + 2 * _DAY
        while world.now < end:
            self._worked(worker)
            self._judge()
            waits = self.outcome.plan.waits if self.outcome else ()
            # What waits for a cache that shows an old copy has no time: look again soon.
            due = min((wait.at or world.now + 6 * _HOUR for wait in waits), default=world.now + _DAY)
            self._pass_until(min(end, max(due, world.now + _MINUTE)))
        self._in_order()

    def _in_order(self) -> None:
        world = self.world
        try:
            look = self.engine(self.workers[0]).look()
        except RotatorError as exc:
            raise Violation(f"at the end nothing can be done any more: {exc}") from None
        ring = look.ring
        for alg in world.keyset.policy.algorithms:
            current = ring.current(alg)
            if current is None:
                raise Violation(f"at the end no {alg} key signs: {look.plan}")
            if world.pointers[alg].id != current.id:
                raise Violation(f"at the end the pointer of {alg} is not on its current key")
        if look.plan.step and not isinstance(look.plan.step, planning.Look):
            raise Violation(f"at the end something is still to do: {look.plan.step.name}")
        if lost := [key_id for key_id in world.lost_keys() if world.handles[key_id] not in world.discarded]:
            raise Violation(f"at the end {world.called(lost[0])} is in the key store, and no ledger knows it")


def _whole(span: timedelta) -> timedelta:
    return timedelta(seconds=max(1, int(span.total_seconds())))
