"""Private halves that somebody brings along: PEM (PKCS#8, PKCS#1, SEC1), a private JWK, or a set of them.

Nothing here quotes its input. Where a half came from is its ``origin``: words for people, such as a file's name.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rotator.errors import ConfigurationError
from rotator.keys import material
from rotator.keys.jwks import MAX_BYTES, is_private

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

_PRIVATE_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)

#: RFC 5958 says so in the label, RFC 1421 (as OpenSSL writes PKCS#1 and SEC1) in a header.
_ENCRYPTED = (b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED")


@dataclass(frozen=True, slots=True)
class Half:
    """One private half: where it came from, and its public half (DER SubjectPublicKeyInfo)."""

    origin: str
    spki: bytes
    kid: str | None = None
    """What its own JWK calls it."""
    private: PrivateKeyTypes | None = field(default=None, repr=False)
    """``None``: it does not leave the key store, which knows it by ``handle``."""
    handle: str = ""


def is_encrypted(data: bytes) -> bool:
    """Whether a private key in ``data`` needs a passphrase."""
    return any(sign in data for sign in _ENCRYPTED)


def read_halves(data: bytes, origin: str, passphrase: bytes | None = None) -> tuple[Half, ...]:
    """Every private key in ``data``; public ones and certificates beside them are passed over.

    A JSON object that is no JWK may hold PEM in its members, as consoles of secret stores like to write it.

    Raises:
        ConfigurationError: there is none, or one cannot be read. Never quotes the input.
    """
    if len(data) > MAX_BYTES:
        raise ConfigurationError(f"{origin} is larger than {MAX_BYTES} bytes: it is no file of keys.")
    document = _object(data)
    if document is None and b"-----BEGIN " not in data:
        raise ConfigurationError(f"{origin} is neither PEM nor JSON: give PEM, a private JWK, or a set of them.")
    if document is None:
        found = tuple(_from_pem(data, origin, passphrase))
    elif "keys" in document or "kty" in document:
        found = tuple(_from_jwks(document, origin))
    else:
        texts = [text.replace("\\n", "\n") for text in document.values() if isinstance(text, str)]
        found = tuple(_from_pem("\n".join(texts).encode(errors="replace"), origin, passphrase))
    if not found:
        raise ConfigurationError(
            f"{origin} holds no private key: give PEM (PKCS#8, PKCS#1, SEC1), a private JWK, or a set of them."
        )
    return found


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        # Its error would carry the whole text.
        return None
    return document if isinstance(document, dict) else None


def _from_pem(data: bytes, origin: str, passphrase: bytes | None) -> Iterator[Half]:
    for block in _PRIVATE_PEM.finditer(data):
        pem = block.group(0) + b"\n"
        try:
            private = material.load_private_pem(pem, passphrase if is_encrypted(pem) else None)
        except ConfigurationError:
            if is_encrypted(pem) and passphrase is None:
                raise ConfigurationError(
                    f"{origin}: a private key in it is encrypted and needs a passphrase."
                ) from None
            wrong = (
                "wrong passphrase, or a damaged file" if is_encrypted(pem) else "not PKCS#8, PKCS#1 or SEC1, or damaged"
            )
            raise ConfigurationError(f"{origin}: a private key in it cannot be read: {wrong}.") from None
        yield Half(origin, material.spki(private), None, private)


def _from_jwks(document: dict[str, Any], origin: str) -> Iterator[Half]:
    keys = document.get("keys", [document])
    for number, jwk in enumerate(keys if isinstance(keys, list) else []):
        if not isinstance(jwk, dict) or not is_private(jwk):
            continue
        kid = jwk["kid"] if isinstance(jwk.get("kid"), str) else None
        name = origin if keys == [document] else f"{origin}, key {number + 1}"
        try:
            private = material.load_private_jwk(_whole(jwk))
            spki = material.spki(private)
        except (ConfigurationError, ValueError) as exc:
            said = str(exc) if isinstance(exc, ConfigurationError) else "Its numbers do not belong together."
            raise ConfigurationError(f"{name}: {said}") from None
        yield Half(name, spki, kid, private)


def _whole(jwk: dict[str, Any]) -> dict[str, Any]:
    """``jwk`` with the members that speed RSA up, which RFC 7518 section 6.3.2 leaves to the writer."""
    if jwk.get("kty") != "RSA" or not {"p", "q", "dp", "dq", "qi", "oth"}.isdisjoint(jwk):
        return jwk
    from cryptography.hazmat.primitives.asymmetric import rsa

    try:
        n, e, d = (int.from_bytes(material.unb64u(jwk[name]), "big") for name in ("n", "e", "d"))
        p, q = rsa.rsa_recover_prime_factors(n, e, d)
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError("The private JWK cannot be read: a member is missing or wrong.") from None
    more = {"p": p, "q": q, "dp": d % (p - 1), "dq": d % (q - 1), "qi": pow(q, -1, p)}
    return jwk | {name: material.b64u_int(value) for name, value in more.items()}
