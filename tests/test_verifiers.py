"""The table of verifiers: every row says something, and what it says is what that verifier was seen to do."""

from __future__ import annotations

import json
import warnings
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args

import pytest

from rotator.keys.policy import Policy
from rotator.keys.verifiers import VERIFIERS, Spoiler, Verifier
from tests.test_inspect import good, token, without

if TYPE_CHECKING:
    from collections.abc import Callable

    from rotator.keys.jwks import Jwk


@pytest.mark.parametrize(
    ("name", "uses", "refuses"),
    [
        ("alb", {"RS256"}, {"RS384", "PS256", "ES256", "EdDSA", "ML-DSA-65"}),
        ("apigateway", {"RS256", "PS512"}, {"ES256", "EdDSA"}),
        ("iam", {"RS256", "ES384"}, {"EdDSA", "ML-DSA-44"}),
        ("pyjwt", {"EdDSA", "ES256"}, {"Ed25519", "Ed448", "ML-DSA-65"}),
        ("joserfc", {"EdDSA", "Ed25519", "Ed448"}, {"ML-DSA-65"}),
        ("authlib", {"EdDSA", "ES256"}, {"Ed25519", "Ed448", "ML-DSA-65"}),
        ("python-jose", {"RS256", "ES256"}, {"PS256", "EdDSA", "Ed25519", "Ed448", "ML-DSA-65"}),
        ("jose", {"EdDSA", "Ed25519", "ES256"}, {"Ed448", "ML-DSA-65"}),
        ("jwks-rsa", {"RS256", "ES256"}, {"EdDSA", "Ed25519", "ML-DSA-65"}),
        ("aws-jwt-verify", {"EdDSA", "RS256"}, {"PS256", "Ed25519", "Ed448"}),
        ("jwcrypto", {"Ed25519", "Ed448", "ML-DSA-65"}, set()),
        ("oci", {"ML-DSA-65"}, set()),
    ],
)
def test_a_verifier_uses_what_it_was_seen_to_use(name: str, uses: set[str], refuses: set[str]) -> None:
    row = VERIFIERS[name]
    assert all(row.uses(alg) for alg in uses)
    assert not any(row.uses(alg) for alg in refuses)


@pytest.mark.parametrize("row", VERIFIERS.values(), ids=lambda row: row.name)
def test_every_row_has_a_name_that_can_be_typed(row: Verifier) -> None:
    assert VERIFIERS[row.name] is row
    assert row.name == row.name.lower()
    assert " " not in row.name


def test_the_default_policy_covers_every_cache_that_is_known() -> None:
    known = [row.cache for row in VERIFIERS.values() if row.cache]
    assert len(known) > 5
    assert max(known) == timedelta(hours=12)
    assert Policy().verifier_cache >= max(known)


# -- what spoils a set, seen with the libraries themselves ---------------------------------------------------------


def library(name: str) -> Any:
    # Authlib sends its users to joserfc, whatever the filters say.
    with warnings.catch_warnings(record=True):
        try:
            return import_module(name)
        except ImportError:
            pytest.skip(f"{name} is not installed (pip install -e '.[clients]')")


def pyjwt(words: str, document: dict[str, Any]) -> None:
    jwt = library("jwt")
    key = jwt.PyJWKSet.from_dict(document)[jwt.get_unverified_header(words)["kid"]]
    jwt.decode(words, key, algorithms=["ES256"], options={"verify_exp": False})


def joserfc(words: str, document: dict[str, Any]) -> None:
    keys = library("joserfc.jwk").KeySet.import_key_set(document)
    library("joserfc.jwt").decode(words, keys, algorithms=["ES256"])


def authlib(words: str, document: dict[str, Any]) -> None:
    jose = library("authlib.jose")
    jose.JsonWebToken(["ES256"]).decode(words, jose.JsonWebKey.import_key_set(document))


def jwcrypto(words: str, document: dict[str, Any]) -> None:
    keys = library("jwcrypto.jwk").JWKSet.from_json(json.dumps(document))
    library("jwcrypto.jwt").JWT(jwt=words, key=keys)


def spoilers() -> dict[str, Jwk]:
    """For each thing that spoils a set for somebody, a key that is it; no token is signed by any of them."""
    other = good("ES384")
    return {
        "duplicate kid": other | {"kid": good()["kid"]},
        "AKP": good("ML-DSA-44"),
        "unknown kty": {"kty": "QKP", "kid": "q"},
        "unknown crv": other | {"crv": "P-999"},
        "missing member": without(other, "y"),
        "malformed key": other | {"x": other["x"] + "="},
        "mixed kty": good("RS256"),
    }


@pytest.mark.parametrize("verify", [pyjwt, joserfc, authlib, jwcrypto], ids=lambda verify: str(verify.__name__))
def test_a_set_is_spoiled_by_what_the_table_says_and_by_nothing_else(verify: Callable[[str, Any], None]) -> None:
    words = token(exp=4_102_444_800)
    verify(words, {"keys": [good()]})
    spoiled = set()
    for what, key in spoilers().items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                verify(words, {"keys": [key, good()]})
        except Exception:  # noqa: BLE001 - each library has errors of its own, and some only those of Python
            spoiled.add(what)
    assert spoiled == VERIFIERS[verify.__name__].spoiled_by


def test_there_is_a_key_for_each_spoiler() -> None:
    assert spoilers().keys() == set(get_args(Spoiler))
