"""Public keys as JWK and sets of them: what the RFCs say, what real issuers serve, and nothing private."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwk as joserfc_jwk

from rotator.errors import ConfigurationError
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS, PRIVATE_MEMBERS, algorithm
from rotator.keys.material import b64u, unb64u

VECTORS = Path(__file__).parents[2] / "shared" / "vectors"
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason="the vectors (../shared/vectors) are not here")

#: RFC 7638 section 3.1.
RFC7638_JWK = {
    "kty": "RSA",
    "n": (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknj"
        "hMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQ"
        "vRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzK"
        "nqDKgw"
    ),
    "e": "AQAB",
    "alg": "RS256",
    "kid": "2011-04-29",
}
RFC7638_THUMBPRINT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"

#: RFC 8037 appendix A.2 and A.3.
RFC8037_JWK = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
RFC8037_THUMBPRINT = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def spki(alg: str) -> bytes:
    return material.spki(material.generate(algorithm(alg), 2048))


SPKI = {
    alg: spki(alg)
    for alg in ("RS256", "ES256", "ES384", "ES512", "EdDSA", "Ed448", "ML-DSA-44", "ML-DSA-65", "ML-DSA-87")
}
BY_KIND = {"RSA": "RS256", "Ed25519": "EdDSA"}


def spki_for(alg: str) -> bytes:
    return SPKI.get(alg) or SPKI[BY_KIND[algorithm(alg).key_kind]]


# -- thumbprints and kids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jwk", "thumbprint"),
    [(RFC7638_JWK, RFC7638_THUMBPRINT), (RFC8037_JWK, RFC8037_THUMBPRINT)],
    ids=["RFC 7638 section 3.1", "RFC 8037 appendix A.3"],
)
def test_the_thumbprints_of_the_rfcs(jwk: dict[str, Any], thumbprint: str) -> None:
    assert jwks.thumbprint(jwk) == thumbprint
    assert jwks.thumbprint({**dict(reversed(jwk.items())), "use": "sig", "x5t": "AA"}) == thumbprint


@needs_vectors
def test_the_thumbprint_of_rfc_7638_as_a_file() -> None:
    jwk = json.loads((VECTORS / "rfc" / "rfc7638_3.1.jwk").read_text("utf-8"))
    assert jwk == RFC7638_JWK
    assert jwks.thumbprint(jwk) == (VECTORS / "rfc" / "rfc7638_3.1.thp").read_text("utf-8").strip()


@pytest.mark.parametrize("alg", list(ALGORITHMS))
def test_the_kid_is_the_thumbprint_or_the_hash_of_the_spki(alg: str) -> None:
    der, row = spki_for(alg), algorithm(alg)
    jwk = jwks.public_jwk(der, row)
    assert jwk["kid"] == jwks.kid_of(der, row, "thumbprint") == jwks.thumbprint(jwk)
    if row.kty != "AKP":
        assert jwk["kid"] == joserfc_jwk.import_key(jwk).thumbprint()
    kubernetes = jwks.public_jwk(der, row, "spki-sha256")
    assert unb64u(kubernetes["kid"]) == hashlib.sha256(der).digest()
    assert {**kubernetes, "kid": jwk["kid"]} == jwk
    assert len(jwk["kid"]) == len(kubernetes["kid"]) == 43


# -- public JWK --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", list(ALGORITHMS))
def test_a_public_jwk_has_the_members_of_its_kind_and_no_other(alg: str) -> None:
    row = algorithm(alg)
    jwk = jwks.public_jwk(spki_for(alg), row)
    assert jwk.keys() == {"kid", "alg", "use", *row.public_members}
    assert (jwk["alg"], jwk["use"], jwk["kty"], jwk.get("crv")) == (alg, "sig", row.kty, row.crv)
    assert jwk.keys().isdisjoint(PRIVATE_MEMBERS)
    assert all(isinstance(value, str) and "=" not in value for value in jwk.values())


def test_the_numbers_of_an_rsa_key_have_no_leading_zero() -> None:
    jwk = jwks.public_jwk(SPKI["RS256"], algorithm("RS256"))
    assert jwk["e"] == "AQAB"
    assert len(unb64u(jwk["n"])) == 256
    assert unb64u(jwk["n"])[0] >= 0x80


@pytest.mark.parametrize(("alg", "length"), [("ES256", 32), ("ES384", 48), ("ES512", 66)])
def test_the_coordinates_of_a_curve_have_its_length(alg: str, length: int) -> None:
    jwk = jwks.public_jwk(SPKI[alg], algorithm(alg))
    assert {len(unb64u(jwk["x"])), len(unb64u(jwk["y"]))} == {length}


def test_a_key_that_the_algorithm_does_not_sign_with_is_refused() -> None:
    for made_for, der in SPKI.items():
        for alg, row in ALGORITHMS.items():
            if row.key_kind != algorithm(made_for).key_kind:
                with pytest.raises(ConfigurationError, match=rf"A \w+ does not fit {alg}\."):
                    jwks.public_jwk(der, row)


@pytest.mark.parametrize(
    ("key", "alg"),
    [(ed448.Ed448PrivateKey.generate(), "EdDSA"), (ec.generate_private_key(ec.SECP224R1()), "ES256")],
    ids=["Ed448", "P-224"],
)
def test_a_curve_that_jose_does_not_name_so_is_refused(
    key: ed448.Ed448PrivateKey | ec.EllipticCurvePrivateKey, alg: str
) -> None:
    with pytest.raises(ConfigurationError, match="does not fit"):
        jwks.public_jwk(material.spki(key), algorithm(alg))


# -- a set as bytes ----------------------------------------------------------------------------------------------


def test_the_bytes_of_a_set_are_always_the_same() -> None:
    assert jwks.serialize([RFC8037_JWK | {"kid": "é"}], 7) == (
        b'{\n "keys": [\n  {\n   "kty": "OKP",\n   "kid": "\\u00e9",\n   "crv": "Ed25519",\n'
        b'   "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"\n  }\n ],\n'
        b' "rotator_revision": 7\n}\n'
    )
    assert jwks.serialize([], 0) == b'{\n "keys": [],\n "rotator_revision": 0\n}\n'


def test_no_two_revisions_have_the_same_bytes() -> None:
    assert jwks.serialize([RFC8037_JWK], 1) != jwks.serialize([RFC8037_JWK], 2)


def test_what_is_written_is_parsed_back() -> None:
    keys = [jwks.public_jwk(spki_for(alg), row) for alg, row in ALGORITHMS.items()]
    parsed = jwks.parse(jwks.serialize(keys, 42))
    assert parsed == jwks.PublicSet(tuple(keys), 42)
    old = [key for key in keys if key["kty"] != "AKP"]
    assert joserfc_jwk.KeySet.import_key_set(json.loads(jwks.serialize(old, 42))).keys


# -- parsing what anybody wrote ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b'"keys"',
        b"{}",
        b'{"keys": null}',
        b'{"keys": {}}',
        b'{"keys": "none"}',
        b'{"keys": [',
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b'{"keys": ' + b"[" * 100_000,
        b'{"keys": [' + b"1" * 100_000 + b"]}",
        b'{"keys": []}' + b" " * jwks.MAX_BYTES,
    ],
    ids=lambda body: ascii(body)[:30],
)
def test_what_is_no_set_is_none(body: bytes) -> None:
    assert jwks.parse(body) is None


def test_a_set_as_large_as_it_may_be_is_parsed() -> None:
    body = b'{"keys": []}'
    assert jwks.parse(body + b" " * (jwks.MAX_BYTES - len(body))) == jwks.PublicSet((), None)


def test_what_is_no_key_is_left_out() -> None:
    parsed = jwks.parse(b'{"keys": [null, 1, "kid", [], {"kid": "a"}, {}], "more": true}')
    assert parsed == jwks.PublicSet(({"kid": "a"}, {}), None, "a member of 'keys' is no object")


@pytest.mark.parametrize("revision", ["7", 7.0, True, None, [7]])
def test_a_revision_that_is_no_number_is_none(revision: Any) -> None:
    parsed = jwks.parse(json.dumps({"keys": [], "rotator_revision": revision}).encode())
    assert parsed
    assert parsed.revision is None


def test_keys_are_found_by_kid_and_those_without_are_left_out() -> None:
    parsed = jwks.parse(b'{"keys": [{"kid": "a", "n": 1}, {"kid": "a", "n": 2}, {"kid": 5}, {"kid": ["b"]}, {"n": 3}]}')
    assert parsed
    assert parsed.kids() == {"a"}
    assert parsed.key("a") == {"kid": "a", "n": 1}
    assert parsed.key("b") is None


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"keys": [{"kid": "a"}]}', None),
        (b'\xef\xbb\xbf{"keys": [{"kid": "a"}]}', "it begins with a byte order mark"),
        ('{"keys": [{"kid": "a"}]}'.encode("utf-16"), "it is not UTF-8"),
        ('{"keys": [{"kid": "a"}]}'.encode("utf-16-le"), "it is not UTF-8"),
        (b'{"keys": [{"kid": "a"}], "more": "\xed\xa0\x80"}', "it is not UTF-8"),
        (b'{"keys": [], "keys": [{"kid": "a"}]}', "a name stands twice in one object"),
        (b'{"keys": [{"kid": "b", "kid": "a"}]}', "a name stands twice in one object"),
        (b'{"keys": [{"kid": "a"}, "x"]}', "a member of 'keys' is no object"),
    ],
    ids=ascii,
)
def test_what_lenient_readers_alone_let_pass_is_read_and_told(body: bytes, fault: str | None) -> None:
    assert jwks.parse(body) == jwks.PublicSet(({"kid": "a"},), None, fault)


def test_a_number_that_no_float_holds_makes_no_set() -> None:
    assert jwks.parse(b'{"keys": [{"kid": "a", "n": 1e999}]}') is None, "written again it would be no JSON"


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_set_or_none(body: bytes) -> None:
    parsed = jwks.parse(body)
    assert parsed is None or list(parsed.keys) == [key for key in json.loads(body)["keys"] if isinstance(key, dict)]


@needs_vectors
def test_what_real_issuers_serve_is_parsed_good_or_bad() -> None:
    counts = {path.name: jwks.parse(path.read_bytes()) for path in sorted((VECTORS / "jwks").glob("*.json"))}
    assert len(counts) > 10
    for name, parsed in counts.items():
        assert parsed, name
        assert parsed.keys, name
        assert parsed.revision is None, name
        assert len(parsed.kids()) == len(parsed.keys), name
        assert not any(jwks.is_private(key) for key in parsed.keys), name
        assert jwks.parse(jwks.serialize(parsed.keys, 1)) == jwks.PublicSet(parsed.keys, 1), name
    assert "identityserver-demo-with-bom.json" in counts


@needs_vectors
def test_the_sets_of_rfc_7517() -> None:
    public, private, symmetric = (
        jwks.parse((VECTORS / "rfc" / f"rfc7517_A.{n}.jwkset").read_bytes()) for n in (1, 2, 3)
    )
    assert public
    assert private
    assert symmetric
    assert [jwks.is_private(key) for key in public.keys] == [False, False]
    assert [jwks.is_private(key) for key in private.keys] == [True, True]
    assert tuple(jwks.without_private(key) for key in private.keys) == public.keys
    assert [jwks.without_private(key) for key in symmetric.keys] == [None, None]


# -- nothing private ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", sorted(PRIVATE_MEMBERS))
def test_a_key_with_any_private_member_is_private_and_can_be_stripped(member: str) -> None:
    jwk = RFC8037_JWK | {member: "c2VjcmV0"}
    assert jwks.is_private(jwk)
    assert jwks.is_private(RFC8037_JWK | {member: None}), "even an empty one says that something is wrong"
    assert jwks.without_private(jwk) == RFC8037_JWK
    assert jwk[member] == "c2VjcmV0", "the stripped key is a copy"


def test_a_symmetric_key_has_no_public_half() -> None:
    assert jwks.is_private({"kty": "oct"})
    assert jwks.without_private({"kty": "oct", "kid": "a"}) is None


def test_a_public_key_is_not_private() -> None:
    for jwk in (RFC7638_JWK, RFC8037_JWK, {}):
        assert not jwks.is_private(jwk)
        assert jwks.without_private(jwk) == jwk


def test_the_private_half_of_every_kind_is_seen_as_private() -> None:
    for alg in SPKI:
        key = material.generate(algorithm(alg), 2048)
        jwk = jwks.public_jwk(material.spki(key), algorithm(alg))
        whole = material.private_jwk(key, jwk)
        assert jwks.is_private(whole)
        assert jwks.without_private(whole) == jwk


def test_an_unused_exponent_is_written_as_it_is() -> None:
    odd = rsa.generate_private_key(3, 2048)
    assert jwks.public_members(material.spki(odd), algorithm("RS256"))["e"] == b64u(b"\x03")


@pytest.mark.parametrize("spki", [b"", b"<html>", bytes.fromhex("302a300506032b65000321") + bytes(33)])
def test_what_is_no_public_key_makes_no_jwk(spki: bytes) -> None:
    with pytest.raises(ConfigurationError, match="What should be a public key for EdDSA is no SPKI"):
        jwks.public_jwk(spki, ALGORITHMS["EdDSA"])
