"""What the registries say: the kinds of keys that a JWK can be, and which ``alg`` fits which of them.

Sources: RFC 7518 sections 3, 4, 6 and 7, RFC 8037, RFC 8812 (secp256k1), RFC 9864 (Ed25519, Ed448), RFC 9964 (ML-DSA),
as registered in IANA's "JSON Object Signing and Encryption (JOSE)".
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Use = Literal["sig", "enc"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of key: its ``kty`` and curve (or ML-DSA parameter set), and the members that make it."""

    name: str
    kty: str
    public: tuple[str, ...]
    private: tuple[str, ...]
    """The members without which there is no private half."""
    size: int | None = None
    """Bytes of each coordinate, or of the public key; ``None``: any."""
    secret: int | None = None
    """Bytes of the private member, where it has one length."""
    source: str = ""
    """Where the RFCs define its members."""


_EC, _OKP, _AKP = "RFC 7518 section 6.2", "RFC 8037 section 2", "RFC 9964 section 3"

_KINDS = (
    Kind("RSA", "RSA", ("n", "e"), ("d",), source="RFC 7518 section 6.3"),
    Kind("P-256", "EC", ("crv", "x", "y"), ("d",), 32, 32, _EC),
    Kind("P-384", "EC", ("crv", "x", "y"), ("d",), 48, 48, _EC),
    Kind("P-521", "EC", ("crv", "x", "y"), ("d",), 66, 66, _EC),
    Kind("secp256k1", "EC", ("crv", "x", "y"), ("d",), 32, 32, "RFC 8812 section 3.1"),
    Kind("Ed25519", "OKP", ("crv", "x"), ("d",), 32, 32, _OKP),
    Kind("Ed448", "OKP", ("crv", "x"), ("d",), 57, 57, _OKP),
    Kind("X25519", "OKP", ("crv", "x"), ("d",), 32, 32, _OKP),
    Kind("X448", "OKP", ("crv", "x"), ("d",), 56, 56, _OKP),
    Kind("ML-DSA-44", "AKP", ("alg", "pub"), ("priv",), 1312, 32, _AKP),
    Kind("ML-DSA-65", "AKP", ("alg", "pub"), ("priv",), 1952, 32, _AKP),
    Kind("ML-DSA-87", "AKP", ("alg", "pub"), ("priv",), 2592, 32, _AKP),
    Kind("oct", "oct", (), ("k",), source="RFC 7518 section 6.4"),
)

KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in _KINDS})

#: The member that tells kinds of one ``kty`` apart.
TOLD_BY: Mapping[str, str | None] = MappingProxyType(
    {"RSA": None, "EC": "crv", "OKP": "crv", "AKP": "alg", "oct": None}
)

#: Other names that programs give the curves, wrong in a JWK.
MISNAMED = MappingProxyType(
    {
        "secp256r1": "P-256",
        "prime256v1": "P-256",
        "p256": "P-256",
        "secp384r1": "P-384",
        "p384": "P-384",
        "secp521r1": "P-521",
        "p521": "P-521",
        "p-521": "P-521",
        "p-512": "P-521",
        "p-256k": "secp256k1",
        "ed25519": "Ed25519",
        "x25519": "X25519",
        "ed448": "Ed448",
        "x448": "X448",
    }
)


def kind_of(jwk: Mapping[str, Any]) -> Kind | None:
    """The kind of key that ``jwk`` says it is; ``None``: it names none that is registered."""
    kty = jwk.get("kty")
    if not isinstance(kty, str) or kty not in TOLD_BY:
        return None
    told_by = TOLD_BY[kty]
    name = jwk.get(told_by) if told_by else kty
    kind = KINDS.get(name) if isinstance(name, str) else None
    return kind if kind is not None and kind.kty == kty else None


@dataclass(frozen=True, slots=True)
class Purpose:
    """What an ``alg`` is for, and the kinds of keys it works with."""

    use: Use
    kinds: tuple[str, ...]
    least: int = 0
    """The fewest bytes of an ``oct`` key."""


_ECDH = ("P-256", "P-384", "P-521", "X25519", "X448")


def _algs() -> dict[str, Purpose]:
    found = {f"{family}{bits}": Purpose("sig", ("RSA",)) for family in ("RS", "PS") for bits in (256, 384, 512)}
    found |= {
        "ES256": Purpose("sig", ("P-256",)),
        "ES384": Purpose("sig", ("P-384",)),
        "ES512": Purpose("sig", ("P-521",)),
        "ES256K": Purpose("sig", ("secp256k1",)),
        "EdDSA": Purpose("sig", ("Ed25519", "Ed448")),
        "Ed25519": Purpose("sig", ("Ed25519",)),
        "Ed448": Purpose("sig", ("Ed448",)),
    }
    found |= {f"ML-DSA-{size}": Purpose("sig", (f"ML-DSA-{size}",)) for size in (44, 65, 87)}
    found |= {f"HS{bits}": Purpose("sig", ("oct",), bits // 8) for bits in (256, 384, 512)}
    found |= dict.fromkeys(
        ("RSA1_5", "RSA-OAEP", "RSA-OAEP-256", "RSA-OAEP-384", "RSA-OAEP-512"), Purpose("enc", ("RSA",))
    )
    found["ECDH-ES"] = Purpose("enc", _ECDH)
    for bits in (128, 192, 256):
        found[f"ECDH-ES+A{bits}KW"] = Purpose("enc", _ECDH)
        found |= dict.fromkeys((f"A{bits}KW", f"A{bits}GCMKW", f"A{bits}GCM"), Purpose("enc", ("oct",), bits // 8))
        found[f"A{bits}CBC-HS{2 * bits}"] = Purpose("enc", ("oct",), bits // 4)
        found[f"PBES2-HS{2 * bits}+A{bits}KW"] = Purpose("enc", ("oct",), 1)
    found["dir"] = Purpose("enc", ("oct",), 1)
    return found


#: Every registered ``alg`` that works with a key.
ALGS: Mapping[str, Purpose] = MappingProxyType(_algs())

#: What each ``key_ops`` value does (RFC 7517 section 4.3): for which use, and whether with the private half.
KEY_OPS: Mapping[str, tuple[Use, bool]] = MappingProxyType(
    {
        "sign": ("sig", True),
        "verify": ("sig", False),
        "encrypt": ("enc", False),
        "decrypt": ("enc", True),
        "wrapKey": ("enc", False),
        "unwrapKey": ("enc", True),
        "deriveKey": ("enc", True),
        "deriveBits": ("enc", True),
    }
)
