"""Private halves: every algorithm signs as the RFCs and other libraries do, and nothing secret is ever said aloud."""

from __future__ import annotations

import json
import traceback
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwk as joserfc_jwk
from joserfc import jws as joserfc_jws
from joserfc.errors import JoseError
from jwt.algorithms import OKPAlgorithm

from rotator.errors import ConfigurationError
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS, PRIVATE_MEMBERS, algorithm
from rotator.keys.material import b64u, b64u_int, unb64u

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

VECTORS = Path(__file__).parents[2] / "shared" / "vectors"
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason="the RFC vectors (../shared/vectors) are not here")
every_algorithm = pytest.mark.parametrize("alg", list(ALGORITHMS))

#: joserfc says so of every EdDSA signature; RFC 9864 deprecates the name, and verifiers still ask for it.
eddsa_is_deprecated = pytest.mark.filterwarnings("ignore:EdDSA is deprecated via RFC 9864")

MESSAGE = b"header.payload"

#: RFC 8037 appendix A.1: the private key; A.4: what it signs.
RFC8037_PRIVATE = {
    "kty": "OKP",
    "crv": "Ed25519",
    "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
}
RFC8037_INPUT = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
RFC8037_SIGNATURE = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"


@cache
def private(alg: str) -> PrivateKeyTypes:
    return material.generate(algorithm(alg), 2048)


def public(alg: str) -> jwks.Jwk:
    return jwks.public_jwk(material.spki(private(alg)), algorithm(alg))


def signature(alg: str, message: bytes = MESSAGE) -> bytes:
    return material.sign(private(alg), algorithm(alg), message)


def check(jwk: dict[str, Any], alg: str, signed: bytes, message: bytes = MESSAGE) -> bool:
    return material.verify(jwk, algorithm(alg), message, signed)


# -- base64url ---------------------------------------------------------------------------------------------------


@given(st.binary(max_size=80))
def test_base64url_goes_there_and_back_without_padding(data: bytes) -> None:
    text = b64u(data)
    assert unb64u(text) == data
    assert not set(text) & set("+/=\n")


@pytest.mark.parametrize("text", ["A", "AAAAA", "AA==", "AAA=", "A A", "AA\n", "A*", "é", "\ud800"], ids=ascii)
def test_what_is_not_base64url_without_padding_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        unb64u(text)


def test_numbers_are_as_short_as_they_can_be_or_as_long_as_they_must() -> None:
    assert b64u_int(65537) == "AQAB"
    assert b64u_int(0) == "AA"
    assert unb64u(b64u_int(127)) == b"\x7f"
    assert unb64u(b64u_int(128)) == b"\x80"
    assert unb64u(b64u_int(256)) == b"\x01\x00"
    assert unb64u(b64u_int(1, 66)) == bytes(65) + b"\x01"


# -- every algorithm ---------------------------------------------------------------------------------------------


@every_algorithm
def test_a_new_key_signs_and_its_public_half_verifies(alg: str) -> None:
    signed = signature(alg)
    assert check(public(alg), alg, signed)
    assert not check(public(alg), alg, signed, MESSAGE + b"!")
    assert not check(public(alg), alg, signed[:-1])
    assert not check(public(alg), alg, signed + b"\x00")
    assert not check(public(alg), alg, b"")
    assert not check(public(alg), alg, bytes([signed[0] ^ 1]) + signed[1:])
    assert not check(public(alg), alg, bytes(len(signed)))


@every_algorithm
def test_a_signature_has_the_length_of_the_rfc(alg: str) -> None:
    lengths = {"RSA": 256, "Ed25519": 64, "Ed448": 114, "ML-DSA-44": 2420, "ML-DSA-65": 3309, "ML-DSA-87": 4627}
    row = algorithm(alg)
    assert len(signature(alg)) == (2 * row.coordinate_bytes if row.coordinate_bytes else lengths[row.key_kind])


@every_algorithm
def test_no_other_key_and_no_other_algorithm_verifies(alg: str) -> None:
    signed, same = signature(alg), {alg} if alg not in {"EdDSA", "Ed25519"} else {"EdDSA", "Ed25519"}
    for other in ALGORITHMS:
        assert check(public(alg), other, signed) is (other in same), other
        if other != alg:
            assert not check(public(other), alg, signed), other
            assert not check(public(other), other, signed), other


@every_algorithm
def test_a_public_key_with_a_member_missing_or_wrong_verifies_nothing(alg: str) -> None:
    signed = signature(alg)
    for member in set(algorithm(alg).public_members) - {"kty", "crv"}:
        whole = public(alg)
        assert not check({name: value for name, value in whole.items() if name != member}, alg, signed)
        for wrong in (None, 5, "", "AA", "A", whole[member] + "==", whole[member][:-2], [whole[member]], b"AA"):
            assert not check(whole | {member: wrong}, alg, signed), wrong


@every_algorithm
def test_pyjwt_reads_our_signatures_and_we_read_those_of_pyjwt(alg: str) -> None:
    if algorithm(alg).kty == "AKP":
        with pytest.raises(jwt.PyJWKError):
            jwt.PyJWK(public(alg))
        return
    if alg in {"Ed25519", "Ed448"}:
        their_public = material.raw_classes(alg)[1].from_public_bytes(unb64u(public(alg)["x"]))
        okp = OKPAlgorithm()
        assert okp.verify(MESSAGE, their_public, signature(alg)), "PyJWT does not know this name for EdDSA yet"
        return
    theirs = jwt.PyJWK(public(alg))
    assert theirs.Algorithm.verify(MESSAGE, theirs.key, signature(alg))
    token = jwt.encode({"sub": "frodo"}, material.private_pem(private(alg)), alg)
    signed, _, their_signature = token.rpartition(".")
    assert check(public(alg), alg, unb64u(their_signature), signed.encode())
    ours = f"{signed}.{b64u(signature(alg, signed.encode()))}"
    assert jwt.decode(ours, theirs, [alg]) == {"sub": "frodo"}


@every_algorithm
@eddsa_is_deprecated
def test_joserfc_reads_our_signatures_and_we_read_those_of_joserfc(alg: str) -> None:
    if algorithm(alg).kty == "AKP":
        with pytest.raises(JoseError):
            joserfc_jwk.import_key(public(alg))
        return
    token = joserfc_jws.serialize_compact(
        {"alg": alg}, b"frodo", joserfc_jwk.import_key(material.private_jwk(private(alg), public(alg))), [alg]
    )
    signed, _, their_signature = token.rpartition(".")
    assert check(public(alg), alg, unb64u(their_signature), signed.encode())
    ours = f"{signed}.{b64u(signature(alg, signed.encode()))}"
    assert joserfc_jws.deserialize_compact(ours, joserfc_jwk.import_key(public(alg)), [alg]).payload == b"frodo"


def test_rsa_keys_have_the_size_that_was_asked_for() -> None:
    for bits in (2048, 3072):
        made = material.generate(algorithm("RS256"), bits)
        assert isinstance(made, rsa.RSAPrivateKey)
        assert (made.key_size, made.public_key().public_numbers().e) == (bits, 65537)


def test_two_new_keys_are_never_the_same() -> None:
    one, two = (material.spki(material.generate(algorithm("EdDSA"), 0)) for _ in range(2))
    assert one != two


def test_a_key_of_an_unknown_kind_does_not_sign() -> None:
    with pytest.raises(ConfigurationError, match=r"A X25519PrivateKey cannot sign EdDSA\."):
        material.sign(x25519.X25519PrivateKey.generate(), algorithm("EdDSA"), MESSAGE)


# -- coordinates with leading zeros ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alg", "curve", "scalars"),
    [
        ("ES256", ec.SECP256R1(), (1, 43, 379)),
        ("ES384", ec.SECP384R1(), (1, 176, 197)),
        ("ES512", ec.SECP521R1(), (1, 73, 273)),
    ],
)
def test_coordinates_that_begin_with_zeros_keep_their_length(
    alg: str, curve: ec.EllipticCurve, scalars: tuple[int, ...]
) -> None:
    row, zeros = algorithm(alg), 0
    for scalar in scalars:
        key = ec.derive_private_key(scalar, curve)
        jwk = jwks.public_jwk(material.spki(key), row)
        whole = material.private_jwk(key, jwk)
        lengths = {len(unb64u(whole[member])) for member in ("x", "y", "d")}
        assert lengths == {row.coordinate_bytes}
        # The first byte of a P-521 coordinate holds one bit: a zero in the second is the rare case.
        zeros += unb64u(jwk["x"])[alg == "ES512"] == 0 or unb64u(jwk["y"])[alg == "ES512"] == 0
        assert material.verify(jwk, row, MESSAGE, material.sign(key, row, MESSAGE))
        assert material.spki(material.load_private_jwk(whole)) == material.spki(key)
        assert joserfc_jwk.import_key(whole).thumbprint() == jwk["kid"]
    assert zeros == 2


@pytest.mark.parametrize(("alg", "length"), [("ES256", 32), ("ES384", 48), ("ES512", 66)])
def test_an_ecdsa_signature_of_small_numbers_keeps_its_length(alg: str, length: int) -> None:
    jose = material.ecdsa_der_to_jose(encode_dss_signature(1, 2), algorithm(alg))
    assert jose == bytes(length - 1) + b"\x01" + bytes(length - 1) + b"\x02"


# -- PEM ---------------------------------------------------------------------------------------------------------

PASSPHRASE = b"correct horse battery staple"


def said(caught: pytest.ExceptionInfo[ConfigurationError]) -> str:
    """All that a log could show of an error, causes included."""
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("alg", ["RS256", "ES256", "ES384", "ES512", "EdDSA", "Ed448", "ML-DSA-44"])
@pytest.mark.parametrize("passphrase", [None, PASSPHRASE], ids=["plain", "encrypted"])
def test_a_pem_goes_there_and_back(alg: str, passphrase: bytes | None) -> None:
    pem = material.private_pem(private(alg), passphrase)
    kind = b"ENCRYPTED PRIVATE KEY" if passphrase else b"PRIVATE KEY"
    assert pem.startswith(b"-----BEGIN " + kind + b"-----\n")
    assert material.spki(material.load_private_pem(pem, passphrase)) == material.spki(private(alg))


@pytest.mark.parametrize(
    ("written_with", "read_with", "message"),
    [
        (PASSPHRASE, None, "The private key is encrypted and needs a passphrase."),
        (None, PASSPHRASE, "The private key is not encrypted, but there is a passphrase."),
        (PASSPHRASE, b"wrong", "The private key cannot be read: wrong passphrase, or not PKCS#8 PEM."),
    ],
    ids=["missing", "too much", "wrong"],
)
def test_a_wrong_passphrase_is_told_without_a_word_of_the_key(
    written_with: bytes | None, read_with: bytes | None, message: str
) -> None:
    pem = material.private_pem(private("ES256"), written_with)
    with pytest.raises(ConfigurationError) as caught:
        material.load_private_pem(pem, read_with)
    assert str(caught.value) == message
    for secret in (*pem.decode().splitlines()[1:-1], PASSPHRASE.decode()):
        assert secret not in said(caught)


def _public_pem() -> bytes:
    return (
        private("ES256")
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"secret",
        b"-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\n",
        material.private_pem(ed25519.Ed25519PrivateKey.generate())[:60],
        b"\x00" * 1000,
        _public_pem(),
    ],
    ids=["empty", "text", "not base64", "torn", "half", "zeros", "a public key"],
)
def test_what_is_no_private_key_is_refused_and_never_quoted(pem: bytes) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: wrong passphrase, or not PKCS#8 PEM") as caught:
        material.load_private_pem(pem)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


# -- private JWK -------------------------------------------------------------------------------------------------


@every_algorithm
def test_a_private_jwk_goes_there_and_back(alg: str) -> None:
    row, jwk = algorithm(alg), public(alg)
    whole = material.private_jwk(private(alg), jwk)
    secret = {"RSA": {"d", "p", "q", "dp", "dq", "qi"}, "EC": {"d"}, "OKP": {"d"}, "AKP": {"priv"}}[row.kty]
    assert whole.keys() - jwk.keys() == secret <= PRIVATE_MEMBERS
    assert {name: whole[name] for name in jwk} == jwk
    assert jwk.keys().isdisjoint(PRIVATE_MEMBERS), "the public half is left as it was"
    loaded = material.load_private_jwk(json.loads(json.dumps(whole)))
    assert material.spki(loaded) == material.spki(private(alg))
    assert material.private_pem(loaded) == material.private_pem(private(alg))
    assert check(jwk, alg, material.sign(loaded, row, MESSAGE))


@pytest.mark.parametrize("alg", ["RS256", "ES256", "ES512", "EdDSA", "ML-DSA-65"])
def test_a_private_jwk_with_a_member_missing_or_wrong_is_refused_and_never_quoted(alg: str) -> None:
    whole = material.private_jwk(private(alg), public(alg))
    needed = set(whole) - {"kid", "use"} - ({"x", "y"} if "crv" in whole else set()) - {"pub"}
    needed -= set() if whole["kty"] == "AKP" else {"alg"}
    for member in needed:
        for broken in (
            {name: value for name, value in whole.items() if name != member},
            whole | {member: None},
            whole | {member: [whole[member]]},
            whole | {member: whole[member] + "="},
            whole | {member: "\ud800"},
        ):
            with pytest.raises(ConfigurationError) as caught:
                material.load_private_jwk(broken)
            assert "The private JWK " in str(caught.value)
            for secret in PRIVATE_MEMBERS & whole.keys():
                assert whole[secret] not in said(caught)


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "EC", "crv": "P-256", "d": "AA"},
        {"kty": "EC", "crv": "P-256", "d": b64u(b"\xff" * 32)},
        {"kty": "EC", "crv": "secp256k1", "d": "AQ"},
        {"kty": "OKP", "crv": "Ed25519", "d": "AA"},
        {"kty": "RSA", **dict.fromkeys(("n", "e", "d", "p", "q", "dp", "dq", "qi"), "AA")},
        {"kty": "OKP", "crv": "Ed448", "d": "AA"},
        {"kty": "OKP", "crv": "X25519", "d": b64u(bytes(32))},
        {"kty": "AKP", "alg": "ML-DSA-44", "priv": b64u(bytes(31))},
        {"kty": "AKP", "alg": "SLH-DSA-SHA2-128s", "priv": b64u(bytes(32))},
        {"kty": "AKP", "priv": b64u(bytes(32))},
        {},
    ],
    ids=[
        "zero",
        "beyond the order",
        "another curve",
        "too short",
        "zeros",
        "too short for Ed448",
        "does not sign",
        "seed too short",
        "another AKP",
        "AKP without alg",
        "nothing",
    ],
)
def test_numbers_that_are_no_key_are_refused(jwk: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="a member is missing or wrong"):
        material.load_private_jwk(jwk)


@pytest.mark.parametrize("jwk", [{"kty": "oct", "k": "c2VjcmV0"}, {"kty": "EC2", "d": "c2VjcmV0"}])
def test_a_private_jwk_of_an_unknown_kind_is_refused(jwk: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="of an unknown kind: kty must be RSA, EC, OKP or AKP"):
        material.load_private_jwk(jwk)


# -- where cryptography was built without them -------------------------------------------------------------------

WITHOUT_ML_DSA = r"has no ML-DSA-65 keys: install its wheel .*, or build it with OpenSSL 3\.5 or newer\."


class Unsupported:
    """What the classes of ML-DSA are where OpenSSL is too old for them."""

    @staticmethod
    def refuse(*_: object) -> None:
        raise UnsupportedAlgorithm("ML-DSA-65 is not supported by this backend.")

    generate = from_seed_bytes = from_public_bytes = refuse


@pytest.fixture
def without_ml_dsa(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("MLDSA65PrivateKey", "MLDSA65PublicKey"):
        monkeypatch.setattr(mldsa, kind, Unsupported)


@pytest.mark.usefixtures("without_ml_dsa")
def test_an_openssl_without_ml_dsa_is_told_with_what_to_install() -> None:
    row = algorithm("ML-DSA-65")
    with pytest.raises(ConfigurationError, match=WITHOUT_ML_DSA):
        material.generate(row, 0)
    with pytest.raises(ConfigurationError, match=WITHOUT_ML_DSA):
        material.load_private_jwk({"kty": "AKP", "alg": "ML-DSA-65", "priv": b64u(bytes(32))})
    with pytest.raises(ConfigurationError, match=WITHOUT_ML_DSA):
        material.verify({"kty": "AKP", "alg": "ML-DSA-65", "pub": "AA"}, row, MESSAGE, b"")


def test_a_pem_of_an_unsupported_kind_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialization, "load_pem_private_key", Unsupported.refuse)
    with pytest.raises(ConfigurationError, match=r"ML-DSA needs OpenSSL 3\.5") as caught:
        material.load_private_pem(b"hid" + b"den")
    assert "hidden" not in said(caught)


# -- RFC examples ------------------------------------------------------------------------------------------------


def test_the_example_of_rfc_8037() -> None:
    key, row = material.load_private_jwk(RFC8037_PRIVATE), algorithm("EdDSA")
    assert material.sign(key, row, RFC8037_INPUT) == unb64u(RFC8037_SIGNATURE)
    jwk = {name: RFC8037_PRIVATE[name] for name in ("kty", "crv", "x")}
    assert material.verify(jwk, row, RFC8037_INPUT, unb64u(RFC8037_SIGNATURE))
    assert jwks.public_members(material.spki(key), row) == jwk
    assert material.private_jwk(key, jwk) == RFC8037_PRIVATE


#: RFC 8032 section 7.4, "1 octet".
RFC8032_ED448 = {
    "d": (
        "c4eab05d357007c632f3dbb48489924d552b08fe0c353a0d4a1f00acda2c463afbea67c5e8d2877c5e3bc397a659949ef8021e954e0a1227"
        "4e"
    ),
    "x": (
        "43ba28f430cdff456ae531545f7ecd0ac834a55d9358c0372bfa0c6c6798c0866aea01eb00742802b8438ea4cb82169c235160627b4c3a94"
        "80"
    ),
    "signature": (
        "26b8f91727bd62897af15e41eb43c377efb9c610d48f2335cb0bd0087810f4352541b143c4b981b7e18f62de8ccdf633fc1bf037ab7cd779"
        "805e0dbcc0aae1cbcee1afb2e027df36bc04dcecbf154336c19f0af7e0a6472905e799f1953d2a0ff3348ab21aa4adafd1d234441cf807c0"
        "3a00"
    ),
}


def test_the_example_of_rfc_8032_for_ed448() -> None:
    d, x, signed = (bytes.fromhex(RFC8032_ED448[name]) for name in ("d", "x", "signature"))
    whole, row = {"kty": "OKP", "crv": "Ed448", "x": b64u(x), "d": b64u(d)}, algorithm("Ed448")
    key = material.load_private_jwk(whole)
    assert material.sign(key, row, b"\x03") == signed
    assert material.verify(whole, row, b"\x03", signed)
    members = jwks.public_members(material.spki(key), row)
    assert members == {"crv": "Ed448", "kty": "OKP", "x": b64u(x)}
    assert material.private_jwk(key, members) == whole


#: RFC 9964 appendix A: the thumbprints of the keys whose seed is 32 zero bytes.
RFC9964_KIDS = [
    ("ML-DSA-44", "T4xl70S7MT6Zeq6r9V9fPJGVn76wfnXJ21-gyo0Gu6o"),
    ("ML-DSA-65", "Suiu29qbfuaBaR4Ats-c6XQBePB_OpAxAwcTR_0KXVM"),
    ("ML-DSA-87", "tRn1JNIkgMsABVQBlXeDHxAIcclh-2IX0UdDEzPt5XU"),
]


@pytest.mark.parametrize(("alg", "kid"), RFC9964_KIDS)
def test_the_thumbprints_of_rfc_9964(alg: str, kid: str) -> None:
    key = material.load_private_jwk({"kty": "AKP", "alg": alg, "priv": b64u(bytes(32))})
    assert jwks.public_jwk(material.spki(key), algorithm(alg))["kid"] == kid


@needs_vectors
@pytest.mark.parametrize("alg", ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"])
def test_the_examples_of_rfc_9964(alg: str) -> None:
    vector = json.loads((VECTORS / "rfc" / f"{alg.replace('-', '_')}.jose.json").read_text("utf-8"))
    whole, row = vector["jwk"], algorithm(alg)
    head, payload, signed = vector["jws"].split(".")
    assert material.verify(whole, row, f"{head}.{payload}".encode(), unb64u(signed))
    assert not material.verify(whole, row, f"{head}.{payload}".encode(), unb64u(signed)[:-1] + b"!")
    key = material.load_private_jwk(whole)
    assert material.private_jwk(key, jwks.public_jwk(material.spki(key), row)) == {**whole, "use": "sig"}
    assert jwks.thumbprint(whole) == whole["kid"]
    assert material.private_jwk(key, {"kty": "AKP"})["priv"] == b64u(bytes.fromhex(vector["priv"])), "the seed"
    assert material.verify(whole, row, MESSAGE, material.sign(key, row, MESSAGE))


@needs_vectors
@pytest.mark.parametrize("name", ["4_1.rsa_v15", "4_2.rsa-pss", "4_3.ecdsa", "rfc8037_ed25519"])
def test_the_signatures_of_rfc_7520_and_rfc_8037(name: str) -> None:
    (path,) = (VECTORS / "rfc" / "jws").glob(f"{name}*.json")
    vector = json.loads(path.read_text("utf-8"))
    jwk, alg = vector["input"]["key"], vector["input"]["alg"]
    message, signed = vector["signing"]["sig-input"].encode(), unb64u(vector["signing"]["sig"])
    assert check(jwk, alg, signed, message)
    assert not check(jwk, alg, signed, message + b".")
    key = material.load_private_jwk(jwk)
    again = material.sign(key, algorithm(alg), message)
    assert (again == signed) is bool(vector.get("reproducible"))
    assert check(jwk, alg, again, message)
    members = jwks.public_members(material.spki(key), algorithm(alg))
    assert members == {member: jwk[member] for member in members}


@needs_vectors
@pytest.mark.parametrize(("name", "alg"), [("3_2.ec_private_key.json", "ES512"), ("3_4.rsa_private_key.json", "PS256")])
def test_the_private_keys_of_rfc_7520(name: str, alg: str) -> None:
    whole = json.loads((VECTORS / "rfc" / name).read_text("utf-8"))
    key = material.load_private_jwk(whole)
    jwk = {member: value for member, value in whole.items() if member not in PRIVATE_MEMBERS}
    assert material.private_jwk(key, jwk) == whole, "leading zeros and all"
    assert check(jwk, alg, material.sign(key, algorithm(alg), MESSAGE))


@needs_vectors
def test_the_private_keys_of_rfc_7517() -> None:
    for whole in json.loads((VECTORS / "rfc" / "rfc7517_A.2.jwkset").read_text("utf-8"))["keys"]:
        jwk = {member: value for member, value in whole.items() if member not in PRIVATE_MEMBERS}
        assert material.private_jwk(material.load_private_jwk(whole), jwk) == whole
    for symmetric in json.loads((VECTORS / "rfc" / "rfc7517_A.3.jwkset").read_text("utf-8"))["keys"]:
        with pytest.raises(ConfigurationError, match="unknown kind"):
            material.load_private_jwk(symmetric)


@pytest.mark.parametrize("alg", ["ES256", "ES384", "ES512"])
def test_an_ecdsa_signature_of_any_length_is_split_as_a_parser_would(alg: str) -> None:
    algorithm = ALGORITHMS[alg]
    size = algorithm.coordinate_bytes or 0
    order_bits = {"ES256": 256, "ES384": 384, "ES512": 521}[alg]
    numbers = [1 << bit for bit in range(order_bits)] + [(1 << bits) - 1 for bits in range(1, order_bits + 1)]
    for r, s in zip(numbers, reversed(numbers), strict=True):
        der = encode_dss_signature(r, s)
        assert material._split(der, size) == material.ecdsa_der_to_jose(der, algorithm)


def test_the_key_spec_of_kms_carries_the_size_of_rsa_alone_and_is_refused_where_there_is_none() -> None:
    specs = {row.key_spec(3072) for row in ALGORITHMS.values() if row.kms_signing_algorithm}
    assert {"RSA_3072", "ECC_NIST_P521", "ECC_NIST_EDWARDS25519", "ML_DSA_44", "ML_DSA_65", "ML_DSA_87"} <= specs
    with pytest.raises(ConfigurationError, match=r"AWS KMS has no Ed448 keys: take another algorithm"):
        algorithm("Ed448").key_spec(2048)
