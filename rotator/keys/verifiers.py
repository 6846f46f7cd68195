"""One row per verifier: what it cannot use, and what in a set spoils every other key for it.

Sources: the documentation of each service (AWS Elastic Load Balancing "Verify JWTs", API Gateway "JWT authorizers",
IAM "OIDC identity provider", Oracle API Gateway); of libraries, what a live set showed in the versions named here.
A limit that is not known is not stated.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What may stand in a set that makes some verifiers reject all of it, or take the wrong key.
Spoiler = Literal["duplicate kid", "AKP", "unknown kty", "unknown crv", "missing member", "malformed key", "mixed kty"]

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_STS = frozenset({"RS256", "RS384", "RS512", "ES256", "ES384", "ES512"})
_ML_DSA = frozenset({"ML-DSA-44", "ML-DSA-65", "ML-DSA-87"})
_NEW_NAME = frozenset({"Ed25519", "Ed448"}) | _ML_DSA
_NO_EDDSA = frozenset({"EdDSA"}) | _NEW_NAME
_PSS = frozenset({"PS256", "PS384", "PS512"})


@dataclass(frozen=True, slots=True)
class Verifier:
    """A row. ``None`` and empty sets: no such limit is known."""

    name: str
    title: str
    only: frozenset[str] | None = None
    """The ``alg``s it verifies, where it says so itself."""
    refuses: frozenset[str] = frozenset()
    """The ``alg``s it was seen to refuse."""
    max_keys: int | None = None
    max_bytes: int | None = None
    spoiled_by: frozenset[Spoiler] = frozenset()
    cache: timedelta | None = None
    """How long it keeps a set by default."""

    def uses(self, alg: str) -> bool:
        """Whether it verifies signatures of ``alg``, as far as is known."""
        return alg not in self.refuses and (self.only is None or alg in self.only)


def _spoilers(*names: Spoiler) -> frozenset[Spoiler]:
    return frozenset(names)


_ROWS = (
    Verifier("alb", "AWS Application Load Balancer", frozenset({"RS256"}), max_keys=10, max_bytes=150 * 1024),
    Verifier("apigateway", "AWS API Gateway HTTP API", _RSA, cache=timedelta(hours=2)),
    Verifier("iam", "AWS IAM OIDC provider", _STS, max_keys=100),
    Verifier("oci", "Oracle Cloud API Gateway", max_keys=10),
    Verifier(
        "pyjwt",
        "PyJWT 2.15 PyJWKClient",
        refuses=_NEW_NAME,
        spoiled_by=_spoilers("duplicate kid"),
        cache=timedelta(minutes=5),
    ),
    Verifier(
        "joserfc",
        "joserfc 1.8",
        refuses=_ML_DSA,
        spoiled_by=_spoilers("unknown crv", "missing member", "malformed key"),
    ),
    Verifier(
        "authlib",
        "Authlib 1.9",
        refuses=_NEW_NAME,
        spoiled_by=_spoilers("AKP", "unknown kty", "missing member", "duplicate kid"),
    ),
    Verifier("jwcrypto", "jwcrypto 1.6", spoiled_by=_spoilers("missing member", "malformed key")),
    Verifier("python-jose", "python-jose 3.5", refuses=_NO_EDDSA | _PSS, spoiled_by=_spoilers("mixed kty")),
    Verifier("jose", "jose 6.2 (npm)", refuses=_ML_DSA | {"Ed448"}, cache=timedelta(minutes=10)),
    Verifier(
        "jwks-rsa",
        "jwks-rsa and jsonwebtoken (npm)",
        refuses=_NO_EDDSA,
        spoiled_by=_spoilers("duplicate kid"),
        cache=timedelta(minutes=10),
    ),
    Verifier(
        "aws-jwt-verify",
        "aws-jwt-verify 5.2 (npm)",
        refuses=_NEW_NAME | _PSS,
        spoiled_by=_spoilers("duplicate kid"),
    ),
    Verifier("express-oauth2-jwt-bearer", "express-oauth2-jwt-bearer (npm)", refuses=_NEW_NAME),
    Verifier("get-jwks", "get-jwks and fast-jwt (npm)", refuses=_NO_EDDSA),
    Verifier(
        "mod_auth_openidc",
        "Apache mod_auth_openidc 2.4",
        refuses=_NO_EDDSA,
        spoiled_by=_spoilers("duplicate kid"),
    ),
    Verifier("envoy", "Envoy 1.40", refuses=_NEW_NAME),
    Verifier(
        "keyfunc",
        "jwkset and keyfunc (Go)",
        refuses=_ML_DSA | {"Ed448"},
        spoiled_by=_spoilers("malformed key", "missing member", "unknown kty", "unknown crv", "AKP"),
        cache=timedelta(hours=1),
    ),
    Verifier("nimbus", "Nimbus JOSE and Spring Security", cache=timedelta(minutes=5)),
    Verifier("istio", "Istio", cache=timedelta(minutes=20)),
    Verifier("microsoft", "Microsoft.IdentityModel", cache=timedelta(hours=12)),
)

VERIFIERS: Mapping[str, Verifier] = MappingProxyType({row.name: row for row in _ROWS})
