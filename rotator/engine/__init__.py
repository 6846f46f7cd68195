"""Observe, plan, do, record: the only thing that daemon, CronJob, Lambda and command line ever run.

The order is what makes it safe (see ``keys.plan`` for what is decided):

* observe the pointers, then the public documents, the ledger last: what a ledger read later does not explain is drift;
* do one step; record its fact by compare-and-swap, with the clock as read after the effect was confirmed;
* ask again with a fresh clock, until there is no step.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

from rotator.engine.ledger import Ledger, random_nonce
from rotator.engine.observe import Observer, World
from rotator.engine.steps import Report, Steps
from rotator.engine.verifying import Probe, Verification
from rotator.errors import Conflict, Outdated, Refused, RotatorError
from rotator.keys import facts
from rotator.keys import plan as planning
from rotator.keys.algorithms import algorithm
from rotator.keys.blast_radius import BlastRadius, blast_radius
from rotator.keys.keyring import Event, Keyring, Trouble
from rotator.keys.plan import Plan, Step, plan
from rotator.keys.publication import foreign

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from rotator.engine.upkeep import Upkeep
    from rotator.keys.policy import KeySet
    from rotator.ports import Cdn, Clock, DocumentStore, Elapsed, KeyStore, Web

__all__ = ["Engine", "Outcome", "Report"]

#: What was observed longer ago is observed again before the next step.
FRESH = timedelta(seconds=60)

#: More steps, or lost races in a row, than this in one tick mean that something is wrong.
MAX_STEPS = 300
MAX_CONFLICTS = 20

_DIGITS = re.compile(r"\d+")

#: What a person's request is about: an algorithm and a kid, as far as it names them.
_Subject: TypeAlias = "tuple[str | None, str | None]"


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


#: Steps whose failure is told at the end of the tick: other keys and documents, and a revoke, must not wait for them.
_SKIPPED = (
    planning.Fence,
    planning.RepairPointer,
    planning.ClearPointer,
    planning.Activate,
    planning.Publish,
    planning.Disable,
    planning.Invalidate,
    planning.EndSuccession,
    planning.CancelPromotion,
    planning.Create,
    planning.NotePublished,
    planning.NoteGone,
    planning.Destroy,
    planning.Sweep,
)


def _ignore(_: Report) -> None:
    """Tell nobody."""


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
        web: Web,
        elapsed: Elapsed,
        cdn: Cdn | None = None,
        report: Callable[[Report], None] = _ignore,
        nonce: Callable[[], str] = random_nonce,
    ) -> None:
        self.keyset = keyset
        self._public, self._keys, self._clock, self._report = public, keys, clock, report
        self._ledger = Ledger(keyset.name, ledger, nonce)
        self._observer = Observer(
            keyset, ledger=self._ledger, public=public, keys=keys, clock=clock, web=web, elapsed=elapsed
        )
        self._probe = Probe(keyset, observer=self._observer, keys=keys, web=web, nonce=nonce)
        self._steps = Steps(
            keyset,
            ledger=self._ledger,
            observer=self._observer,
            public=public,
            keys=keys,
            cdn=cdn,
            clock=clock,
            report=report,
            nonce=nonce,
        )

    # -- what callers ask ----------------------------------------------------------------------------------------

    def init(self) -> bool:
        """Create the ledger if it is safe to; ``False``: it is there already.

        Raises:
            Refused: a public document or a key store entry of this name exists without a ledger.
            ConfigurationError: a store is missing, or does not compare-and-swap.
            AccessDenied: a permission is missing.
        """
        name = self.keyset.name
        if self._ledger.find() is not None:
            return False
        advice = (
            "A lost ledger must not become a mass logout, so nothing was created. If the ledger was lost, run"
            f" 'rotator recover {name}' (README, 'Lost ledger'); to take over keys that somebody else made, run"
            f" 'rotator adopt {name}'; if this is a new key set, choose another name or path, or move that away."
        )
        for document in self.keyset.written:
            if self._public.read(document.path).document is not None:
                where = self._public.locate(document.path)
                raise Refused(f"Key set {name}: {where} exists, but no ledger does. {advice}")
        algorithms = [algorithm(alg) for alg in self.keyset.policy.algorithms]
        self._keys.check(name, algorithms)
        entry = self._keys.holds(name, algorithms)
        if entry is not None:
            raise Refused(f"Key set {name}: {entry} exists, but no ledger does. {advice}")
        self._ledger.probe()
        for document in self.keyset.written:
            self._public.probe(document.path)
        try:
            self._ledger.create(self._clock())
        except Conflict:
            return False
        return True

    def ledger(self) -> Keyring:
        """The ledger alone: what is known of the keys, also while pointer or documents cannot be read.

        Raises:
            Refused: there is none, or it is damaged.
        """
        return self._observer.read_ledger()[0]

    def look(self, at: datetime | None = None) -> Outcome:
        """What is, and what would be done now (or at ``at``) and why. Changes nothing."""
        world = self._all_read()
        now = at or self._observer.now()
        return self._outcome(world, plan(world.ring, self.keyset, now, world.observed(), self._keys.traits), now)

    def verify(self) -> Verification:
        """What verifiers get and issuers sign, held against the ledger. Changes nothing.

        Raises:
            Refused: there is no ledger, or it is damaged.
        """
        return self._probe.verify()

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
        world = self._all_read()
        if world.clock_fault:
            raise Refused(f"Key set {self.keyset.name}: {world.clock_fault} Nothing was changed.")

        def request(ring: Keyring, now: datetime) -> Keyring:
            for alg in algs:
                ring = facts.rotate_requested(ring, self.keyset, alg, now)
            return ring

        def promoted(ring: Keyring) -> list[_Subject]:
            heirs = [(alg, facts.successor(ring, alg)) for alg in algs]
            return [(alg, heir.kid if heir else None) for alg, heir in heirs]

        self._request("rotate", "a person asked", request, promoted)

    def retire(self, alg: str) -> None:
        """Record that a person ends the succession of ``alg``; the next ticks do it.

        Raises:
            Refused: the configuration still names it, or there is none.
        """
        self._request(
            "retire",
            "a person asked",
            lambda ring, now: facts.retire_requested(ring, self.keyset, alg, now),
            lambda _: [(alg, None)],
        )

    def drop(self, kid: str) -> None:
        """Record that the foreign key ``kid`` shall leave the public documents; the next tick does it.

        Raises:
            Refused: the key is ours.
        """
        self._request(
            "drop",
            "a person asked",
            lambda ring, now: facts.dropped(ring, self.keyset, kid, now),
            lambda _: [(None, kid)],
        )

    def blast_radius(self, kid: str) -> BlastRadius:
        """Who would be affected by a revoke of ``kid`` now. Changes nothing.

        Raises:
            Refused: no key of this kid is public.
        """
        ring = self.ledger()
        key, pointed, blind = ring.by_kid(kid), None, False
        if key:
            try:
                pointed = self._keys.read_pointer(self.keyset.name, algorithm(key.alg)).id
            except RotatorError:
                blind = True
        return blast_radius(ring, self.keyset, kid, self._observer.now(), pointed=pointed, blind=blind)

    def revoke(self, kid: str, reason: str) -> None:
        """Record that ``kid`` is revoked; the next ticks do the rest, and this call cannot be lost from here on.

        Raises:
            Refused: no key of this kid is public, or the ledger is older than the world.
        """
        self._request(
            "revoke",
            reason,
            lambda ring, now: facts.revoked(ring, self.keyset, kid, reason, now),
            lambda ring: [(key.alg if (key := ring.by_kid(kid)) else None, kid)],
        )

    def _all_read(self) -> World:
        world = self._observer.observe()
        if world.faults:
            raise world.faults[0]
        return world

    def upkeep(self) -> Upkeep:
        """What looks through the key store, as the tick does now and then."""
        from rotator.engine.upkeep import Upkeep

        return Upkeep(self.keyset, observer=self._observer, keys=self._keys, report=self._report)

    def _outcome(self, world: World, the_plan: Plan, now: datetime, steps: Sequence[Report] = ()) -> Outcome:
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
        world = self._observer.observe()
        for _ in range(MAX_STEPS):
            now = self._observer.now()
            if now - world.at > FRESH:
                world = self._observer.observe(world)
                now = self._observer.now()
            the_plan = plan(world.ring, self.keyset, now, world.observed(), self._keys.traits)
            step = the_plan.step
            if step is None:
                break
            try:
                if self._do(step, world, failures):
                    done.append(self._done(step, world, now))
                conflicts = 0
            except Conflict:
                # Somebody else was here: look again and go on from what is.
                conflicts += 1
                if conflicts > MAX_CONFLICTS:
                    raise
                world = self._observer.observe(world)
        else:
            raise RotatorError(
                f"Key set {self.keyset.name}: {MAX_STEPS} steps in one tick and no end. Run 'rotator plan'."
            )
        if failures or world.faults:
            raise [*failures, *world.faults][0]
        if world.ring.trouble:
            with suppress(Conflict):
                self._steps.commit(world, replace(world.ring, trouble=None))
        return self._outcome(world, the_plan, now, done)

    def _do(self, step: Step, world: World, failures: list[RotatorError]) -> bool:
        """Do ``step``; whether there was anything to do. A failure that others need not wait for is put by."""
        revision = world.ring.revision
        try:
            self._steps.do(step, world)
        except Conflict:
            raise
        except RotatorError as exc:
            if not isinstance(step, _SKIPPED):
                raise
            world.failed.add((step.name, step.about))
            failures.append(exc)
            return False
        return world.ring.revision > revision or not isinstance(step, planning.Look)

    def _done(self, step: Step, world: World, started: datetime) -> Report:
        key = world.ring.key(step.key) if step.key else None
        report = Report(
            self.keyset.name,
            step.name,
            step.reason,
            started,
            (self._observer.now() - started).total_seconds(),
            step.alg,
            key.kid if key else step.kid,
            step.document,
        )
        self._report(report)
        return report

    # -- record --------------------------------------------------------------------------------------------------

    def _request(
        self,
        step: str,
        reason: str,
        change: Callable[[Keyring, datetime], Keyring],
        subjects: Callable[[Keyring], Sequence[_Subject]],
    ) -> None:
        """Record a person's request about ``subjects``, again and again until it is recorded.

        An old ledger refuses: with each request it would look newer, until nothing told it from the lost one.
        """
        for _ in range(MAX_CONFLICTS):
            world = self._observer.observe(even_early=True)
            ring = world.ring
            planning.explain(ring, self.keyset, world.observed())
            now = self._steps.now(ring)
            changed = change(ring, now)
            if changed == ring:
                return
            about = subjects(ring)
            for _, kid in about:
                changed = changed.with_event(Event(now, step, reason, kid))
            with suppress(Conflict):
                self._ledger.replace(changed, ring.revision, world.version)
                for alg, kid in about:
                    self._report(Report(self.keyset.name, step, reason, now, alg=alg, kid=kid))
                return
        raise Conflict(f"Key set {self.keyset.name}: the ledger changes all the time; nothing was recorded. Try again.")

    def _note_trouble(self, exc: RotatorError) -> None:
        """Leave the error in the ledger for ``rotator status``, if that is possible and it is news.

        A ledger that is not to be trusted is left as it is.
        """
        if isinstance(exc, Outdated):
            return
        with suppress(RotatorError):
            ring, version, _ = self._ledger.read()
            # Times and counts in a message change with every tick: they are no news.
            if ring.trouble is None or _DIGITS.sub("", ring.trouble.message) != _DIGITS.sub("", str(exc)):
                trouble = Trouble(self._steps.now(ring), str(exc))
                # A note is no new revision: an old ledger must not grow, error by error, as new as the world.
                self._ledger.replace(replace(ring, trouble=trouble), ring.revision - 1, version)
