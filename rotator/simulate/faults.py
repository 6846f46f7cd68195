"""What can go wrong, and the world in which it does: every effect may fail, before or after it was applied."""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from rotator.errors import ConfigurationError, StoreError
from rotator.ports import Fetched
from rotator.simulate.caches import Public
from rotator.simulate.world import START, Killed, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rotator.keys.policy import PublicDocument
    from rotator.simulate.world import Copy

#: Fault → what it does. In the order in which a summary lists them.
FAULTS = {
    "lost": "an effect fails and is not applied",
    "applied": "an effect is applied and reported failed",
    "twice": "an effect is applied twice: the answer was lost and the client tried again",
    "slow": "an effect takes up to two minutes",
    "kill": "the worker is killed before or after an effect",
    "stall": "a worker stalls for seconds, hours or longer than a key signs, and then goes on",
    "throttle": "a service throttles for minutes",
    "outage": "a service is away for hours or days",
    "gap": "no worker runs for up to two lifetimes",
    "clock": "clocks drift within clock_skew; now and then one jumps by days, also between two effects",
    "edge": "the CDN goes on showing what it showed for hours",
    "header": "the CDN sends headers of its own",
    "outsider": "somebody overwrites the public document, or moves the pointer, by hand",
    "ledger": "an old ledger is restored, or it is lost, under live workers",
    "key": "a private half breaks in the key store",
    "operator": "a person rotates or revokes at the worst moment",
    "policy": "a person changes durations",
    "algorithms": "a person adds, removes, puts back or retires an algorithm",
}

#: The chance of each fault at any one effect.
_CHANCE = {
    "lost": 0.004,
    "applied": 0.004,
    "twice": 0.003,
    "slow": 0.01,
    "kill": 0.003,
    "throttle": 0.0007,
    "clock": 0.0004,
}

_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

_SERVICES = {"fetch": "web", "invalidate": "cdn"}


def chosen(names: str) -> frozenset[str]:
    """The faults in ``names``: ``all``, ``none`` or a list with commas.

    Raises:
        ConfigurationError: one of them is unknown, there is none, or ``all`` or ``none`` does not stand alone.
    """
    wanted = frozenset(name.strip() for name in names.split(",") if name.strip())
    if wanted in ({"all"}, {"none"}):
        return frozenset(FAULTS) if "all" in wanted else frozenset()
    if not wanted:
        raise ConfigurationError(f"No fault is named: choose all, none or from {', '.join(FAULTS)}.")
    if alone := sorted(wanted & {"all", "none"}):
        raise ConfigurationError(
            f"{alone[0]!r} cannot stand beside other faults: choose all, none or from {', '.join(FAULTS)}."
        )
    if unknown := sorted(wanted - FAULTS.keys()):
        raise ConfigurationError(
            f"Unknown fault {', '.join(map(repr, unknown))}: choose all, none or from {', '.join(FAULTS)}."
        )
    return wanted


class Stalling:
    """A tick in a thread of its own, so that it can stop between two effects while the world goes on.

    Only one thread ever runs: whoever lets another go on waits until it pauses or ends. ``pauses``: the number of an
    effect, or its name, and for how long it stalls before it.
    """

    def __init__(self, run: Callable[[], None], pauses: dict[int | str, timedelta]) -> None:
        self._pauses, self._effects = pauses, 0
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._pause: timedelta | None = None
        self._abandoned = False
        self._run = run
        self.before = ""
        """The effect before which it pauses."""
        self._thread = threading.Thread(target=self._body, daemon=True)
        self._thread.start()

    def _body(self) -> None:
        self._go.acquire()
        try:
            if not self._abandoned:
                self._run()
        except Killed:
            pass
        finally:
            self._pause = None
            self._back.release()

    def resume(self) -> timedelta | None:
        """Let it go on until it pauses again (for how long) or ends (``None``)."""
        self._go.release()
        self._back.acquire()
        return self._pause

    def effect(self, name: str) -> None:
        """Called before each effect, in its own thread: pause if one is due."""
        pause = self._pauses.pop(self._effects, None) or self._pauses.pop(name, None)
        self._effects += 1
        if pause is not None:
            self._pause, self.before = pause, name
            self._back.release()
            self._go.acquire()
            if self._abandoned:
                raise Killed

    def abandon(self) -> None:
        """End it where it stands: its world is over."""
        self._abandoned = True
        self._pauses.clear()
        while self._thread.is_alive():
            self._go.release()
            self._thread.join(0.05)


@dataclass
class FaultyWorld(World):
    """A world in which the chosen faults happen, and whose caches and issuers are watched."""

    faults: frozenset[str] = frozenset()
    workers: tuple[str, ...] = ()
    happened: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__post_init__()
        # Where keys live for minutes, an outage of days would be all that ever happens.
        lifetime = self.keyset.policy.lifetime
        self.day, self.hour, self.minute = (
            min(_DAY, lifetime / 4),
            min(_HOUR, lifetime / 24),
            min(_MINUTE, lifetime / 1_440),
        )
        self.public = Public(self, random.Random(self.rng.random()))
        self.skews: dict[str, timedelta] = {}
        self.away: dict[str, datetime] = {}
        self.stalling: dict[str, Stalling] = {}
        self.meetings: dict[str, list[tuple[Copy, str]]] = {}
        """Who met which header of the CDN, and did not come to write it down yet."""
        self.calm = False
        self.steps = 0
        self.past: list[tuple[str, bytes, Any]] = []
        """Public documents as they once were: what an outsider may bring back."""
        self.ledgers: list[bytes] = []
        self._ladder = self._thresholds()

    def _thresholds(self) -> list[tuple[float, str]]:
        ladder, total = [], 0.0
        for name, chance in _CHANCE.items():
            if name in self.faults:
                total += chance
                ladder.append((total, name))
        return ladder

    # -- clocks --------------------------------------------------------------------------------------------------

    def clock(self, worker: str) -> datetime:
        """What ``worker``'s own clock says."""
        return self.now + self.skews.get(worker, timedelta(0))

    def store_date(self) -> datetime | None:
        """The stores' own clock, in whole seconds as HTTP has it."""
        return self.now.replace(microsecond=0)

    def set_clock(self, worker: str) -> None:
        """A clock that NTP keeps: anywhere within clock_skew, often at its very edge."""
        skew = self.truth.clock_skew - timedelta(seconds=1) if self.truth.clock_skew else timedelta(0)
        self.skews[worker] = skew * self.rng.choice((-1.0, -1.0, 1.0, 1.0, self.rng.uniform(-1, 1)))

    def jump(self, worker: str) -> None:
        """A clock that nobody keeps any more."""
        self.happened["clock"] += 1
        sign = self.rng.choice((-1, 1))
        away = timedelta(days=sign * self.rng.choice((0.1, 1, 40)) * self.rng.random())
        scale = self.day / _DAY
        # Stores tell the time in whole seconds: a jump that is lost in them nobody could notice.
        self.skews[worker] = away * scale + sign * timedelta(seconds=3) * (1 - scale)
        self.tell(worker, f"its clock jumps by {self.skews[worker]}")

    # -- documents -----------------------------------------------------------------------------------------------

    def written(self, path: str, body: bytes, headers: Any, excused: frozenset[str] | None = None) -> str:
        """See ``World.written``; what was is kept, to be brought back one day."""
        if path == self.ledger_path:
            self.ledgers.append(body)
            del self.ledgers[:-200]
        elif excused is None and self.document(path):
            self.past.append((path, body, headers))
            del self.past[:-30]
        return super().written(path, body, headers, excused)

    def fetch(self, worker: str, document: PublicDocument, url: str) -> Fetched | None:
        """See ``World.fetch``: through an edge, with its age."""
        got = self.rng.choice(self.public.edges).get(self, document, self.rng)
        if got is None:
            return None
        if self.edge_headers:
            self.meetings.setdefault(worker, []).append((got.copy, self.edge_headers))
        return Fetched(got.copy.body, self.edge_headers or got.copy.cache_control, got.age)

    def ended(self, worker: str, *, well: bool) -> None:
        """A tick of ``worker`` ended. What it met of the CDN is known from now on, or was lost with it."""
        for copy, header in self.meetings.pop(worker, []):
            if well:
                self.met(copy, header)

    # -- effects -------------------------------------------------------------------------------------------------

    def effect(self, worker: str, name: str, apply: Callable[[], Any]) -> Any:
        """Do one effect, or let it fail as the seed decides."""
        task = self.stalling.get(worker)
        if task:
            task.effect(name)
        self.steps += 1
        self.calls[name] += 1
        self.now += timedelta(milliseconds=20)
        if self.calm:
            return self._applied(worker, name, apply)
        if self.away and (until := self.away.get(self.service(name))) and self.now < until:
            self.now += timedelta(seconds=3)
            raise StoreError(f"{name} failed: the service is away")
        draw = self.rng.random()
        for below, fault in self._ladder:
            if draw < below:
                return self._faulty(fault, worker, name, apply)
        return self._applied(worker, name, apply)

    def _applied(self, worker: str, name: str, apply: Callable[[], Any]) -> Any:
        result = apply()
        if name == "invalidate":
            self.public.invalidate()
        elif name.startswith(("replace", "create", "move", "clear", "fence", "keys.create", "disable", "destroy")):
            self.tell(worker, name)
        return result

    def _faulty(self, fault: str, worker: str, name: str, apply: Callable[[], Any]) -> Any:
        if fault != "clock":
            self.happened[fault] += 1
            self.tell(worker, f"{name}: {fault}")
        if fault == "lost":
            raise StoreError(f"{name} failed: it was not applied")
        if fault == "applied":
            self._applied(worker, name, apply)
            raise StoreError(f"{name} failed: it was applied")
        if fault == "kill":
            if self.rng.random() < 0.5:
                self._applied(worker, name, apply)
            raise Killed
        if fault == "throttle":
            away = timedelta(minutes=10 * self.rng.random()) * (self.minute / _MINUTE)
            self.away[self.service(name)] = self.now + away
            raise StoreError(f"{name} failed: rate exceeded")
        if fault == "clock":
            (self.jump if self.rng.random() < 0.2 else self.set_clock)(worker)
        elif fault == "slow":
            self.now += timedelta(seconds=120 * self.rng.random()) * (self.minute / _MINUTE)
        elif not (name == "keys.create" and self.traits.leaves_strays):
            # Twice. A client never repeats what must happen once: CreateKey has no idempotency token.
            self._applied(worker, name, apply)
        return self._applied(worker, name, apply)

    def service(self, name: str) -> str:
        """The service that an effect goes to."""
        if name in _SERVICES:
            return _SERVICES[name]
        if name.endswith(self.ledger_path):
            return "ledger"
        return "documents" if name.startswith(("read ", "create ", "replace ")) and "pointer" not in name else "keys"

    # -- the story -----------------------------------------------------------------------------------------------

    def age(self) -> timedelta:
        """How long this world has been going on."""
        return self.now - START


def listed(names: Iterable[str]) -> str:
    """Fault names as ``--faults`` takes them."""
    wanted = set(names)
    return "all" if wanted == FAULTS.keys() else ",".join(name for name in FAULTS if name in wanted) or "none"
