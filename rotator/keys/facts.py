"""What each step and each request of a person changes in the ledger: pure functions from keyring to keyring.

``now`` is the clock as read after the effect (for facts that permit) or before it (for facts that forbid).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from rotator.errors import Refused
from rotator.keys.keyring import REMEMBERED, DocumentFacts, Key, Keyring, Retired, Served, Stage
from rotator.keys.plan import gate
from rotator.keys.policy import KeySet, Policy, PublicDocument, staleness_of, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from rotator.keys.jwks import Jwk

_DAY = timedelta(days=1)


# -- making a key ------------------------------------------------------------------------------------------------


def intended(ring: Keyring, alg: str, key_id: str, attempt: str, now: datetime) -> Keyring:
    """A key shall be made; its first attempt is recorded with it."""
    key = Key(id=key_id, alg=alg, intended_at=now, attempt=attempt, attempted_at=now)
    return _counted(replace(ring, keys=(*ring.keys, key)), now)


def attempted(ring: Keyring, key_id: str, attempt: str, now: datetime) -> Keyring:
    """Another attempt to create it is about to be made."""
    return _counted(ring.with_key(key_id, attempt=attempt, attempted_at=now), now)


def _counted(ring: Keyring, now: datetime) -> Keyring:
    return replace(ring, attempts=(*(at for at in ring.attempts if now - at < _DAY), now))


def created(ring: Keyring, key_id: str, jwk: Jwk, handle: str, now: datetime) -> Keyring:
    """The private half exists in the store.

    Raises:
        Refused: its kid was used before: no key ever comes back.
    """
    kid = jwk["kid"]
    if ring.by_kid(kid) or kid in ring.spent_kids():
        raise Refused(
            f"Key set {ring.keyset}: the new {jwk['alg']} key has kid {kid}, which was used before."
            " Nothing was published. Look for a copied key store."
        )
    return ring.with_key(key_id, created_at=now, kid=kid, jwk=jwk, handle=handle)


# -- public documents --------------------------------------------------------------------------------------------


def founded(ring: Keyring, keyset: KeySet, now: datetime) -> Keyring:
    """The first public document is about to be written, with every key there is."""
    ring = replace(ring, founded_at=now).with_keys(
        (key.id for key in ring.keys if key.public), lambda key: replace(key, founding=True)
    )
    for document in keyset.written:
        ring = served(ring, keyset, document.name, keyset.policy.cache_control)
    return ring


def served(
    ring: Keyring, keyset: KeySet, document: str, cache_control: str | None, *, foreign: bool = False
) -> Keyring:
    """Copies of ``document`` go out with ``cache_control`` from now on; ``foreign``: somebody else sent it so."""
    policy, content_type = keyset.policy, keyset.content_type_of(document)
    facts = ring.documents.get(document) or DocumentFacts(policy.cache_control, content_type)
    open_now = [entry for entry in facts.served if entry.until is None and entry.cache_control == cache_control]
    if not open_now:
        entry = Served(cache_control, staleness_of(cache_control, policy.cache_tiers), foreign=foreign)
        facts = replace(facts, served=(*facts.served, entry))
    if not foreign:
        facts = replace(facts, cache_control=policy.cache_control, content_type=content_type)
    return ring.with_document(document, facts)


def published(
    ring: Keyring, keyset: KeySet, document: PublicDocument, key_ids: Iterable[str], now: datetime
) -> Keyring:
    """The keys were seen wherever ``document`` is served: their clocks start.

    Every copy that lacks them was replaced by now, and ages out under the headers that *it* was served with.
    """
    policy, facts = keyset.policy, ring.documents[document.name]
    closed = tuple(
        replace(entry, until=now + max(entry.staleness, staleness_of(entry.cache_control, policy.cache_tiers)))
        if entry.until is None and entry.cache_control != facts.cache_control
        else entry
        for entry in facts.served
        if entry.until is None or entry.until > now
    )
    lacking_until = max(
        (entry.until or now + max(entry.staleness, policy.staleness) for entry in closed),
        default=now + policy.staleness,
    )
    promise = max(now + policy.prepublish, lacking_until + policy.verifier_cache + 2 * policy.clock_skew)

    def note(key: Key) -> Key:
        seen: Mapping[str, datetime] = {**key.published, document.name: now}
        everywhere = all(other.name in seen for other in keyset.documents_of(key.alg))
        return replace(
            key,
            published=seen,
            ready={**key.ready, document.name: promise},
            lacking={**key.lacking, document.name: lacking_until},
            published_at=(key.published_at or now) if everywhere else None,
        )

    return ring.with_document(document.name, replace(facts, served=closed)).with_keys(key_ids, note)


def unpublished(ring: Keyring, document: str, key_ids: Iterable[str]) -> Keyring:
    """The document was found without these keys: what was promised of them is void."""
    return ring.with_keys(
        key_ids,
        lambda key: replace(
            key,
            published={name: at for name, at in key.published.items() if name != document},
            ready={name: at for name, at in key.ready.items() if name != document},
            lacking={name: at for name, at in key.lacking.items() if name != document},
            published_at=None,
            founding=False,
        ),
    )


def reappeared(ring: Keyring, document: str, kids: set[str]) -> Keyring:
    """``document`` was found with these kids: of revoked keys among them it is asked anew whether they are gone."""
    back = [key.id for key in ring.keys if key.revoked_at and key.kid in kids and document in key.gone]
    if not back:
        return ring
    ring = ring.with_document(document, replace(ring.documents[document], invalidate_due=True))
    return ring.with_keys(
        back, lambda key: replace(key, gone={name: at for name, at in key.gone.items() if name != document})
    )


def invalidated(ring: Keyring, document: str) -> Keyring:
    """The CDN was told of a revoke, after the document was written for it."""
    return ring.with_document(document, replace(ring.documents[document], invalidate_due=False, least_revision=0))


def gone(ring: Keyring, key_id: str, document: str, now: datetime) -> Keyring:
    """A revoked key is gone from every URL of ``document``."""
    return ring.with_keys((key_id,), lambda key: replace(key, gone={**key.gone, document: now}))


# -- signing -----------------------------------------------------------------------------------------------------


def promoting(ring: Keyring, policy: Policy, key_id: str, now: datetime, *, forced: bool) -> Keyring:
    """The pointer is about to move to this key: every worker rolls it forward from here."""
    return ring.with_keys((key_id,), lambda key: replace(_promised(key, policy), promoting_at=now, forced=forced))


def activated(ring: Keyring, policy: Policy, key_id: str, strayed: str | None, now: datetime) -> Keyring:
    """The pointer names this key; ``strayed`` is what it named before."""
    alg = next(key.alg for key in ring.keys if key.id == key_id)
    before = {key.id for key in ring.of(alg) if key.activated_at and not key.superseded_at}
    ring = superseded(ring, policy, before | ({strayed} if strayed else set()), now)
    ring = ring.with_keys(
        (key_id,),
        lambda key: replace(_promised(key, policy), activated_at=now, superseded_at=None, astray=False),
    )
    return ring.with_succession(alg, rotate_requested_at=None, forced_at=None)


def astray(ring: Keyring, key_id: str | None) -> Keyring:
    """The pointer names this key, though it is not its turn, and is about to be led away from it.

    A worker that is killed in between leaves a pointer that is right: without this fact nobody would know until when
    issuers were led to the key. Nothing changes where the ledger tells as much already, or where nothing is kept.
    """
    key = ring.key(key_id) if key_id else None
    if key is None or key.withdrawn_at or key.revoked_at or key.stage is Stage.CURRENT:
        return ring
    return ring.with_key(key.id, astray=True)


def superseded(ring: Keyring, policy: Policy, key_ids: Iterable[str], now: datetime) -> Keyring:
    """The pointer does not name these keys any more; it may have done so until ``now``."""

    def note(key: Key) -> Key:
        if key.withdrawn_at:
            return replace(key, astray=False)
        # A key that issuers were led to out of turn has no promises of its own: those of the keys of its time hold,
        # though the policy may have shrunk since.
        others = () if key.activated_at else [other for other in ring.of(key.alg) if other.exposed and other.public]
        return replace(_promised(key, policy, *others), superseded_at=now, astray=False)

    return ring.with_keys(key_ids, note)


def extended(ring: Keyring, policy: Policy, key_ids: Iterable[str]) -> Keyring:
    """Keys that may sign under a policy that grew remember the larger promises."""
    return ring.with_keys(key_ids, lambda key: _promised(key, policy))


def _promised(key: Key, *promises: Policy | Key) -> Key:
    return replace(
        key,
        signer_lag=max(each.signer_lag for each in (key, *promises)),
        token_lifetime=max(each.token_lifetime for each in (key, *promises)),
        verifier_leeway=max(each.verifier_leeway for each in (key, *promises)),
        clock_skew=max(each.clock_skew for each in (key, *promises)),
    )


def ended(ring: Keyring, policy: Policy, alg: str, strayed: str | None, now: datetime) -> Keyring:
    """The pointer of ``alg`` names no key any more, because a person ended the succession."""
    exposed = {key.id for key in ring.of(alg) if key.promoting or (key.activated_at and not key.superseded_at)}
    ring = superseded(ring, policy, exposed | ({strayed} if strayed else set()), now)
    return ring.with_succession(alg, retire_requested_at=None, rotate_requested_at=None, forced_at=None)


def forgotten(ring: Keyring, key_ids: Iterable[str]) -> Keyring:
    """Keys long destroyed leave; their kids and ids are remembered."""
    chosen = set(key_ids)
    left = [
        Retired(key.id, key.kid or "", key.alg, key.destroyed_at or key.intended_at, revoked=bool(key.revoked_at))
        for key in ring.keys
        if key.id in chosen
    ]
    remembered = (*ring.retired, *left)
    spare = max(0, len(remembered) - REMEMBERED)
    return replace(
        ring,
        keys=tuple(key for key in ring.keys if key.id not in chosen),
        retired=tuple(entry for n, entry in enumerate(remembered) if n >= spare or entry.revoked),
    )


# -- what a person may ask ---------------------------------------------------------------------------------------


def rotate_requested(ring: Keyring, keyset: KeySet, alg: str, now: datetime) -> Keyring:
    """``alg`` shall rotate before its time.

    Raises:
        Refused: no key may take over yet; the message says until when.
    """
    where = f"Key set {keyset.name}, {alg}"
    if alg not in keyset.policy.algorithms:
        raise Refused(f"{where}: the configuration does not name this algorithm, so it does not rotate.")
    if ring.current(alg) is None:
        raise Refused(f"{where}: no key signs yet; the first promotion comes by itself ('rotator plan' says when).")
    opens = [at for key in ring.of(alg) if key.standby and (at := gate(keyset, key))]
    if not opens:
        raise Refused(f"{where}: no next key was seen in public yet. Run 'rotator tick', then try again.")
    if min(opens) > now:
        raise Refused(
            f"{where}: caches may lack the next key until {min(opens):%Y-%m-%d %H:%M:%S}Z"
            f" (in {text(timedelta(seconds=int((min(opens) - now).total_seconds())))}). Nothing was changed."
            " If the current key is compromised, use 'rotator revoke'."
        )
    return ring.with_succession(alg, rotate_requested_at=now)


def retire_requested(ring: Keyring, keyset: KeySet, alg: str, now: datetime) -> Keyring:
    """The succession of ``alg`` shall end.

    Raises:
        Refused: the configuration still names it, or there is no such succession.
    """
    where = f"Key set {keyset.name}, {alg}"
    if alg in keyset.policy.algorithms:
        raise Refused(f"{where}: the configuration still names it. Take it out of 'algorithms' everywhere first.")
    if not any(key.destroyed_at is None for key in ring.of(alg)):
        raise Refused(f"{where}: there is no key of this algorithm. Nothing to retire.")
    return ring.with_succession(alg, retire_requested_at=now)


def dropped(ring: Keyring, keyset: KeySet, kid: str, now: datetime) -> Keyring:
    """A foreign key shall leave the public documents.

    Raises:
        Refused: the key is ours.
    """
    if ring.by_kid(kid):
        raise Refused(f"Key set {keyset.name}: {kid} is one of its own keys. Use 'rotator revoke' for those.")
    return replace(ring, dropped={**ring.dropped, kid: now})


def revoked(ring: Keyring, keyset: KeySet, kid: str, reason: str, now: datetime) -> Keyring:
    """The key must not be trusted any more: from this fact on everything is planned until it is gone.

    If it signed, or was about to in an emergency, the oldest key seen in public takes over at once, ready or not.
    A second call changes nothing.

    Raises:
        Refused: no key of this kid is public.
    """
    key = revocable(ring, keyset, kid)
    if key.revoked_at:
        return ring
    current, under_way = ring.current(key.alg), ring.promoting(key.alg)
    ring = ring.with_key(key.id, revoked_at=now, revoke_reason=reason, fence_due=under_way == key)
    for document in keyset.documents_of(key.alg):
        if document.name in ring.documents:
            # The write that records this makes the next revision of the ledger.
            facts = replace(ring.documents[document.name], invalidate_due=True, least_revision=ring.revision + 1)
            ring = ring.with_document(document.name, facts)
    emergency = under_way == key and key.forced
    if current != key and not emergency:
        return ring
    heir = successor(ring, key.alg) if emergency else under_way or successor(ring, key.alg)
    if heir is None:
        return ring.with_succession(key.alg, forced_at=now)
    return promoting(ring, keyset.policy, heir.id, heir.promoting_at or now, forced=True)


def revocable(ring: Keyring, keyset: KeySet, kid: str) -> Key:
    """The key named ``kid``.

    Raises:
        Refused: the ledger knows none, or it left the public documents already.
    """
    key = ring.by_kid(kid)
    if key is None or key.withdrawn_at:
        known = ", ".join(f"{key.kid} ({key.stage})" for key in ring.keys if key.public) or "none"
        what = "retired already" if key else "unknown"
        raise Refused(f"Key set {keyset.name}: kid {kid!r:.80} is {what}. Nothing was changed. Public keys: {known}.")
    return key


def successor(ring: Keyring, alg: str) -> Key | None:
    """The key that takes over if the current one is revoked: the one seen in public for longest."""
    seen = [key for key in ring.of(alg) if key.standby and key.published_at]
    return min(seen, key=lambda key: (key.published_at or key.intended_at, key.id), default=None)
