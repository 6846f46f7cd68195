"""Private halves held in memory: generate, sign, verify, and convert. Pure computation over ``cryptography``.

``cryptography`` is imported inside the functions: a tick with nothing to do never pays for it.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from rotator.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from rotator.keys.algorithms import Algorithm

_RSA_EXPONENT = 65537

#: The names of curves in ``cryptography`` (SEC 2) and in JOSE (RFC 7518 section 6.2.1.1).
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


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
    """A new private key for ``algorithm``; an RSA key of ``rsa_bits`` bits takes up to seconds."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if algorithm.kty == "RSA":
        return rsa.generate_private_key(_RSA_EXPONENT, rsa_bits)
    if algorithm.kty == "EC":
        return ec.generate_private_key(_curve(algorithm.crv))
    return ed25519.Ed25519PrivateKey.generate()


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
    except (ValueError, UnsupportedAlgorithm):
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
    raw = private.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    return public_jwk | {"d": b64u(raw)}


def load_private_jwk(jwk: dict[str, Any]) -> PrivateKeyTypes:
    """The private key in ``jwk`` (RSA with all CRT members, EC, or Ed25519).

    Raises:
        ConfigurationError: a member is missing or wrong. Never quotes the input.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

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
        if jwk["kty"] == "OKP" and jwk["crv"] == "Ed25519":
            return ed25519.Ed25519PrivateKey.from_private_bytes(unb64u(jwk["d"]))
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError("The private JWK cannot be read: a member is missing or wrong.") from None
    raise ConfigurationError("The private JWK is of an unknown kind: kty must be RSA, EC or OKP with Ed25519.")


def sign(private: PrivateKeyTypes, algorithm: Algorithm, message: bytes) -> bytes:
    """The JWS signature of ``message`` (RFC 7518 section 3): ECDSA as r‖s, PSS with a salt as long as the hash."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(private, rsa.RSAPrivateKey) and algorithm.kty == "RSA":
        return private.sign(message, _rsa_padding(algorithm), _hash(algorithm))
    if isinstance(private, ec.EllipticCurvePrivateKey) and CURVES.get(private.curve.name) == algorithm.crv:
        return ecdsa_der_to_jose(private.sign(message, ec.ECDSA(_hash(algorithm))), algorithm)
    if isinstance(private, ed25519.Ed25519PrivateKey) and algorithm.kty == "OKP":
        return private.sign(message)
    raise ConfigurationError(f"A {type(private).__name__} cannot sign {algorithm.alg}.")


def verify(jwk: dict[str, Any], algorithm: Algorithm, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is the JWS signature of ``message`` under the public ``jwk``."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
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
        else:
            ed25519.Ed25519PublicKey.from_public_bytes(unb64u(jwk["x"])).verify(signature, message)
    except (InvalidSignature, KeyError, TypeError, ValueError):
        return False
    return True


def ecdsa_der_to_jose(der: bytes, algorithm: Algorithm) -> bytes:
    """DER ``ECDSA-Sig-Value`` → r‖s, each of the curve's length (RFC 7518 section 3.4)."""
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    r, s = decode_dss_signature(der)
    size = algorithm.coordinate_bytes or 0
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


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
