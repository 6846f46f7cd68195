"""Private halves held in memory: generate, sign, verify, and convert. Pure computation over ``cryptography``.

``cryptography`` is imported inside the functions: a tick with nothing to do never pays for it.
"""

from __future__ import annotations

import base64
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rotator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from rotator.keys.algorithms import Algorithm

_RSA_EXPONENT = 65537

#: The names of curves in ``cryptography`` (SEC 2) and in JOSE (RFC 7518 section 6.2.1.1).
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}

#: The public and the private member of a key that is one string of bytes (RFC 8037 section 2, RFC 9964 section 3).
RAW_MEMBERS = {"OKP": ("x", "d"), "AKP": ("pub", "priv")}


def b64u(data: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64u_int(value: int, length: int | None = None) -> str:
    """Base64urlUInt (RFC 7518 section 2): big endian, no leading zero byte unless ``length`` bytes are due."""
    return b64u(value.to_bytes(length or max(1, (value.bit_length() + 7) // 8), "big"))


def unb64u(text: str) -> bytes:
    """The bytes behind base64url ``text``; raises ``ValueError`` where it is padded or not base64url."""
    if not {"=", "+", "/"}.isdisjoint(text) or len(text) % 4 == 1:
        raise ValueError("not base64url without padding (RFC 7515 section 2)")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def generate(algorithm: Algorithm, rsa_bits: int) -> PrivateKeyTypes:
    """A new private key for ``algorithm``; an RSA key of ``rsa_bits`` bits takes up to seconds.

    Raises:
        ConfigurationError: this build of ``cryptography`` cannot make such keys.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if algorithm.kty == "RSA":
        return rsa.generate_private_key(_RSA_EXPONENT, rsa_bits)
    if algorithm.kty == "EC":
        return ec.generate_private_key(_curve(algorithm.crv))
    with supported(algorithm.key_kind):
        made: PrivateKeyTypes = raw_classes(algorithm.key_kind)[0].generate()
    return made


def raw_classes(kind: str) -> tuple[Any, Any]:
    """The private and the public class of keys that are one string of bytes; ``KeyError``: no such kind."""
    from cryptography.hazmat.primitives.asymmetric import ed448, ed25519, mldsa

    return {
        "Ed25519": (ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey),
        "Ed448": (ed448.Ed448PrivateKey, ed448.Ed448PublicKey),
        "ML-DSA-44": (mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey),
        "ML-DSA-65": (mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey),
        "ML-DSA-87": (mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey),
    }[kind]


@contextmanager
def supported(kind: str) -> Iterator[None]:
    """Raise as ours that the OpenSSL behind ``cryptography`` knows no keys of ``kind``.

    Raises:
        ConfigurationError: it knows none; the message says what to install.
    """
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        yield
    except UnsupportedAlgorithm as exc:
        from cryptography import __version__
        from cryptography.hazmat.backends.openssl import backend

        raise ConfigurationError(
            f"cryptography {__version__} with {backend.openssl_version_text()} has no {kind} keys: install its wheel"
            " (pip install cryptography), or build it with OpenSSL 3.5 or newer."
        ) from exc


def spki(private: PrivateKeyTypes) -> bytes:
    """DER SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7) of the public half."""
    from cryptography.hazmat.primitives import serialization

    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def private_pem(private: PrivateKeyTypes, passphrase: bytes | None = None) -> bytes:
    """PKCS#8 PEM (RFC 5958), encrypted under ``passphrase`` when there is one."""
    from cryptography.hazmat.primitives import serialization

    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def load_private_pem(pem: bytes, passphrase: bytes | None = None) -> PrivateKeyTypes:
    """The private key in ``pem``.

    Raises:
        ConfigurationError: wrong or missing passphrase, or not a private key. Never quotes the input.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        return serialization.load_pem_private_key(pem, passphrase or None)
    except TypeError as exc:
        wanted = "is encrypted and needs" if not passphrase else "is not encrypted, but there is"
        raise ConfigurationError(f"The private key {wanted} a passphrase.") from exc
    except UnsupportedAlgorithm:
        raise ConfigurationError(
            "The private key is of a kind that this build of cryptography does not know; ML-DSA needs OpenSSL 3.5."
        ) from None
    except ValueError:
        # The cause may quote what it could not parse, so it is not kept.
        raise ConfigurationError("The private key cannot be read: wrong passphrase, or not PKCS#8 PEM.") from None


def private_jwk(private: PrivateKeyTypes, public_jwk: dict[str, Any]) -> dict[str, Any]:
    """The private JWK (RFC 7517) whose public members are ``public_jwk``."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(private, rsa.RSAPrivateKey):
        numbers = private.private_numbers()
        secret = {
            "d": numbers.d,
            "p": numbers.p,
            "q": numbers.q,
            "dp": numbers.dmp1,
            "dq": numbers.dmq1,
            "qi": numbers.iqmp,
        }
        return public_jwk | {name: b64u_int(value) for name, value in secret.items()}
    if isinstance(private, ec.EllipticCurvePrivateKey):
        length = (private.key_size + 7) // 8
        return public_jwk | {"d": b64u_int(private.private_numbers().private_value, length)}
    # Of an ML-DSA key this is the seed (RFC 9964 section 3).
    raw = private.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    return public_jwk | {RAW_MEMBERS[public_jwk["kty"]][1]: b64u(raw)}


def load_private_jwk(jwk: dict[str, Any]) -> PrivateKeyTypes:
    """The private key in ``jwk`` (RSA with all CRT members, EC, OKP that signs, or AKP).

    Raises:
        ConfigurationError: a member is missing or wrong. Never quotes the input.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    try:
        if jwk["kty"] == "RSA":
            n, e, d, p, q, dp, dq, qi = (
                int.from_bytes(unb64u(jwk[name]), "big") for name in ("n", "e", "d", "p", "q", "dp", "dq", "qi")
            )
            # The checks cost as much as a new key; the proof before promotion verifies a signature instead.
            return rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, rsa.RSAPublicNumbers(e, n)).private_key(
                unsafe_skip_rsa_key_validation=True
            )
        if jwk["kty"] == "EC":
            return ec.derive_private_key(_number(jwk, "d"), _curve(jwk["crv"]))
        if jwk["kty"] in RAW_MEMBERS:
            kind = str(jwk["crv" if jwk["kty"] == "OKP" else "alg"])
            with supported(kind):
                private_class, _ = raw_classes(kind)
                load = getattr(private_class, "from_seed_bytes", None) or private_class.from_private_bytes
                loaded: PrivateKeyTypes = load(unb64u(jwk[RAW_MEMBERS[jwk["kty"]][1]]))
            return loaded
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError("The private JWK cannot be read: a member is missing or wrong.") from None
    raise ConfigurationError("The private JWK is of an unknown kind: kty must be RSA, EC, OKP or AKP.")


def sign(private: PrivateKeyTypes, algorithm: Algorithm, message: bytes) -> bytes:
    """The JWS signature of ``message`` (RFC 7518 section 3): ECDSA as r‖s, PSS with a salt as long as the hash."""
    return signing(private, algorithm)(message)


def signing(private: PrivateKeyTypes, algorithm: Algorithm) -> Callable[[bytes], bytes]:
    """What makes the JWS signature of any message, as :func:`sign`; all that depends on the key alone is done by now.

    Raises:
        ConfigurationError: ``private`` is not a key of ``algorithm``.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(private, rsa.RSAPrivateKey) and algorithm.kty == "RSA":
        padding, digest = _rsa_padding(algorithm), _hash(algorithm)
        return lambda message: private.sign(message, padding, digest)
    if isinstance(private, ec.EllipticCurvePrivateKey) and CURVES.get(private.curve.name) == algorithm.crv:
        ecdsa, size = ec.ECDSA(_hash(algorithm)), algorithm.coordinate_bytes or 0
        return lambda message: _split(private.sign(message, ecdsa), size)
    if algorithm.kty in RAW_MEMBERS and isinstance(private, raw_classes(algorithm.key_kind)[0]):
        raw: Callable[[bytes], bytes] = private.sign
        return raw
    raise ConfigurationError(f"A {type(private).__name__} cannot sign {algorithm.alg}.")


def verify(jwk: dict[str, Any], algorithm: Algorithm, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is the JWS signature of ``message`` under the public ``jwk``.

    Raises:
        ConfigurationError: this build of ``cryptography`` cannot tell.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    try:
        if algorithm.kty == "RSA":
            numbers = rsa.RSAPublicNumbers(_number(jwk, "e"), _number(jwk, "n"))
            numbers.public_key().verify(signature, message, _rsa_padding(algorithm), _hash(algorithm))
        elif algorithm.kty == "EC":
            point = ec.EllipticCurvePublicNumbers(_number(jwk, "x"), _number(jwk, "y"), _curve(algorithm.crv))
            size = algorithm.coordinate_bytes or 0
            if len(signature) != 2 * size:
                return False
            der = encode_dss_signature(int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big"))
            point.public_key().verify(der, message, ec.ECDSA(_hash(algorithm)))
        elif "alg" in algorithm.public_members and jwk["alg"] != algorithm.alg:
            return False
        else:
            raw = unb64u(jwk[RAW_MEMBERS[algorithm.kty][0]])
            with supported(algorithm.key_kind):
                raw_classes(algorithm.key_kind)[1].from_public_bytes(raw).verify(signature, message)
    except (InvalidSignature, KeyError, TypeError, ValueError):
        return False
    return True


def ecdsa_der_to_jose(der: bytes, algorithm: Algorithm) -> bytes:
    """DER ``ECDSA-Sig-Value`` → r‖s, each of the curve's length (RFC 7518 section 3.4)."""
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    r, s = decode_dss_signature(der)
    size = algorithm.coordinate_bytes or 0
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def _split(der: bytes, size: int) -> bytes:
    # As ecdsa_der_to_jose, for DER that OpenSSL made a moment ago: a parser would cost each ES256 token its twentieth.
    # SEQUENCE { INTEGER r, INTEGER s } (RFC 3279 section 2.2.3), whose length takes a second byte with P-521.
    r = 4 if der[1] < 0x80 else 5  # noqa: PLR2004 - DER's short form
    s = r + der[r - 1] + 2
    return der[r : s - 2][-size:].rjust(size, b"\0") + der[s:][-size:].rjust(size, b"\0")


def _number(jwk: dict[str, Any], member: str) -> int:
    return int.from_bytes(unb64u(jwk[member]), "big")


def _hash(algorithm: Algorithm) -> Any:
    from cryptography.hazmat.primitives import hashes

    return getattr(hashes, algorithm.hash or "")()


def _curve(crv: str | None) -> ec.EllipticCurve:
    from cryptography.hazmat.primitives.asymmetric import ec

    curves: dict[str | None, ec.EllipticCurve] = {
        "P-256": ec.SECP256R1(),
        "P-384": ec.SECP384R1(),
        "P-521": ec.SECP521R1(),
    }
    return curves[crv]


def _rsa_padding(algorithm: Algorithm) -> Any:
    from cryptography.hazmat.primitives.asymmetric import padding

    if algorithm.scheme == "pkcs1v15":
        return padding.PKCS1v15()
    return padding.PSS(padding.MGF1(_hash(algorithm)), padding.PSS.DIGEST_LENGTH)
