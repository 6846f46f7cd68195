"""Reading the world: pointers first, then public documents, the ledger last; and looking where verifiers look.

What a ledger read *after* pointer and documents does not explain is drift. Read the other way round, the half-done
promotion of another worker would look like drift.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from rotator.errors import Conflict, Refused, RotatorError
from rotator.keys import jwks
from rotator.keys.algorithms import algorithm
from rotator.keys.plan import Observed
from rotator.keys.policy import staleness_of, text
from rotator.keys.publication import Seen, newer, older
from rotator.ports import Headers

if TYPE_CHECKING:
    from rotator.engine.ledger import Ledger
    from rotator.keys.keyring import Keyring
    from rotator.keys.policy import KeySet, PublicDocument
    from rotator.ports import Clock, Document, DocumentStore, Elapsed, Fetched, KeyStore, Pointer, StoredKey, Web


#: An answer that took longer than this says too little about this machine's clock.
SLOW = timedelta(seconds=60)


@dataclass(slots=True)
class World:
    """What one tick knows: as observed, and as changed by its own steps since."""

    ring: Keyring
    version: str
    pointers: dict[str, Pointer]
    seen: dict[str, Seen]
    versions: dict[str, str | None]
    read_back: set[str]
    """Documents whose ``seen`` comes from a read, not from our own write."""
    at: datetime
    """When reading it began: what was read first is this old."""
    clock_fault: str | None
    attempts: set[str] = field(default_factory=set)
    made: dict[str, StoredKey] = field(default_factory=dict)
    """Keys created in this tick, by intent id, until the ledger knows them."""
    unseen: dict[str, str] = field(default_factory=dict)
    overridden: dict[str, str | None] = field(default_factory=dict)
    """Documents that public URLs served with headers that allow more than the policy's, and the longest of these."""
    failed: set[tuple[str, str]] = field(default_factory=set)
    entering: set[tuple[str, str]] = field(default_factory=set)
    """(document, key) of keys made since that document was read: nobody can have seen them there."""
    unread: set[str] = field(default_factory=set)
    faults: list[RotatorError] = field(default_factory=list)
    """Why pointers or documents could not be read: what depends on them waits, and all else goes on."""

    def observed(self) -> Observed:
        """What ``plan`` may know of it."""
        return Observed(
            pointers={alg: pointer.id for alg, pointer in self.pointers.items()},
            documents=self.seen,
            clock_fault=self.clock_fault,
            attempts=frozenset(self.attempts),
            unseen=self.unseen,
            overridden=self.overridden,
            failed=frozenset(self.failed),
            unread=frozenset(self.unread),
        )


class Observer:
    """Reads the world of one key set; changes nothing."""

    def __init__(  # noqa: PLR0913 - the ports, each by name
        self,
        keyset: KeySet,
        *,
        ledger: Ledger,
        public: DocumentStore,
        keys: KeyStore,
        clock: Clock,
        web: Web,
        elapsed: Elapsed,
    ) -> None:
        self.keyset = keyset
        self.elapsed = elapsed
        self._ledger, self._public, self._keys, self._clock, self._web = ledger, public, keys, clock, web
        self._algorithms = keyset.policy.algorithms
        self._off = timedelta(0)
        self._floor, self._since = datetime.min.replace(tzinfo=UTC), timedelta(0)

    def now(self) -> datetime:
        """The clock for facts: this machine's, or the store's where the two differ by more than the policy allows.

        A revoke by a machine whose clock is hours ahead must not leave facts from the future: no worker whose clock
        is right would go on before they are past.
        """
        told, passed = self._clock() + self._off, self._floor + (self.elapsed() - self._since)
        # A clock that is set back between two effects must not date what we do before we did it: gates would open
        # early by as much. (That two clocks run apart by a second in one tick means nothing.)
        return passed if passed - told > timedelta(seconds=1) else max(told, self._floor)

    def observe(self, before: World | None = None, *, even_early: bool = False) -> World:
        """Read the world: pointers, public documents, the ledger last.

        A pointer or document that cannot be read is left out, with its fault: a revoke must not wait for it.
        ``even_early``: also where this machine's clock is before what the ledger holds, to record a request.

        Raises:
            Refused: there is no ledger, it is damaged, or this machine's clock is behind it.
        """
        algorithms, began = self._algorithms, self.elapsed()
        clock_faults: list[str] = []
        faults: list[RotatorError] = []
        pointers: dict[str, Pointer] = {}
        for alg in algorithms:
            asked, row = self.elapsed(), algorithm(alg)
            try:
                pointers[alg] = self._keys.read_pointer(self.keyset.name, row)
            except RotatorError as exc:
                faults.append(exc)
                continue
            self.compare_clocks(asked, pointers[alg].date, clock_faults)
        readings = {}
        for document in self.keyset.written:
            asked = self.elapsed()
            try:
                readings[document.name] = self._public.read(document.path)
            except RotatorError as exc:
                faults.append(exc)
                continue
            self.compare_clocks(asked, readings[document.name].date, clock_faults)
        ring, version = self.read_ledger(clock_faults)
        # An algorithm that left the configuration still has a pointer: it was not known before the ledger was read.
        self._algorithms = tuple(dict.fromkeys((*self.keyset.policy.algorithms, *ring.algorithms(), *ring.successions)))
        if not set(self._algorithms) <= set(algorithms):
            return self.observe(before, even_early=even_early)
        now = self._floor = self._clock() + self._off
        self._since = self.elapsed()
        newest, skew = ring.newest_fact(), self.keyset.policy.clock_skew
        if newest > now + 2 * skew and not even_early:
            raise Refused(
                f"Key set {self.keyset.name}: the ledger holds a fact of {newest:%Y-%m-%d %H:%M:%S}Z, but this machine"
                f" says {now:%Y-%m-%d %H:%M:%S}Z: more than 2 × clock_skew ({text(2 * skew)}) ahead."
                " Nothing was changed. Set this machine's clock (NTP)."
            )
        world = World(
            ring=ring,
            version=version,
            pointers=pointers,
            seen={name: as_seen(reading.document) for name, reading in readings.items()},
            versions={name: _version(reading.document) for name, reading in readings.items()},
            read_back=set(readings),
            at=now - (self._since - began),
            clock_fault=clock_faults[0] if clock_faults else None,
            unread={document.name for document in self.keyset.written} - readings.keys(),
            faults=faults,
        )
        if before is not None:
            world.attempts, world.made = before.attempts, before.made
            world.unseen, world.failed, world.overridden = before.unseen, before.failed, before.overridden
        return world

    def read_ledger(self, clock_faults: list[str] | None = None) -> tuple[Keyring, str]:
        """The keyring and its version; :meth:`now` is then right, whatever this machine's clock says.

        Raises:
            Refused: there is no ledger, or it is damaged.
        """
        asked = self.elapsed()
        ring, version, date = self._ledger.read()
        self.compare_clocks(asked, date, [] if clock_faults is None else clock_faults)
        return ring, version

    def compare_clocks(self, asked: timedelta, date: datetime | None, faults: list[str]) -> None:
        """Note a fault where this machine's clock and the store's differ by more than the policy allows.

        ``asked``: :attr:`elapsed` before the store was asked, ``date``: the time that it answered with.
        """
        if date is None:
            return
        received, took, skew = self._clock(), self.elapsed() - asked, self.keyset.policy.clock_skew
        # Date has whole seconds, and was told at some time since the store was asked. What this machine's clock said
        # then does not matter: somebody may have set it while we waited.
        behind, ahead = date - received, received - (date + timedelta(seconds=1) + took)
        self._off = timedelta(0)
        if max(behind, ahead) > skew:
            self._off = behind if behind > ahead else -ahead
            side = "behind" if behind > ahead else "ahead of"
            faults.append(
                f"this machine's clock is {text(timedelta(seconds=int(max(behind, ahead).total_seconds())))} {side} the"
                f" store's; clock_skew is {text(skew)}. Rotation waits until it is set (NTP); a revoke does not."
            )
        elif took > SLOW:
            faults.append(
                f"a store took {text(timedelta(seconds=int(took.total_seconds())))} to answer, so nobody can tell"
                " whether this machine's clock is right. Rotation waits for a quicker answer; a revoke does not."
            )

    def look_in_public(
        self, document: PublicDocument, world: World, *, newest: bool = False
    ) -> tuple[list[Seen], str | None]:
        """What verifiers get, one for each URL (or the origin's), and what is wrong with any of them.

        ``newest``: a copy that may be older than what stands at the origin is wrong, too.
        """
        if not document.urls:
            if document.name not in world.read_back:
                self.read_again(document, world)
            seen = world.seen[document.name]
            return ([seen] if seen.jwks or document.discovery else []), None
        # Also those after one that is wrong: what each of them allows caches has to be waited for.
        looks: list[Seen | str] = []
        for url in document.urls:
            look = self._look_at(url, document, world)
            if newest and isinstance(look, Seen) and older(look, world.seen[document.name], document, world.ring):
                look = f"{url} still serves an older copy"
            looks.append(look)
        faults = [look for look in looks if isinstance(look, str)]
        return ([], faults[0]) if faults else ([look for look in looks if isinstance(look, Seen)], None)

    def _look_at(self, url: str, document: PublicDocument, world: World) -> Seen | str:
        """What verifiers get from ``url``, or what is wrong with it."""
        try:
            fetched = self._web.fetch(url)
        except RotatorError as exc:
            return str(exc)
        if fetched is None:
            return f"{url} answers 404"
        keys = jwks.parse(fetched.body)
        seen = Seen(exists=True, jwks=keys, cache_control=fetched.cache_control, body=fetched.body)
        fault = self._freshness_fault(url, fetched, seen, document, world)
        if fault:
            return fault
        if keys is None and not document.discovery:
            return f"{url} does not serve a JWKS"
        if keys and keys.fault and not document.discovery:
            return f"{url} serves what strict readers refuse: {keys.fault}"
        return seen

    def _freshness_fault(
        self, url: str, fetched: Fetched, seen: Seen, document: PublicDocument, world: World
    ) -> str | None:
        """What is wrong with the age of this copy, or with how long it may be kept: of that ``world`` takes a note."""
        policy, facts = self.keyset.policy, world.ring.documents.get(document.name)
        ours = [
            entry
            for entry in (facts.served if facts else ())
            if entry.cache_control == fetched.cache_control and not entry.foreign and fetched.age <= entry.staleness
        ]
        if ours and older(seen, world.seen[document.name], document, world.ring):
            # It went out before the headers changed: the ledger knows until when it may be about.
            return None
        promised = staleness_of(fetched.cache_control)
        if promised > policy.cache_max_age + policy.cache_stale:
            known, sent = world.overridden.get(document.name, "no-store"), fetched.cache_control
            world.overridden[document.name] = max(known, sent, key=staleness_of)
            header = "without Cache-Control" if sent is None else f"with Cache-Control {sent!r}"
            return (
                f"{url} is served {header}, which lets caches keep it"
                f" {text(promised)}; the policy counts on {text(policy.cache_max_age + policy.cache_stale)}."
                " Mend the CDN, or raise cache_max_age and cache_stale"
            )
        if fetched.age > policy.staleness:
            return f"{url} serves a copy {text(fetched.age)} old; the policy counts on {text(policy.staleness)}"
        return None

    def read_again(self, document: PublicDocument, world: World) -> None:
        """Read one public document at its origin into ``world``.

        Raises:
            Conflict: it was made from a newer ledger than ``world`` holds.
        """
        reading = self._public.read(document.path)
        seen = as_seen(reading.document)
        if newer(world.ring, seen):
            raise Conflict(f"{document.path} is newer than the ledger as read before it: somebody else was here")
        world.seen[document.name] = seen
        world.versions[document.name] = _version(reading.document)
        world.read_back.add(document.name)

    def still_shown(self, document: PublicDocument, kid: str, world: World) -> str | None:
        """Where ``kid`` can still be fetched, and until when it may; ``None``: nowhere."""
        if not document.urls:
            self.read_again(document, world)
            return f"{document.path} still shows it" if kid in world.seen[document.name].kids() else None
        told = []
        for url in document.urls:
            try:
                fetched = self._web.fetch(url)
            except RotatorError as exc:
                told.append(str(exc).rstrip("."))
                continue
            if fetched is None:
                continue
            keys = jwks.parse(fetched.body)
            seen = Seen(exists=True, jwks=keys, cache_control=fetched.cache_control, body=fetched.body)
            self._freshness_fault(url, fetched, seen, document, world)
            if keys and kid in keys.kids():
                left = staleness_of(fetched.cache_control, self.keyset.policy.cache_tiers) - fetched.age
                until = self.now() + max(left, timedelta(0))
                told.append(f"{url} still serves it, and may until {until:%Y-%m-%d %H:%M:%S}Z")
            elif not document.discovery and (keys is None or keys.fault):
                told.append(f"{url} serves no set that every reader takes, so it does not show that it is gone")
            elif older(seen, world.seen[document.name], document, world.ring):
                told.append(f"{url} still serves an older copy, and may serve others that show it")
        return "; ".join(told) or None


def as_seen(document: Document | None) -> Seen:
    """A stored public document as ``plan`` looks at it."""
    if document is None:
        return Seen()
    headers = document.headers or Headers("", None)
    return Seen(
        exists=True,
        jwks=jwks.parse(document.body),
        cache_control=headers.cache_control,
        content_type=headers.content_type,
        body=document.body,
    )


def _version(document: Document | None) -> str | None:
    return document.version if document else None
