"""Odd input to the pure core: what strangers, old tools and hands can put before it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from rotator.errors import ConfigurationError
from rotator.keys import jwks, material
from rotator.keys.algorithms import algorithm
from rotator.keys.blast_radius import blast_radius
from rotator.keys.keyring import DocumentFacts, Served, Succession
from rotator.keys.policy import Policy, max_age_of, staleness_of
from rotator.keys.publication import difference, guard, project
from tests.test_keyring import edited, refusal
from tests.test_plan import (
    CURRENT,
    DAY,
    FOREIGN_ATTEMPT,
    HOUR,
    JWKS,
    KEYSET,
    KMS_LIKE,
    MINUTE,
    NEXT,
    NOW,
    QUIET,
    ask,
    jwk_of,
    key,
    ring,
    seen,
    the_wait,
    world,
)

RIGHT = [jwk_of("c"), jwk_of("n")]


@pytest.mark.parametrize("kid", [[], {}, ["theirs"]], ids=str)
def test_a_foreign_key_whose_kid_is_no_text_is_kept_like_one_without(kid: Any) -> None:
    odd = {"kty": "OKP", "kid": kid}
    there = seen([odd])
    keys = project(QUIET, JWKS, there)
    assert keys == [*RIGHT, odd]
    assert difference(QUIET, JWKS, there) == "it lacks c, n"
    guard(QUIET, KEYSET, JWKS, keys, there)


def test_two_foreign_keys_with_one_kid_do_not_stop_ours_from_being_put_back() -> None:
    there = seen([jwk_of("theirs"), jwk_of("theirs") | {"x": "BB"}])
    guard(QUIET, KEYSET, JWKS, project(QUIET, JWKS, there), there)


def test_two_foreign_keys_with_one_kid_do_not_stop_a_revoke() -> None:
    of = ring(key("r", "current", revoked_at=NOW), NEXT)
    there = seen([jwk_of("r"), jwk_of("n"), jwk_of("theirs"), jwk_of("theirs") | {"x": "BB"}])
    guard(of, KEYSET, JWKS, project(of, JWKS, there), there)


def test_the_cost_counts_with_copies_that_were_replaced_and_may_still_be_served() -> None:
    about = DocumentFacts("ours", "", (Served("ours", HOUR), Served("long", 9 * DAY, NOW + 8 * DAY)))
    of = ring(CURRENT, NEXT, documents={"jwks": about})
    assert blast_radius(of, KEYSET, "c", NOW).trusted_until == NOW + 9 * DAY


def test_the_cost_of_a_key_that_is_being_promoted_does_not_say_that_it_never_signed() -> None:
    of = ring(CURRENT, key("n", "next", promoting_at=NOW - HOUR))
    assert "never signed" not in blast_radius(of, KEYSET, "n", NOW).sentences[0]


def test_no_second_attempt_is_made_by_a_clock_that_cannot_be_trusted() -> None:
    fault = world(FOREIGN_ATTEMPT, clock_fault="the clock is off")
    asked = ask(FOREIGN_ATTEMPT, fault, now=NOW + 5 * MINUTE, traits=KMS_LIKE)
    assert asked.step is None
    assert the_wait(asked, "attempt").reason == "the clock is off"


def test_of_a_directive_given_twice_the_larger_value_counts() -> None:
    header = "max-age=86400, max-age=5, must-revalidate"
    assert staleness_of(header) == max_age_of(header) == DAY


def test_leading_zeros_do_not_shorten_a_number() -> None:
    assert max_age_of("max-age=" + "0" * 20 + "300") == timedelta(seconds=300)


@pytest.mark.parametrize(
    ("made_for", "alg"),
    [
        ("ES256", "RS256"),
        ("ES256", "ES512"),
        ("ES256", "EdDSA"),
        ("RS256", "ES256"),
        ("RS256", "EdDSA"),
        ("EdDSA", "RS256"),
    ],
)
def test_a_key_does_not_sign_for_an_algorithm_of_another_kind(made_for: str, alg: str) -> None:
    with pytest.raises(ConfigurationError, match=f"cannot sign {alg}"):
        material.sign(material.generate(algorithm(made_for), 2048), algorithm(alg), b"message")


@pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.BrainpoolP256R1()], ids=lambda curve: curve.name)
def test_another_curve_of_256_bits_is_not_p_256(curve: ec.EllipticCurve) -> None:
    with pytest.raises(ConfigurationError, match="does not fit ES256"):
        jwks.public_jwk(material.spki(ec.generate_private_key(curve)), algorithm("ES256"))


@pytest.mark.parametrize("text", ["+/+/", "ab+/"])
def test_the_other_base64_alphabet_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        material.unb64u(text)


@pytest.mark.parametrize("empty", [{}, ""], ids=repr)
@pytest.mark.parametrize("member", ["keys", "attempts", "retired", "history"])
def test_what_is_no_list_is_no_empty_list(member: str, empty: Any) -> None:
    refusal(edited(member, to=empty))


@pytest.mark.parametrize("number", [0, -1, 10**4000], ids=["0", "-1", "huge"])
def test_a_format_that_never_was_is_refused_briefly(number: int) -> None:
    refusal(edited("format", to=number))


def test_a_document_that_saw_a_key_must_have_promised_something() -> None:
    refusal(edited("keys", 0, "ready", to={}))


@pytest.mark.parametrize(
    "policy",
    [
        Policy(lifetime=timedelta(days=9_000_000)),
        Policy(token_lifetime=timedelta(days=9_000_000), lifetime=timedelta(days=9_000_000)),
        Policy(cache_tiers=10**12),
        Policy(verifier_cache=timedelta.max),
    ],
    ids=["lifetime", "token_lifetime", "cache_tiers", "verifier_cache"],
)
def test_a_duration_that_no_calendar_holds_is_refused(policy: Policy) -> None:
    assert policy.faults()


def test_another_content_type_is_named_as_the_reason() -> None:
    reason = difference(QUIET, JWKS, seen(RIGHT, content_type="text/html"))
    assert reason
    assert "text/html" in reason


def test_an_empty_passphrase_for_an_encrypted_key_is_no_passphrase() -> None:
    pem = material.private_pem(material.generate(algorithm("ES256"), 0), b"secret")
    with pytest.raises(ConfigurationError, match="is encrypted and needs a passphrase"):
        material.load_private_pem(pem, b"")


def test_json_that_no_strict_parser_reads_is_no_set() -> None:
    assert jwks.parse(b'{"keys": [{"kty": "x", "x": NaN}]}') is None


def test_the_same_keys_give_the_same_bytes_in_whatever_order_their_members_stand() -> None:
    jwk = jwk_of("c")
    again = json.loads(json.dumps(jwk, sort_keys=True))
    assert jwk == again
    assert jwks.serialize([jwk], 1) == jwks.serialize([again], 1)


def test_a_request_from_the_future_is_a_fact_from_the_future() -> None:
    future = NOW + 365 * DAY
    assert replace(QUIET, successions={"EdDSA": Succession(rotate_requested_at=future)}).newest_fact() == future
    assert QUIET.with_key("c", gone={"jwks": future}).newest_fact() == future
    assert replace(QUIET, attempts=(future,)).newest_fact() == future


def test_a_stranger_cannot_fill_ledger_and_log_with_a_kid() -> None:
    reason = difference(QUIET, JWKS, seen([*RIGHT, {"kty": "oct", "kid": "x" * 900_000 + "\x1b[2J"}]))
    assert reason
    assert len(reason) < 500
    assert "\x1b" not in reason
