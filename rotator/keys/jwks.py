"""Public keys as JWK, and sets of them as canonical JWKS bytes (RFC 7517).

>>> parse(serialize([{"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "k"}], revision=3)).revision
3
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rotator.errors import ConfigurationError
from rotator.keys.algorithms import ALGORITHMS, PRIVATE_MEMBERS, Algorithm
from rotator.keys.material import CURVES, RAW_MEMBERS, b64u, b64u_int, raw_classes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Jwk = dict[str, Any]
KidFormat = Literal["thumbprint", "spki-sha256"]

#: Member of the set that makes no two published documents share one ETag; readers ignore it (RFC 7517 section 5).
REVISION_MEMBER = "rotator_revision"

#: Member of the set that tells whose revision that is.
LEDGER_MEMBER = "rotator_ledger"

#: A public document larger than this is not ours and is not parsed (AWS ALB reads 150 KB).
MAX_BYTES = 1_000_000


def kid_of(spki: bytes, algorithm: Algorithm, kid_format: KidFormat) -> str:
    """The key ID that follows from the key itself: RFC 7638 thumbprint, or SHA-256 of the SPKI (Kubernetes)."""
    return _kid(spki, public_members(spki, algorithm), kid_format)


def _kid(spki: bytes, members: Jwk, kid_format: KidFormat) -> str:
    return b64u(hashlib.sha256(spki).digest()) if kid_format == "spki-sha256" else thumbprint(members)


def adopted_id(spki: bytes, algorithm: Algorithm) -> str:
    """The intent id of a key that was made elsewhere: it follows from the key, so who adopts it twice adopts it once.

    Raises:
        ConfigurationError: the key is not one that ``algorithm`` signs with.
    """
    members = json.dumps(public_members(spki, algorithm))
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"rotator:adopted:{algorithm.alg}:{members}"))


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """The JWK SHA-256 thumbprint, base64url (RFC 7638 section 3)."""
    canonical = _CANONICAL.encode({name: jwk[name] for name in _THUMBPRINT_MEMBERS[jwk["kty"]]})
    return b64u(hashlib.sha256(canonical.encode("ascii")).digest())


#: Making an encoder takes longer than using it.
_CANONICAL = json.JSONEncoder(separators=(",", ":"))

_THUMBPRINT_MEMBERS = {row.kty: row.public_members for row in ALGORITHMS.values()}


def public_jwk(spki: bytes, algorithm: Algorithm, kid_format: KidFormat = "thumbprint") -> Jwk:
    """The public JWK of the key in DER ``spki``, with kid, alg and use.

    Raises:
        ConfigurationError: the key is not one that ``algorithm`` signs with.
    """
    members = public_members(spki, algorithm)
    first = {"kty": members["kty"], "kid": _kid(spki, members, kid_format), "alg": algorithm.alg, "use": "sig"}
    return first | members


def public_members(spki: bytes, algorithm: Algorithm) -> Jwk:
    """The members that make the key (RFC 7518 section 6, RFC 8037 section 2, RFC 9964 section 3), in thumbprint order.

    Raises:
        ConfigurationError: the key is not one that ``algorithm`` signs with.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    try:
        public = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"What should be a public key for {algorithm.alg} is no SPKI that is known.") from None
    if isinstance(public, rsa.RSAPublicKey) and algorithm.kty == "RSA":
        numbers = public.public_numbers()
        return {"e": b64u_int(numbers.e), "kty": "RSA", "n": b64u_int(numbers.n)}
    if isinstance(public, ec.EllipticCurvePublicKey) and algorithm.kty == "EC":
        size = algorithm.coordinate_bytes or 0
        if CURVES.get(public.curve.name) == algorithm.crv:
            point = public.public_numbers()
            return {
                "crv": algorithm.crv,
                "kty": "EC",
                "x": b64u_int(point.x, size),
                "y": b64u_int(point.y, size),
            }
    if algorithm.kty in RAW_MEMBERS and isinstance(public, raw_classes(algorithm.key_kind)[1]):
        values = {"alg": algorithm.alg, "crv": algorithm.crv, "kty": algorithm.kty}
        raw = b64u(public.public_bytes_raw())
        return {name: values.get(name, raw) for name in algorithm.public_members}
    raise ConfigurationError(f"A {type(public).__name__} does not fit {algorithm.alg}.")


@dataclass(frozen=True, slots=True)
class PublicSet:
    """A parsed public document: its keys as they stand there, and the ledger revision it was made from."""

    keys: tuple[Jwk, ...]
    revision: int | None
    fault: str | None = None
    """Why strict readers may refuse it whole, or read other keys in it than we do."""
    ledger: str | None = None
    """Id of the ledger that it was made from."""

    def kids(self) -> set[str]:
        """The kids in the set; keys without one are left out."""
        return {key["kid"] for key in self.keys if isinstance(key.get("kid"), str)}

    def key(self, kid: str) -> Jwk | None:
        """The first key named ``kid``."""
        return next((key for key in self.keys if key.get("kid") == kid), None)


def serialize(keys: Iterable[Mapping[str, Any]], revision: int, ledger: str | None = None) -> bytes:
    """The bytes of a public document: the same keys, revision and ledger id always give the same bytes."""
    body = {"keys": [_ordered(key) for key in keys], REVISION_MEMBER: revision}
    if ledger is not None:
        body[LEDGER_MEMBER] = ledger
    return (json.dumps(body, indent=1, ensure_ascii=True) + "\n").encode("ascii")


_FIRST = ("kty", "kid", "use", "alg")


def _ordered(jwk: Mapping[str, Any]) -> Jwk:
    return {name: jwk[name] for name in (*(name for name in _FIRST if name in jwk), *sorted(jwk.keys() - _FIRST))}


def _finite(number: str) -> float:
    # NaN, Infinity and what is read as that are no JSON (RFC 8259 section 6): what we republish must be.
    if not math.isfinite(value := float(number)):
        raise ValueError(number)
    return value


def _is_utf8(body: bytes) -> bool:
    try:
        # JSON has no NUL; UTF-16 without a byte order mark has one beside every ASCII letter.
        return "\0" not in body.decode("utf-8")
    except UnicodeDecodeError:
        return False


def parse(body: bytes) -> PublicSet | None:
    """The set in ``body``, or ``None`` where that is no JWKS at all. Keys that are not objects are dropped.

    What lenient readers let pass and strict ones do not stands in its ``fault`` (RFC 8259 sections 4 and 8.1).
    """
    if len(body) > MAX_BYTES:
        return None
    faults: list[str] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            faults.append("a name stands twice in one object")
        return found

    try:
        document = json.loads(body, parse_constant=_finite, parse_float=_finite, object_pairs_hook=members)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        return None
    revision, ledger = document.get(REVISION_MEMBER), document.get(LEDGER_MEMBER)
    keys = tuple(key for key in document["keys"] if isinstance(key, dict))
    if len(keys) < len(document["keys"]):
        faults.append("a member of 'keys' is no object")
    if body.startswith(codecs.BOM_UTF8):
        faults.append("it begins with a byte order mark")
    elif not _is_utf8(body):
        faults.append("it is not UTF-8")
    return PublicSet(
        keys,
        revision if type(revision) is int else None,
        faults[0] if faults else None,
        ledger if isinstance(ledger, str) else None,
    )


def is_private(jwk: Mapping[str, Any]) -> bool:
    """Whether ``jwk`` holds a private or symmetric member."""
    return jwk.get("kty") == "oct" or not PRIVATE_MEMBERS.isdisjoint(jwk)


def without_private(jwk: Mapping[str, Any]) -> Jwk | None:
    """``jwk`` without its private members; ``None`` where nothing public is left (``kty: oct``)."""
    if jwk.get("kty") == "oct":
        return None
    return {name: value for name, value in jwk.items() if name not in PRIVATE_MEMBERS}
