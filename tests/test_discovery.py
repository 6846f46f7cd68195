"""The discovery document as bytes: what it says, what is read out of anybody's, and when one is left alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.keys import discovery
from rotator.keys.discovery import ALGORITHMS_MEMBER, Discovery, differing, listed, parse, project
from rotator.keys.jwks import MAX_BYTES
from rotator.keys.keyring import DocumentFacts
from rotator.keys.policy import KeySet, PublicDocument
from rotator.keys.publication import Seen, difference, holds, stranger
from tests.test_plan import CURRENT, JWKS, KEYSET, NEXT, NOW, QUIET, ask, key, ring, step_of, world

OIDC = Discovery("https://id.acme.example", "https://id.acme.example/jwks.json")
DOCUMENT = PublicDocument("discovery", "acme/openid-configuration", ("https://id.acme.example/x",), discovery=OIDC)
BODY = project(QUIET, OIDC) or b""
JSON = "application/json"
LED: KeySet = replace(KEYSET, discovery=DOCUMENT)


def said(**members: Any) -> bytes:
    return json.dumps({**json.loads(BODY), **members}).encode()


def at(body: bytes, content_type: str = JSON) -> Seen:
    return Seen(exists=True, cache_control=KEYSET.policy.cache_control, content_type=content_type, body=body)


# -- what it says ------------------------------------------------------------------------------------------------


def test_it_lists_the_algorithms_of_every_key_that_verifiers_can_fetch() -> None:
    of = ring(
        CURRENT,
        key("e", "previous", alg="ES256"),
        key("m", "made", alg="RS256"),
        key("r", "next", alg="PS256", revoked_at=NOW),
        key("gone", "retired", alg="ES384"),
    )
    assert json.loads(project(of, OIDC) or b"")[ALGORITHMS_MEMBER] == ["ES256", "EdDSA"]


def test_there_is_none_before_a_key_was_seen_in_the_jwks_that_it_leads_to() -> None:
    assert project(ring(key("m", "made")), OIDC) is None
    assert project(QUIET, replace(OIDC, jwks="view")) is None


def test_members_of_the_operator_go_before_our_own_but_for_what_follows_from_the_ledger() -> None:
    body = json.loads(
        project(QUIET, replace(OIDC, members={"claims_supported": ["sub"], "token_endpoint": "t"})) or b""
    )
    assert (body["claims_supported"], body["token_endpoint"]) == (["sub"], "t")
    assert body[ALGORITHMS_MEMBER] == ["EdDSA"]
    assert body.keys() >= discovery.OURS


def test_the_bytes_are_always_the_same_and_end_with_a_line() -> None:
    assert project(ring(NEXT, CURRENT), OIDC) == BODY
    assert BODY.endswith(b"}\n")
    assert BODY.isascii()


# -- what anybody wrote ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"null", b"[]", b'"x"', b"\xff", b"[" * 100_000, b"{}" + b" " * MAX_BYTES],
    ids=lambda body: ascii(body)[:20],
)
def test_what_is_no_json_object_lists_nothing_and_differs_in_a_way_of_its_own(body: bytes) -> None:
    assert parse(body) is None
    assert listed(body, OIDC) == frozenset()
    assert differing(body, BODY) is None


@pytest.mark.parametrize(
    "members",
    [
        {"issuer": "https://id.acme.example/"},
        {"jwks_uri": None},
        {ALGORITHMS_MEMBER: None},
        {ALGORITHMS_MEMBER: "EdDSA"},
        {ALGORITHMS_MEMBER: [["EdDSA"], 5, None]},
    ],
    ids=str,
)
def test_a_document_of_another_issuer_or_with_another_list_lists_nothing(members: dict[str, Any]) -> None:
    assert listed(BODY, OIDC) == {"EdDSA"}
    assert listed(said(**members), OIDC) == frozenset()


@given(st.dictionaries(st.sampled_from(sorted(discovery.OURS)), st.none() | st.lists(st.integers()) | st.text()))
def test_any_members_are_read_without_harm(members: dict[str, Any]) -> None:
    body = json.dumps(members).encode()
    assert listed(body, OIDC) == frozenset()
    names = differing(body, BODY)
    assert names is not None
    assert {"claims_supported", "issuer", "jwks_uri"} <= set(names)


def test_the_members_that_differ_are_named() -> None:
    assert differing(BODY, BODY) == ()
    assert differing(said(issuer="x", token_endpoint="t"), BODY) == ("issuer", "token_endpoint")
    assert differing(b"{}", b"<html>") == ()


# -- as a public document ----------------------------------------------------------------------------------------


def test_it_holds_a_key_whose_algorithm_it_lists() -> None:
    assert holds(DOCUMENT, CURRENT, at(BODY))
    assert not holds(DOCUMENT, key("e", "next", alg="ES256"), at(BODY))
    assert not holds(DOCUMENT, CURRENT, Seen())
    assert not holds(JWKS, CURRENT, at(BODY)), "a JWKS shows kids"


@pytest.mark.parametrize(
    ("seen", "fault"),
    [
        (at(BODY), None),
        (Seen(), "it is missing"),
        (at(b"<html>"), "what stands there is no JSON object"),
        (at(said(issuer="x")), "it says other things (issuer)"),
        (at(said()), "it says other things (in another form)"),
        (at(said(**{"a\x1bb": 1})), "it says other things (a�b)"),
        (at(BODY, content_type="text/plain"), "it is served as 'text/plain', the policy says 'application/json'"),
    ],
)
def test_why_it_is_written(seen: Seen, fault: str | None) -> None:
    facts = DocumentFacts(KEYSET.policy.cache_control, JSON)
    of = replace(QUIET, documents={**QUIET.documents, "discovery": facts})
    assert difference(of, DOCUMENT, seen) == fault
    assert stranger(of, DOCUMENT, seen) is None, "it was ours once: it is put right"


def test_nothing_is_written_as_long_as_there_is_nothing_to_say() -> None:
    assert difference(ring(key("m", "made")), DOCUMENT, Seen()) is None
    assert difference(ring(key("m", "made")), DOCUMENT, at(b"<html>")) is None


def test_one_that_was_there_before_is_a_stranger_unless_it_says_the_same() -> None:
    assert stranger(QUIET, DOCUMENT, at(said())) is None
    assert stranger(QUIET, DOCUMENT, at(said(**{ALGORITHMS_MEMBER: ["RS256"]}))) is None, "the list is ours to say"
    assert stranger(QUIET, DOCUMENT, Seen()) is None
    assert stranger(QUIET, JWKS, at(BODY)) is None
    assert "says other things (token_endpoint)" in (stranger(QUIET, DOCUMENT, at(said(token_endpoint="t"))) or "")
    assert "is no JSON object" in (stranger(QUIET, DOCUMENT, at(b"<html>")) or "")


def test_a_content_type_and_a_gate_of_its_own() -> None:
    assert (LED.content_type_of("jwks"), LED.content_type_of("discovery")) == (KEYSET.content_type, JSON)
    assert KEYSET.content_type_of("discovery") == KEYSET.content_type
    assert LED.documents_of("EdDSA") == (JWKS,)
    assert LED.gates_of("EdDSA") == LED.written == (JWKS, DOCUMENT)


def test_a_stranger_is_left_alone_and_its_headers_with_it() -> None:
    observed = world(QUIET)
    there = replace(observed, documents={**observed.documents, "discovery": at(said(token_endpoint="t"))})
    asked = ask(QUIET, there, keyset=LED)
    assert asked.step is None
    (wait,) = (wait for wait in asked.waits if wait.step == "publish")
    assert (wait.at, wait.reason.partition(" ")[0]) == (None, DOCUMENT.path)
    assert step_of(ask(QUIET, replace(there, documents={**there.documents, "discovery": at(BODY)}), keyset=LED)) == (
        "serve",
        "discovery",
    )
