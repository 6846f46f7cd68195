"""Many worlds, one after another or side by side; and of a violation the shortest replay that can be found."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from multiprocessing import get_context
from typing import TYPE_CHECKING

from rotator.ports import Traits
from rotator.simulate.faults import FAULTS
from rotator.simulate.gates import GATES, named, without
from rotator.simulate.schedule import Order, Result, simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rotator.keys.policy import KeySet

YEAR = timedelta(days=365)

#: A world lives through at least so many lifetimes of a key.
_LIFETIMES = 12

#: Seconds that may be spent on a shorter replay.
_SHORTEN = 20.0

#: A store in which creating a key is not idempotent, as KMS is.
STRAYS = Traits(attempt_pause=timedelta(minutes=5), leaves_strays=True)


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
        world = max(YEAR, _LIFETIMES * self.keyset.policy.lifetime)
        if self.steps is None:
            world = min(world, self.years * YEAR)
        left = self.years * YEAR
        for seed in count(self.seed):
            span = min(world, left) if self.steps is None and left else world
            yield Order(self.keyset, seed, span, self.faults, self.workers, self.traits)
            left = max(left - span, timedelta(0))

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


def run(campaign: Campaign, jobs: int = 1, progress: Callable[[Totals], None] = lambda _: None) -> Totals:
    """Live through the worlds of ``campaign``, ``jobs`` at once; the first that breaks ends it."""
    totals, began = Totals(), time.monotonic()

    def take(result: Result) -> None:
        totals.add(result)
        totals.seconds = time.monotonic() - began
        progress(totals)

    orders = campaign.orders()
    if jobs == 1:
        while not campaign.over(totals):
            take(_live(next(orders), campaign.gate))
        return totals
    # Not forked: whoever calls this may have threads, of a progress bar for one.
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        under_way: dict[Future[Result], timedelta] = {}
        while True:
            ahead = totals.span + sum(under_way.values(), timedelta(0))
            if not campaign.over(totals) and len(under_way) < jobs and not campaign.covered(ahead):
                order = next(orders)
                under_way[pool.submit(_live, order, campaign.gate)] = order.span
            elif under_way:
                for each in wait(under_way, return_when=FIRST_COMPLETED).done:
                    del under_way[each]
                    take(each.result())
            else:
                return totals


def _live(order: Order, gate: str | None) -> Result:
    with without(gate) if gate else nullcontext():
        return simulate(order)


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
            result = _live(candidate, campaign.gate)
            if result.violation and result.steps <= 2 * best.steps:
                # What breaks while the world comes to rest breaks so after just this span.
                order = replace(candidate, span=min(candidate.span, result.ended - result.began + timedelta(seconds=1)))
                best, smaller = result, True
                break
    return order, best


@dataclass(frozen=True, slots=True)
class Caught:
    """Whether the loss of a protection was noticed."""

    gate: str
    prevents: str
    worlds: int
    steps: int
    violation: str | None


def table(keyset: KeySet, *, seed: int = 0, worlds: int = 40, jobs: int = 1) -> Iterator[Caught]:
    """Take every protection away, one after the other (``jobs`` at once), and see the world break."""
    years = worlds * _LIFETIMES * keyset.policy.lifetime / YEAR
    campaigns = [
        Campaign(
            keyset,
            seed,
            years,
            faults=gate.faults,
            traits=STRAYS if gate.strays else Traits(),
            gate=gate.name,
        )
        for gate in GATES.values()
    ]
    if jobs == 1:
        yield from map(_caught, campaigns)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        yield from pool.map(_caught, campaigns)


def _caught(campaign: Campaign) -> Caught:
    totals, gate = run(campaign), named(campaign.gate or "")
    violation = totals.broken.violation if totals.broken else None
    return Caught(gate.name, gate.prevents, totals.worlds, totals.steps, violation)
