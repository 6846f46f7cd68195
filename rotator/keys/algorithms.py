"""One row per JOSE algorithm: everything that differs between algorithms stands here and nowhere else.

Sources: RFC 7518 section 3 (RS, PS, ES), RFC 8037 (EdDSA), RFC 9864 (Ed25519, Ed448), RFC 9964 (ML-DSA); key specs
and signing algorithms as AWS KMS names them (CreateKey, Sign).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from rotator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

Scheme = Literal["pkcs1v15", "pss", "ecdsa", "eddsa", "ml-dsa"]

#: Private members of any JWK (RFC 7518 section 6, RFC 8037, RFC 9964); none may ever be published.
PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"})

#: RSA key sizes in bits that may be generated.
RSA_BITS = (2048, 3072, 4096)


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A row: what a JOSE ``alg`` means to JWK, to a signature and to KMS."""

    alg: str
    kty: str
    crv: str | None
    scheme: Scheme
    hash: str | None
    """Name of the hash, e.g. ``SHA256``; ``None`` where the scheme brings its own."""
    kms_signing_algorithm: str | None
    """``None``: KMS has no such algorithm."""
    kms_key_spec: str | None
    """KMS key spec; ``None`` for RSA, whose spec carries the size."""
    public_members: tuple[str, ...]
    """Members that make the RFC 7638 thumbprint, in its (lexicographic) order."""
    coordinate_bytes: int | None = None
    """Length in bytes of r and of s in an ECDSA signature (RFC 7518 section 3.4)."""

    @property
    def key_kind(self) -> str:
        """What one kind of key is called: two algorithms of one kind could sign with one key."""
        return self.crv or (self.alg if "alg" in self.public_members else self.kty)

    def key_spec(self, rsa_bits: int) -> str:
        """The KMS key spec for a key of this algorithm; ``rsa_bits`` matters for RSA alone.

        Raises:
            ConfigurationError: KMS has none.
        """
        if self.kms_signing_algorithm is None:
            raise ConfigurationError(f"AWS KMS has no {self.alg} keys: take another algorithm, or another key store.")
        return self.kms_key_spec or f"RSA_{rsa_bits}"


_RSA_MEMBERS = ("e", "kty", "n")
_EC_MEMBERS = ("crv", "kty", "x", "y")
_OKP_MEMBERS = ("crv", "kty", "x")
_AKP_MEMBERS = ("alg", "kty", "pub")

_ROWS = (
    Algorithm("RS256", "RSA", None, "pkcs1v15", "SHA256", "RSASSA_PKCS1_V1_5_SHA_256", None, _RSA_MEMBERS),
    Algorithm("RS384", "RSA", None, "pkcs1v15", "SHA384", "RSASSA_PKCS1_V1_5_SHA_384", None, _RSA_MEMBERS),
    Algorithm("RS512", "RSA", None, "pkcs1v15", "SHA512", "RSASSA_PKCS1_V1_5_SHA_512", None, _RSA_MEMBERS),
    Algorithm("PS256", "RSA", None, "pss", "SHA256", "RSASSA_PSS_SHA_256", None, _RSA_MEMBERS),
    Algorithm("PS384", "RSA", None, "pss", "SHA384", "RSASSA_PSS_SHA_384", None, _RSA_MEMBERS),
    Algorithm("PS512", "RSA", None, "pss", "SHA512", "RSASSA_PSS_SHA_512", None, _RSA_MEMBERS),
    Algorithm("ES256", "EC", "P-256", "ecdsa", "SHA256", "ECDSA_SHA_256", "ECC_NIST_P256", _EC_MEMBERS, 32),
    Algorithm("ES384", "EC", "P-384", "ecdsa", "SHA384", "ECDSA_SHA_384", "ECC_NIST_P384", _EC_MEMBERS, 48),
    Algorithm("ES512", "EC", "P-521", "ecdsa", "SHA512", "ECDSA_SHA_512", "ECC_NIST_P521", _EC_MEMBERS, 66),
    Algorithm("EdDSA", "OKP", "Ed25519", "eddsa", None, "ED25519_SHA_512", "ECC_NIST_EDWARDS25519", _OKP_MEMBERS),
    Algorithm("Ed25519", "OKP", "Ed25519", "eddsa", None, "ED25519_SHA_512", "ECC_NIST_EDWARDS25519", _OKP_MEMBERS),
    Algorithm("Ed448", "OKP", "Ed448", "eddsa", None, None, None, _OKP_MEMBERS),
    Algorithm("ML-DSA-44", "AKP", None, "ml-dsa", None, "ML_DSA_SHAKE_256", "ML_DSA_44", _AKP_MEMBERS),
    Algorithm("ML-DSA-65", "AKP", None, "ml-dsa", None, "ML_DSA_SHAKE_256", "ML_DSA_65", _AKP_MEMBERS),
    Algorithm("ML-DSA-87", "AKP", None, "ml-dsa", None, "ML_DSA_SHAKE_256", "ML_DSA_87", _AKP_MEMBERS),
)

ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType({row.alg: row for row in _ROWS})


def algorithm(alg: str) -> Algorithm:
    """The row of ``alg``.

    Raises:
        ConfigurationError: no such algorithm; the message lists those there are.
    """
    try:
        return ALGORITHMS[alg]
    except KeyError:
        known = ", ".join(ALGORITHMS)
        raise ConfigurationError(f"Unknown algorithm {alg!r}: choose from {known}.") from None
