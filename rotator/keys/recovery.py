"""A lost ledger, rebuilt from what is left: the public documents, the pointers, and the keys in the key store.

Wherever the truth is lost, the careful answer is taken: it costs time or a key, never a token.

* The key that the pointer names is current.
* Every other published key whose private half is found may have signed until now: it is previous, and its full
  retention starts again. It is next only where the key store can prove that the pointer never named it.
* A published key without a private half is foreign: it stays until ``rotator drop``. No published key leaves.
* A key that is not published is not taken in: it may be retired or revoked, and no such key ever comes back.
* Every gate starts again. A worker that stalled with the lost ledger in hand is fenced.

What only the lost ledger knew is gone: a person's requests, kids that were revoked or retired. An older ledger, where
one is left, is asked for these.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rotator.errors import ConfigurationError, Refused
from rotator.keys import facts
from rotator.keys.algorithms import ALGORITHMS
from rotator.keys.jwks import Jwk, adopted_id, kid_of, public_jwk, public_members, without_private
from rotator.keys.keyring import Event, Key, Keyring, Retired, Stage
from rotator.keys.material import unb64u
from rotator.keys.publication import called, foreign

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from rotator.keys.policy import KeySet
    from rotator.keys.publication import Seen

#: How far the revision jumps: whoever stalled with the lost ledger may have been some revisions ahead of all that is
#: left, and what they still write must not look newer than the ledger.
LEAP = 1_000

_REVOKED = "said to be revoked when the ledger was recovered"


@dataclass(frozen=True, slots=True)
class Found:
    """A key that the key store holds, with its public half."""

    id: str
    """Its intent id."""
    alg: str | None
    """The algorithm it was made for; ``None``: the store does not know."""
    handle: str
    spki: bytes
    ledger_id: str | None = None
    """The ledger it was made for, where the store remembers that."""
    created_at: datetime | None = None
    unsigned: bool = False
    """It is proven that the pointer never named it."""


@dataclass(frozen=True, slots=True)
class Line:
    """What becomes of one key, and why: for a person to judge."""

    key: str
    """Its kid, or its handle where it has no part in the ledger."""
    alg: str
    becomes: str
    """Its stage in the ledger; ``foreign``, ``left out`` or ``remembered``."""
    why: str


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A ledger that follows from the world, with what is said of each key, and what a person must know."""

    ring: Keyring
    lines: tuple[Line, ...]
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Remains:
    """What is left, matched: which published key is which found one."""

    published: dict[str, Jwk] = field(default_factory=dict)
    matched: dict[str, tuple[Found, str]] = field(default_factory=dict)
    """kid → the found key and its algorithm."""

    def of(self, key_id: str) -> str | None:
        """The kid of the matched key with this intent id."""
        return next((kid for kid, (found, _) in self.matched.items() if found.id == key_id), None)


def rebuild(  # noqa: PLR0913 - what is left, piece by piece
    keyset: KeySet,
    now: datetime,
    *,
    documents: Mapping[str, Seen],
    pointers: Mapping[str, str | None],
    found: Sequence[Found],
    ledger_id: str,
    in_tokens: Mapping[str, str] | None = None,
    older: Keyring | None = None,
    revoked: Collection[str] = (),
) -> Rebuilt:
    """The ledger of ``keyset`` that follows from what is left.

    ``ledger_id`` names it where nothing remembers the lost one's; ``in_tokens`` are the kids that issuers put into
    tokens now, by algorithm; ``older`` is a ledger that is older than the world;
    ``revoked`` are kids of which a person says that they must never come back.

    Raises:
        Refused: which keys verifiers trust cannot be known.
    """
    _refuse_unreadable(keyset, documents, pointers)
    named = {key_id: alg for alg, key_id in pointers.items() if key_id}
    found = [replace(each, alg=each.alg or named.get(each.id)) for each in found]
    remains = _match(keyset, documents, named, found)
    lines, warnings = [], []
    keys: list[Key] = []
    lost: list[Retired] = []

    def made(each: Found, alg: str, jwk: Jwk) -> tuple[Key, Key | None]:
        before = older.by_kid(jwk["kid"]) if older else None
        return _key(each, alg, jwk, before, now), before

    for key_id, alg in named.items():
        kid = remains.of(key_id)
        hidden = next((each for each in found if (each.id, each.alg) == (key_id, alg)), None)
        if kid is not None:
            key, before = made(*remains.matched[kid], remains.published[kid])
            keys.append(_signing(key, keyset, before, now))
            lines.append(Line(kid, alg, Stage.CURRENT, "the pointer names it"))
        elif hidden is not None:
            key, before = made(hidden, alg, _hidden_jwk(hidden, alg, keyset, (in_tokens or {}).get(alg)))
            keys.append(replace(_signing(key, keyset, before, now), forced=True))
            lines.append(Line(key.name, alg, Stage.CURRENT, "the pointer names it; it is not public, and will be"))
            warnings.append(
                f"{key.name} signs and is in no public document: verifiers reject its tokens until it is published"
                " and every cache holds it."
            )
        else:
            lost.append(Retired(key_id, "", alg, now))
            warnings.append(
                f"The {alg} pointer names a key (intent {key_id}) that the key store does not hold: nothing can sign"
                " with it. The next tick clears that pointer, and a new key signs once its gate is open."
            )
    for kid, (each, alg) in remains.matched.items():
        if any(key.kid == kid for key in keys):
            continue
        key, _ = made(each, alg, remains.published[kid])
        if each.unsigned:
            keys.append(key)
            lines.append(Line(kid, alg, Stage.NEXT, "the pointer never named it; its gate starts again"))
        else:
            shown = [name for name, seen in documents.items() if kid in seen.kids()]
            keys.append(replace(_seen(key, shown, now), activated_at=key.created_at, superseded_at=now))
            lines.append(Line(kid, alg, Stage.PREVIOUS, "it may have signed until now: full retention starts again"))
    waiting = {alg for each, alg in remains.matched.values() if not each.unsigned} - set(named.values())
    warnings += [
        f"The pointer names no {alg} key, so none is current: issuers get none until a new key was made and its gate is"
        " open. Where the pointer was lost with the ledger, bring its newest version back first, and begin again."
        for alg in sorted(waiting)
    ]
    ring = Keyring(
        keyset=keyset.name,
        ledger_id=_ledger_id(keys, found, older) or ledger_id,
        created_at=older.created_at if older else now,
        founded_at=now,
        keys=tuple(keys),
        dropped=dict(older.dropped) if older else {},
        swept_at=now,
    )
    for document in keyset.documents:
        ring = facts.served(ring, keyset, document.name, keyset.policy.cache_control)
        seen = documents[document.name]
        if seen.exists:
            ring = facts.served(ring, keyset, document.name, seen.cache_control, foreign=True)
    ring = facts.extended(ring, keyset.policy, [key.id for key in keys if key.exposed])
    ring = replace(ring, retired=(*lost, *_gone(ring, remains, older)))
    ring = revoke(ring, keyset, {*revoked, *_revoked_before(older)}, now)
    ring = _fenced(ring)
    ring = ring.with_event(Event(now, "recover", "the ledger was lost and is rebuilt from what was left"))
    lines = [_as_revoked(line, ring) for line in lines]
    lines += _others(ring, documents, found)
    return Rebuilt(ring, tuple(lines), tuple(warnings))


def revoke(ring: Keyring, keyset: KeySet, kids: Collection[str], now: datetime) -> Keyring:
    """``ring`` with every one of ``kids`` revoked, or remembered as such where it does not know it."""
    for kid in sorted(kids):
        key = ring.by_kid(kid)
        if key is not None and not key.withdrawn_at:
            ring = facts.revoked(ring, keyset, kid, _REVOKED, now)
        else:
            others = tuple(gone for gone in ring.retired if gone.kid != kid)
            same = next((gone for gone in ring.retired if gone.kid == kid), Retired("", kid, "", now))
            ring = replace(ring, retired=(*others, replace(same, revoked=True)))
    return ring


def changes(before: Keyring, after: Keyring) -> Iterator[str]:
    """How two ledgers differ, key by key, in words."""
    for key in after.keys:
        was = before.key(key.id)
        if was is None:
            yield f"{key.name}: unknown before, now {key.stage}"
        elif was.stage is not key.stage:
            yield f"{key.name}: {was.stage} before, now {key.stage}"
    for key in before.keys:
        if after.key(key.id) is None:
            yield f"{key.name}: {key.stage} before, {_without(after, key)}"


def _without(after: Keyring, key: Key) -> str:
    if key.kid is None:
        return "forgotten: it was never made"
    return "remembered as gone" if key.kid in after.spent_kids() else "foreign now"


# -- matching ----------------------------------------------------------------------------------------------------


def _refuse_unreadable(keyset: KeySet, documents: Mapping[str, Seen], pointers: Mapping[str, str | None]) -> None:
    for document in keyset.documents:
        if documents[document.name].exists and documents[document.name].jwks is None:
            raise Refused(
                f"Key set {keyset.name}: what stands at {document.path} is not a JWKS, so nobody knows which keys"
                " verifiers trust. Nothing was changed. Put the newest good copy of it back first (object versions, the"
                " CDN, a verifier's cache), then run 'rotator recover' again."
            )
    for alg, key_id in pointers.items():
        shown = keyset.documents_of(alg)
        if key_id is not None and not any(documents[document.name].exists for document in shown):
            raise Refused(
                f"Key set {keyset.name}: issuers sign with {alg}, but the public document is missing"
                f" ({', '.join(document.path for document in shown)}), so nobody knows which keys verifiers trust."
                " Nothing was changed. Put the newest copy of it back first (object versions, the CDN, a verifier's"
                " cache; where nothing is left of it, {\"keys\": []}), then run 'rotator recover' again."
            )


def _match(keyset: KeySet, documents: Mapping[str, Seen], named: Collection[str], found: Sequence[Found]) -> _Remains:
    remains = _Remains()
    for document in keyset.documents:
        seen = documents[document.name].jwks
        for jwk in seen.keys if seen else ():
            public = without_private(jwk)
            if public is not None and isinstance(kid := public.get("kid"), str):
                remains.published.setdefault(kid, public)
    # Of two copies of one key the one that issuers follow is meant.
    ordered = sorted(found, key=lambda each: each.id not in named)
    taken: set[str] = set()
    for each in ordered:
        fitting = [(kid, alg) for kid, jwk in remains.published.items() if (alg := _signs(each, jwk)) is not None]
        # A kid that follows from the key goes before one that somebody gave it.
        fitting.sort(key=lambda pair: pair[0] not in _kids(each, pair[1]))
        for kid, alg in fitting[:1]:
            if kid not in remains.matched and each.id not in taken:
                remains.matched[kid] = (each, alg)
                taken.add(each.id)
    return remains


def _signs(each: Found, jwk: Jwk) -> str | None:
    """The algorithm in which ``jwk`` is the public half of ``each``; ``None``: it is another key's."""
    alg = each.alg or jwk.get("alg")
    if not isinstance(alg, str) or alg not in ALGORITHMS or jwk.get("alg", alg) != alg:
        return None
    try:
        members = public_members(each.spki, ALGORITHMS[alg])
    except ConfigurationError:
        return None
    return alg if all(_value(jwk.get(name)) == _value(value) for name, value in members.items()) else None


def _value(member: Any) -> Any:
    """What a member of a JWK means: a key that was made elsewhere may be padded, or have zeros in front."""
    try:
        return int.from_bytes(unb64u(member.rstrip("=")), "big")
    except (AttributeError, ValueError):
        return member


def _hidden_jwk(each: Found, alg: str, keyset: KeySet, in_tokens: str | None) -> Jwk:
    """What is published of a key that signs and is not public: under the kid that tokens carry, if it is the key's."""
    row = ALGORITHMS[alg]
    jwk = public_jwk(each.spki, row, keyset.policy.kid)
    # policy.kid may have changed since it was made. Of a key that was made elsewhere any kid may be its own.
    its_own = in_tokens in _kids(each, alg) or each.id == adopted_id(each.spki, row)
    return jwk | {"kid": in_tokens} if in_tokens and its_own else jwk


def _kids(each: Found, alg: str) -> set[str]:
    return {kid_of(each.spki, ALGORITHMS[alg], form) for form in ("thumbprint", "spki-sha256")}


# -- the keys ----------------------------------------------------------------------------------------------------


def _key(each: Found, alg: str, jwk: Jwk, before: Key | None, now: datetime) -> Key:
    made = min(moment for moment in (now, each.created_at, before and before.created_at) if moment)
    key = Key(
        id=each.id,
        alg=alg,
        intended_at=made,
        attempt="",
        attempted_at=made,
        created_at=made,
        kid=jwk["kid"],
        jwk=jwk,
        handle=each.handle,
        adopted=each.id == adopted_id(each.spki, ALGORITHMS[alg]),
    )
    if before is None:
        return key
    # Promises only grow: what was promised while it signed still holds.
    return replace(
        key,
        signer_lag=before.signer_lag,
        token_lifetime=before.token_lifetime,
        verifier_leeway=before.verifier_leeway,
        clock_skew=before.clock_skew,
    )


def _signing(key: Key, keyset: KeySet, before: Key | None, now: datetime) -> Key:
    """``key`` as the one that signs: its tokens are out, so it counts as known everywhere."""
    names = [document.name for document in keyset.documents_of(key.alg)]
    return replace(_seen(key, names, now), activated_at=(before and before.activated_at) or key.created_at)


def _seen(key: Key, names: Iterable[str], now: datetime) -> Key:
    """``key`` as one that signed: no gate waits for it, and a discovery document goes on listing its algorithm."""
    there = dict.fromkeys(names, now)
    return replace(key, published=there, ready=dict(there), published_at=now)


def _ledger_id(keys: Sequence[Key], found: Sequence[Found], older: Keyring | None) -> str | None:
    """The id of the lost ledger: its upkeep must go on finding the keys that it made."""
    if older:
        return older.ledger_id
    ours = {key.handle for key in keys}
    named = Counter(each.ledger_id for each in found if each.ledger_id and each.handle in ours)
    return named.most_common(1)[0][0] if named else None


def _gone(ring: Keyring, remains: _Remains, older: Keyring | None) -> Iterator[Retired]:
    """Keys that an older ledger knew and that are public no more: they never come back."""
    if older is None:
        return
    alive = remains.published.keys() | {key.kid for key in ring.keys}
    ids = {key.id for key in ring.keys}
    yield from (gone for gone in older.retired if gone.kid not in alive and gone.id not in ids)
    for key in older.keys:
        if key.kid and key.kid not in alive and key.id not in ids:
            yield Retired(key.id, key.kid, key.alg, key.destroyed_at or key.intended_at, revoked=bool(key.revoked_at))


def _revoked_before(older: Keyring | None) -> set[str]:
    if older is None:
        return set()
    kids = {gone.kid for gone in older.retired if gone.revoked}
    return kids | {key.kid for key in older.keys if key.kid and key.revoked_at}


def _fenced(ring: Keyring) -> Keyring:
    """One key of each succession asks for a fence: a move of the pointer that began before must fail."""
    stale = {key.alg: key.id for key in ring.keys if key.exposed and key.stage is not Stage.CURRENT}
    return ring.with_keys(stale.values(), lambda key: replace(key, fence_due=True))


def _as_revoked(line: Line, ring: Keyring) -> Line:
    key = ring.by_kid(line.key)
    return replace(line, becomes=Stage.REVOKED, why=_REVOKED) if key and key.revoked_at else line


def _others(ring: Keyring, documents: Mapping[str, Seen], found: Sequence[Found]) -> Iterator[Line]:
    """What is public or in the key store and not among the ledger's keys."""
    strangers = {called(jwk): jwk for seen in documents.values() for jwk in foreign(ring, seen)}
    for name, jwk in strangers.items():
        yield Line(name, str(jwk.get("alg", "")), "foreign", "no private half is found: it stays until 'rotator drop'")
    ours = {key.handle for key in ring.keys}
    for each in found:
        if each.handle not in ours:
            why = "it is not public: retired, revoked, or never used. It never signs again"
            yield Line(each.handle, each.alg or "", "left out", why)
    for gone in ring.retired:
        if gone.kid:
            whose = "" if gone.id else ", though no key here has this kid"
            yield Line(gone.kid, gone.alg, "remembered", f"revoked{whose}" if gone.revoked else "it never comes back")
