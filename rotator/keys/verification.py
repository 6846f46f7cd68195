"""What is wrong with public documents as verifiers get them, held against the ledger: for monitors.

Pure: what was fetched comes in, faults come out. A tick repairs most of them; a monitor has to know of them first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from rotator.keys import discovery, jwks
from rotator.keys.policy import staleness_of, text
from rotator.keys.publication import Seen, called, foreign, holds
from rotator.keys.verifiers import VERIFIERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rotator.keys.jwks import PublicSet
    from rotator.keys.keyring import Key, Keyring
    from rotator.keys.policy import KeySet, Policy, PublicDocument

#: Content types that verifiers accept for a JWKS (RFC 7517 section 8.5) and for a discovery document (RFC 8414).
TYPES = frozenset({"application/jwk-set+json", "application/json"})

_SMALL = min(row.max_bytes for row in VERIFIERS.values() if row.max_bytes)

REDIRECTS = "the URL redirects, and verifiers such as jose and jwks-rsa (npm) do not follow"


@dataclass(frozen=True, slots=True)
class Copy:
    """One answer to a verifier's GET."""

    where: str
    """The URL, or the origin's place where there is none."""
    body: bytes
    cache_control: str | None = None
    age: timedelta = timedelta(0)
    content_type: str | None = None
    public: bool = True
    """It came through the URL that verifiers use, with its headers."""
    redirected: bool = False
    """That URL redirects to where it is."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong; ``code`` never changes. ``severe``: tokens are rejected, or soon will be."""

    code: str
    says: str
    where: str
    severe: bool = True


def faults(ring: Keyring, keyset: KeySet, document: PublicDocument, copy: Copy) -> list[Fault]:
    """What is wrong with ``copy`` of ``document``."""
    said = _of_discovery if document.discovery else _of_set
    found = [*said(ring, keyset, document, copy), *_of_age(keyset.policy, copy)]
    if copy.public:
        found += of_headers(copy)
    return found


def _of_set(ring: Keyring, keyset: KeySet, document: PublicDocument, copy: Copy) -> Iterator[Fault]:
    found = jwks.parse(copy.body)
    if found is None:
        yield Fault("not-a-jwks", "it is no JWKS", copy.where)
        return
    if found.fault:
        yield Fault("not-strict", f"strict readers refuse it: {found.fault}", copy.where)
    yield from _of_our_keys(ring, document, found, copy)
    yield from _of_their_keys(ring, found, copy)
    count, most = len(found.keys), keyset.policy.max_keys
    if count > most:
        yield Fault("too-many-keys", f"it holds {count} keys; max_keys is {most}", copy.where)
    if len(copy.body) > _SMALL:
        says = f"it has {len(copy.body)} bytes, and some verifiers stop at {_SMALL}"
        yield Fault("large", says, copy.where, severe=False)
    if found.revision is not None and found.revision > ring.revision:
        says = f"it was made from ledger revision {found.revision}, but the ledger is at {ring.revision}"
        yield Fault("newer-than-the-ledger", f"{says}: see 'Lost ledger' in the README", copy.where)


def _of_our_keys(ring: Keyring, document: PublicDocument, found: PublicSet, copy: Copy) -> Iterator[Fault]:
    for key in ring.keys:
        if not document.shows(key.alg) or key.kid is None:
            continue
        there = found.key(key.kid)
        if key.public and there is None:
            # A key that never signed costs nobody a token: its gate waits.
            signs = key.exposed or key.promoting
            yield Fault("missing-key", f"it lacks {_called(key)}", copy.where, severe=signs)
        elif key.public and there != key.jwk:
            yield Fault("changed-key", f"{_called(key)} has other members than the ledger's", copy.where)
        elif key.revoked_at and there is not None:
            yield Fault("revoked-key", f"it still shows {_called(key)}", copy.where)
        elif not key.public and there is not None:
            yield Fault("late-copy", f"it still shows {_called(key)}", copy.where, severe=False)


def _of_their_keys(ring: Keyring, found: PublicSet, copy: Copy) -> Iterator[Fault]:
    if any(jwks.is_private(key) for key in found.keys):
        yield Fault("private-key", "it holds a private or symmetric key: revoke that key at once", copy.where)
    kids = Counter(kid for key in found.keys if isinstance(kid := key.get("kid"), str))
    if twice := [called({"kid": kid}) for kid, count in kids.items() if count > 1]:
        yield Fault("duplicate-kid", f"two keys have the kid {', '.join(twice)}", copy.where)
    if strangers := [called(key) for key in foreign(ring, Seen(jwks=found))]:
        says = f"keys that rotator did not make stand in it: {', '.join(strangers)}"
        yield Fault("foreign-keys", says, copy.where, severe=False)
    if not found.keys:
        yield Fault("empty", "it holds no key", copy.where)


def _of_discovery(ring: Keyring, _: KeySet, document: PublicDocument, copy: Copy) -> Iterator[Fault]:
    wanted = discovery.project(ring, document.discovery) if document.discovery else None
    names = discovery.differing(copy.body, wanted or b"{}")
    if names is None:
        yield Fault("not-a-discovery-document", "it is no JSON object", copy.where)
    elif wanted and names:
        # A list that names more or less matters to the algorithms it should name.
        seen = Seen(exists=True, body=copy.body)
        current = [key for key in ring.keys if key.exposed and key.public and document.shows(key.alg)]
        severe = not all(holds(document, key, seen) for key in current)
        yield Fault("discovery-differs", f"it says other things ({', '.join(names)})", copy.where, severe=severe)


def _of_age(policy: Policy, copy: Copy) -> Iterator[Fault]:
    promised = staleness_of(copy.cache_control)
    counted = policy.cache_max_age + policy.cache_stale
    if promised > counted:
        yield Fault(
            "cached-for-longer",
            f"{_named(copy.cache_control)} lets caches keep it {text(promised)}; the policy counts on"
            f" {text(counted)}, so rotation waits",
            copy.where,
        )
    if copy.age > policy.staleness:
        says = f"this copy is {text(copy.age)} old; the policy counts on {text(policy.staleness)}"
        yield Fault("stale-copy", says, copy.where)


def of_headers(copy: Copy) -> Iterator[Fault]:
    """What is wrong with the headers of any public document."""
    kind = (copy.content_type or "").partition(";")[0].strip().lower()
    if kind not in TYPES:
        says = f"it is served as {copy.content_type!r:.80}; verifiers expect {' or '.join(sorted(TYPES))}"
        yield Fault("content-type", says, copy.where, severe=False)
    if copy.redirected:
        yield Fault("redirect", REDIRECTS, copy.where)


def of_anybody(copy: Copy) -> Iterator[Fault]:
    """What is wrong with the headers and the age of a document that no ledger here knows."""
    promised = staleness_of(copy.cache_control)
    if copy.cache_control is None:
        says = f"no Cache-Control: caches keep it as long as they like (counted here as {text(promised)})"
        yield Fault("no-cache-control", says, copy.where, severe=False)
    if copy.age > promised:
        says = f"this copy is {text(copy.age)} old; its own headers allow {text(promised)}"
        yield Fault("stale-copy", says, copy.where)
    yield from of_headers(copy)


def leads_to(body: bytes) -> tuple[str, str] | None:
    """``issuer`` and ``jwks_uri`` of a discovery document; ``None``: it is none."""
    document = discovery.parse(body) or {}
    issuer, uri = document.get("issuer"), document.get("jwks_uri")
    return (issuer, uri) if isinstance(issuer, str) and isinstance(uri, str) else None


def _named(cache_control: str | None) -> str:
    return "a missing Cache-Control" if cache_control is None else f"Cache-Control {cache_control!r:.120}"


def _called(key: Key) -> str:
    return f"{key.name} ({key.alg}, {key.stage})"
