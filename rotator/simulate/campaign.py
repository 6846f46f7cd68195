"""Many worlds, one after another or side by side; and of a violation the shortest replay that can be found."""

from __future__ import annotations

import math
import signal
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from multiprocessing import active_children, get_context
from typing import TYPE_CHECKING, Any

from rotator.ports import Traits
from rotator.simulate.faults import FAULTS
from rotator.simulate.gates import GATES, named, without
from rotator.simulate.schedule import Order, Result, simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from rotator.keys.policy import KeySet, Policy
    from rotator.simulate.schedule import Watch

    #: Steps done and time lived through so far, by all worlds.
    Progress = Callable[[int, timedelta], None]

YEAR = timedelta(days=365)

#: A world lives through so many lifetimes of a key: with the default policy that is a year.
_LIFETIMES = YEAR / timedelta(days=30)

#: Where nobody says for how long: at most so many years, and so many worlds; more where a protection is missing.
_YEARS = 10
_YEARS_WITHOUT = 50

#: Seconds between two looks at how far other processes are.
_LOOK = 0.5

#: Seconds that may be spent on a shorter replay.
_SHORTEN = 20.0

#: A store in which creating a key is not idempotent, as KMS is.
STRAYS = Traits(attempt_pause=timedelta(minutes=5), leaves_strays=True)


def world_span(policy: Policy) -> timedelta:
    """How long a world of ``policy`` lives: in proportion to a key, and to the tokens that keep it in public."""
    return _LIFETIMES * max(policy.lifetime, policy.retention)


def usual_years(policy: Policy, *, lacking: bool = False) -> float:
    """How many years to live through where nobody says it; ``lacking``: until the loss of a protection shows."""
    most = _YEARS_WITHOUT if lacking else _YEARS
    return most * min(1.0, world_span(policy) / YEAR)


@dataclass(frozen=True, slots=True)
class Campaign:
    """What to simulate: worlds with the seeds ``seed``, ``seed + 1``, … until ``years`` (or ``steps``) are over."""

    keyset: KeySet
    seed: int = 0
    years: float = 10
    steps: int | None = None
    faults: frozenset[str] = frozenset(FAULTS)
    workers: int = 3
    traits: Traits = field(default_factory=Traits)
    gate: str | None = None
    """A protection that is taken away."""

    def orders(self) -> Iterator[Order]:
        """One order after another, without end: a world may end before its time."""
        world = world_span(self.keyset.policy)
        if self.steps is None:
            world = min(world, self.years * YEAR)
        left = self.years * YEAR
        for seed in count(self.seed):
            span = min(world, left) if self.steps is None and left else world
            yield Order(self.keyset, seed, span, self.faults, self.workers, self.traits)
            left = max(left - span, timedelta(0))

    def worlds(self) -> int | None:
        """How many worlds that is at most; ``None``: steps decide."""
        return None if self.steps else math.ceil(self.years * YEAR / world_span(self.keyset.policy))

    def covered(self, span: timedelta) -> bool:
        """Whether worlds that live for ``span`` are enough."""
        return self.steps is None and span >= self.years * YEAR

    def over(self, totals: Totals) -> bool:
        """Whether all that was asked for was lived through, or something broke."""
        if totals.broken:
            return True
        return self.covered(totals.span) or (self.steps is not None and totals.steps >= self.steps)


@dataclass(slots=True)
class Totals:
    """What came of all worlds so far."""

    worlds: int = 0
    steps: int = 0
    span: timedelta = timedelta(0)
    rotations: int = 0
    revokes: int = 0
    verified: int = 0
    rejections: int = 0
    delay: timedelta = timedelta(0)
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    last: Result | None = None
    broken: Result | None = None

    def add(self, result: Result) -> None:
        """Count ``result``."""
        self.worlds += 1
        self.steps += result.steps
        self.span += result.span
        self.rotations += result.rotations
        self.revokes += result.revokes
        self.verified += result.verified
        self.rejections += result.rejections
        self.delay = max(self.delay, result.delay)
        self.faults += result.faults
        self.last = result
        if result.violation and (self.broken is None or result.steps < self.broken.steps):
            self.broken = result


def run(campaign: Campaign, jobs: int = 1, progress: Progress = lambda _steps, _span: None) -> Totals:
    """Live through the worlds of ``campaign``, ``jobs`` at once; the first that breaks ends it."""
    totals, began = Totals(), time.monotonic()

    def take(result: Result) -> None:
        totals.add(result)
        totals.seconds = time.monotonic() - began

    def watch(steps: int, age: timedelta) -> bool:
        progress(totals.steps + steps, totals.span + age)
        return True

    orders = campaign.orders()
    jobs = min(jobs, campaign.worlds() or jobs)
    if jobs == 1:
        while not campaign.over(totals):
            take(_live(next(orders), campaign.gate, watch))
        return totals
    with _processes(jobs) as (pool, lived):
        under_way: dict[Future[Result], timedelta] = {}
        while True:
            ahead = totals.span + sum(under_way.values(), timedelta(0))
            if not campaign.over(totals) and len(under_way) < jobs and not campaign.covered(ahead):
                order = next(orders)
                with unheard():
                    under_way[pool.submit(_live_counted, order, campaign.gate)] = order.span
            elif under_way:
                for each in wait(under_way, _LOOK, FIRST_COMPLETED).done:
                    del under_way[each]
                    take(each.result())
                progress(int(lived[0]), timedelta(seconds=lived[1]))
            else:
                return totals


def _live(order: Order, gate: str | None, watch: Watch = lambda _steps, _age: True) -> Result:
    with without(gate) if gate else nullcontext():
        return simulate(order, watch)


# -- processes -----------------------------------------------------------------------------------------------------


#: In a process of a pool: the steps and seconds that all of them have lived through, which each counts on.
_LIVED: list[Any] = []


@contextmanager
def _processes(jobs: int) -> Iterator[tuple[ProcessPoolExecutor, Any]]:
    """A pool of processes, and what they have lived through; whatever interrupts the block ends them at once."""
    # Not forked: whoever calls this may have threads, of a progress bar for one.
    context = get_context("spawn")
    lived = context.Array("d", 2)
    others = {*active_children()}
    pool = ProcessPoolExecutor(jobs, context, initializer=_count_on, initargs=(lived,))
    try:
        yield pool, lived
    except BaseException:
        # Nothing is cancelled: the pool's own thread would stumble over it when it finds its processes gone.
        pool.shutdown(wait=False)
        for child in {*active_children()} - others:
            child.terminate()
        raise
    pool.shutdown()


@contextmanager
def unheard() -> Iterator[None]:
    """Let Ctrl-C wait until the block is over; threads and processes that it starts never hear it.

    It reaches all processes of a terminal, also those that import still: the one that started them is to end them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _count_on(lived: Any) -> None:
    _LIVED[:] = [lived]


def _live_counted(order: Order, gate: str | None) -> Result:
    """What :func:`_live` returns, in a process of a pool: it counts what it lives through as it goes."""
    (lived,) = _LIVED
    counted, until = 0, timedelta(0)

    def watch(steps: int, age: timedelta) -> bool:
        nonlocal counted, until
        with lived.get_lock():
            lived[0] += steps - counted
            lived[1] += (age - until).total_seconds()
        counted, until = steps, age
        return True

    result = _live(order, gate, watch)
    watch(result.steps, result.span)
    return result


def shortest(campaign: Campaign, broken: Result, seconds: float = _SHORTEN) -> tuple[Order, Result]:
    """The shortest replay of a violation that is found in ``seconds``: fewer faults, fewer workers, less time."""
    order = next(order for order in campaign.orders() if order.seed == broken.seed)
    order, best = replace(order, span=min(order.span, broken.ended - broken.began + timedelta(seconds=1))), broken
    until = time.monotonic() + seconds
    smaller = True
    while smaller and time.monotonic() < until:
        smaller = False
        fewer = [replace(order, faults=order.faults - {fault}) for fault in sorted(order.faults)]
        if order.workers > 1:
            fewer.append(replace(order, workers=order.workers - 1))
        for candidate in fewer:
            if time.monotonic() >= until:
                break
            result = _live(candidate, campaign.gate, _at_most(2 * best.steps, until))
            if result.violation and result.steps <= 2 * best.steps:
                # What breaks while the world comes to rest breaks so after just this span.
                order = replace(candidate, span=min(candidate.span, result.ended - result.began + timedelta(seconds=1)))
                best, smaller = result, True
                break
    return order, best


def _at_most(most: int, until: float) -> Watch:
    return lambda steps, _age: steps <= most and time.monotonic() < until


# -- every protection in turn --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Caught:
    """Whether the loss of a protection was noticed."""

    gate: str
    prevents: str
    worlds: int
    steps: int
    violation: str | None
    idle: str | None = None
    """Why there is nothing to lose with this policy."""


def table(campaign: Campaign, jobs: int = 1) -> Generator[Caught, None, None]:
    """Take every protection away from ``campaign``, one after the other (``jobs`` at once), and see the world break."""
    campaigns = [
        replace(campaign, faults=gate.faults, traits=STRAYS if gate.strays else Traits(), gate=gate.name)
        for gate in GATES.values()
    ]
    jobs = min(jobs, len(campaigns))
    if jobs == 1:
        yield from map(_caught, campaigns)
        return
    with _processes(jobs) as (pool, _):
        with unheard():
            under_way = [pool.submit(_caught, each) for each in campaigns]
        for each in under_way:
            yield each.result()


def _caught(campaign: Campaign) -> Caught:
    gate = named(campaign.gate or "")
    if reason := gate.idle(campaign.keyset):
        return Caught(gate.name, gate.prevents, 0, 0, None, reason)
    totals = run(campaign)
    violation = totals.broken.violation if totals.broken else None
    return Caught(gate.name, gate.prevents, totals.worlds, totals.steps, violation)
