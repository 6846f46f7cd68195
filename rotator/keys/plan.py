"""The whole life of a key on one screen: a chain of rules, each a pure function of what was observed.

``plan`` asks the rules in order. The first step a rule yields is the next safe change, with its reason; a rule that
must be patient yields a wait: for what, until when, and why. Nothing here does I/O or reads a clock.

    pending ──seen in public──▶ next ──gate open, lifetime over──▶ current ──successor signs──▶ previous ──▶ retired

What must be put right comes before what is due; what forbids comes before what permits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from rotator.errors import Outdated, Refused
from rotator.keys.keyring import Key, Keyring, Stage
from rotator.keys.policy import KeySet, Policy, PublicDocument, text
from rotator.keys.publication import Seen, difference, foreign, holds, newer, stranger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

_DAY = timedelta(days=1)

#: How often a store that can be left with keys no ledger knows is looked through, and how old such a key must be.
SWEEP_EVERY = timedelta(hours=6)
STRAY_AGE = timedelta(hours=1)

#: How long a request to end an algorithm outlives a configuration that names it: workers may still have the old one.
LAPSE = _DAY

#: Retired keys of one algorithm that stay in the ledger, for people to see.
RETIRED_SHOWN = 2


@dataclass(frozen=True, slots=True)
class Observed:
    """The world as read in this tick: pointers first, then public documents, the ledger last."""

    pointers: Mapping[str, str | None]
    """Algorithm → intent id of the key that issuers follow."""
    documents: Mapping[str, Seen]
    clock_fault: str | None = None
    """Why the local clock cannot be trusted; nothing time-based happens then."""
    attempts: frozenset[str] = frozenset()
    """Nonces of attempts that this worker recorded in this tick and has not spent."""
    unseen: Mapping[str, str] = field(default_factory=dict)
    """Document name → why its public URLs did not show what they should in this tick."""
    overridden: Mapping[str, str | None] = field(default_factory=dict)
    """Document name → a ``Cache-Control`` with which a public URL allows more than the policy does."""
    failed: frozenset[tuple[str, str]] = frozenset()
    """(step, what it is about) of steps that failed in this tick: other keys and documents must not wait for them."""
    unread: frozenset[str] = frozenset()
    """Names of documents that could not be read: what they hold is unknown. A pointer that could not be read is not
    among ``pointers``."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What a key store can and cannot do."""

    attempt_pause: timedelta = timedelta(0)
    """How long after a recorded attempt of somebody else another may be made; 0: creating is idempotent."""
    leaves_strays: bool = False
    """A crash while creating can leave keys that no ledger knows: they must be looked for."""


#: A key store in which creating is idempotent and nothing can be left over.
PLAIN = Traits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One safe change, with its reason."""

    reason: str
    alg: str | None = None
    key: str | None = None
    """Intent id of the key it is about."""
    kid: str | None = None
    document: str | None = None

    @property
    def name(self) -> str:
        """What it is called in logs, plans and metrics: ``note-published``."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()

    @property
    def about(self) -> str:
        """The key, document or algorithm that has to wait where this step fails."""
        return self.key or self.document or self.alg or ""


class Look(Step):
    """A step that looks at a document first, and may find nothing to record."""

    @property
    def about(self) -> str:
        """The name of the document."""
        return self.document or ""


class Intend(Step):
    """Record that a key shall be made, with a random intent id."""


class Attempt(Step):
    """Record another attempt to create an intended key."""


class Create(Step):
    """Get or create the private key, then record its public half."""


class Found(Step):
    """Record that the first public document ever is about to be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve(Step):
    """Record headers before (or when) copies of a document go out with them."""

    cache_control: str | None = None
    foreign: bool = False


class Publish(Step):
    """Write a public document as the ledger projects it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotePublished(Look):
    """Look where verifiers look, and record what is seen there."""

    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpublish(Look):
    """Take back that keys were published: the document was found without them."""

    keys: tuple[str, ...] = ()


class CancelPromotion(Step):
    """Fence stalled workers and take back a promotion whose key is no longer published, or whose gate moved away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promote(Step):
    """Record that a key is being promoted: every worker rolls it forward from here."""

    forced: bool = False


class Activate(Step):
    """Prove that the key signs and verifies, move the pointer to it, then record that it signs."""


class RepairPointer(Step):
    """Move the pointer back to the current key; the key it strayed to counts as having signed until now."""


class Supersede(Step):
    """Record that the pointer was led away from a key that it had strayed to."""


class ClearPointer(Step):
    """Make the pointer name no key: no key may sign."""


class Fence(Step):
    """Make every move of the pointer that began before fail."""


class EndSuccession(Step):
    """Clear the pointer of an algorithm that a person ended."""


class Lapse(Step):
    """Forget a request that the configuration made void: it names what was to end, or not what was to sign."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extend(Step):
    """Remember a policy that grew while a key signs: promises only grow."""

    keys: tuple[str, ...] = ()


class Disable(Step):
    """Stop a private half that no issuer uses any more."""


class Withdraw(Step):
    """Record that a public half may leave: no token it signed is alive."""


class Destroy(Step):
    """Destroy a private half whose public half is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget(Step):
    """Keep only the kids of keys long destroyed."""

    keys: tuple[str, ...] = ()


class Invalidate(Step):
    """Tell the CDN to drop its copies after a revoke, until it listens."""


class NoteGone(Look):
    """Look whether a revoked key is gone from every public URL, and record it."""


class Sweep(Step):
    """Look through the key store for keys that no ledger knows, and discard them."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What is waited for, until when (``None``: until something outside changes), and why."""

    step: str
    reason: str
    at: datetime | None = None
    alg: str | None = None
    kid: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The next step, or ``None``; and the waits found on the way to it."""

    step: Step | None
    waits: tuple[Wait, ...] = ()

    @property
    def due(self) -> datetime | None:
        """The next moment at which time alone makes a step due."""
        return min((wait.at for wait in self.waits if wait.at), default=None)


class View:
    """What the rules look at: ledger, policy, now and observation, with the lookups they share."""

    def __init__(self, ring: Keyring, keyset: KeySet, now: datetime, observed: Observed, traits: Traits) -> None:
        self.ring, self.keyset, self.now, self.observed = ring, keyset, now, observed
        self.policy: Policy = keyset.policy
        self.traits = traits
        self.algorithms = tuple(dict.fromkeys((*keyset.policy.algorithms, *ring.algorithms())))
        self.current: dict[str, Key] = {key.alg: key for key in ring.keys if key.stage is Stage.CURRENT}
        self.promoting: dict[str, Key] = {key.alg: key for key in ring.keys if key.promoting}

    def seen(self, document: PublicDocument) -> Seen:
        """The document as observed."""
        return self.observed.documents.get(document.name, _NOTHING)

    @cached_property
    def documents(self) -> tuple[PublicDocument, ...]:
        """The documents that could be read."""
        return tuple(each for each in self.keyset.written if each.name not in self.observed.unread)

    def blind(self, alg: str) -> bool:
        """Whether the pointer of ``alg``, or a document that shows it, could not be read: only a revoke goes on."""
        unread = self.observed.unread
        return alg not in self.observed.pointers or any(
            document.name in unread for document in self.keyset.gates_of(alg)
        )

    def pointer_is_right(self, alg: str) -> bool:
        """Whether the pointer was read in this tick and names the current key, or none where there is none."""
        current = self.current.get(alg)
        pointers = self.observed.pointers
        return alg in pointers and pointers[alg] == (current.id if current else None)

    def failed(self, step: str, about: str) -> bool:
        """Whether ``step`` failed in this tick for this key, document or algorithm."""
        return (step, about) in self.observed.failed

    @cached_property
    def patient(self) -> str | None:
        """Why nothing time-based may happen now."""
        return self.observed.clock_fault


_NOTHING = Seen()

Finding: TypeAlias = "Step | Wait"
Rule: TypeAlias = "Callable[[View], Iterator[Finding]]"


def plan(ring: Keyring, keyset: KeySet, now: datetime, observed: Observed, traits: Traits = PLAIN) -> Plan:
    """The next safe step for ``keyset`` at ``now``, or what is waited for.

    Raises:
        Outdated: the ledger is older than the world.
        Refused: a public document stands where none may be.
    """
    view = View(ring, keyset, now, observed, traits)
    waits: list[Wait] = []
    for rule in RULES:
        for finding in rule(view):
            if isinstance(finding, Step):
                return Plan(finding, tuple(waits))
            waits.append(finding)
    return Plan(None, tuple(waits))


def gate(keyset: KeySet, key: Key) -> datetime | None:
    """From when ``key`` may sign: every cache that obeys the policy holds it then. ``None``: it was not seen yet.

    The later of what was promised when it was seen and what today's policy says.
    """
    if key.founding or key.published_at is None:
        return key.published_at
    moments = []
    for document in keyset.gates_of(key.alg):
        if document.name not in key.published:
            return None
        moments += [key.published[document.name] + keyset.policy.prepublish, key.ready[document.name]]
        if document.name in key.lacking:
            # Verifiers that keep a set for longer today may do so with a copy of the day before.
            moments.append(key.lacking[document.name] + keyset.policy.verifier_cache + 2 * keyset.policy.clock_skew)
    return max(moments, default=None)


def stop_at(policy: Policy, key: Key, superseded_at: datetime) -> datetime:
    """From when no issuer signs with ``key`` any more; the two skews are the recording and the acting worker's."""
    return superseded_at + max(key.signer_lag, policy.signer_lag) + 2 * max(key.clock_skew, policy.clock_skew)


def withdraw_at(policy: Policy, key: Key, superseded_at: datetime) -> datetime:
    """From when no token that ``key`` signed is alive, for any verifier."""
    return (
        superseded_at
        + max(key.signer_lag, policy.signer_lag)
        + max(key.token_lifetime, policy.token_lifetime)
        + max(key.verifier_leeway, policy.verifier_leeway)
        + 4 * max(key.clock_skew, policy.clock_skew)
    )


def creations(policy: Policy, *, emergency: bool) -> int:
    """How many keys may be made in 24 hours; with a reserve as large again where a revoke left none that signs."""
    return policy.creations_per_day * (2 if emergency else 1)


def creatable_at(ring: Keyring, policy: Policy, *, emergency: bool) -> datetime:
    """From when another key may be made."""
    cap = creations(policy, emergency=emergency)
    return ring.created_at if len(ring.attempts) < cap else sorted(ring.attempts)[-cap] + _DAY


# -- what must never happen --------------------------------------------------------------------------------------


def explain(ring: Keyring, keyset: KeySet, observed: Observed) -> None:
    """Pass only a ledger that can have made the world as it is observed.

    Raises:
        Outdated: the ledger is older than the world.
        Refused: a public document stands where none may be.
    """
    for alg, pointed in observed.pointers.items():
        key = ring.key(pointed) if pointed is not None else None
        unmade = key is not None and key.created_at is None
        # No pointer is moved to a key before the ledger knows its kid.
        if pointed is not None and (unmade or not ring.remembers(pointed)):
            raise Outdated(
                f"Key set {keyset.name}: issuers follow a {alg} key (intent {pointed}) that the ledger"
                f" {'has yet to make' if unmade else 'does not know'}: the ledger is older than the world. Nothing was"
                " changed. Run 'rotator recover' (README, 'Lost ledger')."
            )
    # A pointer on a key that the ledger knows tells that not every key has changed since.
    known = any(pointed is not None for pointed in observed.pointers.values())
    blind = not known and not {*keyset.policy.algorithms, *ring.algorithms()} <= observed.pointers.keys()
    for document in keyset.documents:
        seen = observed.documents.get(document.name, _NOTHING)
        # The document was read before the ledger: it cannot come from a revision that the ledger has yet to reach.
        if seen.jwks and newer(ring, seen, blind=blind):
            raise Outdated(
                f"Key set {keyset.name}: {document.path} was made from ledger revision {seen.jwks.revision}, but the"
                f" ledger is at {ring.revision}: the ledger is older than the world. Nothing was changed. Run 'rotator"
                " recover' (README, 'Lost ledger')."
            )
        if seen.exists and ring.founded_at is None:
            raise Refused(
                f"Key set {keyset.name}: a public document that this ledger never wrote stands at {document.path}."
                " Nothing was changed. Move it away, or choose another path."
            )


def _ledger_explains_the_world(v: View) -> Iterator[Finding]:
    explain(v.ring, v.keyset, v.observed)
    yield from ()


# -- the pointer: who signs --------------------------------------------------------------------------------------


def _fence(v: View) -> Iterator[Finding]:
    for key in v.ring.keys:
        if key.fence_due and key.alg in v.observed.pointers and not v.failed("fence", key.id):
            why = "it was revoked" if key.revoked_at else "the ledger was recovered"
            yield Fence(alg=key.alg, key=key.id, kid=key.kid, reason=f"{why} while a worker may be promoting it")


def _pointer(v: View) -> Iterator[Finding]:
    for alg, pointed in v.observed.pointers.items():
        current, promoting = v.current.get(alg), v.promoting.get(alg)
        if pointed == (current.id if current else None):
            continue
        if promoting and pointed == promoting.id:
            if not v.failed("activate", promoting.id):
                yield Activate(alg=alg, key=promoting.id, kid=promoting.kid, reason="the pointer already names it")
        elif current:
            if v.blind(alg) and not _revoked(v, pointed):
                yield Wait("repair-pointer", "a document that shows its keys cannot be read", alg=alg, kid=current.kid)
            elif not v.failed("repair-pointer", current.id):
                yield RepairPointer(
                    alg=alg, key=current.id, kid=current.kid, reason=f"the pointer names {_naming(v, pointed)} instead"
                )
        elif v.failed("clear-pointer", alg):
            continue
        elif promoting is None or not promoting.published_at or v.failed("activate", promoting.id):
            yield ClearPointer(alg=alg, reason=f"{_naming(v, pointed)} must not sign, and no other key may yet")


def _astray(v: View) -> Iterator[Finding]:
    for key in v.ring.keys:
        # The heir of a revoked key is about to sign again: superseded, it would leave issuers without any.
        if key.astray and not key.promoting and v.observed.pointers.get(key.alg, key.id) != key.id:
            reason = "the pointer was on it, and whoever led it away did not come to say so"
            yield Supersede(alg=key.alg, key=key.id, kid=key.kid, reason=reason)


def _revoked(v: View, key_id: str | None) -> bool:
    key = v.ring.key(key_id) if key_id else None
    return bool(key and key.revoked_at)


def _end_succession(v: View) -> Iterator[Finding]:
    for alg, succession in v.ring.successions.items():
        asked_at = succession.retire_requested_at
        if asked_at is None:
            yield from _forced_for_nobody(v, alg, succession.forced_at)
        elif alg not in v.policy.algorithms:
            if alg in v.observed.pointers and not v.failed("end-succession", alg):
                yield EndSuccession(alg=alg, reason=f"a person ended it at {asked_at:%Y-%m-%d %H:%M}Z")
        elif v.now >= asked_at + LAPSE and not v.patient:
            # Left where it is, it would strike a year later, when the configuration drops the algorithm again.
            yield Lapse(alg=alg, reason="a person asked to end it, but the configuration has named it for a day since")
        else:
            reason = "a person asked to end it, but the configuration names it again"
            yield Wait("end-succession", reason, asked_at + LAPSE, alg)


def _forced_for_nobody(v: View, alg: str, forced_at: datetime | None) -> Iterator[Finding]:
    if forced_at is None or alg in v.policy.algorithms or any(key.standby for key in v.ring.of(alg)):
        return
    # Left where it is, the first key of the algorithm would skip its gate when it is configured again one day.
    reason = "no key of it is left to sign, and the configuration does not name it"
    if v.now < forced_at + LAPSE:
        yield Wait("lapse", reason, forced_at + LAPSE, alg)
    elif v.patient:
        yield Wait("lapse", v.patient, alg=alg)
    else:
        yield Lapse(alg=alg, reason=reason)


# -- the public documents: who is known --------------------------------------------------------------------------


def _restored(v: View) -> Iterator[Finding]:
    for document in v.documents:
        seen = v.seen(document)
        lost = [
            key
            for key in v.ring.keys
            if key.standby
            and document.shows(key.alg)
            and not holds(document, key, seen)
            and (document.name in key.published or (key.founding and seen.exists))
        ]
        if lost:
            names = ", ".join(key.name for key in lost)
            yield Unpublish(
                document=document.name,
                keys=tuple(key.id for key in lost),
                alg=lost[0].alg,
                reason=f"{document.path} was found without {names}: caches may hold that copy, the clock starts again",
            )


def _cancel_promotion(v: View) -> Iterator[Finding]:
    for alg, key in v.promoting.items():
        if key.forced or not key.promoting_at or v.observed.pointers.get(alg, key.id) == key.id:
            # Where the pointer names it already there is no way back.
            continue
        opens = gate(v.keyset, key)
        if (opens is None or opens > key.promoting_at) and not v.failed("cancel-promotion", key.id):
            why = "its key is no longer seen in public" if opens is None else "the policy grew and closed its gate"
            yield CancelPromotion(alg=alg, key=key.id, kid=key.kid, reason=why)


def _headers(v: View) -> Iterator[Finding]:
    if v.ring.founded_at is None:
        return
    for document in v.documents:
        facts, seen = v.ring.documents.get(document.name), v.seen(document)
        wanted, content_type = v.policy.cache_control, v.keyset.content_type_of(document.name)
        if stranger(v.ring, document, seen):
            continue
        if facts is None or (facts.cache_control, facts.content_type) != (wanted, content_type):
            yield Serve(document=document.name, cache_control=wanted, reason="the policy's headers changed")
        elif seen.exists and not any(
            served.cache_control == seen.cache_control and served.until is None for served in facts.served
        ):
            yield Serve(
                document=document.name,
                cache_control=seen.cache_control,
                foreign=True,
                reason=f"somebody served {document.path} with Cache-Control {seen.cache_control!r}",
            )
        elif document.name in v.observed.overridden:
            sent = v.observed.overridden[document.name]
            # What a CDN once allowed stays allowed to whoever took it at its word, also after it was mended.
            if not any(served.cache_control == sent and served.until is None for served in facts.served):
                yield Serve(
                    document=document.name,
                    cache_control=sent,
                    foreign=True,
                    reason=f"the CDN serves {document.path} with Cache-Control {sent!r}",
                )


def _found(v: View) -> Iterator[Finding]:
    if v.ring.founded_at is None and not v.observed.unread:
        made = {key.alg for key in v.ring.keys if key.public}
        if made.issuperset(v.policy.algorithms):
            yield Found(reason=f"every algorithm has its first key: {', '.join(v.policy.algorithms)}")


def _publish(v: View) -> Iterator[Finding]:
    if v.ring.founded_at is None:
        return
    for document in v.documents:
        fault = difference(v.ring, document, v.seen(document), v.policy.max_keys)
        if fault and (theirs := stranger(v.ring, document, v.seen(document))):
            yield Wait("publish", f"{document.path} {theirs}")
        elif fault and not v.failed("publish", document.name):
            yield Publish(document=document.name, reason=f"{document.path}: {fault}")


def _activate(v: View) -> Iterator[Finding]:
    for alg, key in v.promoting.items():
        ready = key.published_at and alg in v.observed.pointers and (key.forced or not v.blind(alg))
        if ready and not (v.failed("activate", key.id) or v.failed("cancel-promotion", key.id)):
            yield Activate(alg=alg, key=key.id, kid=key.kid, reason="its promotion is under way")


def _invalidate(v: View) -> Iterator[Finding]:
    for document in v.documents:
        facts = v.ring.documents.get(document.name)
        # While the origin still holds the revoked key, a CDN would only fetch it again.
        failed = v.failed("invalidate", document.name) or v.failed("publish", document.name)
        if facts and facts.invalidate_due and not failed:
            yield Invalidate(document=document.name, reason="a revoked key may stand in the CDN's copies")


def _note_gone(v: View) -> Iterator[Finding]:
    for key in v.ring.keys:
        if key.revoked_at is None or key.kid is None:
            continue
        for document in v.keyset.documents_of(key.alg):
            if document.name in key.gone or document.name in v.observed.unread or v.failed("publish", document.name):
                continue
            if v.failed("note-gone", document.name):
                why = v.observed.unseen.get(document.name, f"{document.path} could not be looked at")
                yield Wait("note-gone", why, alg=key.alg, kid=key.kid)
            else:
                yield NoteGone(
                    document=document.name,
                    alg=key.alg,
                    key=key.id,
                    kid=key.kid,
                    reason=f"whether {document.path} still shows it decides when the revoke ends",
                )


# -- the life of a key -------------------------------------------------------------------------------------------


def _create(v: View) -> Iterator[Finding]:
    for key in v.ring.keys:
        if key.created_at or key.withdrawn_at or v.failed("create", key.id):
            continue
        if not v.traits.attempt_pause or key.attempt in v.observed.attempts:
            yield Create(alg=key.alg, key=key.id, reason="it was intended and is not made yet")
            continue
        at = key.attempted_at + v.traits.attempt_pause
        if v.now < at:
            yield Wait("attempt", "another attempt to create it may be under way", at, key.alg)
        elif v.patient:
            yield Wait("attempt", v.patient, alg=key.alg)
        elif _may_create(v, key.alg):
            yield Attempt(alg=key.alg, key=key.id, reason="the last attempt to create it did not end")
        else:
            yield _creations_spent(v, key.alg)


def _note_published(v: View) -> Iterator[Finding]:
    for document in v.keyset.written:
        seen = v.seen(document)
        fresh = [
            key
            for key in v.ring.keys
            if key.standby and document.shows(key.alg) and holds(document, key, seen) and _unseen(v, key, document)
        ]
        if not fresh or stranger(v.ring, document, seen) or v.failed("note-published", document.name):
            continue
        # Where nobody may sign after a revoke, a clock that is off does not delay the first key that is seen.
        patient = None if any(key.forced or v.ring.succession(key.alg).forced_at for key in fresh) else v.patient
        if patient or document.name in v.observed.unseen:
            reason = patient or v.observed.unseen[document.name]
            yield from (Wait("note-published", reason, alg=key.alg, kid=key.kid) for key in fresh)
        else:
            yield NotePublished(
                document=document.name,
                keys=tuple(key.id for key in fresh),
                alg=fresh[0].alg,
                kid=fresh[0].kid,
                reason=f"{document.path} {_shown(document, fresh)}",
            )


def _shown(document: PublicDocument, keys: Sequence[Key]) -> str:
    if document.discovery:
        return f"lists {', '.join(dict.fromkeys(key.alg for key in keys))}"
    return f"holds {', '.join(key.name for key in keys)}"


def _unseen(v: View, key: Key, document: PublicDocument) -> bool:
    if document.name not in key.published:
        return True
    # The last document that lacked it is not configured any more: where it is seen still has to be noted.
    return key.published_at is None and all(other.name in key.published for other in v.keyset.documents_of(key.alg))


def _promote(v: View) -> Iterator[Finding]:
    for alg in v.algorithms:
        succession, current = v.ring.succession(alg), v.current.get(alg)
        if alg in v.promoting or (alg not in v.policy.algorithms and not succession.forced_at):
            continue
        if v.blind(alg):
            continue
        ready = [(at, key) for key in v.ring.of(alg) if key.standby and (at := gate(v.keyset, key))]
        if succession.forced_at:
            # A person revoked the only key that could sign: whatever is in public is better than nothing.
            ready = [(key.published_at, key) for _, key in ready if key.published_at]
        if not ready:
            continue
        opens, key = min(ready, key=lambda pair: (pair[0], pair[1].id))
        due, why = _promotion_due(v, current, succession.rotate_requested_at)
        at = max(opens, due)
        if succession.forced_at or (v.now >= at and not v.patient):
            yield Promote(alg=alg, key=key.id, kid=key.kid, forced=bool(succession.forced_at), reason=why)
        elif v.now >= at:
            yield Wait("promote", v.patient or "", alg=alg, kid=key.kid)
        elif opens >= due:
            yield Wait("promote", f"caches may lack it until then; {why}", at, alg, key.kid)
        else:
            yield Wait("promote", why, at, alg, key.kid)


def _promotion_due(v: View, current: Key | None, requested_at: datetime | None) -> tuple[datetime, str]:
    if current is None or current.activated_at is None:
        return v.ring.created_at, "no key signs yet"
    if requested_at:
        return requested_at, "a person asked to rotate"
    return (
        current.activated_at + v.policy.lifetime,
        f"the current key signs for {text(v.policy.lifetime)}",
    )


def _extend(v: View) -> Iterator[Finding]:
    policy = v.policy
    grown = [
        key
        for key in v.ring.keys
        if (key.exposed or key.promoting)
        and not key.disabled_at
        and not key.revoked_at
        and (
            key.signer_lag < policy.signer_lag
            or key.token_lifetime < policy.token_lifetime
            or key.verifier_leeway < policy.verifier_leeway
            or key.clock_skew < policy.clock_skew
        )
    ]
    if grown:
        yield Extend(
            keys=tuple(key.id for key in grown),
            alg=grown[0].alg,
            reason="signer_lag, token_lifetime, leeway or clock_skew grew",
        )


def _disable(v: View) -> Iterator[Finding]:
    for key in v.ring.keys:
        if key.disabled_at or key.created_at is None or v.failed("disable", key.id):
            continue
        if key.revoked_at:
            yield Disable(alg=key.alg, key=key.id, kid=key.kid, reason="it is revoked")
        elif key.superseded_at and v.pointer_is_right(key.alg):
            at = stop_at(v.policy, key, key.superseded_at)
            if v.now < at:
                yield Wait("disable", "issuers may still sign with it", at, key.alg, key.kid)
            elif v.patient:
                yield Wait("disable", v.patient, alg=key.alg, kid=key.kid)
            else:
                yield Disable(alg=key.alg, key=key.id, kid=key.kid, reason="no issuer signs with it any more")


def _withdraw(v: View) -> Iterator[Finding]:
    for key in v.ring.keys:
        if key.withdrawn_at or key.revoked_at or key.created_at is None:
            continue
        if key.superseded_at and not key.disabled_at:
            continue
        if not key.superseded_at:
            orphaned = (
                key.standby and not key.promoting and key.alg not in v.policy.algorithms and key.alg not in v.current
            )
            if orphaned and not v.ring.succession(key.alg).forced_at and v.pointer_is_right(key.alg):
                yield Withdraw(alg=key.alg, key=key.id, kid=key.kid, reason="its algorithm ended before it signed")
            continue
        at = withdraw_at(v.policy, key, key.superseded_at)
        if v.now < at:
            yield Wait("withdraw", "tokens it signed may be alive", at, key.alg, key.kid)
        elif v.patient or not v.pointer_is_right(key.alg):
            yield Wait("withdraw", v.patient or "the pointer is moving", alg=key.alg, kid=key.kid)
        else:
            yield Withdraw(alg=key.alg, key=key.id, kid=key.kid, reason="every token it signed has ended")


def _destroy(v: View) -> Iterator[Finding]:
    for key in v.ring.keys:
        if key.destroyed_at or not (key.withdrawn_at or key.revoked_at) or v.failed("destroy", key.id):
            continue
        if v.blind(key.alg) or not v.pointer_is_right(key.alg):
            continue
        documents = v.keyset.documents_of(key.alg)
        if key.revoked_at and not all(document.name in key.gone for document in documents):
            continue
        if all(key.kid not in v.seen(document).kids() for document in documents):
            yield Destroy(alg=key.alg, key=key.id, kid=key.kid, reason="its public half is gone")


def _forget(v: View) -> Iterator[Finding]:
    # Also of an algorithm that ended altogether.
    for alg in dict.fromkeys(key.alg for key in v.ring.keys):
        gone = sorted((at, key.id) for key in v.ring.of(alg) if (at := key.destroyed_at))
        if len(gone) > RETIRED_SHOWN:
            old = tuple(key_id for _, key_id in gone[:-RETIRED_SHOWN])
            yield Forget(alg=alg, keys=old, reason=f"{RETIRED_SHOWN} destroyed keys stay in sight")


def _intend(v: View) -> Iterator[Finding]:
    for alg in v.policy.algorithms:
        if any(key.standby for key in v.ring.of(alg)):
            continue
        alive = sum(key.standby or key.public for key in v.ring.keys)
        strangers = max((len(foreign(v.ring, v.seen(document))) for document in v.keyset.documents_of(alg)), default=0)
        if alive + strangers >= v.policy.max_keys:
            beside = f", {strangers} of them not ours" if strangers else ""
            reason = f"{alive + strangers} keys are public{beside} and max_keys is {v.policy.max_keys}"
            yield Wait("intend", reason, alg=alg)
        elif not _may_create(v, alg):
            yield _creations_spent(v, alg)
        else:
            yield Intend(alg=alg, reason="no next key stands by" if alg in v.current else "no key signs yet")


def _sweep(v: View) -> Iterator[Finding]:
    if not v.traits.leaves_strays or v.failed("sweep", ""):
        return
    at = (v.ring.swept_at or v.ring.created_at) + SWEEP_EVERY
    if v.now < at:
        yield Wait("sweep", "keys that no ledger knows are looked for now and then", at)
    elif not v.patient:
        yield Sweep(reason="a crash may have left keys in the key store that no ledger knows")


def _may_create(v: View, alg: str) -> bool:
    return creatable_at(v.ring, v.policy, emergency=_emergency(v, alg)) <= v.now


def _emergency(v: View, alg: str) -> bool:
    return v.ring.succession(alg).forced_at is not None


def _creations_spent(v: View, alg: str) -> Wait:
    cap = creations(v.policy, emergency=_emergency(v, alg))
    reason = f"{cap} creations are recorded within a day (max_creations_per_day)"
    return Wait("intend", reason, creatable_at(v.ring, v.policy, emergency=_emergency(v, alg)), alg)


def _naming(v: View, key_id: str | None) -> str:
    if key_id is None:
        return "no key"
    key = v.ring.key(key_id)
    return f"{key.name} ({key.stage})" if key else f"a key retired long ago (intent {key_id})"


RULES: tuple[Rule, ...] = (
    _ledger_explains_the_world,
    _fence,
    _pointer,
    _astray,
    _end_succession,
    _restored,
    _cancel_promotion,
    _headers,
    _found,
    _activate,
    _publish,
    _disable,
    _invalidate,
    _note_gone,
    _create,
    _note_published,
    _promote,
    _extend,
    _withdraw,
    _destroy,
    _forget,
    _intend,
    _sweep,
)
