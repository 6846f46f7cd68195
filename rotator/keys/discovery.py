"""The discovery document of an issuer: where its JWKS is, and which algorithms its keys sign with.

One document serves both OpenID Connect Discovery 1.0 (section 3) and RFC 8414 (section 2): a projection of the ledger
like a JWKS, with no key in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rotator.keys.algorithms import ALGORITHMS
from rotator.keys.jwks import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rotator.keys.keyring import Keyring

ALGORITHMS_MEMBER = "id_token_signing_alg_values_supported"

#: Members that follow from the configuration and the ledger: nobody sets them by hand.
OURS = frozenset({"issuer", "jwks_uri", ALGORITHMS_MEMBER})

#: What an issuer says that only signs tokens; an operator's members go before these.
_DEFAULTS: Mapping[str, Any] = {
    "response_types_supported": ["id_token"],
    "subject_types_supported": ["public"],
    "claims_supported": ["aud", "exp", "iat", "iss", "sub"],
}


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a discovery document says that no ledger knows."""

    issuer: str
    jwks_uri: str
    jwks: str = "jwks"
    """Name of the public document behind ``jwks_uri``."""
    members: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further members (OpenID Connect Discovery 1.0 section 3), such as endpoints."""


def project(ring: Keyring, discovery: Discovery) -> bytes | None:
    """The bytes of the discovery document; ``None`` as long as no key was seen in the JWKS that it leads to."""
    algs = {key.alg for key in ring.keys if key.public and discovery.jwks in key.published}
    if not algs:
        return None
    listed = [alg for alg in ALGORITHMS if alg in algs]
    body = {"issuer": discovery.issuer, "jwks_uri": discovery.jwks_uri, **_DEFAULTS, **discovery.members}
    return (json.dumps(body | {ALGORITHMS_MEMBER: listed}, indent=1) + "\n").encode("ascii")


def listed(body: bytes, discovery: Discovery) -> frozenset[str]:
    """The algorithms that ``body`` lists; none where it is another issuer's, or leads to another JWKS."""
    document = parse(body) or {}
    algs = document.get(ALGORITHMS_MEMBER)
    if (document.get("issuer"), document.get("jwks_uri")) != (discovery.issuer, discovery.jwks_uri):
        return frozenset()
    return frozenset(alg for alg in algs if isinstance(alg, str)) if isinstance(algs, list) else frozenset()


def parse(body: bytes) -> dict[str, Any] | None:
    """The members in ``body``; ``None``: it is no JSON object, or larger than any document of ours."""
    if len(body) > MAX_BYTES:
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def differing(body: bytes, wanted: bytes) -> tuple[str, ...] | None:
    """The names of members that ``body`` and ``wanted`` disagree on; ``None``: ``body`` is no JSON object."""
    found, ours = parse(body), parse(wanted) or {}
    if found is None:
        return None
    return tuple(sorted(name for name in found.keys() | ours.keys() if found.get(name) != ours.get(name)))
