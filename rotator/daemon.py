"""Ticks every key set when something is due, and at a regular interval, until it is told to stop.

All state lives in the ledgers: a daemon that is killed at any moment has lost nothing but time.
"""

from __future__ import annotations

import os
import random
import select
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Protocol

from rotator.errors import RotatorError
from rotator.keys.policy import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from rotator.engine import Engine, Outcome, Report
    from rotator.ports import Clock

#: The first retry of a failed key set comes soon, the later ones at most this far apart.
RETRY_FIRST, RETRY_LAST = timedelta(seconds=1), timedelta(minutes=5)

#: A key set that is silent for longer than its schedule explains, and this much more, is stuck: restart the process.
PATIENCE = timedelta(minutes=15)

#: How long a step may go on after a request to stop. Kubernetes kills after 30 s, people lose patience after 10.
GRACE = 8.0

#: How often the wall clock is compared with the monotonic one while nothing happens.
_WATCH = 5.0


class Say(Protocol):
    """Where a line of the log goes."""

    def __call__(self, level: str, event: str, **facts: object) -> None:
        """One line about ``event``."""
        ...


@dataclass(slots=True)
class Standing:
    """How one key set fares in this process: what health, metrics and the log need to know of it."""

    keyset: str
    stirred: float
    """Monotonic time of the last sign of life."""
    results: Counter[str] = field(default_factory=Counter)
    """Ticks by ``ok`` and ``failed``."""
    steps: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    """Failed ticks by the class of the error."""
    failed_in_a_row: int = 0
    error: str | None = None
    succeeded: float | None = None
    """Monotonic time at which the last good tick ended."""
    succeeded_at: datetime | None = None
    stages: Counter[str] = field(default_factory=Counter)
    due: datetime | None = None
    foreign: int = 0
    clock_fault: str | None = None

    def heard(self, report: Report) -> None:
        """Count a step as it is reported."""
        self.stirred = time.monotonic()
        if report.level == "step":
            self.steps[report.step] += 1

    def did(self, outcome: Outcome) -> None:
        """Note a tick that ended well."""
        self.stirred = self.succeeded = time.monotonic()
        self.succeeded_at = outcome.at
        self.results["ok"] += 1
        self.failed_in_a_row, self.error = 0, None
        self.stages = Counter(str(key.stage) for key in outcome.ring.keys)
        self.due = outcome.plan.due
        self.foreign = sum(len(kids) for kids in outcome.foreign.values())
        self.clock_fault = outcome.clock_fault

    def failed(self, exc: Exception, error: str) -> None:
        """Note a tick that failed."""
        self.stirred = time.monotonic()
        self.results["failed"] += 1
        self.failures[type(exc).__name__] += 1
        self.failed_in_a_row += 1
        self.error = error


def standings(keysets: Iterator[str] | tuple[str, ...]) -> dict[str, Standing]:
    """A blank standing per key set."""
    now = time.monotonic()
    return {name: Standing(name, now) for name in keysets}


class Daemon:
    """Ticks ``engines`` on a schedule of one job each; one that fails is retried alone and never stops the others."""

    def __init__(  # noqa: PLR0913 - each by name
        self,
        engines: Mapping[str, Engine],
        found: Mapping[str, Standing],
        *,
        interval: timedelta,
        clock: Clock,
        say: Say,
        after: Callable[[Outcome], None] = lambda _: None,
        workers: int = 8,
    ) -> None:
        from apscheduler.executors.pool import ThreadPoolExecutor  # type: ignore[import-untyped]
        from apscheduler.schedulers.background import BackgroundScheduler  # type: ignore[import-untyped]

        self.standings = found
        self._engines, self._interval, self._clock = engines, interval, clock
        self._say, self._after = say, after
        self._stopping = threading.Event()
        self._running: set[str] = set()
        self._idle = threading.Condition()
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(max(1, min(workers, len(engines))))},
            # A wake-up that comes late is still a wake-up: the default of 1 s would skip it.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

    def start(self) -> None:
        """Begin to tick, every key set at once."""
        for name in self._engines:
            # The interval is the floor that holds whatever happens; due moments and retries only come before it,
            # or instead of it, by moving the next run.
            self._scheduler.add_job(
                self._tick,
                "interval",
                seconds=self._interval.total_seconds(),
                args=[name],
                id=name,
                next_run_time=self._clock(),
            )
        self._scheduler.start()

    def wake(self) -> None:
        """Tick every key set now."""
        for name in self._engines:
            self._next(name, self._clock())

    def stop(self, grace: float = GRACE) -> list[str]:
        """Begin no tick any more, and return the key sets whose tick did not end within ``grace`` seconds."""
        self._stopping.set()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        with self._idle:
            self._idle.wait_for(lambda: not self._running, grace)
            return sorted(self._running)

    def run(self, asked: Callable[[float], str | None], grace: float = GRACE) -> list[str]:
        """Tick until ``asked`` (which waits so many seconds) names a reason to stop; see :meth:`stop`."""
        self.start()
        offset = self._offset()
        while (why := asked(_WATCH)) is None:
            # The schedule is made of wall-clock times. Where somebody set the clock, they mean something else now.
            drift, offset = abs(self._offset() - offset), self._offset()
            if drift > _WATCH:
                self._say("warning", "clock-set", reason=f"the clock was moved by {drift:.0f} s: every key set ticks")
                self.wake()
        self._say("info", "stopping", reason=why)
        return self.stop(grace)

    def stuck(self) -> list[str]:
        """The key sets that show no sign of life, though their schedule says they should."""
        allowed = (self._interval + RETRY_LAST + PATIENCE).total_seconds()
        now = time.monotonic()
        return [name for name, standing in self.standings.items() if now - standing.stirred > allowed]

    def unready(self) -> list[str]:
        """The key sets that had no good tick yet."""
        return [name for name, standing in self.standings.items() if standing.succeeded is None]

    def _offset(self) -> float:
        return self._clock().timestamp() - time.monotonic()

    def _tick(self, name: str) -> None:
        with self._idle:
            # The pool's queue outlives the scheduler: whatever is left in it must not begin now.
            if self._stopping.is_set():
                return
            self._running.add(name)
        try:
            self._next(name, self._once(name))
        finally:
            with self._idle:
                self._running.discard(name)
                self._idle.notify_all()

    def _once(self, name: str) -> datetime:
        """Tick, and return when to tick again."""
        standing = self.standings[name]
        try:
            outcome = self._engines[name].tick()
        except Exception as exc:  # noqa: BLE001 - whatever it is, it must not end the daemon
            standing.failed(exc, str(exc) if isinstance(exc, RotatorError) else fault(exc))
            delay = retry_in(standing.failed_in_a_row, self._interval)
            again = f"the next try is in {text(timedelta(seconds=round(delay.total_seconds(), 1)))}"
            self._say("error", "failed", keyset=name, error=standing.error, again=again)
            return self._clock() + delay
        if standing.failed_in_a_row:
            self._say("info", "recovered", keyset=name, reason=f"after {standing.failed_in_a_row} failed tick(s)")
        standing.did(outcome)
        self._after(outcome)
        return next_tick(outcome, self._clock(), self._interval)

    def _next(self, name: str, at: datetime) -> None:
        from apscheduler.jobstores.base import JobLookupError  # type: ignore[import-untyped]

        with suppress(JobLookupError):
            self._scheduler.modify_job(name, next_run_time=at)


def next_tick(outcome: Outcome, now: datetime, interval: timedelta) -> datetime:
    """When to tick again after a good tick: at the next due moment, or after ``interval``."""
    due = outcome.plan.due
    # What was due already and was not done waits for something else than time.
    return min(due, now + interval) if due and due > outcome.at else now + interval


def retry_in(failures: int, interval: timedelta) -> timedelta:
    """How long after the n-th failure in a row the next try is: doubling, bounded, and no two key sets in step."""
    longest = min(RETRY_LAST, max(5 * interval, RETRY_FIRST))
    delay: timedelta = min(longest, min(RETRY_FIRST, interval) * 2.0 ** min(failures - 1, 20))
    return delay * random.uniform(0.75, 1)  # noqa: S311 - spreads load, keeps no secret


def fault(exc: BaseException) -> str:
    """An unexpected exception in words: its kind and place, not its message, which may quote what nobody may read."""
    place, trace = "an unknown place", exc.__traceback__
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename.rpartition('/rotator/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"rotator met a bug: {type(exc).__name__} at {place}. Nothing is lost; please report it."


@contextmanager
def signals() -> Iterator[Callable[[float], str | None]]:
    """SIGTERM and SIGINT as an answer to ask for: "which signal came within so many seconds?".

    A second signal ends the process at once, with exit code 0: every crash is repaired by the next tick.
    """
    inbox, outbox = os.pipe()
    os.set_blocking(outbox, False)
    came = 0

    def note(number: int, _: object) -> None:
        # Only what is safe in the middle of anything: no lock, no log.
        nonlocal came
        came += 1
        if came > 1:
            os._exit(0)
        os.write(outbox, bytes([number]))

    def asked(seconds: float) -> str | None:
        ready, _, _ = select.select([inbox], [], [], seconds)
        return signal.Signals(os.read(inbox, 1)[0]).name if ready else None

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(inbox)
        os.close(outbox)
