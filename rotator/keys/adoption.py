"""Taking over a key set that somebody else made: which ledger follows from a public document and private halves.

* The document is taken as it stands: every JWK keeps every member, and its kid. A document that any verifier could
  misread, or that holds private members, is refused whole.
* A published key whose private half was brought along becomes one of ours: *current* if it signs now, else *previous*
  (it may have signed until this moment: full retention from now).
* Every other published key is foreign: it stays, and is never touched, until ``rotator drop``.
* Nothing that was handed out before is forgotten: the next key waits for every copy of the document to age out.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rotator.errors import ConfigurationError, Refused
from rotator.keys import discovery, facts, material
from rotator.keys.algorithms import ALGORITHMS, Algorithm
from rotator.keys.jwks import MAX_BYTES, REVISION_MEMBER, Jwk, adopted_id, is_private, public_members
from rotator.keys.keyring import Event, Key, Keyring
from rotator.keys.publication import called

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from rotator.keys.discovery import Discovery
    from rotator.keys.halves import Half
    from rotator.keys.policy import KeySet, Policy, PublicDocument

#: What an adoption is called in a ledger's history.
STEP = "adopt"

#: The smallest RSA key of a JWS (RFC 7518 section 3.3).
_RSA_BITS = 2048

#: Tokens carry the kid in every header, and people read it in every message.
_KID_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Taken:
    """A published key that becomes one of ours."""

    id: str
    """Its intent id, which follows from the key."""
    algorithm: Algorithm
    jwk: Jwk
    """As it stands in public, and stays."""
    half: Half
    signs: bool
    """Whether it is the current key; else it verifies only."""

    @property
    def kid(self) -> str:
        """Its key ID, as published."""
        kid: str = self.jwk["kid"]
        return kid


# -- the document --------------------------------------------------------------------------------------------------


def published_keys(body: bytes, where: str, max_keys: int) -> tuple[Jwk, ...]:
    """The keys of a public document that may be taken over, each exactly as it stands.

    Raises:
        Refused: verifiers could misread it, or it is no set that rotator can keep whole; the message says why.
    """
    document = _parsed(body, where)
    keys = document["keys"]
    if fault := next(_document_faults(document, keys, max_keys), None):
        raise Refused(f"{where} {fault} Nothing was changed.")
    return tuple(keys)


def lost_members(body: bytes) -> tuple[str, ...]:
    """Members of the set beside ``keys``: they are not of RFC 7517 and do not stand in what rotator writes."""
    return tuple(sorted(json.loads(body).keys() - {"keys"}))


def _parsed(body: bytes, where: str) -> dict[str, Any]:
    if len(body) > MAX_BYTES:
        raise Refused(f"{where} is larger than {MAX_BYTES} bytes: verifiers do not read that. Nothing was changed.")
    try:
        document = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise Refused(
            f"{where} is no JWKS (RFC 7517 section 5): no JSON object with an array 'keys', or with a member named"
            " twice. Nothing was changed."
        )
    return document


def _document_faults(document: Mapping[str, Any], entries: Sequence[Any], max_keys: int) -> Iterator[str]:
    keys: list[Jwk] = [entry for entry in entries if isinstance(entry, dict)]
    private = [called(key) for key in keys if is_private(key)]
    if private:
        yield (
            f"PUBLISHES PRIVATE KEYS: {', '.join(private)}. Whoever fetched it can sign your tokens. These keys are"
            " compromised and cannot be adopted: make new ones, take these out of the document, and rotate everything"
            " that trusted them."
        )
    if REVISION_MEMBER in document:
        yield (
            f"was written by rotator (it has {REVISION_MEMBER}): its ledger was lost, or is elsewhere. Bring the ledger"
            " back ('rotator recover', README 'Lost ledger')."
        )
    if len(keys) < len(entries):
        yield "holds an entry that is no JWK; rotator would not keep it. Mend it first."
    if not keys:
        yield "holds no key: there is nothing to adopt. For a new key set run 'rotator init'."
    kids = [kid for key in keys if isinstance(kid := key.get("kid"), str)]
    twice = sorted({kid for kid in kids if kids.count(kid) > 1})
    if twice:
        yield f"has two keys named {called({'kid': twice[0]})}; many verifiers refuse that. Mend it first."
    nameless = sum(not isinstance(key.get("kid"), str) for key in keys)
    if nameless > 1 and len({json.dumps(key, sort_keys=True) for key in keys}) < len(keys):
        yield "has the same key twice. Mend it first."
    if len(keys) > max_keys:
        yield f"holds {len(keys)} keys; max_keys is {max_keys}. Take out what no token needs, or raise max_keys."


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("duplicate member name")
    return found


def disagreement(one: Sequence[Jwk], other: Sequence[Jwk]) -> str | None:
    """How two copies of a public document differ, in words; ``None``: both hold the same keys, member for member."""
    here, there = ({json.dumps(key, sort_keys=True): called(key) for key in keys} for keys in (one, other))
    if here.keys() == there.keys():
        return None
    lacks = sorted({here[text] for text in here.keys() - there.keys()})
    shows = sorted({there[text] for text in there.keys() - here.keys()})
    words = [f"lacks {', '.join(lacks[:4])}"] if lacks else []
    words += (
        [f"shows {', '.join(shows[:4])} instead" if lacks else f"also shows {', '.join(shows[:4])}"] if shows else []
    )
    return " and ".join(words)


def lost_discovery(body: bytes, wanted: Discovery, ring: Keyring) -> tuple[str, ...]:
    """What a discovery document that stands would lose, or get otherwise, once rotator writes it; more is no loss."""
    found = discovery.parse(body)
    if found is None:
        return ("itself (it is no JSON object)",)
    ours = discovery.parse(discovery.project(ring, wanted) or b"{}") or {}
    algs, theirs = ours.get(discovery.ALGORITHMS_MEMBER, ()), found.pop(discovery.ALGORITHMS_MEMBER, [])
    lost = [f"{str(name)[:60]!r}" for name, value in found.items() if ours.get(name) != value]
    fewer = not isinstance(theirs, list) or any(alg not in algs for alg in theirs)
    return (*sorted(lost), *([repr(discovery.ALGORITHMS_MEMBER)] if fewer else []))


# -- which key becomes what ----------------------------------------------------------------------------------------


def taken(keys: Sequence[Jwk], halves: Sequence[Half], signing: Collection[str], policy: Policy) -> tuple[Taken, ...]:
    """Each published key whose private half is among ``halves``; ``signing`` are the kids that sign now.

    Where one algorithm has one private half, it need not be said which key signs.

    Raises:
        Refused: a half fits no published key, a key cannot be held, or it is not clear which one signs. Every fault
            is named at once.
    """
    faults: list[str] = []
    found: list[Taken] = []
    for half in halves:
        jwk = _published_of(half, keys, faults)
        if jwk is None:
            continue
        unfit = list(_unfit(jwk))
        algorithm = algorithm_of(jwk, policy)
        if isinstance(algorithm, str):
            unfit.append(algorithm)
        elif not unfit:
            found.append(Taken(adopted_id(half.spki, algorithm), algorithm, jwk, half, signs=False))
        if unfit:
            faults.append(
                f"{called(jwk)} ({half.origin}) cannot be one of ours: {'; '.join(unfit)}. Leave its private half out"
                " and it stays published as a foreign key."
            )
    ids = [each.id for each in found]
    faults += [
        f"{each.kid} was given twice ({each.half.origin})." for n, each in enumerate(found) if each.id in ids[:n]
    ]
    faults += [
        f"--current {kid!r:.80} is not among the keys whose private half was given."
        for kid in signing
        if kid not in {each.kid for each in found} and not faults
    ]
    chosen = [
        each
        for alg in dict.fromkeys(each.algorithm.alg for each in found)
        for each in _ordered(alg, found, signing, policy, faults)
    ]
    if faults:
        raise Refused(" ".join([*faults, "Nothing was changed."]))
    return tuple(chosen)


def _ordered(
    alg: str, found: Sequence[Taken], signing: Collection[str], policy: Policy, faults: list[str]
) -> Iterator[Taken]:
    """The keys of one algorithm, the signing one first."""
    mine = [each for each in found if each.algorithm.alg == alg]
    said = [each for each in mine if each.kid in signing]
    if len(said) != 1 and len(mine) > 1:
        names = ", ".join(each.kid for each in mine)
        asked = "names more than one of them" if said else "must say which of them signs now"
        faults.append(f"{alg} has {len(mine)} private halves ({names}): --current {asked}.")
        return
    current = (said or mine)[0]
    if alg not in policy.algorithms:
        faults.append(
            f"{current.kid} signs with {alg}, which the configuration does not name: it would never rotate. Add it to"
            " 'algorithms' (and take it out later, with 'rotator retire')."
        )
    yield replace(current, signs=True)
    yield from (each for each in mine if each is not current)


def _published_of(half: Half, keys: Sequence[Jwk], faults: list[str]) -> Jwk | None:
    """The published key that ``half`` is the private half of."""
    mine = [jwk for jwk in keys if _is_of(half, jwk)]
    if len(mine) > 1:
        mine = [jwk for jwk in mine if half.kid is not None and jwk.get("kid") == half.kid]
        if not mine:
            faults.append(
                f"{half.origin} is the private half of several published keys: give it as a JWK with its kid."
            )
            return None
    if not mine:
        faults.append(
            f"{half.origin} is the private half of no key in the public document. Leave it out, or publish it first."
        )
        return None
    return mine[0]


def _is_of(half: Half, jwk: Jwk) -> bool:
    rows = [row for row in ALGORITHMS.values() if row.kty == jwk.get("kty") and row.crv == jwk.get("crv")]
    for row in rows:
        try:
            mine = public_members(half.spki, row)
        except ConfigurationError:
            continue
        if all(_number(jwk.get(name)) == _number(value) for name, value in mine.items() if name not in _WORDS):
            return True
    return False


_WORDS = {"kty", "crv", "alg"}


def _number(value: Any) -> int | None:
    """The number in a member, however it is written: padded, with zeros in front or without."""
    try:
        return int.from_bytes(material.unb64u(value.rstrip("=").translate({43: "-", 47: "_"})), "big")
    except (AttributeError, TypeError, ValueError):
        return None


def ids_of(half: Half) -> frozenset[str]:
    """Every intent id that ``half`` may have been adopted under: one for each algorithm that can sign with it."""
    found = set()
    for row in ALGORITHMS.values():
        with suppress(ConfigurationError):
            found.add(adopted_id(half.spki, row))
    return frozenset(found)


def algorithm_of(jwk: Jwk, policy: Policy) -> Algorithm | str:
    """What ``jwk`` signs with: the alg it names, or the only one that is configured; else why there is none."""
    fitting = [row for row in ALGORITHMS.values() if row.kty == jwk.get("kty") and row.crv == jwk.get("crv")]
    said = jwk.get("alg")
    if said is not None:
        named = [row for row in fitting if row.alg == said]
        return named[0] if named else f"its alg {str(said)[:20]!r} is none that rotator signs with such a key"
    configured = [row for row in fitting if row.alg in policy.algorithms]
    choices = configured or fitting
    if len(choices) == 1 or (choices and choices[0].kty == "OKP" and not configured):
        return choices[0]
    names = ", ".join(row.alg for row in choices)
    return f"it names no alg, and it could be {names}: configure the one" if choices else "rotator knows no such keys"


def _unfit(jwk: Jwk) -> Iterator[str]:
    kid = jwk.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= _KID_LENGTH or not kid.isprintable():
        yield f"it has no kid that is 1 to {_KID_LENGTH} printable characters"
    if jwk.get("use", "sig") != "sig":
        yield "its use is not sig"
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        yield "its key_ops do not hold verify"
    modulus = _number(jwk.get("n"))
    if jwk.get("kty") == "RSA" and modulus is not None and modulus.bit_length() < _RSA_BITS:
        yield f"its RSA key has {modulus.bit_length()} bits, and RFC 7518 section 3.3 wants {_RSA_BITS}"


# -- the ledger ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shown:
    """A public document as it stands at the moment of adoption."""

    document: PublicDocument
    kids: frozenset[str]
    cache_controls: tuple[str | None, ...]
    """With which headers copies of it may have been handed out; ``None``: with none."""


def adopted(
    keyset: KeySet, ledger_id: str, keys: Sequence[tuple[Taken, str]], shown: Sequence[Shown], now: datetime
) -> Keyring:
    """The first ledger of a key set that stood before, from keys and their handles in the key store.

    It is written last, with the clock as read after every effect. No key in it may be promoted without its gate: the
    set was public before.
    """
    ring = Keyring(keyset=keyset.name, ledger_id=ledger_id, created_at=now, founded_at=now)
    for document in keyset.written:
        ring = facts.served(ring, keyset, document.name, keyset.policy.cache_control)
    for each in shown:
        for cache_control in each.cache_controls:
            ring = facts.served(ring, keyset, each.document.name, cache_control, foreign=True)
    ring = replace(ring, keys=tuple(_key(each, handle, shown, now) for each, handle in keys))
    ring = facts.extended(ring, keyset.policy, [each.id for each, _ in keys])
    names = ", ".join(f"{each.kid} ({'current' if each.signs else 'previous'})" for each, _ in keys)
    return ring.with_event(Event(now, STEP, f"a person brought {names or 'no private half'}"))


def _key(each: Taken, handle: str, shown: Sequence[Shown], now: datetime) -> Key:
    seen = {one.document.name: now for one in shown if each.kid in one.kids}
    return Key(
        id=each.id,
        alg=each.algorithm.alg,
        intended_at=now,
        attempt="",
        attempted_at=now,
        created_at=now,
        kid=each.kid,
        jwk=each.jwk,
        handle=handle,
        adopted=True,
        published=seen,
        ready=dict(seen),
        published_at=now,
        activated_at=now if each.signs else None,
        superseded_at=None if each.signs else now,
    )
