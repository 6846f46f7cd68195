"""A JWK as a key of ``cryptography`` and back, of every kind that has a name in JOSE."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rotator.errors import ConfigurationError
from rotator.jose.registry import kind_of
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS, Algorithm
from rotator.keys.material import CURVES, RAW_MEMBERS, b64u, b64u_int, unb64u

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

    from rotator.jose.registry import Kind
    from rotator.keys.jwks import Jwk

#: One row for each kind of key that rotator itself rotates.
_ROTATED = {row.key_kind: row for row in ALGORITHMS.values()}

_SECP256K1 = "secp256k1"

#: OpenSSL verifies with no larger RSA key; arithmetic with larger numbers could take for ever.
MOST_RSA_BITS = 16_384

_LEAST_PRIME = 3

#: FIPS 186-5 section 5.4 allows no larger public exponent.
_MOST_E_BITS = 256

#: Enough for every k and g of a key whose ``gcd(p − 1, q − 1)`` is less than 2⁶⁴, that is for every key.
_CONVERGENTS = 100


# -- from cryptography ------------------------------------------------------------------------------------------------


def public_members(key: PublicKeyTypes) -> Jwk:
    """The members that make the public ``key``, ``kty`` among them.

    Raises:
        ConfigurationError: JOSE has no name for such a key.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == _SECP256K1:
        point = key.public_numbers()
        return {"crv": _SECP256K1, "kty": "EC", "x": b64u_int(point.x, 32), "y": b64u_int(point.y, 32)}
    for name, (_, public) in _agreement().items():
        if isinstance(key, public):
            return {"crv": name, "kty": "OKP", "x": b64u(key.public_bytes_raw())}
    return jwks.public_members(spki(key), _row(key))


def _row(key: PublicKeyTypes) -> Algorithm:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(key, rsa.RSAPublicKey):
        return _ROTATED["RSA"]
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name in CURVES:
            return _ROTATED[CURVES[key.curve.name]]
        raise ConfigurationError(
            f"The curve {key.curve.name} has no name in JOSE: use P-256, P-384 or P-521 (RFC 7518 section 6.2.1.1)."
        )
    for name, row in _ROTATED.items():
        if row.kty in RAW_MEMBERS and isinstance(key, material.raw_classes(name)[1]):
            return row
    raise ConfigurationError(
        f"{type(key).__name__.removesuffix('PublicKey')} keys have no JWK: JOSE knows RSA, EC, Ed25519, Ed448, X25519,"
        " X448 and ML-DSA."
    )


def private_members(key: PrivateKeyTypes) -> Jwk:
    """The members that make the private ``key``, those of its public half among them.

    Raises:
        ConfigurationError: JOSE has no name for such a key.
    """
    return material.private_jwk(key, public_members(key.public_key()))


def spki(key: PublicKeyTypes) -> bytes:
    """DER SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7) of ``key``."""
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


# -- from JWK ---------------------------------------------------------------------------------------------------------


def public_key(jwk: Mapping[str, Any]) -> PublicKeyTypes:
    """The public key in ``jwk``; an EC point is proven to be on its curve.

    Raises:
        ConfigurationError: its kind is unknown, or a member is missing or wrong. Never quotes the input.
    """
    with _telling("public"):
        return _public(jwk, _kind(jwk))


def private_key(jwk: Mapping[str, Any]) -> PrivateKeyTypes:
    """The private key in ``jwk``, proven to belong to the public members beside it.

    Raises:
        ConfigurationError: its kind is unknown, or a member is missing or wrong. Never quotes the input.
    """
    with _telling("private"):
        kind = _kind(jwk)
        private = _private(jwk, kind)
        if private.public_key() != _public(jwk, kind):
            raise ConfigurationError("The private half of the JWK does not belong to its public half.")
    return private


def prove(jwk: Mapping[str, Any]) -> None:
    """Return if ``jwk`` is a key, public, private or symmetric, whose members belong together.

    Raises:
        ConfigurationError: it is none. Never quotes the input.
    """
    if jwk.get("kty") == "oct":
        with _telling("symmetric"):
            if not unb64u(jwk["k"]):
                raise ValueError("no bytes")
    elif jwks.is_private(jwk):
        private_key(jwk)
    else:
        public_key(jwk)


@contextmanager
def _telling(half: str) -> Iterator[None]:
    from cryptography.exceptions import InternalError

    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, InternalError):
        # The cause may quote a member.
        raise ConfigurationError(
            f"The JWK is no {half} key: its kind is unknown, or a member is missing or wrong ('rotator inspect' says)."
        ) from None


def _kind(jwk: Mapping[str, Any]) -> Kind:
    kind = kind_of(jwk)
    if kind is None or not kind.public:
        raise ValueError("unknown or symmetric")
    return kind


def _public(jwk: Mapping[str, Any], kind: Kind) -> PublicKeyTypes:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if kind.kty == "RSA":
        return rsa.RSAPublicNumbers(_number(jwk, "e"), _number(jwk, "n")).public_key()
    if kind.kty == "EC":
        return ec.EllipticCurvePublicNumbers(_number(jwk, "x"), _number(jwk, "y"), _curve(kind.name)).public_key()
    _, public = _agreement().get(kind.name) or material.raw_classes(kind.name)
    found: PublicKeyTypes = public.from_public_bytes(unb64u(jwk[RAW_MEMBERS[kind.kty][0]]))
    return found


def _private(jwk: Mapping[str, Any], kind: Kind) -> PrivateKeyTypes:
    from cryptography.hazmat.primitives.asymmetric import ec

    if kind.kty == "RSA":
        return _rsa(jwk)
    if kind.kty == "EC":
        return ec.derive_private_key(_number(jwk, "d"), _curve(kind.name))
    if kind.name in _agreement():
        found: PrivateKeyTypes = _agreement()[kind.name][0].from_private_bytes(unb64u(jwk["d"]))
        return found
    return material.load_private_jwk(dict(jwk))


def _rsa(jwk: Mapping[str, Any]) -> rsa.RSAPrivateKey:
    from cryptography.hazmat.primitives.asymmetric import rsa

    n, e, d = (_number(jwk, name) for name in ("n", "e", "d"))
    if n.bit_length() > MOST_RSA_BITS or not 1 < e < n or not 1 < d < n:
        raise ValueError("out of range")
    if "p" in jwk:
        p, q, dp, dq, qi = (_number(jwk, name) for name in ("p", "q", "dp", "dq", "qi"))
    else:
        # RFC 7518 section 6.3.2 lets a producer leave out all of these.
        p, q = _prime_factors(n, e, d)
        dp, dq, qi = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    if max(p, q, dp, dq, qi) >= n:
        raise ValueError("out of range")
    # Whether p and q are primes is not asked: that would cost as much as a new key.
    if p * q != n or min(p, q) < _LEAST_PRIME or any(e * d % (prime - 1) != 1 for prime in (p, q)):
        raise ValueError("not one key")
    if (dp, dq, qi * q % p) != (d % (p - 1), d % (q - 1), 1):
        raise ValueError("not one key")
    return rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, rsa.RSAPublicNumbers(e, n)).private_key(
        unsafe_skip_rsa_key_validation=True
    )


def _prime_factors(n: int, e: int, d: int) -> tuple[int, int]:
    """The primes of ``n``, of which ``e`` and ``d`` are exponents; the greater first, as ``cryptography`` gives them.

    ``cryptography`` guesses, hundreds of times and for minutes where ``n`` is no product of two primes. But e·d − 1 is
    φ(n)·k÷g for some small k and g, and φ(n) nearly n: so k÷g is among the first convergents of (e·d − 1) ÷ n, as in
    Wiener's attack, and whether one is shows at once.
    """
    if e.bit_length() > _MOST_E_BITS:
        raise ValueError("an exponent that nothing makes")
    multiple = e * d - 1
    above, below = multiple, n
    (k, k_before), (g, g_before) = (1, 0), (0, 1)
    for _ in range(_CONVERGENTS):
        if not below:
            break
        whole, rest = divmod(above, below)
        above, below = below, rest
        k, k_before, g, g_before = whole * k + k_before, k, whole * g + g_before, g
        if not k or multiple * g % k:
            continue
        total = n + 1 - multiple * g // k
        square = total * total - 4 * n
        if total > 0 and square > 0 and (root := math.isqrt(square)) ** 2 == square:
            return (total + root) // 2, (total - root) // 2
    raise ValueError("no primes")


def _number(jwk: Mapping[str, Any], member: str) -> int:
    return int.from_bytes(unb64u(jwk[member]), "big")


def _curve(name: str) -> ec.EllipticCurve:
    from cryptography.hazmat.primitives.asymmetric import ec

    curves: dict[str, ec.EllipticCurve] = {
        "P-256": ec.SECP256R1(),
        "P-384": ec.SECP384R1(),
        "P-521": ec.SECP521R1(),
        _SECP256K1: ec.SECP256K1(),
    }
    return curves[name]


def _agreement() -> dict[str, tuple[Any, Any]]:
    """The private and public classes of the kinds that sign nothing and so are never rotated."""
    from cryptography.hazmat.primitives.asymmetric import x448, x25519

    return {
        "X25519": (x25519.X25519PrivateKey, x25519.X25519PublicKey),
        "X448": (x448.X448PrivateKey, x448.X448PublicKey),
    }
