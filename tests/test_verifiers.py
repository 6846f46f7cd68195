"""The table of verifiers: every row says something, and what it says is what that verifier was seen to do."""

from __future__ import annotations

from datetime import timedelta

import pytest

from rotator.keys.policy import Policy
from rotator.keys.verifiers import VERIFIERS, Verifier


@pytest.mark.parametrize(
    ("name", "uses", "refuses"),
    [
        ("alb", {"RS256"}, {"RS384", "PS256", "ES256", "EdDSA", "ML-DSA-65"}),
        ("apigateway", {"RS256", "PS512"}, {"ES256", "EdDSA"}),
        ("iam", {"RS256", "ES384"}, {"EdDSA", "ML-DSA-44"}),
        ("jose", {"EdDSA", "Ed25519", "ES256"}, {"ML-DSA-65"}),
        ("jwks-rsa", {"RS256", "ES256"}, {"EdDSA", "Ed25519", "ML-DSA-65"}),
        ("aws-jwt-verify", {"EdDSA", "RS256"}, {"PS256", "Ed25519"}),
        ("jwcrypto", {"Ed25519", "ML-DSA-65"}, set()),
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
