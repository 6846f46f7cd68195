"""Observe, plan, do, record: the only thing that daemon, CronJob, Lambda and command line ever run.

The order is what makes it safe (see ``keys.plan`` for what is decided):

* observe the pointers, then the public documents, the ledger last: what a ledger read later does not explain is drift;
* do one step; record its fact by compare-and-swap, with the clock as read after the effect was confirmed;
* ask again with a fresh clock, until there is no step.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from rotator.errors import AccessDenied, Conflict, Refused, RotatorError, StoreError
from rotator.keys import facts, jwks
from rotator.keys import plan as planning
from rotator.keys.algorithms import algorithm
from rotator.keys.keyring import Event, Key, Keyring, Trouble, from_json, to_json
from rotator.keys.material import verify
from rotator.keys.plan import Observed, Plan, Step, plan
from rotator.keys.policy import KeySet, PublicDocument, staleness_of, text
from rotator.keys.publication import Seen, foreign, guard, project
from rotator.ports import Headers, Intent, KeyRef

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rotator.ports import Cdn, Clock, Document, DocumentStore, Fetched, KeyStore, Pointer, Web

#: What was observed longer ago is observed again before the next step.
FRESH = timedelta(seconds=60)

#: More steps or lost races than this in one tick mean that something is wrong.
MAX_STEPS = 300
MAX_CONFLICTS = 20

LEDGER_HEADERS = Headers("application/json", "no-store")


@dataclass(frozen=True, slots=True)
class Report:
    """One line for log, metrics and terminal: a step that was done, or a warning beside it."""

    keyset: str
    step: str
    reason: str
    at: datetime
    seconds: float = 0.0
    alg: str | None = None
    kid: str | None = None
    document: str | None = None
    level: Literal["step", "warning"] = "step"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tick (or a look) ended with: the ledger, the plan from here, and the foreign keys it met."""

    ring: Keyring
    plan: Plan
    at: datetime
    steps: tuple[Report, ...] = ()
    foreign: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Document name → kids (or ``?``) of keys that somebody else put there."""
    clock_fault: str | None = None


@dataclass(slots=True)
class _World:
    """What one tick knows: as observed, and as changed by its own steps since."""

    ring: Keyring
    version: str
    pointers: dict[str, Pointer]
    seen: dict[str, Seen]
    versions: dict[str, str | None]
    read_back: set[str]
    """Documents whose ``seen`` comes from a read, not from our own write."""
    at: datetime
    clock_fault: str | None
    attempts: set[str] = field(default_factory=set)
    unseen: dict[str, str] = field(default_factory=dict)
    failed: set[tuple[str, str]] = field(default_factory=set)

    def observed(self) -> Observed:
        return Observed(
            pointers={alg: pointer.id for alg, pointer in self.pointers.items()},
            documents=self.seen,
            clock_fault=self.clock_fault,
            attempts=frozenset(self.attempts),
            unseen=self.unseen,
            failed=frozenset(self.failed),
        )


def _ignore(_: Report) -> None:
    """Tell nobody."""


def _nonce() -> str:
    return str(uuid.uuid4())


class Engine:
    """Rotates one key set. Safe to run in any number of places at once; every crash is repaired by the next tick."""

    def __init__(  # noqa: PLR0913 - the ports, each by name
        self,
        keyset: KeySet,
        *,
        ledger: DocumentStore,
        public: DocumentStore,
        keys: KeyStore,
        clock: Clock,
        web: Web | None = None,
        cdn: Cdn | None = None,
        report: Callable[[Report], None] = _ignore,
        nonce: Callable[[], str] = _nonce,
    ) -> None:
        self.keyset = keyset
        self.ledger_path = f"{keyset.name}/ledger.json"
        self._ledger, self._public, self._keys = ledger, public, keys
        self._clock, self._web, self._cdn = clock, web, cdn
        self._report, self._nonce = report, nonce
        self._algorithms: tuple[str, ...] = keyset.policy.algorithms
        self._documents = {document.name: document for document in keyset.documents}
        self._steps: dict[type[Step], Callable[..., None]] = {
            planning.Intend: self._intend,
            planning.Attempt: self._attempt,
            planning.Create: self._create,
            planning.Found: self._found,
            planning.Serve: self._serve,
            planning.Publish: self._publish,
            planning.NotePublished: self._note_published,
            planning.Unpublish: self._unpublish,
            planning.CancelPromotion: self._cancel_promotion,
            planning.Promote: self._promote,
            planning.Activate: self._activate,
            planning.RepairPointer: self._repair_pointer,
            planning.ClearPointer: self._clear_pointer,
            planning.Fence: self._fence,
            planning.EndSuccession: self._end_succession,
            planning.Extend: self._extend,
            planning.Disable: self._disable,
            planning.Withdraw: self._withdraw,
            planning.Destroy: self._destroy,
            planning.Forget: self._forget,
            planning.Invalidate: self._invalidate,
            planning.NoteGone: self._note_gone,
            planning.Sweep: self._sweep,
        }

    # -- what callers ask ----------------------------------------------------------------------------------------

    def init(self) -> bool:
        """Create the ledger if it is safe to; ``False``: it is there already.

        Raises:
            Refused: a public document or a key store entry of this name exists without a ledger.
            ConfigurationError: a store is missing, or does not compare-and-swap.
            AccessDenied: a permission is missing.
        """
        name = self.keyset.name
        reading = self._ledger.read(self.ledger_path)
        if reading.document is not None:
            from_json(reading.document.body, name)
            return False
        advice = (
            "A lost ledger must not become a mass logout, so nothing was created. If the ledger was lost, see"
            " 'Lost ledger' in the README; if this is a new key set, choose another name or path, or move that away."
        )
        for document in self.keyset.documents:
            if self._public.read(document.path).document is not None:
                where = self._public.locate(document.path)
                raise Refused(f"Key set {name}: {where} exists, but no ledger does. {advice}")
        algorithms = [algorithm(alg) for alg in self.keyset.policy.algorithms]
        self._keys.check(name, algorithms)
        entry = self._keys.holds(name, algorithms)
        if entry is not None:
            raise Refused(f"Key set {name}: {entry} exists, but no ledger does. {advice}")
        self._ledger.probe(self.ledger_path)
        for document in self.keyset.documents:
            self._public.probe(document.path)
        ring = Keyring(keyset=name, ledger_id=self._nonce(), created_at=self._clock(), writer=self._nonce())
        try:
            self._ledger.create(self.ledger_path, to_json(ring), LEDGER_HEADERS)
        except Conflict:
            return False
        return True

    def look(self, at: datetime | None = None) -> Outcome:
        """What is, and what would be done now (or at ``at``) and why. Changes nothing."""
        world = self._observe()
        now = at or self._clock()
        return self._outcome(world, plan(world.ring, self.keyset, now, world.observed(), self._keys.traits), now)

    def tick(self) -> Outcome:
        """Do every step that is safe now, one by one; then say what is waited for.

        Raises:
            RotatorError: the first step that failed; everything recorded before it stands.
        """
        try:
            return self._tick()
        except RotatorError as exc:
            self._note_trouble(exc)
            raise

    def rotate(self, algs: Sequence[str]) -> None:
        """Record that a person asks ``algs`` to rotate early; the next tick does it.

        Raises:
            Refused: a gate is closed; the message says until when. Nothing was recorded for any of ``algs``.
        """
        world = self._observe()
        if world.clock_fault:
            raise Refused(f"Key set {self.keyset.name}: {world.clock_fault} Nothing was changed.")

        def request(ring: Keyring, now: datetime) -> Keyring:
            for alg in algs:
                ring = facts.rotate_requested(ring, self.keyset, alg, now)
            return ring

        self._request("rotate", "a person asked", request)

    def retire(self, alg: str) -> None:
        """Record that a person ends the succession of ``alg``; the next ticks do it.

        Raises:
            Refused: the configuration still names it, or there is none.
        """
        self._request("retire", "a person asked", lambda ring, now: facts.retire_requested(ring, self.keyset, alg, now))

    def drop(self, kid: str) -> None:
        """Record that the foreign key ``kid`` shall leave the public documents; the next tick does it.

        Raises:
            Refused: the key is ours.
        """
        self._request("drop", "a person asked", lambda ring, now: facts.dropped(ring, self.keyset, kid, now))

    def blast_radius(self, kid: str) -> facts.BlastRadius:
        """Who would be affected by a revoke of ``kid`` now. Changes nothing.

        Raises:
            Refused: no key of this kid is public.
        """
        return facts.blast_radius(self._read_ledger()[0], self.keyset, kid, self._clock())

    def revoke(self, kid: str, reason: str) -> None:
        """Record that ``kid`` is revoked; the next ticks do the rest, and this call cannot be lost from here on.

        Raises:
            Refused: no key of this kid is public.
        """
        self._request("revoke", reason, lambda ring, now: facts.revoked(ring, self.keyset, kid, reason, now), kid=kid)

    # -- observe -------------------------------------------------------------------------------------------------

    def _observe(self, before: _World | None = None) -> _World:
        """Read the world: pointers, public documents, the ledger last."""
        asked = self._algorithms
        faults: list[str] = []
        pointers: dict[str, Pointer] = {}
        for alg in asked:
            sent = self._clock()
            pointers[alg] = self._keys.read_pointer(self.keyset.name, algorithm(alg))
            self._compare_clocks(sent, pointers[alg].date, faults)
        readings = {}
        for document in self.keyset.documents:
            sent = self._clock()
            readings[document.name] = self._public.read(document.path)
            self._compare_clocks(sent, readings[document.name].date, faults)
        sent = self._clock()
        ring, version, date = self._read_ledger()
        self._compare_clocks(sent, date, faults)
        # An algorithm that left the configuration still has a pointer: it was not known before the ledger was read.
        self._algorithms = tuple(dict.fromkeys((*self.keyset.policy.algorithms, *ring.algorithms(), *ring.successions)))
        if not set(self._algorithms) <= set(asked):
            return self._observe(before)
        now = self._clock()
        newest, skew = ring.newest_fact(), self.keyset.policy.clock_skew
        if newest > now + 2 * skew:
            raise Refused(
                f"Key set {self.keyset.name}: the ledger holds a fact of {newest:%Y-%m-%d %H:%M:%S}Z, but this machine"
                f" says {now:%Y-%m-%d %H:%M:%S}Z: more than 2 × clock_skew ({text(2 * skew)}) ahead."
                " Nothing was changed. Set this machine's clock (NTP)."
            )
        world = _World(
            ring=ring,
            version=version,
            pointers=pointers,
            seen={name: _seen(reading.document) for name, reading in readings.items()},
            versions={name: _version(reading.document) for name, reading in readings.items()},
            read_back=set(readings),
            at=now,
            clock_fault=faults[0] if faults else None,
        )
        if before is not None:
            world.attempts, world.unseen, world.failed = before.attempts, before.unseen, before.failed
        return world

    def _read_ledger(self) -> tuple[Keyring, str, datetime | None]:
        reading = self._ledger.read(self.ledger_path)
        if reading.document is None:
            where = self._ledger.locate(self.ledger_path)
            raise Refused(
                f"Key set {self.keyset.name}: there is no ledger at {where}. Nothing was changed. For a new key set run"
                " 'rotator init'; if it was lost, see 'Lost ledger' in the README and do not run init."
            )
        return from_json(reading.document.body, self.keyset.name), reading.document.version, reading.date

    def _compare_clocks(self, sent: datetime, date: datetime | None, faults: list[str]) -> None:
        """Note a fault where this machine's clock and the store's differ by more than the policy allows."""
        if date is None:
            return
        received, skew = self._clock(), self.keyset.policy.clock_skew
        # Date has whole seconds: the store's time lay in [date, date + 1 s) somewhere between sent and received.
        behind, ahead = date - received, sent - (date + timedelta(seconds=1))
        if max(behind, ahead) > skew:
            side = "behind" if behind > ahead else "ahead of"
            faults.append(
                f"this machine's clock is {text(timedelta(seconds=int(max(behind, ahead).total_seconds())))} {side} the"
                f" store's; clock_skew is {text(skew)}. Nothing time-based happens until it is set (NTP)."
            )

    def _outcome(self, world: _World, the_plan: Plan, now: datetime, steps: Sequence[Report] = ()) -> Outcome:
        strangers = {
            name: tuple(str(key.get("kid", "?")) for key in foreign(world.ring, seen))
            for name, seen in world.seen.items()
        }
        return Outcome(
            world.ring,
            the_plan,
            now,
            tuple(steps),
            {name: kids for name, kids in strangers.items() if kids},
            world.clock_fault,
        )

    # -- do ------------------------------------------------------------------------------------------------------

    def _tick(self) -> Outcome:
        done: list[Report] = []
        failures: list[RotatorError] = []
        conflicts = 0
        world = self._observe()
        for _ in range(MAX_STEPS):
            now = self._clock()
            if now - world.at > FRESH:
                world = self._observe(world)
                now = self._clock()
            the_plan = plan(world.ring, self.keyset, now, world.observed(), self._keys.traits)
            step = the_plan.step
            if step is None:
                break
            try:
                self._steps[type(step)](step, world)
            except Conflict:
                # Somebody else was here: look again and go on from what is.
                conflicts += 1
                if conflicts > MAX_CONFLICTS:
                    raise
                world = self._observe(world)
                continue
            except StoreError as exc:
                if not _may_be_skipped(step, world.ring):
                    raise
                world.failed.add((step.name, step.key or step.document or ""))
                failures.append(exc)
                continue
            done.append(self._done(step, world, now))
        else:
            raise RotatorError(
                f"Key set {self.keyset.name}: {MAX_STEPS} steps in one tick and no end. Run 'rotator plan'."
            )
        if failures:
            raise failures[0]
        if world.ring.trouble:
            with suppress(Conflict):
                self._commit(world, replace(world.ring, trouble=None))
        return self._outcome(world, the_plan, now, done)

    def _done(self, step: Step, world: _World, started: datetime) -> Report:
        key = world.ring.key(step.key) if step.key else None
        report = Report(
            self.keyset.name,
            step.name,
            step.reason,
            started,
            (self._clock() - started).total_seconds(),
            step.alg,
            key.kid if key else step.kid,
            step.document,
        )
        self._report(report)
        return report

    def _warn(self, step: str, reason: str, document: str | None = None) -> None:
        self._report(Report(self.keyset.name, step, reason, self._clock(), document=document, level="warning"))

    # -- record --------------------------------------------------------------------------------------------------

    def _commit(self, world: _World, ring: Keyring, step: Step | None = None) -> None:
        """Make ``ring`` true by compare-and-swap; recognises its own write whose answer was lost.

        Raises:
            Conflict: somebody else wrote the ledger since it was read.
        """
        if step is not None:
            key = ring.key(step.key) if step.key else None
            ring = ring.with_event(Event(self._now(world), step.name, step.reason, key.kid if key else step.kid))
        ring = replace(ring, revision=world.ring.revision + 1, writer=self._nonce())
        try:
            version = self._ledger.replace(self.ledger_path, to_json(ring), LEDGER_HEADERS, world.version)
        except AccessDenied:
            raise
        except StoreError as exc:
            # Applied but reported failed is as likely as failed: the nonce tells.
            document = self._ledger.read(self.ledger_path).document
            if document is None or from_json(document.body, self.keyset.name).writer != ring.writer:
                raise exc from None
            version = document.version
        world.ring, world.version = ring, version

    def _now(self, world: _World) -> datetime:
        """The clock for facts: never before a fact that is recorded already."""
        return max(self._clock(), world.ring.newest_fact())

    def _request(
        self, step: str, reason: str, change: Callable[[Keyring, datetime], Keyring], kid: str | None = None
    ) -> None:
        """Record a person's request, again and again until it is recorded."""
        for _ in range(MAX_CONFLICTS):
            world = _ledger_only(*self._read_ledger()[:2])
            changed = change(world.ring, self._now(world))
            if changed == world.ring:
                return
            with suppress(Conflict):
                self._commit(world, changed.with_event(Event(self._now(world), step, reason, kid)))
                self._report(Report(self.keyset.name, step, reason, self._clock(), kid=kid))
                return
        raise Conflict(f"Key set {self.keyset.name}: the ledger changes all the time; nothing was recorded. Try again.")

    def _note_trouble(self, exc: RotatorError) -> None:
        """Leave the error in the ledger for ``rotator status``, if that is possible and it is news."""
        with suppress(RotatorError):
            world = _ledger_only(*self._read_ledger()[:2])
            if world.ring.trouble is None or world.ring.trouble.message != str(exc):
                self._commit(world, replace(world.ring, trouble=Trouble(self._now(world), str(exc))))

    def _ref(self, key: Key) -> KeyRef:
        return KeyRef(self.keyset.name, algorithm(key.alg), key.id, key.kid or "", key.handle or "")

    def _key(self, world: _World, step: Step) -> Key:
        key = world.ring.key(step.key or "")
        if key is None:
            raise Conflict(f"Key set {self.keyset.name}: key {step.key} left the ledger.")
        return key

    # -- the steps: making a key ---------------------------------------------------------------------------------

    def _intend(self, step: Step, world: _World) -> None:
        attempt = self._nonce()
        ring = facts.intended(world.ring, step.alg or "", self._nonce(), attempt, self._now(world))
        self._commit(world, ring, step)
        world.attempts.add(attempt)

    def _attempt(self, step: Step, world: _World) -> None:
        attempt = self._nonce()
        self._commit(world, facts.attempted(world.ring, step.key or "", attempt, self._now(world)), step)
        world.attempts.add(attempt)

    def _create(self, step: Step, world: _World) -> None:
        key, policy = self._key(world, step), self.keyset.policy
        row = algorithm(key.alg)
        world.attempts.discard(key.attempt)
        stored = self._keys.create(
            Intent(self.keyset.name, world.ring.ledger_id, key.id, row, policy.rsa_bits, policy.kid, key.attempt)
        )
        jwk = jwks.public_jwk(stored.spki, row, policy.kid)
        self._commit(world, facts.created(world.ring, key.id, jwk, stored.handle, self._now(world)), step)

    # -- the steps: public documents -----------------------------------------------------------------------------

    def _found(self, step: Step, world: _World) -> None:
        self._commit(world, facts.founded(world.ring, self.keyset, self._now(world)), step)

    def _serve(self, step: planning.Serve, world: _World) -> None:
        ring = facts.served(world.ring, self.keyset, step.document or "", step.cache_control, foreign=step.foreign)
        self._commit(world, ring, step)

    def _publish(self, step: Step, world: _World) -> None:
        document = self._documents[step.document or ""]
        seen, version = world.seen[document.name], world.versions[document.name]
        served = world.ring.documents[document.name]
        keys = project(world.ring, document, seen)
        guard(world.ring, self.keyset, document, keys, seen)
        strangers = foreign(world.ring, seen)
        if strangers:
            names = ", ".join(str(key.get("kid", "?")) for key in strangers)
            self._warn("foreign-keys", f"kept beside ours until 'rotator drop': {names}", document.name)
        body = jwks.serialize(keys, world.ring.revision)
        headers = Headers(served.content_type, served.cache_control)
        try:
            if version is None:
                version = self._public.create(document.path, body, headers)
            else:
                version = self._public.replace(document.path, body, headers, version)
        except AccessDenied:
            raise
        except StoreError as exc:
            there = self._public.read(document.path).document
            if there is None or (there.body, there.headers) != (body, headers):
                raise exc from None
            version = there.version
        world.versions[document.name] = version
        world.seen[document.name] = Seen(
            exists=True, jwks=jwks.parse(body), cache_control=headers.cache_control, content_type=headers.content_type
        )
        world.read_back.discard(document.name)
        if self._cdn and not served.invalidate_due:
            try:
                self._cdn.invalidate([document.path], f"{world.ring.ledger_id}-{world.ring.revision}-{document.name}")
            except RotatorError as exc:
                # A courtesy: the gates count on ages alone.
                self._warn("invalidate", str(exc), document.name)

    def _note_published(self, step: planning.NotePublished, world: _World) -> None:
        document = self._documents[step.document or ""]
        wanted = [key for key in world.ring.keys if key.id in step.keys]
        sets, fault = self._look_in_public(document, world)
        found = [key.id for key in wanted if sets and all(key.kid in kids.kids() for kids in sets)]
        if not found or len(found) < len(wanted):
            names = ", ".join(key.name for key in wanted if key.id not in found)
            world.unseen[document.name] = fault or f"{_places(document)} does not show {names} yet"
        if found:
            ring = facts.published(world.ring, self.keyset, document, found, self._now(world))
            self._commit(world, ring, step)

    def _look_in_public(self, document: PublicDocument, world: _World) -> tuple[list[jwks.PublicSet], str | None]:
        """The sets that verifiers get, one per URL (or the origin's), and what is wrong with any of them."""
        if not document.urls:
            if document.name not in world.read_back:
                self._read_again(document, world)
            seen = world.seen[document.name].jwks
            return ([seen] if seen else []), None
        found = []
        for url in document.urls:
            try:
                fetched = self._fetch(url)
            except StoreError as exc:
                return [], str(exc)
            if fetched is None:
                return [], f"{url} answers 404"
            fault = self._freshness_fault(url, fetched)
            if fault:
                return [], fault
            keys = jwks.parse(fetched.body)
            if keys is None:
                return [], f"{url} does not serve a JWKS"
            found.append(keys)
        return found, None

    def _freshness_fault(self, url: str, fetched: Fetched) -> str | None:
        policy = self.keyset.policy
        promised = staleness_of(fetched.cache_control)
        if promised > policy.cache_max_age + policy.cache_stale:
            return (
                f"{url} is served with Cache-Control {fetched.cache_control!r}, which lets caches keep it"
                f" {text(promised)}; the policy counts on {text(policy.cache_max_age + policy.cache_stale)}."
                " Mend the CDN, or raise cache_max_age and cache_stale"
            )
        if fetched.age > policy.staleness:
            return f"{url} serves a copy {text(fetched.age)} old; the policy counts on {text(policy.staleness)}"
        return None

    def _fetch(self, url: str) -> Fetched | None:
        if self._web is None:
            raise RotatorError(f"Key set {self.keyset.name}: {url} is configured, but nothing here can fetch it.")
        return self._web.fetch(url)

    def _read_again(self, document: PublicDocument, world: _World) -> None:
        reading = self._public.read(document.path)
        world.seen[document.name] = _seen(reading.document)
        world.versions[document.name] = _version(reading.document)
        world.read_back.add(document.name)

    def _unpublish(self, step: planning.Unpublish, world: _World) -> None:
        document = self._documents[step.document or ""]
        # What was read before the ledger may only be older than the ledger: look again before calling it drift.
        self._read_again(document, world)
        kids = world.seen[document.name].kids()
        lost = [key.id for key in world.ring.keys if key.id in step.keys and key.kid not in kids]
        if lost:
            self._commit(world, facts.unpublished(world.ring, document.name, lost), step)

    def _invalidate(self, step: Step, world: _World) -> None:
        document = self._documents[step.document or ""]
        if self._cdn:
            self._cdn.invalidate([document.path], f"{world.ring.ledger_id}-{world.ring.revision}-{document.name}")
        self._commit(world, facts.invalidated(world.ring, document.name), step)

    def _note_gone(self, step: Step, world: _World) -> None:
        document = self._documents[step.document or ""]
        fault = self._still_shown(document, step.kid or "", world)
        if fault:
            world.unseen[document.name] = fault
            world.failed.add(("note-gone", document.name))
        else:
            ring = facts.gone(world.ring, step.key or "", document.name, self._now(world))
            self._commit(world, ring, step)

    def _still_shown(self, document: PublicDocument, kid: str, world: _World) -> str | None:
        if not document.urls:
            self._read_again(document, world)
            return f"{document.path} still shows it" if kid in world.seen[document.name].kids() else None
        for url in document.urls:
            try:
                fetched = self._fetch(url)
            except StoreError as exc:
                return str(exc)
            keys = jwks.parse(fetched.body) if fetched else None
            if keys and kid in keys.kids():
                left = staleness_of(fetched.cache_control) - fetched.age if fetched else timedelta(0)
                until = self._clock() + max(left, timedelta(0))
                return f"{url} still serves it, and may until {until:%Y-%m-%d %H:%M:%S}Z"
        return None

    # -- the steps: signing --------------------------------------------------------------------------------------

    def _promote(self, step: planning.Promote, world: _World) -> None:
        ring = facts.promoting(world.ring, self.keyset.policy, step.key or "", self._now(world), forced=step.forced)
        self._commit(world, ring, step)

    def _activate(self, step: Step, world: _World) -> None:
        key = self._key(world, step)
        pointer = world.pointers[key.alg]
        strayed = pointer.id if pointer.id != key.id else None
        if strayed is not None or pointer.id is None:
            self._prove(key, world)
            world.pointers[key.alg] = self._keys.move_pointer(pointer, self._ref(key))
        ring = facts.activated(world.ring, self.keyset.policy, key.id, strayed, self._now(world))
        self._commit(world, ring, step)

    def _prove(self, key: Key, world: _World) -> None:
        """Sign through the store that issuers use, and verify as verifiers do.

        Raises:
            StoreError: the store cannot sign with it, or a verifier would reject the signature.
        """
        row = algorithm(key.alg)
        message = f"rotator proof {self.keyset.name} {key.kid} {self._nonce()}".encode()
        signature = self._keys.sign(self._ref(key), message)
        copies = [key.jwk]
        if not key.forced:
            for document in self.keyset.documents_of(key.alg):
                sets, fault = self._look_in_public(document, world)
                if fault:
                    raise StoreError(f"Key set {self.keyset.name}: {key.kid} is not promoted: {fault}.")
                copies += [keys.key(key.kid or "") for keys in sets]
        for jwk in copies:
            if jwk is None or not verify(jwk, row, message, signature):
                raise StoreError(
                    f"Key set {self.keyset.name}: {key.kid} is not promoted: what it signs does not verify with the"
                    " published key. The old key goes on signing. Revoke this one to have another made."
                )

    def _repair_pointer(self, step: Step, world: _World) -> None:
        key = self._key(world, step)
        pointer = world.pointers[key.alg]
        world.pointers[key.alg] = self._keys.move_pointer(pointer, self._ref(key))
        self._record_strayed(step, pointer.id, world)

    def _clear_pointer(self, step: Step, world: _World) -> None:
        alg = step.alg or ""
        pointer = world.pointers[alg]
        world.pointers[alg] = self._keys.clear_pointer(self.keyset.name, algorithm(alg), pointer)
        self._record_strayed(step, pointer.id, world)

    def _record_strayed(self, step: Step, strayed: str | None, world: _World) -> None:
        if strayed and world.ring.key(strayed):
            ring = facts.superseded(world.ring, self.keyset.policy, [strayed], self._now(world))
            self._commit(world, ring, step)

    def _fence(self, step: Step, world: _World) -> None:
        key = self._key(world, step)
        self._fence_pointer(key, world)
        self._commit(world, world.ring.with_key(key.id, fence_due=False), step)

    def _cancel_promotion(self, step: Step, world: _World) -> None:
        key = self._key(world, step)
        self._fence_pointer(key, world)
        self._commit(world, world.ring.with_key(key.id, promoting_at=None), step)

    def _fence_pointer(self, key: Key, world: _World) -> None:
        pointer = world.pointers[key.alg]
        # Where the pointer names the key already, the stalled move is over: there is nothing left to fence.
        if pointer.id != key.id:
            world.pointers[key.alg] = self._keys.fence(self.keyset.name, algorithm(key.alg), pointer)

    def _end_succession(self, step: Step, world: _World) -> None:
        alg = step.alg or ""
        pointer = world.pointers[alg]
        if pointer.id is not None or world.ring.promoting(alg):
            world.pointers[alg] = self._keys.clear_pointer(self.keyset.name, algorithm(alg), pointer)
        ring = facts.ended(world.ring, self.keyset.policy, alg, pointer.id, self._now(world))
        self._commit(world, ring, step)

    def _extend(self, step: planning.Extend, world: _World) -> None:
        self._commit(world, facts.extended(world.ring, self.keyset.policy, step.keys), step)

    # -- the steps: leaving --------------------------------------------------------------------------------------

    def _disable(self, step: Step, world: _World) -> None:
        key = self._key(world, step)
        self._keys.disable(self._ref(key))
        self._commit(world, world.ring.with_key(key.id, disabled_at=self._now(world)), step)

    def _withdraw(self, step: Step, world: _World) -> None:
        self._commit(world, world.ring.with_key(step.key or "", withdrawn_at=self._now(world)), step)

    def _destroy(self, step: Step, world: _World) -> None:
        key = self._key(world, step)
        if key.handle is not None:
            self._keys.destroy(self._ref(key))
        self._commit(world, world.ring.with_key(key.id, destroyed_at=self._now(world)), step)

    def _forget(self, step: planning.Forget, world: _World) -> None:
        self._commit(world, facts.forgotten(world.ring, step.keys), step)

    def _sweep(self, step: Step, world: _World) -> None:
        now = self._now(world)
        handles = {key.handle for key in world.ring.keys}
        unmade = {key.id for key in world.ring.keys if key.handle is None}
        for stray in self._keys.strays(self.keyset.name):
            # Another ledger's keys are not ours to judge. A young key may belong to an attempt under way, and one of an
            # unmade intent may yet be adopted by it.
            young = now - stray.created_at < planning.STRAY_AGE
            if stray.ledger_id != world.ring.ledger_id or stray.handle in handles or stray.id in unmade or young:
                continue
            self._keys.discard(stray)
            self._warn("sweep", f"{stray.handle} is known to no ledger: disabled and scheduled for deletion")
        self._commit(world, replace(world.ring, swept_at=now), step)


def _seen(document: Document | None) -> Seen:
    if document is None:
        return Seen()
    headers = document.headers or Headers("", None)
    return Seen(
        exists=True,
        jwks=jwks.parse(document.body),
        cache_control=headers.cache_control,
        content_type=headers.content_type,
    )


def _version(document: Document | None) -> str | None:
    return document.version if document else None


def _places(document: PublicDocument) -> str:
    return ", ".join(document.urls) or document.path


def _ledger_only(ring: Keyring, version: str) -> _World:
    """A world in which only the ledger was read: enough to record a person's request."""
    return _World(ring, version, {}, {}, {}, set(), datetime.min.replace(tzinfo=UTC), None)


def _may_be_skipped(step: Step, ring: Keyring) -> bool:
    """Whether the rest of an emergency must not wait for this step."""
    key = ring.key(step.key) if step.key else None
    if isinstance(step, planning.Activate):
        return bool(key and key.forced)
    if isinstance(step, planning.Disable):
        return bool(key and key.revoked_at)
    return isinstance(step, planning.Fence | planning.Invalidate)
