"""What stands in a public document, and what must never be written into one.

A public document is a projection of the ledger: every key that is created and neither withdrawn nor revoked, the
signing keys first. Keys that somebody else put there stand beside ours until the operator says drop. A view shows some
algorithms alone; the discovery document lists them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rotator.errors import Refused
from rotator.keys import discovery
from rotator.keys.jwks import MAX_BYTES, Jwk, PublicSet, is_private, serialize, thumbprint, without_private
from rotator.keys.keyring import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rotator.keys.keyring import Key, Keyring
    from rotator.keys.policy import KeySet, PublicDocument


@dataclass(frozen=True, slots=True)
class Seen:
    """A public document as last observed at its origin."""

    exists: bool = False
    jwks: PublicSet | None = None
    """``None``: nothing there, or something that is no JWKS."""
    cache_control: str | None = None
    content_type: str | None = None
    body: bytes = field(default=b"", compare=False, repr=False)
    """As it stands there: a discovery document is compared whole."""

    def kids(self) -> set[str]:
        """The kids seen, by lenient readers at least."""
        return self.jwks.kids() if self.jwks else set()

    @property
    def fault(self) -> str | None:
        """Why strict readers may see no key in it."""
        return self.jwks.fault if self.jwks else None


def ours(ring: Keyring, document: PublicDocument) -> list[Jwk]:
    """Our keys in ``document``: the signing ones first, then by age; the order is stable."""
    shown = [key for key in ring.keys if key.public and document.shows(key.alg)]
    shown.sort(key=lambda key: (key.stage is not Stage.CURRENT, key.intended_at, key.id))
    return [key.jwk for key in shown if key.jwk]


def foreign(ring: Keyring, seen: Seen) -> list[Jwk]:
    """Keys in the document that the ledger does not know, without private members; kept until dropped."""
    if seen.jwks is None:
        return []
    known = {key.kid for key in ring.keys if key.kid} | ring.spent_kids()
    strangers = []
    for jwk in seen.jwks.keys:
        kid, public = jwk.get("kid"), without_private(jwk)
        # A kid that is no text names nothing; of two strangers with one kid the first stays.
        if public is None or (isinstance(kid, str) and kid in known):
            continue
        if isinstance(kid, str):
            known.add(kid)
        strangers.append(public)
    return strangers


def holds(document: PublicDocument, key: Key, seen: Seen) -> bool:
    """Whether ``document`` as ``seen`` shows ``key`` to every reader: its kid stands there, or its alg is listed."""
    if document.discovery:
        return key.alg in discovery.listed(seen.body, document.discovery)
    return key.kid in seen.kids() and not seen.fault


def older(copy: Seen, origin: Seen, document: PublicDocument, ring: Keyring) -> bool:
    """Whether ``copy``, as a cache hands it out, may come from before ``origin`` was written.

    Such a copy says nothing of what verifiers get from now on: what came in between may be on its way to them yet.
    Somebody in the path may write ``document`` anew, with more in it, or without what he does not know.
    """
    if copy.body == origin.body:
        return False
    if document.discovery:
        return discovery.listed(copy.body, document.discovery) != discovery.listed(origin.body, document.discovery)
    if copy.jwks is None or origin.jwks is None:
        return True
    if copy.jwks.revision is None or origin.jwks.revision is None or copy.jwks.ledger != origin.jwks.ledger:
        known = ring.kids()
        return copy.kids() & known != origin.kids() & known
    return copy.jwks.revision < origin.jwks.revision


def stranger(ring: Keyring, document: PublicDocument, seen: Seen) -> str | None:
    """Why ``document`` is left alone: somebody else's discovery document stands there, and says other things.

    One that this ledger ever wrote is put right instead.
    """
    if document.discovery is None or document.name in ring.documents or not seen.exists:
        return None
    names = discovery.differing(seen.body, discovery.project(ring, document.discovery) or b"")
    # The list of algorithms is ours to say: a ledger that was brought back may know of one more, or less.
    if names is None or set(names) - {discovery.ALGORITHMS_MEMBER}:
        what = f"says other things ({', '.join(map(_shown, names))})" if names else "is no JSON object"
        return (
            f"was there before rotator wrote it, and {what}: take over what it says into 'members' of the discovery"
            " document, or move it away"
        )
    return None


def called(jwk: Jwk) -> str:
    """How to speak of a key that somebody else wrote: its kid, short and printable, or ``?``."""
    kid = jwk.get("kid")
    return _shown(kid) if isinstance(kid, str) else "?"


def _shown(kid: str) -> str:
    return "".join(letter if letter.isprintable() else "�" for letter in kid[:64])


def newer(ring: Keyring, seen: Seen, *, blind: bool = False) -> bool:
    """Whether the document was made from a revision that this ledger has yet to reach.

    Every document says whose ledger it was made from. Of one that names another, or none, the keys tell: one with a key
    of ours is ours. One without was put in the place of ours, and is put right; or our ledger is so old that every key
    has changed since: then the pointers tell, unless they cannot be read (``blind``).
    """
    revision = seen.jwks.revision if seen.jwks else None
    if seen.jwks is None or revision is None or revision <= ring.revision:
        return False
    return blind or seen.jwks.ledger == ring.ledger_id or not seen.kids().isdisjoint(ring.kids())


def project(ring: Keyring, document: PublicDocument, seen: Seen, max_keys: int | None = None) -> list[Jwk]:
    """The keys that ``document`` has to hold.

    Where keys of ours that may have signed are missing from it, or a revoked one stands there, strangers beyond
    ``max_keys`` give way, and those too large for any reader altogether. Nobody gives way to a key that never signed.
    """
    own, strangers = ours(ring, document), foreign(ring, seen)
    if not strangers:
        return own
    there = seen.kids()
    shown = [key for key in ring.keys if document.shows(key.alg)]
    missing = any(key.public and key.exposed and key.kid not in there for key in shown)
    if missing or any(key.revoked_at and key.kid in there for key in shown):
        if max_keys is not None:
            strangers = strangers[: max(0, max_keys - len(own))]
        strangers = strangers if len(serialize(own + strangers, ring.revision, ring.ledger_id)) <= MAX_BYTES else []
    return own + strangers


def difference(ring: Keyring, document: PublicDocument, seen: Seen, max_keys: int | None = None) -> str | None:
    """Why ``document`` must be written, in words; ``None``: it is as it must be.

    Another order alone is no reason: a promotion then costs no write of its own.
    """
    if document.discovery:
        body = discovery.project(ring, document.discovery)
        return (_discovery_difference(body, seen) or _header_difference(ring, document, seen)) if body else None
    wanted = project(ring, document, seen, max_keys)
    if not seen.exists:
        # Not one verifier is helped by a view without keys.
        return "it is missing" if wanted or document.algorithms is None else None
    if seen.jwks is None:
        return "what stands there is not a JWKS"
    facts = ring.documents.get(document.name)
    if facts and (seen.jwks.revision or 0) < facts.least_revision:
        return "a key was revoked: no write that began before may succeed"
    return _set_difference(seen.jwks, wanted, max_keys) or _header_difference(ring, document, seen)


def _set_difference(seen: PublicSet, wanted: Sequence[Jwk], max_keys: int | None) -> str | None:
    if seen.fault:
        return f"strict readers refuse it: {seen.fault}"
    if seen.keys == tuple(wanted):
        return None
    if _bag(seen.keys) != _bag(wanted):
        return _changes(seen, wanted)
    if max_keys is not None and len(wanted) > max_keys:
        return f"it holds {len(wanted)} keys, and readers of no more than {max_keys} may miss ours: these go first"
    return None


def _discovery_difference(wanted: bytes, seen: Seen) -> str | None:
    if seen.body == wanted:
        return None
    if not seen.exists:
        return "it is missing"
    names = discovery.differing(seen.body, wanted)
    if names is None:
        return "what stands there is no JSON object"
    return f"it says other things ({', '.join(map(_shown, names)) or 'in another form'})"


def _header_difference(ring: Keyring, document: PublicDocument, seen: Seen) -> str | None:
    facts = ring.documents.get(document.name)
    if facts and seen.content_type != facts.content_type:
        return f"it is served as {seen.content_type!r:.80}, the policy says {facts.content_type!r}"
    if facts and seen.cache_control != facts.cache_control:
        return f"it is served with Cache-Control {seen.cache_control!r:.200}, the policy says {facts.cache_control!r}"
    return None


def guard(ring: Keyring, keyset: KeySet, document: PublicDocument, keys: Sequence[Jwk], seen: Seen) -> None:
    """Pass only a set that no verifier can be hurt by; the last look before every write.

    A revoke is blocked by no guard but the one against private members.

    Raises:
        Refused: an invariant would break; nothing was written.
    """
    fault = next(_faults(ring, keyset, document, keys, seen), None)
    if fault:
        raise Refused(
            f"Key set {keyset.name}: refused to write {document.path}: {fault}. Nothing was written;"
            " run 'rotator plan' and compare the ledger with the document."
        )


def _faults(ring: Keyring, keyset: KeySet, document: PublicDocument, keys: Sequence[Jwk], seen: Seen) -> Iterator[str]:
    shown = [key for key in ring.keys if document.shows(key.alg)]
    kids = [kid for key in keys if isinstance(kid := key.get("kid"), str)]
    if any(is_private(key) for key in keys):
        yield "it would hold a private or symmetric key"
    if len(set(kids)) < len(kids):
        yield "two keys would have one kid"
    if len(keys) > keyset.policy.max_keys and len(keys) > (len(seen.jwks.keys) if seen.jwks else 0):
        yield f"it would hold {len(keys)} keys; max_keys is {keyset.policy.max_keys}"
    size = len(serialize(keys, ring.revision, ring.ledger_id))
    if size > MAX_BYTES:
        yield f"it would have {size} bytes, and no reader of ours takes more than {MAX_BYTES}"
    for key in shown:
        if key.public and key.kid not in kids:
            yield f"key {key.kid} ({key.stage}) would be missing"
    # A document of some algorithms is empty once all of them ended.
    if not keys and document.algorithms is None and not any(key.revoked_at for key in shown):
        yield "it would be empty"
    if seen.jwks:
        yield from _swap_faults(shown, kids, seen.jwks)


def _swap_faults(shown: Sequence[Key], kids: Sequence[str], seen: PublicSet) -> Iterator[str]:
    for key in shown:
        before = seen.key(key.kid or "")
        if before and key.public and key.jwk and before != key.jwk and _is_named(before) and not _is_named(key.jwk):
            yield f"key {key.kid} would get other members than its kid was made from"
    for key in shown:
        if (
            key.kid in seen.kids()
            and key.kid not in kids
            and key.activated_at
            and not (key.superseded_at or key.revoked_at)
        ):
            yield f"key {key.kid} would leave while it signs"
    unknown = [key for key in shown if key.stage is Stage.CURRENT and not key.published and not key.forced]
    leaving = [key for key in shown if key.exposed and key.kid in seen.kids()]
    if unknown and leaving and seen.kids().isdisjoint(kids):
        yield f"it would share no key with the one it replaces (a hard swap to {unknown[0].kid})"


def _is_named(jwk: Jwk) -> bool:
    try:
        return thumbprint(jwk) == jwk.get("kid")
    except (KeyError, TypeError, StopIteration):
        return False


def _bag(keys: Sequence[Jwk]) -> list[str]:
    return sorted(json.dumps(key, sort_keys=True) for key in keys)


def _changes(seen: PublicSet, wanted: Sequence[Jwk]) -> str:
    before, after = seen.kids(), {kid for key in wanted if isinstance(kid := key.get("kid"), str)}
    words = []
    if after - before:
        words.append(f"it lacks {_listed(after - before)}")
    if before - after:
        words.append(f"it still shows {_listed(before - after)}")
    if exposed := {called(key) for key in seen.keys if is_private(key)}:
        words.append(f"it shows private members of {_listed(exposed)}")
    return " and ".join(words) or "a key in it has other members than the ledger's"


def _listed(kids: set[str], most: int = 4) -> str:
    more = f" and {len(kids) - most} more" if len(kids) > most else ""
    return ", ".join(_shown(kid) for kid in sorted(kids)[:most]) + more
