"""What is wrong with any key, set or token on earth, by name; and nothing is wrong with ours."""

from __future__ import annotations

import base64
import json
import math
import random
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from rotator.errors import ConfigurationError
from rotator.inspect import Report, inspect, weakness
from rotator.inspect.verifiers import TITLES, chosen
from rotator.jose import reading, writing
from rotator.jose.findings import Severity
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS, algorithm
from rotator.keys.material import b64u, b64u_int, unb64u

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rotator.keys.jwks import Jwk

VECTORS = Path(__file__).parents[2] / "shared" / "vectors"
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason="the vectors (../shared/vectors) are not here")

NOW = datetime(2026, 5, 1, tzinfo=UTC)

#: RFC 8037 appendix A.2.
ED25519 = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
ED25519_D = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"


def seen(document: Any, **options: Any) -> Report:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return inspect(reading.read(body), NOW, **options)


def codes(report: Report, least: Severity = Severity.NOTE) -> set[str]:
    return {finding.code for finding in report.everything() if finding.severity >= least}


@cache
def private(alg: str) -> Any:
    return material.generate(algorithm(alg), 2048)


def good(name: str = "ES256", /, **more: Any) -> Jwk:
    return jwks.public_jwk(material.spki(private(name)), algorithm(name)) | more


# -- what others publish -------------------------------------------------------------------------------------------

KID = "kid-not-thumbprint"

#: What must be said of each document that real issuers served: code → the keys it is said of.
EXPECTED: dict[str, dict[str, str]] = {
    "battle-net.json": {"padded": "1 2", "not-base64url": "1 2", "leading-zero": "1 2", KID: "1 2"},
    "dockyard-auth0.json": {"x5t": "1", KID: "1 2"},
    "dockyard-keycloak.json": {},
    "dockyard-okta.json": {KID: "1 2"},
    "dockyard-vault.json": {KID: "1 2"},
    "entra-common.json": {"no-alg": "1 2 3 4 5 6 7", KID: "1 2 3 4 5 6 7"},
    "firebase-ed25519.json": {"no-use": "1", KID: "1"},
    "gitlab.json": {},
    "google-federated-php.json": {"rsa-size": "1 2", "non-canonical": "1 2", "duplicate-key": "", KID: "1 2"},
    "google-iap.json": {KID: "1 2 3 4 5"},
    "google.json": {KID: "1 2"},
    "identityserver-demo-with-bom.json": {"bom": "", "no-alg": "1", "certificate-expired": "1", KID: "1"},
    "pages-Azure__azure-workload-identity.json": {},
    "pages-holgerkoser__holgerkoser.json": {"alg-against-key": "2", KID: "1 2"},
    "paypal.json": {
        "padded": "8",
        "leading-zero": "1 3 9 10 15",
        "no-alg": "4 5 6 7 8 12 13 14",
        "no-use": "4 5 6 7 8 12 13 14",
        KID: "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15",
    },
    "spotify.json": {KID: "1 2 3"},
    "yahoo.json": {"rsa-size": "1 3 4", "leading-zero": "1 3 4", "duplicate-key": "", KID: "1 2 3 4"},
}


def by_code(report: Report) -> dict[str, str]:
    places = defaultdict(list)
    for finding in report.everything():
        places[finding.code].append(finding.where.removeprefix("key ").removeprefix("key"))
    return {code: " ".join(where for where in dict.fromkeys(found) if where) for code, found in places.items()}


@needs_vectors
def test_every_document_that_real_issuers_served_gets_the_findings_it_deserves() -> None:
    found = {path.name: path.read_bytes() for path in sorted((VECTORS / "jwks").glob("*.json"))}
    assert found.keys() == EXPECTED.keys()
    for name, body in found.items():
        report = seen(body)
        assert by_code(report) == EXPECTED[name], name
        assert len(report.keys) == body.count(b'"kty"'), name


@needs_vectors
@pytest.mark.parametrize(
    ("name", "types", "worst", "expected"),
    [
        ("3_1.ec_public_key.json", ["EC P-521"], Severity.NOTE, {"no-alg", KID}),
        ("3_2.ec_private_key.json", ["EC P-521"], Severity.WARNING, {"no-alg", KID, "private-key"}),
        ("3_3.rsa_public_key.json", ["RSA 2048"], Severity.NOTE, {"no-alg", KID}),
        ("3_4.rsa_private_key.json", ["RSA 2048"], Severity.WARNING, {"no-alg", KID, "private-key"}),
        ("3_5.symmetric_key_mac_computation.json", ["oct 256"], Severity.WARNING, {"symmetric-key"}),
        ("3_6.symmetric_key_encryption.json", ["oct 256"], Severity.WARNING, {"symmetric-key"}),
        ("rfc7517_A.1.jwkset", ["EC P-256", "RSA 2048"], Severity.NOTE, {"no-alg", "no-use", KID}),
        ("rfc7517_A.2.jwkset", ["EC P-256", "RSA 2048"], Severity.ERROR, {"no-alg", "no-use", KID, "private-key"}),
        (
            "rfc7517_A.3.jwkset",
            ["oct 128", "oct 512"],
            Severity.ERROR,
            {"no-alg", "no-use", "missing-kid", "symmetric-key"},
        ),
        ("rfc7517_B.jwk", ["RSA 2048"], Severity.WARNING, {"no-alg", KID, "certificate-expired"}),
        ("rfc7638_3.1.jwk", ["RSA 2048"], Severity.NOTE, {"no-use", KID}),
    ],
)
def test_the_keys_of_the_rfcs(name: str, types: list[str], worst: Severity, expected: set[str]) -> None:
    report = seen((VECTORS / "rfc" / name).read_bytes())
    assert [key.type for key in report.keys] == types
    assert report.worst is worst
    assert codes(report) == expected


@needs_vectors
@pytest.mark.parametrize("size", [44, 65, 87])
def test_the_ml_dsa_keys_of_the_jose_examples(size: int) -> None:
    jwk = json.loads((VECTORS / "rfc" / f"ML_DSA_{size}.jose.json").read_text())["jwk"]
    (key,) = seen({"keys": [{name: value for name, value in jwk.items() if name != "priv"}]}).keys
    assert (key.type, key.thumbprint) == (f"AKP ML-DSA-{size}", jwk["kid"])
    assert {finding.code for finding in key.findings} <= {"no-use"}


@needs_vectors
def test_the_thumbprint_of_rfc_7638() -> None:
    (key,) = seen((VECTORS / "rfc" / "rfc7638_3.1.jwk").read_bytes()).keys
    assert key.thumbprint == (VECTORS / "rfc" / "rfc7638_3.1.thp").read_text().strip()


# -- what we publish -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kid_format", ["thumbprint", "spki-sha256"])
def test_nothing_is_wrong_with_what_we_publish(kid_format: jwks.KidFormat) -> None:
    kinds: dict[str, Jwk] = {}
    for alg, row in ALGORITHMS.items():
        kinds.setdefault(row.key_kind, jwks.public_jwk(material.spki(private(alg)), row, kid_format))
    report = seen(jwks.serialize(kinds.values(), 7), verifier_names=["openid"], address="https://issuer.example/jwks")
    assert len(report.keys) == len(kinds) > 6
    assert list(report.everything()) == []
    assert report.worst is None


# -- one key, one fault --------------------------------------------------------------------------------------------


def without(jwk: Mapping[str, Any], *names: str) -> Jwk:
    return {name: value for name, value in jwk.items() if name not in names}


def longer(text: str) -> str:
    return b64u(b"\x00" + unb64u(text))


def stripped() -> Jwk:
    """A P-256 key whose x begins with a zero byte, written without it."""
    while True:
        point = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
        if point.x < 1 << 248:
            return good() | {"x": b64u_int(point.x), "y": b64u_int(point.y, 32)}


PAIR = rsa.generate_private_key(65537, 2048).private_numbers()


def rsa_jwk(n: int = PAIR.public_numbers.n, e: int = 65537, **more: Any) -> Jwk:
    return {"kty": "RSA", "n": b64u_int(n), "e": b64u_int(e), "kid": "k", "use": "sig", "alg": "RS256"} | more


FAULTS: dict[str, tuple[Callable[[], Any], str, Severity]] = {
    "no kty": (lambda: without(good(), "kty"), "missing-kty", Severity.ERROR),
    "kty is a number": (lambda: good(kty=5), "missing-kty", Severity.ERROR),
    "kty in small letters": (lambda: good(kty="ec"), "unknown-kty", Severity.ERROR),
    "kty of tomorrow": (lambda: good(kty="QKP"), "unknown-kty", Severity.WARNING),
    "no curve": (lambda: without(good(), "crv"), "missing-member", Severity.ERROR),
    "curve by its SEC name": (lambda: good(crv="secp256r1"), "unknown-curve", Severity.ERROR),
    "curve of another kty": (lambda: good(crv="Ed25519"), "unknown-curve", Severity.ERROR),
    "curve of tomorrow": (lambda: good(crv="P-999"), "unknown-curve", Severity.WARNING),
    "no y": (lambda: without(good(), "y"), "missing-member", Severity.ERROR),
    "x is a number": (lambda: good(x=7), "wrong-type", Severity.ERROR),
    "x is null": (lambda: good(x=None), "wrong-type", Severity.ERROR),
    "padded": (lambda: good(x=good()["x"] + "="), "padded", Severity.ERROR),
    "standard alphabet": (lambda: good(x="+/" + good()["x"][2:]), "not-base64url", Severity.ERROR),
    "a sign that is none": (lambda: good(x="*" + good()["x"][1:]), "not-base64url", Severity.ERROR),
    "a line end": (lambda: good(x=good()["x"] + "\n"), "not-base64url", Severity.ERROR),
    "a length that cannot be": (lambda: good(x=good()["x"] + "AA"), "not-base64url", Severity.ERROR),
    "bits beyond the end": (
        lambda: ED25519 | {"x": ED25519["x"][:-1] + "p", "kid": "k"},
        "non-canonical",
        Severity.WARNING,
    ),
    "zeros stripped": (stripped, "too-short", Severity.ERROR),
    "coordinate too long": (lambda: good(x=longer(good()["x"])), "too-long", Severity.ERROR),
    "coordinate much too long": (lambda: good(x="_" * 86), "too-long", Severity.ERROR),
    "not on the curve": (lambda: good(y=good()["x"]), "not-on-curve", Severity.ERROR),
    "not on Ed25519": (lambda: ED25519 | {"x": b64u(b"\x02" + bytes(31))}, "not-on-curve", Severity.ERROR),
    "leading zero": (
        lambda: rsa_jwk(n=PAIR.public_numbers.n, e=65537) | {"e": "AAEAAQ"},
        "leading-zero",
        Severity.WARNING,
    ),
    "empty e": (lambda: rsa_jwk() | {"e": ""}, "missing-member", Severity.ERROR),
    "ML-DSA without alg": (lambda: {"kty": "AKP", "pub": "AA"}, "missing-member", Severity.ERROR),
    "ML-DSA cut off": (lambda: {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}, "too-short", Severity.ERROR),
    "alg is none": (lambda: good(alg="none"), "alg-none", Severity.ERROR),
    "alg of another curve": (lambda: good(alg="ES384"), "alg-against-key", Severity.ERROR),
    "alg is symmetric": (lambda: good(alg="HS256"), "alg-against-key", Severity.ERROR),
    "alg of tomorrow": (lambda: good(alg="XX256"), "unknown-alg", Severity.WARNING),
    "alg is a list": (lambda: good(alg=["ES256"]), "wrong-type", Severity.ERROR),
    "alg is open to attack": (lambda: rsa_jwk(alg="RSA1_5", use="enc"), "weak-alg", Severity.WARNING),
    "use against alg": (lambda: good(use="enc"), "alg-against-use", Severity.ERROR),
    "use of tomorrow": (lambda: good(use="tls"), "unknown-use", Severity.WARNING),
    "use against key_ops": (lambda: good(key_ops=["encrypt"]), "use-against-key-ops", Severity.ERROR),
    "use beside key_ops": (lambda: good(key_ops=["verify"]), "use-and-key-ops", Severity.NOTE),
    "key_ops is a string": (lambda: good(key_ops="verify"), "wrong-type", Severity.ERROR),
    "key_ops twice": (lambda: without(good(key_ops=["verify", "verify"]), "use"), "key-ops", Severity.ERROR),
    "key_ops of tomorrow": (lambda: without(good(key_ops=["dance"]), "use"), "key-ops", Severity.WARNING),
    "key_ops of a private key": (lambda: without(good(key_ops=["sign"]), "use"), "key-ops", Severity.WARNING),
    "key_ops of two uses": (lambda: without(good(key_ops=["verify", "encrypt"]), "use"), "key-ops", Severity.WARNING),
    "key_ops against alg": (
        lambda: without(good(key_ops=["verify", "encrypt"]), "use"),
        "alg-against-key-ops",
        Severity.ERROR,
    ),
    "use against the kind of key": (
        lambda: ED25519 | {"crv": "X25519", "use": "sig", "kid": "a"},
        "use-against-key",
        Severity.ERROR,
    ),
    "key_ops against the kind of key": (
        lambda: ED25519 | {"key_ops": ["deriveKey"], "kid": "a"},
        "key-ops-against-key",
        Severity.ERROR,
    ),
    "symmetric and nothing": (lambda: {"kty": "oct", "kid": "a"}, "missing-member", Severity.ERROR),
    "symmetric and empty": (lambda: {"kty": "oct", "k": "", "kid": "a"}, "missing-member", Severity.ERROR),
    "no alg": (lambda: without(good(), "alg"), "no-alg", Severity.NOTE),
    "no use": (lambda: without(good(), "use"), "no-use", Severity.NOTE),
    "no kid": (lambda: without(good(), "kid"), "missing-kid", Severity.WARNING),
    "blank kid": (lambda: good(kid=" "), "missing-kid", Severity.ERROR),
    "kid is a number": (lambda: good(kid=1), "wrong-type", Severity.ERROR),
    "kid steers a terminal": (lambda: good(kid="\x1b[2J"), "odd-kid", Severity.WARNING),
    "kid by hand": (lambda: good(kid="2026-05"), KID, Severity.NOTE),
    "private": (lambda: material.private_jwk(private("ES256"), good()), "private-key", Severity.ERROR),
    "private member of another kind": (lambda: good(k="AA"), "private-key", Severity.ERROR),
    "symmetric": (lambda: {"kty": "oct", "k": b64u(bytes(32)), "kid": "a"}, "symmetric-key", Severity.ERROR),
    "symmetric and short": (
        lambda: {"kty": "oct", "k": "AAAA", "alg": "HS256", "kid": "a"},
        "oct-size",
        Severity.ERROR,
    ),
    "private half of another key": (
        lambda: ED25519 | {"d": b64u(bytes(32)), "kid": "k"},
        "private-mismatch",
        Severity.ERROR,
    ),
    "private half cut off": (lambda: ED25519 | {"d": "AAAA", "kid": "k"}, "too-short", Severity.ERROR),
    "RSA of 1024 bits": (lambda: rsa_jwk(n=PAIR.p), "rsa-size", Severity.ERROR),
    "RSA of 9000 bits": (lambda: rsa_jwk(n=3**5700), "rsa-size", Severity.WARNING),
    "RSA of 20000 bits": (lambda: rsa_jwk(n=3**13000), "rsa-size", Severity.ERROR),
    "RSA of an odd size": (lambda: rsa_jwk(n=PAIR.public_numbers.n * 1009), "rsa-size", Severity.NOTE),
    "e is 1": (lambda: rsa_jwk(e=1), "rsa-exponent", Severity.ERROR),
    "e is even": (lambda: rsa_jwk(e=65536), "rsa-exponent", Severity.ERROR),
    "e is 3": (lambda: rsa_jwk(e=3), "rsa-exponent", Severity.WARNING),
    "e is large": (lambda: rsa_jwk(e=2**40 + 1), "rsa-exponent", Severity.WARNING),
    "n is even": (lambda: rsa_jwk(n=PAIR.public_numbers.n & ~1), "rsa-modulus", Severity.ERROR),
    "x5u without TLS": (lambda: good(x5u="http://example.com/c.pem"), "x5u", Severity.WARNING),
    "x5c is a string": (lambda: good(x5c="MIIB"), "x5c", Severity.ERROR),
    "x5c cannot be read": (lambda: good(x5c=["AAAA"]), "x5c", Severity.ERROR),
    "x5t of hexadecimal digits": (lambda: good(x5t=b64u(b"a" * 40)), "x5t", Severity.WARNING),
}


@pytest.mark.parametrize(("make", "code", "severity"), FAULTS.values(), ids=FAULTS.keys())
def test_each_fault_is_named_with_its_source_and_the_rest_is_still_read(
    make: Callable[[], Any], code: str, severity: Severity
) -> None:
    report = seen({"keys": [make(), good("Ed25519")]})
    found = {finding.code: finding for finding in report.keys[0].findings}
    assert found[code].severity is severity, found
    assert found[code].where == "key 1"
    assert found[code].source
    assert found[code].says.endswith((".", ")"))
    assert report.keys[1].findings == (), "the fault of one key says nothing of the next"


@pytest.mark.parametrize(
    ("crv", "words"),
    [
        ("secp256r1", "in a JWK that is 'P-256'"),
        ("Ed25519", "goes with 'kty' 'OKP'"),
        ("P-999", "not registered for EC"),
    ],
)
def test_a_curve_that_is_named_wrongly_is_told_with_the_right_name(crv: str, words: str) -> None:
    assert any(words in finding.says for finding in seen({"keys": [good(crv=crv)]}).everything())


def test_a_key_that_is_right_gets_no_finding_beside_the_fault() -> None:
    assert seen({"keys": [good()]}).worst is None


@pytest.mark.parametrize("member", sorted({"d", "p", "q", "dp", "dq", "qi", "k", "priv"}))
def test_nothing_that_is_found_quotes_a_private_member(member: str) -> None:
    secret = b64u(b"do not tell anybody this")
    for kty in (good(), rsa_jwk(), ED25519, {"kty": "oct"}, {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}):
        for value in (secret, secret + "=", "*" + secret, [secret], {"a": secret}):
            assert secret not in repr(seen({"keys": [kty | {member: value}]}))


def test_a_private_key_by_itself_is_a_warning_and_at_a_url_an_error() -> None:
    jwk = ED25519 | {"d": ED25519_D, "kid": "k", "use": "sig", "alg": "EdDSA"}
    assert seen(jwk).worst is Severity.WARNING
    assert seen(jwk, address="https://example.com/jwk").worst is Severity.ERROR


@pytest.mark.parametrize("changed", ["d", "p", "q", "dp", "dq", "qi"])
def test_an_rsa_private_half_must_belong_to_the_public_one(changed: str) -> None:
    whole = material.private_jwk(private("RS256"), good("RS256"))
    assert "private-mismatch" not in codes(seen(whole))
    whole[changed] = b64u_int(int.from_bytes(unb64u(whole[changed]), "big") ^ 4)
    assert "private-mismatch" in codes(seen(whole))


def test_an_rsa_private_key_without_its_factors_is_checked_too() -> None:
    whole = without(material.private_jwk(private("RS256"), good("RS256")), "p", "q", "dp", "dq", "qi")
    assert "private-mismatch" not in codes(seen(whole))
    assert "private-mismatch" in codes(seen(whole | {"d": b64u_int(2**2000 + 1)}))


def test_many_rsa_keys_that_are_none_are_named_in_no_time() -> None:
    prime = 2**4423 - 1
    bare = without(rsa_jwk(n=prime) | {"d": b64u_int(pow(65537, -1, prime - 1))}, "kid")
    begun = time.process_time()
    report = seen({"keys": [bare] * 100})
    assert time.process_time() - begun < 3
    assert {"private-mismatch"} <= {finding.code for finding in report.keys[-1].findings}


@pytest.mark.parametrize("changed", ["d", "p", "dp", "qi"])
@pytest.mark.parametrize("form", ["TraditionalOpenSSL", "PKCS8"])
def test_a_private_half_in_pem_must_belong_to_the_public_one(changed: str, form: str) -> None:
    numbers = {name: int.from_bytes(unb64u(value), "big") for name, value in pair().items() if len(value) > 3}
    numbers[changed] ^= 4
    order = [0, *(numbers.get(name, 65537) for name in ("n", "e", "d", "p", "q", "dp", "dq", "qi"))]
    body = b"".join(_der(2, value.to_bytes(value.bit_length() // 8 + 1, "big")) for value in order)
    written = _der(0x30, body)
    if form == "PKCS8":
        algorithm_of = bytes.fromhex("300d06092a864886f70d0101010500")
        written = _der(0x30, b"\x02\x01\x00" + algorithm_of + _der(4, written))
    assert codes(seen(written)) == {"private-key", "private-mismatch"}


def pair() -> Jwk:
    return material.private_jwk(private("RS256"), without(good("RS256"), "kid", "alg", "use", "kty"))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 0x80 else size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, *([0x80 | len(length)] if size >= 0x80 else []), *length]) + content


@pytest.mark.parametrize("cut", [lambda raw: raw[1:], lambda raw: raw[:-1], lambda raw: b"\0" + raw])
@pytest.mark.parametrize(
    ("jwk", "member"),
    [(ED25519, "x"), (ED25519 | {"crv": "X25519"}, "x"), (ED25519 | {"d": ED25519_D}, "d"), (good("ML-DSA-44"), "pub")],
)
def test_bytes_that_are_no_number_are_not_filled_up_to_a_key_that_nobody_has(
    jwk: Jwk, member: str, cut: Callable[[bytes], bytes]
) -> None:
    (key,) = seen(jwk | {member: b64u(cut(unb64u(jwk[member])))}).keys
    assert (key.thumbprint, key.spki_sha256) == (None, None) or member == "d"
    (says,) = (finding.says for finding in key.findings if finding.code in {"too-short", "too-long"})
    assert "zero" not in says
    assert "private-mismatch" not in {finding.code for finding in key.findings}


def test_a_key_written_badly_has_the_thumbprint_it_should_have() -> None:
    right = rsa_jwk()
    (wrong,) = seen({"keys": [right | {"n": longer(right["n"]) + "="}]}).keys
    assert wrong.thumbprint == jwks.thumbprint(right)


# -- sets ----------------------------------------------------------------------------------------------------------


def test_one_kid_twice_and_one_key_twice() -> None:
    report = seen({"keys": [good(), good("ES384") | {"kid": good()["kid"]}, good() | {"kid": "other"}]})
    assert {finding.code: finding.severity for finding in report.findings} == {
        "duplicate-kid": Severity.ERROR,
        "duplicate-key": Severity.WARNING,
    }
    assert "keys 1, 2" in next(f.says for f in report.findings if f.code == "duplicate-kid")
    many = seen({"keys": [good()] * 9})
    assert "and 4 more" in many.findings[0].says


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b'{"keys": []}', "empty-set"),
        (b'{"keys": {}}', "wrong-content"),
        (b'{"keys": [1]}', "not-an-object"),
        (b'{"keys": [], "kty": "RSA"}', "mixed-content"),
        (b'{"keys": [], "keys": []}', "duplicate-name"),
        (b'{"kty": "RSA", "kty": "EC"}', "duplicate-name"),
        (b'{"keys": [{"kid": "a", "kid": "a"}]}', "duplicate-name"),
        (b'\xef\xbb\xbf{"keys": []}', "bom"),
        (b'{"keys": [NaN]}', "wrong-content"),
        (b"<!DOCTYPE html><title>Sign in</title>", "wrong-content"),
        (b'<?xml version="1.0"?><Error/>', "wrong-content"),
        (b'{"issuer": "https://a", "jwks_uri": "https://a/jwks"}', "wrong-content"),
        (b'{"k1": "-----BEGIN CERTIFICATE-----\\nAA"}', "wrong-content"),
        (b'{"ciphertext": "AA"}', "wrong-content"),
        (b'{"payload": "AA", "signatures": []}', "wrong-content"),
        (b"[]", "wrong-content"),
        (b"{}", "wrong-content"),
        (b'"text"', "wrong-content"),
        (b"plain words", "wrong-content"),
        (b"\xff\xfe{\x00", "encoding"),
        (b"\x80\x81\x82", "wrong-content"),
        (b"a.b.c.d.e", "encrypted"),
        (b"[" * 200_000, "wrong-content"),
        (b'{"keys": [' + b"9" * 6000 + b"]}", "wrong-content"),
        (b'{"keys": [{"kty": "EC", "a": -1e999}]}', "wrong-content"),
        (b"x" * (reading.MAX_BYTES + 1), "too-large"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA", "unreadable"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "unreadable"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "unreadable"),
        (b"-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----", "unreadable"),
        (b"\x30\x03\x02\x01\x00", "unreadable"),
        (b"ssh-rsa AAAA", "unreadable"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_is_no_good_set_is_named_in_a_sentence(body: bytes, code: str) -> None:
    report = seen(body)
    found = {finding.code: finding for finding in report.everything()}
    assert code in found
    assert found[code].says.endswith(".")
    assert report.worst is Severity.ERROR


def test_the_findings_about_a_discovery_document_name_the_address_to_inspect() -> None:
    assert "https://a/jwks" in seen({"jwks_uri": "https://a/jwks"}).findings[0].says


odd: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.text(max_size=3)),
    st.just({}),
)
NAMES = ["kty", "kid", "n", "e", "x", "y", "crv", "alg", "use", "key_ops", "x5c", "x5t", "d", "p", "k", "pub", "priv"]
SEEDS = [good(), rsa_jwk(), ED25519, {"kty": "oct", "k": "AA"}, {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}]


@given(
    st.lists(st.builds(dict.__or__, st.sampled_from(SEEDS), st.dictionaries(st.sampled_from(NAMES), odd)), max_size=3)
)
def test_no_member_of_any_type_stops_the_reader(keys: list[Jwk]) -> None:
    body = json.dumps({"keys": keys}, allow_nan=True).encode()
    report = seen(body, verifier_names=chosen(["all"]))
    assert report.form in {"JWKS", "unknown text"}
    assert all(finding.says for finding in report.everything())


@given(st.binary(max_size=200))
def test_no_bytes_stop_the_reader(body: bytes) -> None:
    assert seen(body).form


# -- weak keys -----------------------------------------------------------------------------------------------------

PRODUCT = math.prod(p for p in range(2, 168) if all(p % q for q in range(2, p)))


def prime_like(candidate: Callable[[], int]) -> int:
    while True:
        found = candidate()
        if math.gcd(found, PRODUCT) == 1 and all(pow(base, found - 1, found) == 1 for base in (2, 3, 5, 7)):
            return found


def test_the_fingerprint_of_roca_is_found_and_sound_keys_have_none() -> None:
    chance = random.Random(15361)

    def infineon() -> int:
        return chance.getrandbits(805) * PRODUCT + pow(65537, chance.getrandbits(60), PRODUCT)

    n = prime_like(infineon) * prime_like(infineon)
    assert weakness.is_roca(n)
    assert codes(seen({"keys": [rsa_jwk(n=n)]})) >= {"rsa-roca"}
    assert not weakness.is_roca(PAIR.public_numbers.n)
    assert not any(weakness.is_roca(chance.getrandbits(2048) | 1) for _ in range(3000))


def test_primes_that_are_too_close_are_found() -> None:
    close = PAIR.p + 2
    while pow(2, close - 1, close) != 1:
        close += 2
    assert "rsa-close-primes" in codes(seen({"keys": [rsa_jwk(n=PAIR.p * close)]}))
    assert "rsa-close-primes" not in codes(seen({"keys": [rsa_jwk()]}))


def test_points_of_the_edwards_curves() -> None:
    for _ in range(20):
        assert weakness.is_on_edwards_curve(
            "Ed25519", ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        )
        assert weakness.is_on_edwards_curve("Ed448", ed448.Ed448PrivateKey.generate().public_key().public_bytes_raw())
    chance = random.Random(8032)
    for name, size in (("Ed25519", 32), ("Ed448", 57)):
        on = sum(weakness.is_on_edwards_curve(name, chance.randbytes(size - 1) + b"\0") for _ in range(200))
        assert 60 < on < 140, "half of all numbers are a y"
        assert not weakness.is_on_edwards_curve(name, b"\xff" * size)
        # y = 1 is the neutral point, whose x is 0 and has no sign (RFC 8032 section 5.1.3).
        assert weakness.is_on_edwards_curve(name, b"\x01" + bytes(size - 1))
        assert not weakness.is_on_edwards_curve(name, b"\x01" + bytes(size - 2) + b"\x80")


def hexadecimal(text: str) -> bytes:
    return bytes.fromhex(text)


#: The blacklists of libsodium 1.0.20 (ed25519_ref10.c, x25519_ref10.c), without signs.
EIGHTH = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
OTHER_EIGHTH = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
U_EIGHTH = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"
U_OTHER_EIGHTH = "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"
ORDER_FOUR, ORDER_TWO = bytes(32), b"\xec" + b"\xff" * 30 + b"\x7f"


def negative(octets: bytes) -> bytes:
    return octets[:-1] + bytes([octets[-1] | 0x80])


SMALL = {
    "Ed25519": [
        b"\x01" + bytes(31),
        ORDER_TWO,
        ORDER_FOUR,
        negative(ORDER_FOUR),
        hexadecimal(EIGHTH),
        negative(hexadecimal(EIGHTH)),
        hexadecimal(OTHER_EIGHTH),
        negative(hexadecimal(OTHER_EIGHTH)),
    ],
    "X25519": [
        bytes(32),
        b"\x01" + bytes(31),
        hexadecimal(U_EIGHTH),
        hexadecimal(U_OTHER_EIGHTH),
        ORDER_TWO,
        b"\xed" + ORDER_TWO[1:],
        b"\xee" + ORDER_TWO[1:],
        negative(bytes(32)),
    ],
    "Ed448": [
        b"\x01" + bytes(56),
        bytes(57),
        bytes(56) + b"\x80",
        b"\xfe" + b"\xff" * 27 + b"\xfe" + b"\xff" * 27 + b"\0",
    ],
    "X448": [bytes(56), b"\x01" + bytes(55), b"\xfe" + b"\xff" * 27 + b"\xfe" + b"\xff" * 27],
}


@pytest.mark.parametrize(("crv", "points"), SMALL.items(), ids=SMALL.keys())
def test_points_of_small_order_are_found_and_no_others(crv: str, points: list[bytes]) -> None:
    for octets in points:
        found = {finding.code for finding in seen({"kty": "OKP", "crv": crv, "x": b64u(octets)}).everything()}
        assert "small-order" in found, octets.hex()
        assert "not-on-curve" not in found
    assert not any(weakness.is_of_small_order(crv, random.Random(n).randbytes(len(points[0]))) for n in range(200))
    assert "small-order" not in codes(seen(writing.public_half(writing.make(crv)) or {}))


# -- certificates --------------------------------------------------------------------------------------------------


def certificate(
    subject: Any, issuer: Any = None, name: str = "leaf", by: str = "leaf", *, days: int = 90
) -> x509.Certificate:
    def called(words: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, words)])

    return (
        x509.CertificateBuilder(called(by), called(name), subject.public_key(), x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=30))
        .not_valid_after(NOW + timedelta(days=days))
        .sign(issuer or subject, hashes.SHA256())
    )


CERTIFICATE = certificate(private("ES256"))


def with_chain(*chain: x509.Certificate, **more: Any) -> Jwk:
    return writing.with_certificates(good(), chain) | more


def test_certificates_that_belong_to_the_key() -> None:
    root = ec.generate_private_key(ec.SECP256R1())
    leaf, above = certificate(private("ES256"), root, by="root"), certificate(root, name="root", by="root")
    report = seen({"keys": [with_chain(leaf, above)]})
    assert report.worst is None
    assert report.keys[0].chain == (leaf, above)
    assert codes(seen({"keys": [with_chain(leaf, certificate(private("ES384"), name="root", by="root"))]})) == {
        "x5c-order"
    }
    assert codes(seen({"keys": [with_chain(above)]})) == {"x5c-mismatch"}
    assert codes(seen({"keys": [with_chain(leaf, x5t=b64u(bytes(20)))]})) == {"x5t-mismatch"}
    assert codes(seen({"keys": [with_chain(leaf, **{"x5t#S256": b64u(bytes(32))})]})) == {"x5t-mismatch"}


def test_certificates_that_are_written_badly() -> None:
    leaf = certificate(private("ES256"))
    text = base64.b64encode(leaf.public_bytes(Encoding.DER)).decode()
    assert codes(seen({"keys": [good(x5c=[text[:64] + "\n" + text[64:]])]})) == {"x5c"}
    assert codes(seen({"keys": [good(x5c=[text.replace("+", "-").replace("/", "_") + "-"[: "+" not in text]])]})) >= {
        "x5c"
    }


@pytest.mark.parametrize(
    ("at", "code"), [(timedelta(days=91), "certificate-expired"), (-timedelta(days=31), "certificate-not-yet-valid")]
)
def test_certificates_out_of_their_time(at: timedelta, code: str) -> None:
    contents = reading.read(json.dumps({"keys": [with_chain(certificate(private("ES256")))]}).encode())
    assert codes(inspect(contents, NOW + at)) == {code}


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3))
def test_no_damage_to_a_certificate_stops_the_reader(damage: list[tuple[int, int]]) -> None:
    der = bytearray(CERTIFICATE.public_bytes(Encoding.DER))
    for place, value in damage:
        der[place % len(der)] = value
    text = base64.b64encode(der)
    pem = b"-----BEGIN CERTIFICATE-----\n" + text + b"\n-----END CERTIFICATE-----"
    for report in (seen(bytes(der)), seen(pem), seen({"keys": [good(x5c=[text.decode()])]})):
        for key in report.keys:
            assert all(each.subject.rfc4514_string() is not None for each in key.chain)


def test_a_certificate_whose_name_cannot_be_read_is_named_before_anything_is_shown() -> None:
    # The first character of the name becomes a byte that is no UTF-8.
    der = CERTIFICATE.public_bytes(Encoding.DER).replace(b"leaf", b"\xffeaf")
    assert codes(seen(der)) == {"unreadable"}
    assert codes(seen({"keys": [good(x5c=[base64.b64encode(der).decode()])]})) == {"x5c"}


def test_a_certificate_of_a_year_that_is_none_hides_no_other_key() -> None:
    leaf = certificate(private("ES256"), days=365 * 30).public_bytes(Encoding.DER)
    for year in (b"0000", b"2o56"):
        der = leaf.replace(b"20560423", year + b"0423")
        assert der != leaf
        assert codes(seen(der)) == {"unreadable"}
        report = seen({"keys": [good(x5c=[base64.b64encode(der).decode()]), good("ES384")]})
        assert by_code(report) == {"x5c": "1"}
        assert [key.thumbprint for key in report.keys] == [good()["kid"], good("ES384")["kid"]]


def test_a_chain_as_pem_is_one_key() -> None:
    root = ec.generate_private_key(ec.SECP256R1())
    leaf, above = certificate(private("ES256"), root, by="root"), certificate(root, name="root", by="root")
    report = seen(leaf.public_bytes(Encoding.PEM) + above.public_bytes(Encoding.PEM))
    assert [(key.form, key.thumbprint, key.chain) for key in report.keys] == [
        ("certificate", good()["kid"], (leaf, above))
    ]
    apart = seen(above.public_bytes(Encoding.PEM) + leaf.public_bytes(Encoding.PEM))
    assert [key.where for key in apart.keys] == ["block 1", "block 2"]


# -- verifiers -----------------------------------------------------------------------------------------------------


def against(name: str, *keys: Jwk, size: int = 0) -> dict[str, Severity]:
    body = json.dumps({"keys": keys}).encode().ljust(size)
    report = seen(body, verifier_names=chosen([name]))
    return {finding.says: finding.severity for finding in report.everything() if finding.code == "verifier"}


def numbered(count: int) -> list[Jwk]:
    return [good("RS256") | {"kid": str(number)} for number in range(count)]


@pytest.mark.parametrize(
    ("name", "keys", "words"),
    [
        ("alb", numbered(10), None),
        ("alb", numbered(11), "11 keys"),
        ("alb", [good("ES256")], "no key here"),
        ("oci", [*numbered(10), good("ES256")], "11 keys"),
        ("iam", numbered(101), "101 keys"),
        ("apigateway", [good("RS256"), good("ES256")], "ES256"),
        ("pyjwt", [good("Ed25519"), good("ES256")], "Ed25519"),
        ("pyjwt", [good("EdDSA"), good("ES256")], None),
        ("pyjwt", [good("ES256"), good("ES384") | {"kid": good()["kid"]}], "one kid stands twice"),
        ("authlib", [good("ES256"), good("ML-DSA-44")], "rejects all of it"),
        ("authlib", [good("ES256"), {"kty": "QKP", "kid": "q"}], "unknown kty"),
        ("authlib", [good("ES256"), good("ES384") | {"crv": "P-999"}], None),
        ("joserfc", [good("ES256"), good("ES384") | {"crv": "P-999"}], "unknown curve"),
        ("jwcrypto", [good("ES256"), without(good("ES384"), "y")], "lacks a member"),
        ("python-jose", [good("ES256"), good("RS256")], "several kty"),
        ("joserfc", [good("ES256"), good("ES384") | {"x": "AA"}], "cannot be read"),
        ("jwks-rsa", [good("EdDSA")], "no key here"),
        ("jwcrypto", [good("ML-DSA-44"), good("EdDSA")], None),
        ("mod_auth_openidc", [good("RS256") | {"alg": "RSA-OAEP", "use": "enc"}, good("ES256")], None),
        ("envoy", [without(good("EdDSA"), "alg"), good("ES256")], None),
        ("openid", [good(), good("ES384")], None),
        ("openid", [without(good(), "kid")], "missing-kid"),
        ("openid", [rsa_jwk(n=PAIR.p)], "rsa-size"),
        ("openid", [good(x=good()["x"] + "=")], "padded"),
        ("openid", [good(d="AA")], "private-key"),
        ("openid", [{"kty": "oct", "k": "AA"}], "symmetric-key"),
    ],
)
def test_a_set_is_held_against_the_limits_of_a_verifier(name: str, keys: list[Jwk], words: str | None) -> None:
    found = against(name, *keys)
    assert not found if words is None else any(words in says for says in found), found


def test_a_document_that_is_too_large_for_the_load_balancer() -> None:
    assert not against("alb", good("RS256"), size=150 * 1024)
    assert "153,601 bytes" in "".join(against("alb", good("RS256"), size=150 * 1024 + 1))


def test_an_unusable_key_is_a_warning_and_a_spoiled_set_an_error() -> None:
    assert set(against("jwks-rsa", good("ES256"), good("EdDSA")).values()) == {Severity.WARNING}
    assert Severity.ERROR in against("authlib", good("ES256"), good("ML-DSA-44")).values()


def test_the_conformance_suite_wants_tls() -> None:
    body = {"keys": [good()]}
    assert seen(body, verifier_names=["openid"], address="https://a.example/jwks").worst is None
    assert seen(body, verifier_names=["openid"], address="http://127.0.0.1/jwks").worst is Severity.ERROR


def test_verifiers_are_chosen_by_name() -> None:
    assert chosen(["alb,PyJWT", "alb"]) == ("alb", "pyjwt")
    assert set(chosen(["all"])) == set(TITLES)
    with pytest.raises(ConfigurationError, match="no verifier 'nginx': choose from alb"):
        chosen(["nginx"])


# -- tokens --------------------------------------------------------------------------------------------------------


def token(alg: str = "ES256", header: Mapping[str, Any] | None = None, **claims: Any) -> str:
    start = {"alg": alg, "kid": good(alg)["kid"]} if header is None else header
    at = int(NOW.timestamp())
    body = {"iss": "https://a.example", "iat": at - 60, "exp": at + 600, "sub": "SECRET"} | claims
    said = ".".join(
        b64u(json.dumps(part).encode()) for part in (start, without(body, *[n for n in body if body[n] is None]))
    )
    return f"{said}.{b64u(material.sign(private(alg), algorithm(alg), said.encode()))}"


def verified(words: str, *keys: Jwk) -> Report:
    return seen(words.encode(), against=reading.read(json.dumps({"keys": keys}).encode()))


@pytest.mark.parametrize("alg", ["RS256", "PS384", "ES256", "ES512", "EdDSA", "Ed448", "ML-DSA-44"])
def test_the_key_that_verifies_a_token_is_named(alg: str) -> None:
    report = verified(token(alg), good("ES384"), good(alg))
    assert report.worst is None
    assert report.token
    assert report.token.verified_by == good(alg)["kid"]
    assert report.token.claims == {"iss": "https://a.example"}
    assert report.token.times["exp"] == NOW + timedelta(minutes=10)
    assert "SECRET" not in repr(report)


@needs_vectors
@pytest.mark.parametrize("path", sorted((VECTORS / "rfc" / "jws").glob("*.json")), ids=lambda path: path.stem)
def test_the_signatures_of_the_rfcs_are_verified(path: Path) -> None:
    vector = json.loads(path.read_text())
    report = verified(vector["output"]["compact"], jwks.without_private(vector["input"]["key"]) or {})
    assert report.token
    assert report.token.verified_by
    assert codes(report, Severity.WARNING) <= {"missing-kid"}


def test_a_token_whose_set_is_not_named_is_not_verified() -> None:
    assert codes(seen(f"Bearer {token()}\n".encode())) == {"token-unchecked"}


def der(words: str) -> str:
    said, _, _ = words.rpartition(".")
    return f"{said}.{b64u(private('ES256').sign(said.encode(), ec.ECDSA(hashes.SHA256())))}"


TOKENS: dict[str, tuple[Callable[[], str], str, Severity]] = {
    "not signed": (lambda: token(header={"alg": "none", "kid": "a"}), "alg-none", Severity.ERROR),
    "no alg": (lambda: token(header={"kid": "a"}), "token-alg", Severity.ERROR),
    "alg for encryption": (lambda: token(header={"alg": "RSA-OAEP"}), "token-alg", Severity.ERROR),
    "symmetric": (lambda: token(header={"alg": "HS256", "kid": "a"}), "token-symmetric", Severity.WARNING),
    "no kid": (lambda: token(header={"alg": "ES256"}), "missing-kid", Severity.WARNING),
    "kid of another key": (lambda: token(header={"alg": "ES256", "kid": "a"}), "token-kid", Severity.ERROR),
    "extensions": (lambda: token(header={"alg": "ES256", "crit": ["b64"]}), "token-crit", Severity.WARNING),
    "its own key": (lambda: token(header={"alg": "ES256", "jwk": good()}), "token-own-key", Severity.WARNING),
    "changed": (lambda: token()[:-8] + "AAAAAAAA", "token-signature", Severity.ERROR),
    "signature in DER": (lambda: der(token()), "token-signature", Severity.ERROR),
    "signature cut off": (lambda: token() + "AAA", "token-signature", Severity.ERROR),
    "ended": (lambda: token(exp=NOW.timestamp() - 5), "token-expired", Severity.WARNING),
    "never ends": (lambda: token(exp=None), "token-no-exp", Severity.WARNING),
    "not yet": (lambda: token(nbf=NOW.timestamp() + 60), "token-not-yet-valid", Severity.WARNING),
    "from the future": (lambda: token(iat=NOW.timestamp() + 60), "token-not-yet-valid", Severity.WARNING),
    "in milliseconds": (lambda: token(exp=NOW.timestamp() * 1000), "token-times", Severity.ERROR),
    "time as text": (lambda: token(exp="tomorrow"), "token-times", Severity.ERROR),
    "long-lived": (lambda: token(exp=NOW.timestamp() + 90_000), "token-long", Severity.NOTE),
    "header is no JSON": (lambda: "AAAA." + token().partition(".")[2], "token", Severity.ERROR),
    "payload is no JSON": (lambda: ".".join([token().split(".")[0], "AAAA", "AA"]), "token", Severity.NOTE),
}


@pytest.mark.parametrize(("make", "code", "severity"), TOKENS.values(), ids=TOKENS.keys())
def test_what_is_wrong_with_a_token(make: Callable[[], str], code: str, severity: Severity) -> None:
    found = {finding.code: finding for finding in verified(make(), good(), good("ES384")).everything()}
    assert found[code].severity is severity, found
    assert found[code].source


@pytest.mark.parametrize(("part", "source"), [(0, "RFC 7515 section 4"), (1, "RFC 7519 section 4")])
def test_a_name_that_stands_twice_in_a_token_is_told(part: int, source: str) -> None:
    parts = token().split(".")
    parts[part] = b64u(b'{"kid": "a", "exp": 1, ' + unb64u(parts[part])[1:])
    found = [finding for finding in seen(".".join(parts).encode()).everything() if finding.code == "duplicate-name"]
    assert [finding.source for finding in found] == [source]


def test_a_time_that_is_wrong_is_not_called_missing() -> None:
    assert "token-no-exp" not in codes(seen(token(exp="tomorrow").encode()))


def test_a_kid_that_the_set_lacks_is_told_with_those_it_has() -> None:
    report = verified(token(), good("ES384"))
    says = next(finding.says for finding in report.everything() if finding.code == "token-kid")
    assert good()["kid"] in says
    assert good("ES384")["kid"] in says


def test_a_key_of_that_name_for_another_algorithm_is_told_as_that() -> None:
    report = verified(token(), good("ES384") | {"kid": good()["kid"]})
    says = next(finding.says for finding in report.everything() if finding.code == "token-alg")
    assert "The token says ES256, but the key" in says
    assert "is ES384" in says


def test_what_is_not_checked_is_said_and_no_fault_of_the_token() -> None:
    for header in ({"alg": "HS256", "kid": "a"}, {"alg": "ES256", "kid": "a", "b64": False}):
        found = {finding.code: finding.severity for finding in verified(token(header=header), good()).everything()}
        assert found["token-unchecked"] is Severity.WARNING
        assert "token-signature" not in found


def test_private_keys_in_the_set_to_verify_with_are_told_of() -> None:
    whole = material.private_jwk(private("ES256"), good())
    report = verified(token(), whole)
    assert codes(report) == {"private-key"}
    assert whole["d"] not in repr(report)


def test_der_instead_of_r_and_s_is_told_as_that() -> None:
    assert "DER" in next(f.says for f in verified(der(token()), good()).everything() if f.code == "token-signature")


@given(st.dictionaries(st.sampled_from(["alg", "kid", "crit", "jwk", "typ", "b64"]), odd), odd)
def test_no_token_stops_the_reader(header: dict[str, Any], claims: Any) -> None:
    said = ".".join(b64u(json.dumps(part).encode()) for part in (header, {"exp": claims, "iat": claims, "iss": claims}))
    assert verified(f"{said}.AAAA", good()).form in {"JWT", "unknown text"}
