"""Keys written: as JWK and sets of them, PEM and DER, with their certificates; and made anew."""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING, Any

from rotator.errors import ConfigurationError
from rotator.jose import keys, pem
from rotator.jose.registry import ALGS, KINDS, kind_of
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS, RSA_BITS
from rotator.keys.material import b64u

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

    from rotator.jose.registry import Kind
    from rotator.keys.jwks import Jwk

_FIRST = ("kty", "kid", "use", "key_ops", "alg", "crv")

#: Beside the names of ``alg``: kinds of keys that can be asked for by their own name, and what they then sign.
_BY_KIND = {"RSA": "RS256", "P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "secp256k1": "ES256K"}
_UNSIGNED = ("X25519", "X448", "oct")

_RANDOM_KID = 16
_OCT_BITS = 256

#: HMAC hashes a key longer than a block, 1,024 bits at most; nothing gains by more.
_MOST_OCT_BITS = 16_384


# -- made -------------------------------------------------------------------------------------------------------------


def choices() -> tuple[str, ...]:
    """Every name that :func:`make` takes."""
    return (
        *(alg for alg in ALGS if alg not in {"dir", "RSA1_5"} and not alg.startswith("PBES2")),
        *_BY_KIND,
        *_UNSIGNED,
    )


def make(name: str, *, bits: int | None = None, crv: str | None = None) -> Jwk:
    """A new private JWK for the ``alg``, or of the kind, called ``name``; with ``alg`` and ``use``, without ``kid``.

    Raises:
        ConfigurationError: there is no such name, or ``bits`` or ``crv`` do not go with it.
    """
    if name not in choices():
        raise ConfigurationError(f"There is no algorithm {name[:40]!r}: choose from {', '.join(choices())}.")
    alg = _BY_KIND.get(name, None if name in _UNSIGNED else name)
    kind = _kind(name, alg, crv)
    if bits is not None and kind.kty not in {"RSA", "oct"}:
        raise ConfigurationError(f"A key of kind {kind.name} has one size: leave out --bits.")
    jwk = _oct(alg, bits) if kind.kty == "oct" else keys.private_members(_private(kind, bits))
    if alg is not None:
        return jwk | {"alg": alg, "use": ALGS[alg].use}
    return jwk | ({} if kind.name == "oct" else {"use": "enc"})


def is_sized(name: str) -> bool:
    """Whether keys for ``name`` come in several sizes."""
    alg = _BY_KIND.get(name, name)
    return name == "oct" or (alg in ALGS and KINDS[ALGS[alg].kinds[0]].kty in {"RSA", "oct"})


def has_curves(name: str) -> bool:
    """Whether keys for ``name`` come on several curves."""
    return name in ALGS and len(ALGS[name].kinds) > 1


def _kind(name: str, alg: str | None, crv: str | None) -> Kind:
    names = (name,) if alg is None else ALGS[alg].kinds
    if crv is None:
        return KINDS[names[0]]
    if crv not in names or len(names) == 1:
        fitting = f"choose from {', '.join(names)}" if len(names) > 1 else f"{name} has one kind of key"
        raise ConfigurationError(f"--crv {crv[:40]} does not go with {name}: {fitting}.")
    return KINDS[crv]


def _private(kind: Kind, bits: int | None) -> PrivateKeyTypes:
    from cryptography.hazmat.primitives.asymmetric import ec, x448, x25519

    if kind.kty == "RSA" and bits is not None and bits not in RSA_BITS:
        raise ConfigurationError(f"An RSA key of {bits} bits: choose from {', '.join(map(str, RSA_BITS))}.")
    if kind.name == "X25519":
        return x25519.X25519PrivateKey.generate()
    if kind.name == "X448":
        return x448.X448PrivateKey.generate()
    if kind.name == "secp256k1":
        return ec.generate_private_key(ec.SECP256K1())
    row = next(row for row in ALGORITHMS.values() if row.key_kind == kind.name)
    return material.generate(row, bits or RSA_BITS[0])


def _oct(alg: str | None, bits: int | None) -> Jwk:
    least = 8 * ALGS[alg].least if alg else 8
    size = (least if alg else _OCT_BITS) if bits is None else bits
    fixed = alg is not None and ALGS[alg].use == "enc"
    if size % 8 or not least <= size <= _MOST_OCT_BITS or (fixed and size != least):
        wanted = f"of {least} bits" if fixed else f"of {least} bits or more (to {_MOST_OCT_BITS}), in whole bytes"
        raise ConfigurationError(f"A symmetric key of {size} bits: {alg or 'oct'} needs one {wanted}.")
    return {"kty": "oct", "k": b64u(secrets.token_bytes(size // 8))}


# -- labelled ---------------------------------------------------------------------------------------------------------


def named(jwk: Mapping[str, Any], kid: str | None = None) -> Jwk:
    """``jwk`` under ``kid``; without one, under its own, or else its thumbprint (RFC 7638).

    Raises:
        ConfigurationError: ``kid`` is one that verifiers and people could not tell.
    """
    if kid is not None and not (kid.strip() and kid.isprintable()):
        raise ConfigurationError(
            "--kid: a name that is blank, or has signs in it that cannot be shown, finds no key. Leave it out for the"
            " thumbprint."
        )
    if kid is None and isinstance(jwk.get("kid"), str) and jwk["kid"].strip():
        return dict(jwk)
    # The thumbprint of a symmetric key would tell something of it (RFC 7638 section 7).
    derived = b64u(secrets.token_bytes(_RANDOM_KID)) if jwk["kty"] == "oct" else jwks.thumbprint(jwk)
    return dict(jwk) | {"kid": kid or derived}


def fitting(jwk: Mapping[str, Any], alg: str) -> Jwk:
    """``jwk`` with ``alg``, and the ``use`` that goes with it.

    Raises:
        ConfigurationError: ``alg`` does not work with such a key.
    """
    kind = kind_of(jwk)
    if alg not in ALGS or kind is None or kind.name not in ALGS[alg].kinds:
        fits = ", ".join(name for name, purpose in ALGS.items() if kind is not None and kind.name in purpose.kinds)
        raise ConfigurationError(f"{alg[:40]} does not work with this key: choose from {fits or 'none'}.")
    # One of the two is enough (RFC 7517 section 4.3).
    use = {} if "key_ops" in jwk and "use" not in jwk else {"use": ALGS[alg].use}
    return dict(jwk) | {"alg": alg} | use


def with_certificates(jwk: Mapping[str, Any], chain: Sequence[Certificate]) -> Jwk:
    """``jwk`` with ``x5c``, ``x5t`` and ``x5t#S256`` (RFC 7517 sections 4.7 to 4.9) of ``chain``, its own one first."""
    from cryptography.hazmat.primitives.serialization import Encoding

    encoded = [base64.b64encode(each.public_bytes(Encoding.DER)).decode("ascii") for each in chain]
    return dict(jwk) | {"x5c": encoded} | {name: b64u(found) for name, found in pem.thumbprints(chain[0]).items()}


def certificates(jwk: Mapping[str, Any]) -> bytes:
    """The chain in ``x5c`` as PEM.

    Raises:
        ConfigurationError: there is none, it cannot be read, or it is for another key.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        chain = [pem.certificate(base64.b64decode(each, validate=True)) for each in jwk["x5c"]]
    except (KeyError, TypeError, ValueError):
        chain = []
    if not chain:
        raise ConfigurationError("The key has no certificates ('x5c'), or they cannot be read.")
    certified: Any = chain[0].public_key()
    if keys.spki(certified) != keys.spki(keys.public_key(jwk)):
        raise ConfigurationError(
            "The first certificate of 'x5c' is for another key: take it out, or name the right one beside the key."
        )
    return b"".join(each.public_bytes(Encoding.PEM) for each in chain)


def ordered(jwk: Mapping[str, Any]) -> Jwk:
    """``jwk`` in the order in which people look for its members."""
    return {name: jwk[name] for name in (*(name for name in _FIRST if name in jwk), *sorted(jwk.keys() - set(_FIRST)))}


# -- written ----------------------------------------------------------------------------------------------------------


def public_half(jwk: Mapping[str, Any]) -> Jwk | None:
    """``jwk`` without its private members, fit to be published; ``None``: nothing of it is public."""
    public = jwks.without_private(jwk)
    if public is not None and isinstance(public.get("key_ops"), list):
        turned = {"sign": "verify", "decrypt": "encrypt", "unwrapKey": "wrapKey"}
        kept = [turned.get(each, each) for each in public["key_ops"] if isinstance(each, str)]
        # The public half of a key agreement does nothing by itself (RFC 7517 section 4.3).
        public["key_ops"] = list(dict.fromkeys(each for each in kept if each not in {"deriveKey", "deriveBits"}))
    return public


#: What each form is, in the order in which ``--help`` names them.
FORMS = {
    "jwk": "a JWK",
    "jwks": "a set of JWKs",
    "pem": "SPKI PEM, or with --private PKCS#8 PEM",
    "der": "the same as DER",
    "pkcs1": "RSA as PKCS#1 PEM",
    "sec1": "a private EC key as SEC1 PEM",
    "certificate": "the certificates in x5c as PEM",
}


def encoded(jwks_found: Iterable[Mapping[str, Any]], form: str, *, private: bool) -> bytes:
    """The PEM or DER of keys, one after the other; with ``private`` their private halves.

    Raises:
        ConfigurationError: a key cannot be written so.
    """
    blocks = [_block(jwk, form, private=private and jwks.is_private(jwk)) for jwk in jwks_found]
    if form == "der" and len(blocks) > 1:
        raise ConfigurationError("DER holds one key: name one, or write PEM.")
    return b"".join(blocks)


def _block(jwk: Mapping[str, Any], form: str, *, private: bool) -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if form == "certificate":
        return certificates(jwk)
    encoding = serialization.Encoding.DER if form == "der" else serialization.Encoding.PEM
    if jwk.get("kty") == "oct":
        raise ConfigurationError("A symmetric key has no PEM and no DER: write it as JWK.")
    key = keys.private_key(jwk) if private else keys.public_key(jwk)
    if form == "pkcs1" and not isinstance(key, (rsa.RSAPrivateKey, rsa.RSAPublicKey)):
        raise ConfigurationError("PKCS#1 holds RSA keys alone: write PEM (SPKI, PKCS#8).")
    if form == "sec1" and not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(
            "SEC1 holds private EC keys alone: write PEM, and name --private to keep a private half."
        )
    if private:
        traditional = form in {"pkcs1", "sec1"}
        format_ = serialization.PrivateFormat.TraditionalOpenSSL if traditional else serialization.PrivateFormat.PKCS8
        written: bytes = key.private_bytes(encoding, format_, serialization.NoEncryption())  # type: ignore[union-attr]
        return written
    public_format = (
        serialization.PublicFormat.PKCS1 if form == "pkcs1" else serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return key.public_bytes(encoding, public_format)  # type: ignore[union-attr]
