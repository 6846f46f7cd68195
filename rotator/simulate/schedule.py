"""When things happen in a simulated world: workers tick, people interfere, the world fails; one seed decides it all."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING

from rotator.engine import Engine, Report
from rotator.errors import Outdated, RotatorError
from rotator.keys import plan as planning
from rotator.ports import Traits
from rotator.simulate.faults import FaultyWorld, Stalling
from rotator.simulate.mishaps import Mishaps
from rotator.simulate.order import left_undone, unfinished
from rotator.simulate.people import People
from rotator.simulate.ports import Ports
from rotator.simulate.world import START, Killed, Life, Violation

if TYPE_CHECKING:
    from rotator.engine import Outcome
    from rotator.keys.keyring import Key
    from rotator.keys.policy import KeySet, Policy

_SECOND, _MINUTE, _HOUR, _DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

#: Steps done so far, and the age of the world → whether it is to go on.
Watch = Callable[[int, timedelta], bool]

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


def simulate(order: Order, watch: Watch = lambda _steps, _age: True) -> Result:
    """Live through one world; a violation ends it and stands in the result, and ``watch`` may end it early."""
    return Schedule(order, watch).live()


class Schedule:
    """One world from its first start to its end."""

    def __init__(self, order: Order, watch: Watch) -> None:
        self.order, self.watch = order, watch
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
        self.named: dict[str, datetime] = {}
        """When the configuration came to name an algorithm that it had not named before."""
        self.owed: set[str] = set()
        """Workers whose next tick waits for one that stalls."""
        self.over = False
        self.people, self.mishaps = People(self), Mishaps(self)

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

    def later(self, span: timedelta, what: Callable[[], None]) -> None:
        """Let ``what`` happen when ``span`` is over."""
        self._at(self.world.now + span, what)

    def _next(self) -> None:
        when, _, what = heapq.heappop(self.queue)
        self._pass_until(when)
        what()
        self._judge()
        self._look_up()

    def _look_up(self) -> None:
        self.over = self.over or not self.watch(self.world.steps, self.world.age())

    def _pass_until(self, when: datetime) -> None:
        """Let time go by; issuers sign and verifiers look on the way."""
        world = self.world
        away = when - world.now
        if away > timedelta(0):
            if away > world.hour:
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
            lifetime = max(self.base.lifetime, self.world.keyset.policy.lifetime)
            due = (before[-1].signs or self.world.now) + lifetime
            # While the configuration does not name an algorithm, nothing is due.
            self.result.delay = max(self.result.delay, self.world.now - max(due, self.named.get(before[-1].alg, due)))

    def _ticking(self, worker: str) -> Callable[[], None]:
        return lambda: self._tick(worker)

    def _tick(self, worker: str) -> None:
        world = self.world
        if worker in world.stalling:
            self.owed.add(worker)
            return
        if world.now < self.stopped_until:
            self.later(max(self.stopped_until - world.now, world.minute), self._ticking(worker))
            return
        if "stall" in world.faults and self.rng.random() < (0.5 if self._promotion_due() else 1 / _STALLS):
            self._stalling(worker, again=True)
        else:
            self.later(self._worked(worker), self._ticking(worker))

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
                self.later(pause, self._ticking(worker))

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
        world = self.world
        longest = self.rng.choice((_SECOND, world.minute, world.hour, world.day, self.base.lifetime * 1.5))
        return longest * self.rng.random()

    def _resume(self, worker: str, task: Stalling) -> None:
        world = self.world
        pause = task.resume()
        if pause is None:
            del world.stalling[worker]
            if worker in self.owed:
                self.owed.remove(worker)
                self.later(world.minute, self._ticking(worker))
            self._judge()
            return
        world.happened["stall"] += 1
        world.tell(worker, f"stalls for {pause} before {task.before}")
        self.later(pause, lambda: self._resume(worker, task))
        if (
            "operator" in world.faults
            and task.before in {"move pointer", "keys.sign", "fence"}
            and self.rng.random() < 0.4
        ):
            self.later(pause * self.rng.random(), self.people.revoke_promoting)
        # Others meet what it left half done.
        other = self.rng.choice(self.workers)
        if other != worker:
            self.later(pause * self.rng.random() * 0.5, lambda: self.hurried(other))

    def hurried(self, worker: str) -> None:
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
        pause = self.short(world.hour / 6) * min(self.failed[worker] + 1, 20)
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
            if not world.stalling and not world.amnesia and (undone := left_undone(world)):
                self.violation = Violation(undone)
            if self.grows and keyset is world.keyset and not world.stalling:
                world.obey(self.grows)
                self.grows = None
            pause = self._until_next(outcome)
        return pause

    def short(self, span: timedelta) -> timedelta:
        """Some part of ``span``, a second at least."""
        return max(_SECOND, span * self.rng.random())

    def _until_next(self, outcome: Outcome) -> timedelta:
        """Often the very moment at which something is due; now and then much later, as a daily CronJob."""
        due = outcome.plan.due
        soon = min(self.base.lifetime / 15, _DAY)
        if due and self.rng.random() < 0.6:
            jitter = self.rng.choice(
                (-_SECOND, timedelta(0), timedelta(milliseconds=50), _SECOND, self.world.minute, 10 * self.world.minute)
            )
            exactly = due - self.world.now + jitter
            if exactly < 20 * soon:
                return max(exactly, _SECOND / 10)
        return max(min(self.base.interval, _HOUR), self.rng.expovariate(1) * soon)

    # -- what people and mishaps do with it -----------------------------------------------------------------------

    def _again(self, fault: str, mean: timedelta) -> None:
        happens = getattr(self.people if hasattr(People, fault) else self.mishaps, fault)

        def happen() -> None:
            happens()
            self._again(fault, mean)

        self.later(mean * self.rng.expovariate(1), happen)

    def note(self, fault: str, what: str) -> None:
        """Count ``fault``, and tell it in the story."""
        self.world.happened[fault] += 1
        self.world.tell("world", what)

    def known(self) -> tuple[Key, ...]:
        """The keys of the ledger, if there is one."""
        return self.world.ring.keys if self.world.ledger_path in self.world.documents else ()

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
        self._calm()
        policy = world.keyset.policy
        # Where a CDN once sent a header of its own, its copies stop the clock for as long as that allowed.
        overridden = max((copy.staleness for copies in world.copies.values() for copy in copies), default=timedelta(0))
        rested = world.now + policy.lifetime + 2 * (policy.prepublish + policy.retention + overridden)
        self._tick_until(rested + 2 * world.day)
        # Some things take a day however short keys live: a search for strays, or the end of an algorithm.
        latest = rested + 2 * _DAY
        while not self.over and (disorder := self._disorder()):
            if world.now >= latest:
                raise Violation(disorder)
            self._tick_until(min(latest, world.now + policy.lifetime))

    def _calm(self) -> None:
        world = self.world
        world.calm = True
        world.away.clear()
        world.frozen_until = world.now
        if world.edge_headers:
            world.override_headers(None)
        world.skews.clear()
        for key in self.known():
            if key.handle in world.broken and key.standby and key.kid:
                self.people.revoke(key.kid)
        self.engines.clear()

    def _tick_until(self, end: datetime) -> None:
        world, soon = self.world, min(_MINUTE, self.base.lifetime / 50)
        while world.now < end and not self.over:
            self._worked(self.workers[0])
            self._judge()
            self._look_up()
            waits = self.outcome.plan.waits if self.outcome else ()
            # What waits for a cache that shows an old copy has no time: look again soon.
            due = min((wait.at or world.now + 6 * world.hour for wait in waits), default=world.now + world.day)
            self._pass_until(min(end, max(due, world.now + soon)))

    def _disorder(self) -> str | None:
        """What did not come right; ``None``: all did."""
        world = self.world
        try:
            look = self.engine(self.workers[0]).look()
        except RotatorError as exc:
            return f"at the end nothing can be done any more: {exc}"
        ring = look.ring
        for alg in world.keyset.policy.algorithms:
            current = ring.current(alg)
            if current is None:
                return f"at the end no {alg} key signs: {look.plan}"
            if world.pointers[alg].id != current.id:
                return f"at the end the pointer of {alg} is not on its current key"
        if look.plan.step and not isinstance(look.plan.step, planning.Look):
            return f"at the end something is still to do: {look.plan.step.name}"
        if lost := [key_id for key_id in world.lost_keys() if world.handles[key_id] not in world.discarded]:
            return f"at the end {world.called(lost[0])} is in the key store, and no ledger knows it"
        return next(unfinished(world, look.plan, 3 * _DAY), None)
