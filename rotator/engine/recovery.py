"""Bringing back a ledger that is lost, damaged or older than the world: look, propose, and write if nothing moved.

The newest version of it that can have made the world goes before one that is rebuilt. Either is written by
compare-and-swap over what stands there now, with a revision beyond everything that is left: daemons that run meanwhile
lose every race against it, and read it at their next tick.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from rotator.engine.ledger import Ledger, random_nonce
from rotator.engine.observe import Observer, as_seen
from rotator.engine.steps import Report
from rotator.errors import AccessDenied, ConfigurationError, Conflict, Damaged, Refused, RotatorError
from rotator.keys import recovery
from rotator.keys.algorithms import ALGORITHMS
from rotator.keys.keyring import Event, Keyring, from_json
from rotator.keys.plan import Observed, explain
from rotator.keys.policy import text
from rotator.keys.recovery import LEAP, Found, Line
from rotator.ports import Searchable, Versioned

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import datetime

    from rotator.keys.policy import KeySet
    from rotator.keys.publication import Seen
    from rotator.ports import Clock, Document, DocumentStore, Elapsed, KeyStore, PastVersion, Web

#: How many versions of a ledger are read, the newest first: a key changes it some ten times in its life.
MOST_VERSIONS = 200

#: How many more are read once one fits: somebody may have copied an old version over a newer one.
BESIDE = 10

#: Where a damaged ledger still says how far it came. More digits than these are no revision of ours.
_REVISION = re.compile(rb'"revision": ?(\d{1,15})\b')


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person asks of a recovery; nothing: the newest version that fits, or else a rebuilt ledger."""

    version: str | None = None
    """The version of the ledger to take, as its store names it."""
    copy: bytes | None = None
    """A copy of the ledger that was kept elsewhere."""
    rebuild: bool = False
    """Do not look for versions to bring back."""
    revoked: tuple[str, ...] = ()
    """Kids that were revoked and must never come back."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A ledger that would be written, and what a person needs to judge it."""

    ring: Keyring
    fault: str
    """What is wrong with what stands there."""
    source: str
    """Where the proposed ledger comes from."""
    lines: tuple[Line, ...]
    changes: tuple[str, ...]
    """How it differs from the newest ledger that can be read, if there is one."""
    warnings: tuple[str, ...]
    over: str | None
    """Version of what it replaces; ``None``: nothing stands there."""

    def same(self, other: Proposal) -> bool:
        """Whether both say the same; times move on."""
        return (self.over, self.source, self.lines) == (other.over, other.source, other.lines)


@dataclass(frozen=True, slots=True)
class _World:
    """What is left: everything but the ledger, and what stands in its place."""

    pointers: dict[str, str | None]
    seen: dict[str, Seen]
    standing: Document | None
    now: datetime


class Recovery:
    """Brings back the ledger of one key set."""

    def __init__(  # noqa: PLR0913 - the ports, each by name
        self,
        keyset: KeySet,
        *,
        ledger: DocumentStore,
        public: DocumentStore,
        keys: KeyStore,
        clock: Clock,
        web: Web,
        elapsed: Elapsed,
        nonce: Callable[[], str] = random_nonce,
        report: Callable[[Report], None] = lambda _: None,
    ) -> None:
        self.keyset, self._report = keyset, report
        self._store, self._public, self._keys, self._clock, self._nonce = ledger, public, keys, clock, nonce
        self._ledger = Ledger(keyset.name, ledger, nonce)
        self._observer = Observer(
            keyset, ledger=self._ledger, public=public, keys=keys, clock=clock, web=web, elapsed=elapsed
        )

    def propose(self, wanted: Wanted | None = None) -> Proposal | None:
        """The ledger that ``wanted`` leads to; ``None``: the one that stands there is sound. Changes nothing.

        Raises:
            Refused: no ledger follows that would be safe; or the one there is sound, or only a newer rotator reads it.
            StoreError: something could not be read: what is not seen is not decided upon.
        """
        wanted = wanted or Wanted()
        world = self._look()
        standing, fault = self._judged_in_place(world)
        if fault is None:
            if wanted == Wanted():
                return None
            raise Refused(
                f"Key set {self.keyset.name}: the ledger is sound, so nothing was changed: any other would forget what"
                " this one knows. 'rotator status' shows it."
            )
        readable = [standing] if standing else []
        proposal = self._from_copy(wanted, world) or self._from_version(wanted, world)
        if proposal is None:
            proposal = self._from_versions(wanted, world, readable)
        if proposal is None:
            proposal = self._rebuilt(wanted, world, readable)
        ring = self._written_over(proposal.ring, world, readable)
        explain(ring, self.keyset, self._observed(world, ring))
        known = max(readable, key=lambda ring: ring.revision, default=None)
        said = recovery.changes(known, ring) if known else ()
        return replace(proposal, ring=ring, fault=fault, changes=tuple(said))

    def write(self, proposal: Proposal, wanted: Wanted | None = None) -> Keyring:
        """Write ``proposal`` as it would be made now, if it still says the same; durable once this returns.

        Raises:
            Conflict: the world moved since; nothing was written.
        """
        fresh = self.propose(wanted)
        if fresh is None or not proposal.same(fresh):
            raise Conflict(
                f"Key set {self.keyset.name}: something changed since this was proposed. Nothing was written. Run"
                f" 'rotator recover {self.keyset.name}' again."
            )
        ring = self._ledger.recover(fresh.ring, fresh.over)
        event = ring.history[-1]
        self._report(Report(self.keyset.name, event.step, event.reason, event.at))
        return ring

    # -- looking -------------------------------------------------------------------------------------------------

    def _look(self) -> _World:
        """Pointers, public documents, the ledger's place last: as every tick does."""
        faults: list[str] = []
        pointers: dict[str, str | None] = {}
        # Which algorithms there were only the ledger knew.
        for alg, row in ALGORITHMS.items():
            asked = self._observer.elapsed()
            try:
                pointer = self._keys.read_pointer(self.keyset.name, row)
            except ConfigurationError:
                if alg in self.keyset.policy.algorithms:
                    raise
                # Nobody can read a pointer whose home is being deleted, so nobody follows it.
                pointers[alg] = None
                continue
            self._observer.compare_clocks(asked, pointer.date, faults)
            pointers[alg] = pointer.id
        seen = {}
        for document in self.keyset.documents:
            asked = self._observer.elapsed()
            reading = self._public.read(document.path)
            self._observer.compare_clocks(asked, reading.date, faults)
            seen[document.name] = as_seen(reading.document)
        asked = self._observer.elapsed()
        reading = self._store.read(self._ledger.path)
        self._observer.compare_clocks(asked, reading.date, faults)
        if faults:
            raise Refused(f"Key set {self.keyset.name}: {faults[0]} Nothing was changed.")
        return _World(pointers, seen, reading.document, self._clock())

    def _observed(self, world: _World, ring: Keyring) -> Observed:
        """The world as a tick with ``ring`` would observe it."""
        algorithms = {*self.keyset.policy.algorithms, *ring.algorithms(), *ring.successions}
        return Observed({alg: key for alg, key in world.pointers.items() if alg in algorithms}, world.seen)

    def _judged_in_place(self, world: _World) -> tuple[Keyring | None, str | None]:
        """What stands in the ledger's place as far as it can be read, and what is wrong with it."""
        if world.standing is None:
            return None, "it is missing"
        return self._judged(world.standing.body, world)

    def _judged(self, body: bytes, world: _World) -> tuple[Keyring | None, str | None]:
        try:
            ring = from_json(body, self.keyset.name)
        except Damaged as exc:
            return None, _short(exc)
        newest, skew = ring.newest_fact(), self.keyset.policy.clock_skew
        if newest > world.now + 2 * skew:
            raise Refused(
                f"Key set {self.keyset.name}: a ledger holds a fact of {newest:%Y-%m-%d %H:%M:%S}Z, but this machine"
                f" says {world.now:%Y-%m-%d %H:%M:%S}Z: more than 2 × clock_skew ({text(2 * skew)}) ahead. Nothing was"
                " changed. Set this machine's clock (NTP)."
            )
        try:
            explain(ring, self.keyset, self._observed(world, ring))
        except Refused as exc:
            return ring, _short(exc)
        return ring, None

    # -- where a ledger can come from ----------------------------------------------------------------------------

    def _from_copy(self, wanted: Wanted, world: _World) -> Proposal | None:
        if wanted.copy is None:
            return None
        ring, fault = self._judged(wanted.copy, world)
        if ring is None or fault:
            raise Refused(f"Key set {self.keyset.name}: that copy cannot be used: {fault}. {self._instead()}")
        return self._brought_back(ring, "a copy that was kept", ring.newest_fact(), wanted, world)

    def _from_version(self, wanted: Wanted, world: _World) -> Proposal | None:
        if wanted.version is None:
            return None
        name = self.keyset.name
        if not isinstance(self._store, Versioned):
            raise ConfigurationError(
                f"Key set {name}: {self._store.locate(self._ledger.path)} keeps no versions. Give a copy with --from,"
                " or leave --version out. Nothing was changed."
            )
        ring, fault = self._judged(self._store.read_version(self._ledger.path, wanted.version), world)
        if ring is None or fault:
            raise Refused(f"Key set {name}: that version cannot be used: {fault}. {self._instead()}")
        return self._brought_back(ring, f"version {wanted.version}", ring.newest_fact(), wanted, world)

    def _from_versions(self, wanted: Wanted, world: _World, readable: list[Keyring]) -> Proposal | None:
        """The version that came furthest among those that fit; all that can be read join ``readable``."""
        if not isinstance(self._store, Versioned):
            return None
        fitting: list[tuple[Keyring, PastVersion]] = []
        try:
            for each in islice(self._store.versions(self._ledger.path), MOST_VERSIONS):
                ring, fault = self._judged(self._store.read_version(self._ledger.path, each.id), world)
                if ring is not None:
                    readable.append(ring)
                if ring is not None and fault is None:
                    fitting.append((ring, each))
                if len(fitting) > BESIDE:
                    break
        except (AccessDenied, ConfigurationError) as exc:
            if not wanted.rebuild:
                raise type(exc)(
                    f"{exc} Or let 'rotator recover {self.keyset.name} --rebuild' go by what is left beside versions."
                ) from exc
        if wanted.rebuild or not fitting:
            return None
        ring, chosen = max(fitting, key=lambda pair: pair[0].revision)
        return self._brought_back(ring, f"version {chosen.id}", chosen.at, wanted, world)

    def _instead(self) -> str:
        return f"Nothing was changed. 'rotator recover {self.keyset.name}' looks for what can."

    def _brought_back(self, ring: Keyring, what: str, at: datetime, wanted: Wanted, world: _World) -> Proposal:
        source = f"{what} of {at:%Y-%m-%d %H:%M:%S}Z, revision {ring.revision}"
        lost = (
            f"What was recorded after {at:%Y-%m-%d %H:%M:%S}Z is lost: repeat every rotate, revoke, retire and drop"
            " that was asked for since (--revoked KID revokes in the same write)."
        )
        now = max(world.now, ring.newest_fact())
        ring = recovery.revoke(ring, self.keyset, wanted.revoked, now)
        ring = replace(ring, trouble=None).with_event(Event(now, "recover", f"{source} was brought back"))
        lines = tuple(Line(key.name, key.alg, key.stage, "as that ledger says") for key in ring.keys)
        return Proposal(ring, "", source, lines, (), (lost,), _version(world))

    def _rebuilt(self, wanted: Wanted, world: _World, readable: Sequence[Keyring]) -> Proposal:
        older = max(readable, key=lambda ring: ring.revision, default=None)
        found, in_tokens = self._found(world)
        built = recovery.rebuild(
            self.keyset,
            world.now,
            documents=world.seen,
            pointers=world.pointers,
            found=found,
            in_tokens=in_tokens,
            ledger_id=self._nonce(),
            older=older,
            revoked=wanted.revoked,
        )
        if not built.ring.keys and not wanted.rebuild:
            raise Refused(
                f"Key set {self.keyset.name}: the key store holds no private half of any published key: is stores.keys"
                " right? Nothing was changed. If they are truly lost, 'rotator recover"
                f" {self.keyset.name} --rebuild' keeps what is public as it is and lets new keys be made."
            )
        memory = f"an older ledger (revision {older.revision})" if older else "no older ledger"
        forgotten = (
            f"Kids that were revoked or retired are known from {memory}: name every other that was revoked with"
            " --revoked KID, so that none comes back. Requests (rotate, retire, drop) that were under way are lost."
        )
        policy = (
            "Retention counts on today's policy: where signer_lag, token_lifetime or verifier_leeway were longer in the"
            " last days, set them so first."
        )
        source = "rebuilt from the public documents, the pointers and the key store"
        return Proposal(built.ring, "", source, built.lines, (), (*built.warnings, forgotten, policy), _version(world))

    def _found(self, world: _World) -> tuple[list[Found], dict[str, str]]:
        """Every key of the key store, and by algorithm the kid that tokens carry now."""
        store = self._keys
        if not isinstance(store, Searchable):
            raise Refused(
                f"Key set {self.keyset.name}: this key store cannot be looked through, so no ledger can be rebuilt."
                " Nothing was changed. Bring back a copy of the ledger with --from."
            )
        found = []
        for held in store.held(self.keyset.name):
            try:
                spki, made_at = store.public_half(self.keyset.name, held)
            except ConfigurationError as exc:
                raise ConfigurationError(
                    f"{exc} Nothing was changed: a key that cannot be read would be given up. Mend that, or move away"
                    " what is no key of this key set."
                ) from exc
            if spki is not None:
                created_at = held.created_at or made_at
                found.append(Found(held.id, held.alg, held.handle, spki, held.ledger_id, created_at, held.unsigned))
        signing = [alg for alg, key_id in world.pointers.items() if key_id]
        kids = {alg: store.kid_in_tokens(self.keyset.name, ALGORITHMS[alg]) for alg in signing}
        return found, {alg: kid for alg, kid in kids.items() if kid}

    def _written_over(self, ring: Keyring, world: _World, readable: Collection[Keyring]) -> Keyring:
        """``ring`` with a revision beyond everything that is left, and beyond what a stalled worker may still write."""
        known = [ring.revision, *(each.revision for each in readable)]
        known += [seen.jwks.revision for seen in world.seen.values() if seen.jwks and seen.jwks.revision]
        if world.standing and (torn := _REVISION.search(world.standing.body)):
            known.append(int(torn[1]))
        return replace(ring, revision=max(known) + LEAP)


def _version(world: _World) -> str | None:
    return world.standing.version if world.standing else None


def _short(exc: RotatorError) -> str:
    """The fault alone: what to do about it is what the person just does."""
    return str(exc).partition(" Nothing was changed.")[0].rstrip(".")
