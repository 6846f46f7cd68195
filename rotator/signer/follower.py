"""Following the pointer: which key signs now, how it came to be known, and for how long that may be relied on."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable  # noqa: TC003 - NamedTuple's annotations are for people to look at
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from rotator.errors import NoCurrentKey, Refused, RotatorError, Stale
from rotator.keys.policy import text
from rotator.signer import compact

if TYPE_CHECKING:
    from rotator.signer.sources import Loaded, Source

_log = logging.getLogger("rotator.signer")

#: Seconds until a failed read is tried again: doubled each time, up to the longest.
_RETRY, _RETRY_AT_MOST = 1.0, 30.0

#: Seconds that a read may take after one that failed, before somebody else tries (connect 3 s, read 10 s, 3 attempts).
_READ_AT_MOST = 45.0

#: The thread reads within this part of the interval: a fleet that started at once does not ask at once.
_SPREAD = (0.8, 1.0)

_NEVER = float("-inf")


class Clock(NamedTuple):
    """What tells the time: both are asked, and the more cautious answer counts.

    A suspend may stop the one, and a wrong date set the other.
    """

    elapsed: Callable[[], float] = (
        partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
    )
    """Seconds that never go back; they go on through a suspend where the system can tell."""
    wall: Callable[[], float] = time.time
    """Seconds since 1970 in UTC."""


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """The key to sign with, loaded once."""

    kid: str
    identity: str
    loaded: Loaded
    jwt: bytes
    """The encoded header of claims that have no headers of their own, and its dot."""
    jws: bytes
    """The same of another payload."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the last successful read said. Its time is when it *began*: no answer tells of anything newer."""

    key: Key | None = None
    began: float = _NEVER
    wall_began: float = _NEVER
    due: float = _NEVER
    """From when on who signs looks after the next read."""
    stale: float = _NEVER
    """From when on nothing is signed; ``wall_stale`` by the other clock."""
    wall_stale: float = _NEVER


class Follower:
    """Holds the current key, and lets go of it ``lag`` seconds after the last successful read began.

    Reads go on beside signing; one that stalls keeps neither the signing nor another read waiting, and its answer
    counts as old as its beginning.
    """

    def __init__(self, source: Source, lag: float, every: float, clock: Clock, *, background: bool) -> None:
        self.source = source
        self.known = Known()
        self._loaded: Key | None = None
        self.fault: RotatorError | None = None
        self._lag, self._every = lag, every
        self._elapsed, self._wall = clock
        self._background = background
        self._opened = self._closed = False
        self._failures, self._retry_at = 0, _NEVER
        self._make_locks()
        weakref.finalize(self, self._wake.set)
        _followers.add(self)

    def _make_locks(self) -> None:
        self._asking, self._loading, self._noting = threading.Lock(), threading.Lock(), threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    # Asked by whoever signs

    def fresh(self) -> Key | None:
        """The key, where nothing is to be looked after; costs two looks at clocks."""
        known = self.known
        return known.key if self._elapsed() < known.due and self._wall() < known.wall_stale else None

    def key(self) -> Key:
        """The key to sign with, after a look at what :meth:`fresh` is not content with.

        Raises:
            Stale: nothing was read for ``lag``, and nothing can be read now.
            NoCurrentKey: the pointer names no key.
            Refused: it was closed.
        """
        self.refuse_closed()
        self._see_to_thread()
        usable = self._usable()
        if usable and self._background:
            self._wake.set()
        # While there is a key to go on with, one caller reads and the others do not wait for it.
        elif not self._must_wait() and self._asking.acquire(timeout=0 if usable else _READ_AT_MOST):
            try:
                if not (self._usable() and self._elapsed() < self.known.due) and not self._must_wait():
                    self.read()
            except RotatorError as exc:
                _log.debug("%s", exc)
            finally:
                self._asking.release()
        known = self._put_off()
        if known.key is None:
            raise self.no_key() from self.fault
        if not self._usable():
            lag, last = text(timedelta(seconds=self._lag)), self.fault or "it took longer than that."
            raise Stale(
                f"{self.source.where} was not read for {lag} (signer_lag): another key may be current, and nothing is"
                f" signed until a read succeeds. The last one: {last}"
            ) from self.fault
        return known.key

    def successor(self, key: Key) -> Key | None:
        """What the pointer names now that ``key`` was stopped; ``None``: still that, or it cannot be read."""
        asked = self._elapsed()
        with suppress(RotatorError), self._asking:
            # One read answers all who waited for it.
            if self.known.began < asked:
                self.read()
        now = self.known.key
        return now if now and now.identity != key.identity else None

    def no_key(self) -> NoCurrentKey:
        """What to raise while the pointer names no key."""
        return NoCurrentKey(
            f"{self.source.where} names no key: none was promoted yet, or {self.source.alg} was retired. "
            "`rotator status` tells which."
        )

    def refuse_closed(self) -> None:
        """Raise ``Refused`` once it was closed."""
        if self._closed:
            raise Refused("This signer is closed; open another.")

    def _usable(self) -> bool:
        known = self.known
        return known.key is not None and self._elapsed() < known.stale and self._wall() < known.wall_stale

    def _must_wait(self) -> bool:
        """Whether the last read failed a moment ago: nobody is to hang on an AWS that is away."""
        return self.fault is not None and self._elapsed() < self._retry_at

    def _put_off(self) -> Known:
        """Let the next calls sign without a look at all this for a while, never beyond what is known."""
        # Without a thread it is a caller who would wait for an AWS that is away, while there is a key to go on with.
        pause = self._every if self.fault and not self._background else _RETRY
        with self._noting:
            now = self._elapsed()
            if self.known.key and self.known.due <= now < self.known.stale:
                self.known = replace(self.known, due=min(now + pause, self.known.stale))
            return self.known

    # Reading

    def read(self) -> None:
        """Read the pointer, and take over what it says unless a read that began later was faster.

        Raises:
            RotatorError: it cannot be read, or the key it names cannot be used; what is known stays as it is.
        """
        began, wall_began = self._elapsed(), self._wall()
        if self.fault:
            self._retry_at = began + _READ_AT_MOST
        try:
            key = self._named()
        except RotatorError as exc:
            self._note(exc)
            raise
        with self._noting:
            before = self.known
            if self._closed:
                self._loaded = None
            if self._closed or began < before.began:
                return
            due = began + (2 * self._every if self._background else self._every)
            self.known = Known(
                key, began, wall_began, due if key else _NEVER, began + self._lag, wall_began + self._lag
            )
            if key:
                self.fault, self._failures = None, 0
        if key is None:
            self._note(self.no_key())
        elif key is not before.key:
            _log.info("%s names %s", self.source.where, key.kid)

    def _named(self) -> Key | None:
        named = self.source.read()
        # Two reads that meet a new key load it once; the key before it is not kept for a pointer that might come back.
        with self._loading:
            if named is None:
                self._loaded = None
            elif self._loaded is None or self._loaded.identity != named.identity:
                alg, kid = self.source.alg, named.kid
                self._loaded = Key(
                    kid,
                    named.identity,
                    named.load(),
                    compact.protected(alg, kid, "JWT"),
                    compact.protected(alg, kid, None),
                )
            return self._loaded

    def _note(self, exc: RotatorError) -> None:
        with self._noting:
            first, self.fault = self._failures == 0, exc
            # Not so long that the half of lag between two reads is lost.
            self._retry_at = self._elapsed() + min(_RETRY * 2.0**self._failures, _RETRY_AT_MOST, self._every)
            self._failures = min(self._failures + 1, 10)
        # Whoever opens a signer is told by the error itself.
        if first and self._opened:
            _log.warning("The pointer is tried again: %s", exc)

    # The thread that reads

    def _see_to_thread(self) -> None:
        """See that there is a thread that reads: a forked child has none at first."""
        if not self._background or (self._thread and self._thread.is_alive()):
            return
        # An interpreter that ends makes no more threads; then who signs reads.
        with self._noting, suppress(RuntimeError):
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(
                    target=_read_on, args=(weakref.ref(self), self._wake), name="rotator-signer", daemon=True
                )
                thread.start()
                self._thread = thread

    def start(self) -> None:
        """Go on by itself from now on: in the background, where that is wanted."""
        self._opened = True
        self._see_to_thread()

    def read_if_due(self) -> float | None:
        """Read the pointer if it is time; the seconds until it is again. ``None``: never, it was closed."""
        if self._closed:
            return None
        if self._elapsed() >= self._due():
            try:
                self.read()
            except RotatorError:
                pass  # Kept as ``fault``, for who signs when the key is stale.
            except Exception as exc:  # noqa: BLE001 - a bug must not end the thread: only a stale key would show it
                # Its words and its traceback may quote what was read.
                self._note(RotatorError(f"Reading {self.source.where} failed: {type(exc).__name__}."))
        return max(0.01, self._due() - self._elapsed())

    def _due(self) -> float:
        if self.fault:
            return self._retry_at
        return self.known.began + self._every * random.uniform(*_SPREAD)  # noqa: S311 - no secret

    def close(self) -> None:
        """Forget the key, and end the thread."""
        with self._noting:
            self._closed = True
            self.known, self._loaded = Known(), None
        self._wake.set()

    def after_fork(self) -> None:
        """Begin anew in a child: threads, and the locks they held, stayed with the parent."""
        self._make_locks()
        self.known = replace(self.known, due=_NEVER)


def _read_on(ref: weakref.ref[Follower], wake: threading.Event) -> None:
    """Read for as long as somebody holds the follower."""
    while follower := ref():
        pause = follower.read_if_due()
        del follower
        if pause is None:
            return
        wake.wait(pause)
        wake.clear()


_followers: weakref.WeakSet[Follower] = weakref.WeakSet()


def _after_fork() -> None:
    for follower in list(_followers):
        follower.after_fork()


os.register_at_fork(after_in_child=_after_fork)
