"""Keys in every form, read and written: what goes in comes out, other programs agree, and nothing is quoted."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import operator
import time
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import pkcs7, pkcs12
from joserfc import jwk as joserfc_jwk

from rotator.errors import ConfigurationError
from rotator.inspect import inspect
from rotator.jose import keys, pem, reading, writing
from rotator.jose.registry import ALGS, KINDS, TOLD_BY, kind_of
from rotator.keys import jwks
from rotator.keys.algorithms import ALGORITHMS, PRIVATE_MEMBERS
from rotator.keys.material import b64u, b64u_int, unb64u
from tests.test_inspect import NOW, certificate

if TYPE_CHECKING:
    from collections.abc import Callable

    from rotator.jose.reading import Contents

SECRET = b"correct horse"
KEYS: dict[str, Callable[[], Any]] = {
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
    "X25519": x25519.X25519PrivateKey.generate,
    "X448": x448.X448PrivateKey.generate,
    "ML-DSA-44": mldsa.MLDSA44PrivateKey.generate,
    "ML-DSA-65": mldsa.MLDSA65PrivateKey.generate,
    "ML-DSA-87": mldsa.MLDSA87PrivateKey.generate,
}
every_kind = pytest.mark.parametrize("name", list(KEYS))


@cache
def key(name: str) -> Any:
    return KEYS[name]()


def private_pem(name: str, form: s.PrivateFormat = s.PrivateFormat.PKCS8, secret: bytes | None = None) -> bytes:
    encryption = s.BestAvailableEncryption(secret) if secret else s.NoEncryption()
    written: bytes = key(name).private_bytes(s.Encoding.PEM, form, encryption)
    return written


def public_pem(name: str, form: s.PublicFormat = s.PublicFormat.SubjectPublicKeyInfo) -> bytes:
    written: bytes = key(name).public_key().public_bytes(s.Encoding.PEM, form)
    return written


def only(contents: Contents) -> reading.Item:
    assert contents.findings == (), contents.findings
    (item,) = contents.items
    return item


def told(contents: Contents) -> str:
    assert not contents.items
    return " ".join(finding.says for finding in contents.findings)


# -- the registry --------------------------------------------------------------------------------------------------


def test_the_registry_knows_every_algorithm_that_is_rotated_and_the_same_of_it() -> None:
    for alg, row in ALGORITHMS.items():
        kind = KINDS[row.key_kind]
        assert row.key_kind in ALGS[alg].kinds
        assert ALGS[alg].use == "sig"
        assert (kind.kty, *sorted(kind.public)) == (row.kty, *sorted(set(row.public_members) - {"kty"}))
        assert set(kind.private) <= PRIVATE_MEMBERS
    assert KINDS.keys() == {*KEYS, "oct"}
    assert set(TOLD_BY) == {kind.kty for kind in KINDS.values()}
    assert {name for purpose in ALGS.values() for name in purpose.kinds} == set(KINDS)


@pytest.mark.parametrize(
    "jwk", [{}, {"kty": []}, {"kty": "EC"}, {"kty": "EC", "crv": []}, {"kty": "EC", "crv": "Ed25519"}, {"kty": "AKP"}]
)
def test_what_names_no_kind_is_of_none(jwk: dict[str, Any]) -> None:
    assert kind_of(jwk) is None
    for make in (keys.public_key, keys.private_key, keys.prove):
        with pytest.raises(ConfigurationError, match="its kind is unknown"):
            make(jwk)


# -- JWK and cryptography ------------------------------------------------------------------------------------------


@every_kind
def test_every_kind_goes_to_jwk_and_back(name: str) -> None:
    jwk = keys.private_members(key(name))
    kind = kind_of(jwk)
    assert kind
    assert kind.name == name
    public = jwks.without_private(jwk)
    assert public == keys.public_members(key(name).public_key())
    assert public.keys() == {"kty", *kind.public}
    assert keys.private_key(jwk).public_key() == keys.public_key(public) == key(name).public_key()
    assert keys.private_members(keys.private_key(jwk)) == jwk
    keys.prove(jwk)
    keys.prove(public)


@pytest.mark.parametrize("name", ["RSA", "P-256", "P-384", "P-521", "secp256k1", "Ed25519", "Ed448", "X25519", "X448"])
def test_another_library_reads_what_we_write_and_finds_the_same_thumbprint(name: str) -> None:
    jwk = keys.private_members(key(name))
    theirs: Any = joserfc_jwk.import_key(jwk)
    assert theirs.thumbprint() == jwks.thumbprint(jwk)
    assert theirs.as_dict(private=True) == jwk | {"kid": theirs.kid} if "kid" in theirs.as_dict() else jwk
    assert theirs.as_pem(private=False) == public_pem(name)


def test_an_rsa_key_needs_no_more_than_its_exponent() -> None:
    whole = keys.private_members(key("RSA"))
    bare = {name: whole[name] for name in ("kty", "n", "e", "d")}
    assert keys.private_members(keys.private_key(bare)).keys() == whole.keys()
    assert keys.private_key(bare).public_key() == key("RSA").public_key()


@pytest.mark.parametrize("together", [math.lcm, operator.mul])
@pytest.mark.parametrize("e", [3, 65537, 2**200 + 235])
def test_the_primes_are_found_whatever_the_exponents_are(e: int, together: Callable[[int, int], int]) -> None:
    made = rsa.generate_private_key(65537, 1024).private_numbers()
    while True:
        with suppress(ValueError):
            d = pow(e, -1, together(made.p - 1, made.q - 1))
            break
        made = rsa.generate_private_key(65537, 1024).private_numbers()
    numbers = {"n": made.public_numbers.n, "e": e, "d": d}
    jwk = {"kty": "RSA"} | {name: b64u_int(value) for name, value in numbers.items()}
    assert keys.private_members(keys.private_key(jwk))["p"] in {b64u_int(made.p), b64u_int(made.q)}


@pytest.mark.parametrize("n", [2**4423 - 1, (2**1279 - 1) ** 2, (2**127 - 1) ** 16, 2**11213 - 1])
def test_a_modulus_without_two_primes_is_refused_at_once(n: int) -> None:
    numbers = {"n": n, "e": 65537, "d": pow(65537, -1, n - 1) if n % 65537 else 3}
    begun = time.process_time()
    with pytest.raises(ConfigurationError, match="no private key"):
        keys.private_key({"kty": "RSA"} | {name: b64u_int(value) for name, value in numbers.items()})
    with pytest.raises(ConfigurationError, match="no private key"):
        keys.private_key(
            {"kty": "RSA"} | {name: b64u_int(value) for name, value in (numbers | {"e": 2**300 + 1}).items()}
        )
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "e", "n"])
def test_a_private_half_of_rsa_is_proven(member: str) -> None:
    whole = keys.private_members(key("RSA"))
    whole[member] = b64u_int(int.from_bytes(unb64u(whole[member]), "big") ^ 2)
    with pytest.raises(ConfigurationError, match="no private key"):
        keys.private_key(whole)


@pytest.mark.parametrize("member", ["n", "d"])
def test_numbers_without_end_are_not_reckoned_with(member: str) -> None:
    whole = {name: keys.private_members(key("RSA"))[name] for name in ("kty", "n", "e", "d")}
    with pytest.raises(ConfigurationError, match="no private key"):
        keys.private_key(whole | {member: "_" * 40_000})


@every_kind
def test_a_private_half_of_another_key_is_refused(name: str) -> None:
    jwk = keys.private_members(key(name))
    other = keys.public_members(KEYS[name]().public_key())
    with pytest.raises(ConfigurationError, match=r"does not belong|no private key"):
        keys.private_key(jwk | other)


def test_symmetric_keys_are_proven_to_be_text_in_base64url() -> None:
    keys.prove({"kty": "oct", "k": "AAAA"})
    with pytest.raises(ConfigurationError, match="no symmetric key"):
        keys.prove({"kty": "oct", "k": "AA=="})
    with pytest.raises(ConfigurationError, match="no symmetric key"):
        keys.prove({"kty": "oct", "k": ""})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ec.generate_private_key(ec.BrainpoolP256R1()), "brainpoolP256r1 has no name in JOSE"),
        (lambda: ec.generate_private_key(ec.SECP224R1()), "secp224r1 has no name in JOSE"),
        (lambda: dsa.generate_private_key(1024), "DSA keys have no JWK"),
    ],
    ids=["brainpool", "P-224", "DSA"],
)
def test_a_key_that_jose_has_no_name_for_is_refused_in_words(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        keys.private_members(make())
    encoded = make().private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    assert words.partition(" ")[2] in told(reading.read(encoded))


# -- read ----------------------------------------------------------------------------------------------------------


@every_kind
def test_every_kind_is_read_from_pkcs8_and_spki_as_pem_and_der(name: str) -> None:
    private, public = keys.private_members(key(name)), keys.public_members(key(name).public_key())
    assert only(reading.read(private_pem(name))).jwk == private
    assert only(reading.read(public_pem(name))).jwk == public
    der = key(name).private_bytes(s.Encoding.DER, s.PrivateFormat.PKCS8, s.NoEncryption())
    assert only(reading.read(der)).jwk == private
    assert only(reading.read(keys.spki(key(name).public_key()))).jwk == public


@pytest.mark.parametrize(
    ("body", "form", "name"),
    [
        (lambda: private_pem("RSA", s.PrivateFormat.TraditionalOpenSSL), "PKCS#1 private key", "RSA"),
        (lambda: public_pem("RSA", s.PublicFormat.PKCS1), "PKCS#1 public key", "RSA"),
        (lambda: private_pem("P-384", s.PrivateFormat.TraditionalOpenSSL), "SEC1 private key", "P-384"),
        (lambda: private_pem("Ed25519", s.PrivateFormat.OpenSSH), "OpenSSH private key", "Ed25519"),
        (
            lambda: key("P-256").public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH),
            "OpenSSH public key",
            "P-256",
        ),
        (lambda: certificate(key("P-256")).public_bytes(s.Encoding.PEM), "certificate", "P-256"),
        (lambda: certificate(key("P-256")).public_bytes(s.Encoding.DER), "certificate", "P-256"),
        (
            lambda: (
                x509.CertificateSigningRequestBuilder(x509.Name([]))
                .sign(key("P-256"), hashes.SHA256())
                .public_bytes(s.Encoding.PEM)
            ),
            "certificate request",
            "P-256",
        ),
        (
            lambda: pkcs7.serialize_certificates([certificate(key("P-256"))], s.Encoding.PEM),
            "certificate",
            "P-256",
        ),
        (lambda: b"\r\nBag Attributes\r\n" + public_pem("X448").replace(b"\n", b"\r\n"), "SPKI public key", "X448"),
        (
            lambda: (
                b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + public_pem("RSA")
            ),
            "SPKI public key",
            "RSA",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_form_is_read(body: Callable[[], bytes], form: str, name: str) -> None:
    item = only(reading.read(body()))
    assert item.form == form
    assert jwks.without_private(item.jwk) == keys.public_members(key(name).public_key())
    assert not item.written


def test_a_certificate_as_bare_base64_is_read() -> None:
    body = certificate(key("P-256")).public_bytes(s.Encoding.PEM)
    assert only(reading.read(b"".join(body.splitlines()[1:-1]))).form == "certificate"


def test_several_blocks_are_several_keys_and_a_broken_one_does_not_hide_the_rest() -> None:
    broken = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    cut = b"-----BEGIN PUBLIC KEY-----\nAAAA\n"
    contents = reading.read(public_pem("RSA") + broken + cut + public_pem("P-256"))
    assert [(item.where, item.jwk["kty"]) for item in contents.items] == [("block 1", "RSA"), ("block 4", "EC")]
    assert [(found.where, found.code) for found in contents.findings] == [
        ("block 2", "unreadable"),
        ("block 3", "unreadable"),
    ]


def ssh(name: str) -> bytes:
    line: bytes = key(name).public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH)
    return line


def test_every_line_of_openssh_public_keys_is_read() -> None:
    lines = [
        b"# of all of us",
        ssh("RSA") + b" a@example.com",
        b"",
        b'command="ssh-rsa AAAA",no-pty,environment="a=\\"b\\"" ' + ssh("Ed25519") + b" of b",
        b"  " + ssh("P-521") + b"\r",
    ]
    for end in (b"\n", b"\r\n"):
        contents = reading.read(end.join(lines))
        assert (contents.form, contents.findings) == ("OpenSSH", ())
        assert [(item.where, item.form) for item in contents.items] == [
            ("line 2", "OpenSSH public key"),
            ("line 4", "OpenSSH public key"),
            ("line 5", "OpenSSH public key"),
        ]
        names = ("RSA", "Ed25519", "P-521")
        assert [item.jwk for item in contents.items] == [keys.public_members(key(name).public_key()) for name in names]
    assert only(reading.read(b"no-pty " + ssh("RSA"))).where == ""
    beside = reading.read(public_pem("RSA") + ssh("Ed25519") + b"\n" + public_pem("P-256"))
    assert sorted(item.where.partition(" ")[0] for item in beside.items) == ["block", "block", "line"]


@pytest.mark.parametrize(
    "kind",
    ["ssh-dss", "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com", "ssh-rsa-cert-v01@openssh.com"],
)
def test_an_openssh_key_that_has_no_jwk_is_named_and_hides_no_other(kind: str) -> None:
    line = f"{kind} AAAAC3NzaC1lZDI1NTE5AAAA a@example.com".encode()
    assert f"type {kind} has no JWK" in told(reading.read(line))
    contents = reading.read(line + b"\n" + ssh("RSA") + b"\nwhatever\n" + ssh("RSA")[:40])
    assert [item.where for item in contents.items] == ["line 2"]
    assert [found.where for found in contents.findings] == ["line 1", "line 3", "line 4"]


def test_beginnings_without_end_are_read_in_no_time() -> None:
    body = b"-----BEGIN A-----" * 20_000
    assert len(reading.read(body).findings) == reading.MAX_KEYS
    contents = reading.read(b'{"keys": [' + b"{}," * reading.MAX_KEYS + b"{}]}")
    assert [finding.code for finding in contents.findings] == ["too-many-keys"]
    assert len(contents.items) == reading.MAX_KEYS
    assert reading.read(b'{"keys": [{"a": 1, "b": 2' + b', "a": 1, "b": 2' * 20_000 + b"}]}").items


ENCRYPTED: dict[str, Callable[[], bytes]] = {
    "PKCS#8": lambda: private_pem("P-256", secret=SECRET),
    "PKCS#1": lambda: private_pem("RSA", s.PrivateFormat.TraditionalOpenSSL, SECRET),
    "SEC1": lambda: private_pem("P-256", s.PrivateFormat.TraditionalOpenSSL, SECRET),
    "OpenSSH": lambda: private_pem("Ed25519", s.PrivateFormat.OpenSSH, SECRET),
    "DER": lambda: key("P-256").private_bytes(s.Encoding.DER, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(SECRET)),
}


@pytest.mark.parametrize("body", ENCRYPTED.values(), ids=ENCRYPTED.keys())
def test_an_encrypted_key_needs_its_passphrase_and_is_asked_for_it(body: Callable[[], bytes]) -> None:
    asked: list[str] = []

    def ask(form: str) -> bytes:
        asked.append(form)
        return SECRET

    encrypted = body()
    assert jwks.is_private(only(reading.read(encrypted, ask)).jwk)
    assert len(asked) == 1
    if encrypted.startswith(b"0"):
        assert jwks.is_private(only(reading.read(base64.encodebytes(encrypted), ask)).jwk)
    assert "is encrypted" in told(reading.read(encrypted))
    assert "is encrypted" in told(reading.read(encrypted, lambda _: b""))
    assert "passphrase is wrong" in told(reading.read(encrypted, lambda _: b"guess"))
    ask("")
    assert "is encrypted" not in str(reading.read(private_pem("P-256"), lambda _: pytest.fail("asked for nothing")))


SHA384 = "300d06096086480165030402020500"
PSS: dict[str, tuple[str, tuple[str, ...]]] = {
    "any": ("300b06092a864886f70d01010a", ("PS256", "PS384", "PS512")),
    "SHA-384": (
        f"304106092a864886f70d01010a3034a00f{SHA384}a11c301a06092a864886f70d010108{SHA384}a203020130",
        ("PS384",),
    ),
    "SHA-1": ("300d06092a864886f70d01010a3000", ()),
}


@pytest.mark.parametrize(("identifier", "algs"), PSS.values(), ids=PSS.keys())
def test_an_rsa_key_for_pss_alone_stays_one(identifier: str, algs: tuple[str, ...]) -> None:
    whole = key("RSA").private_bytes(s.Encoding.DER, s.PrivateFormat.PKCS8, s.NoEncryption())
    plain, restricted = bytes.fromhex("300d06092a864886f70d0101010500"), bytes.fromhex(identifier)
    public = keys.spki(key("RSA").public_key())
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key("RSA"), hashes.SHA256())
    leaf = certificate(key("RSA"))
    wanted = lengthened(public.replace(plain, restricted))
    forms = {
        "private": (whole, 1),
        "public": (public, 1),
        "certificate": (leaf.public_bytes(s.Encoding.DER), 3),
        "request": (request.public_bytes(s.Encoding.DER), 3),
    }
    for form, (der, depth) in forms.items():
        assert only(reading.read(der)).spki is None
        other = nested(der, plain, restricted, depth)
        item = only(reading.read(other))
        assert item.spki == wanted, form
        assert pem.pss_algs(wanted) == algs
        label = {"private": b"PRIVATE KEY", "public": b"PUBLIC KEY", "request": b"CERTIFICATE REQUEST"}.get(
            form, b"CERTIFICATE"
        )
        text = b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label, base64.encodebytes(other), label)
        assert only(reading.read(text)).spki == wanted
        (report,) = inspect(reading.read(text), NOW).keys
        assert report.spki_sha256 == b64u(hashlib.sha256(wanted).digest())
        assert "rsa-pss" in {finding.code for finding in report.findings}


def lengthened(der: bytes) -> bytes:
    """The DER sequence ``der``, whose content changed, with the length that it now has."""
    assert der[1] == 0x82
    return der[:2] + (len(der) - 4).to_bytes(2, "big") + der[4:]


def nested(der: bytes, plain: bytes, other: bytes, depth: int) -> bytes:
    """``der`` with ``other`` for the first ``plain`` that begins a sequence ``depth`` levels deep."""
    at, starts = der.index(plain), [0]
    if depth > 1:
        starts = [0, 4, at - 4]
    changed = der.replace(plain, other, 1)
    for start in reversed(starts):
        size = int.from_bytes(der[start + 2 : start + 4], "big") + len(other) - len(plain)
        changed = changed[: start + 2] + size.to_bytes(2, "big") + changed[start + 4 :]
    return changed


def test_a_curve_that_nobody_knows_is_refused_in_words() -> None:
    spki = keys.spki(key("P-256").public_key()).replace(
        bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f")
    )
    text = b"-----BEGIN PUBLIC KEY-----\n" + base64.b64encode(spki) + b"\n-----END PUBLIC KEY-----"
    for body in (spki, text):
        assert "on a curve that is not supported" in told(reading.read(body))
    whole = key("P-256").private_bytes(s.Encoding.DER, s.PrivateFormat.PKCS8, s.NoEncryption())
    other = whole.replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f"))
    assert "not supported" in told(reading.read(other))


def test_whatever_cryptography_raises_of_damaged_input_becomes_a_sentence() -> None:
    # Each is an error of its own kind there: no such version, and an error of OpenSSL that nobody foresaw.
    version = (
        certificate(key("P-256")).public_bytes(s.Encoding.DER).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01")
    )
    other = key("Ed25519").private_bytes(s.Encoding.DER, s.PrivateFormat.PKCS8, s.NoEncryption())
    for kind in (b"\x6f", b"\x71"):
        assert "no SPKI" in told(reading.read(other.replace(b"\x2b\x65\x70", b"\x2b\x65" + kind)))
    assert "It is DER, but" in told(reading.read(version))
    text = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(version) + b"\n-----END CERTIFICATE-----"
    assert "cannot be read" in told(reading.read(text))


def test_an_openssh_key_that_cannot_be_decrypted_here_is_led_to_pkcs8(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: bytes, password: bytes | None) -> None:
        # As cryptography says it where bcrypt is not installed.
        raise UnsupportedAlgorithm("Need bcrypt module") if password else ValueError("Key is password-protected.")

    monkeypatch.setattr(s, "load_ssh_private_key", load)
    body = private_pem("Ed25519", s.PrivateFormat.OpenSSH)
    assert "is encrypted: name a file" in told(reading.read(body))
    assert "ssh-keygen -p -m PKCS8" in told(reading.read(body, lambda _: SECRET))


def test_what_is_in_pkcs12_has_to_be_taken_out_first() -> None:
    packed = pkcs12.serialize_key_and_certificates(b"a", key("P-256"), None, None, s.NoEncryption())
    assert "openssl pkcs12" in told(reading.read(packed))


def test_nothing_that_holds_a_key_shows_it() -> None:
    contents = reading.read(private_pem("P-256"))
    (part,) = pem.parts(private_pem("P-256"), lambda _: None)
    secret = keys.private_members(key("P-256"))["d"]
    assert secret not in repr(contents)
    assert "EllipticCurve" not in repr(part)


# -- made ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", writing.choices())
def test_every_name_makes_a_key_that_fits_it(name: str) -> None:
    jwk = writing.make(name)
    kind = kind_of(jwk)
    assert kind
    assert jwks.is_private(jwk)
    keys.prove(jwk)
    if "alg" in jwk:
        assert kind.name in ALGS[jwk["alg"]].kinds
        assert jwk["use"] == ALGS[jwk["alg"]].use
    if name in KINDS:
        assert kind.name == name
    if name in ALGS:
        assert jwk["alg"] == name


@pytest.mark.parametrize(
    ("name", "options", "kind", "bits"),
    [
        ("ECDH-ES", {"crv": "X25519"}, "X25519", None),
        ("ECDH-ES", {}, "P-256", None),
        ("EdDSA", {"crv": "Ed448"}, "Ed448", None),
        ("RS256", {"bits": 3072}, "RSA", 3072),
        ("HS256", {"bits": 512}, "oct", 512),
        ("oct", {"bits": 128}, "oct", 128),
        ("A256KW", {}, "oct", 256),
        ("A128CBC-HS256", {}, "oct", 256),
    ],
)
def test_size_and_curve_can_be_chosen(name: str, options: dict[str, Any], kind: str, bits: int | None) -> None:
    jwk = writing.make(name, **options)
    found = kind_of(jwk)
    assert found
    assert found.name == kind
    if bits:
        assert 8 * len(unb64u(jwk.get("n") or jwk["k"])) == bits


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("RS257", {}, "no algorithm 'RS257': choose from RS256"),
        ("dir", {}, "no algorithm"),
        ("ES256", {"bits": 2048}, "has one size"),
        ("ES256", {"crv": "P-384"}, "ES256 has one kind of key"),
        ("EdDSA", {"crv": "X25519"}, "choose from Ed25519, Ed448"),
        ("RS256", {"bits": 1024}, "choose from 2048, 3072, 4096"),
        ("RS256", {"bits": 0}, "An RSA key of 0 bits"),
        ("oct", {"bits": 0}, "A symmetric key of 0 bits"),
        ("oct", {"bits": 800_000_000_000}, r"oct needs one of 8 bits or more \(to 16384\)"),
        ("HS256", {"bits": 128}, "HS256 needs one of 256 bits or more"),
        ("oct", {"bits": 129}, "in whole bytes"),
        ("oct", {"bits": -8}, "in whole bytes"),
        ("A128KW", {"bits": 256}, "A128KW needs one of 128 bits"),
    ],
)
def test_what_cannot_be_made_is_refused_in_words(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        writing.make(name, **options)


# -- labelled and written ------------------------------------------------------------------------------------------


def test_a_key_is_named_by_its_thumbprint_unless_it_has_a_name() -> None:
    jwk = keys.public_members(key("P-256").public_key())
    assert writing.named(jwk)["kid"] == jwks.thumbprint(jwk)
    assert writing.named(jwk | {"kid": "a"})["kid"] == "a"
    assert writing.named(jwk | {"kid": "a"}, "b")["kid"] == "b"
    symmetric = {"kty": "oct", "k": b64u(bytes(32))}
    assert writing.named(symmetric)["kid"] != writing.named(symmetric)["kid"], "a thumbprint would tell of the key"


def test_an_algorithm_is_named_where_it_fits() -> None:
    jwk = keys.public_members(key("RSA").public_key())
    assert writing.fitting(jwk, "PS256") == jwk | {"alg": "PS256", "use": "sig"}
    with pytest.raises(ConfigurationError, match="ES256 does not work with this key: choose from RS256"):
        writing.fitting(jwk, "ES256")
    with pytest.raises(ConfigurationError, match="choose from none"):
        writing.fitting({"kty": "QKP"}, "ES256")


def test_operations_of_the_private_half_become_those_of_the_public_one() -> None:
    jwk = keys.private_members(key("RSA")) | {"key_ops": ["sign", "verify", "deriveKey", "decrypt"]}
    half = writing.public_half(jwk)
    assert half
    assert half["key_ops"] == ["verify", "encrypt"]
    assert half.keys().isdisjoint(PRIVATE_MEMBERS)
    assert writing.public_half({"kty": "oct", "k": "AA"}) is None


@every_kind
def test_what_is_written_is_what_cryptography_writes(name: str) -> None:
    jwk = keys.private_members(key(name))
    assert writing.encoded([jwk], "pem", private=True) == private_pem(name)
    assert writing.encoded([jwk], "pem", private=False) == public_pem(name)
    assert writing.encoded([jwk], "der", private=False) == keys.spki(key(name).public_key())


def test_the_older_forms_are_written_too() -> None:
    traditional = s.PrivateFormat.TraditionalOpenSSL
    whole, curve = keys.private_members(key("RSA")), keys.private_members(key("P-521"))
    assert writing.encoded([whole], "pkcs1", private=True) == private_pem("RSA", traditional)
    assert writing.encoded([whole], "pkcs1", private=False) == public_pem("RSA", s.PublicFormat.PKCS1)
    assert writing.encoded([curve], "sec1", private=True) == private_pem("P-521", traditional)
    for form, jwk, private, words in (
        ("pkcs1", curve, True, "PKCS#1 holds RSA keys alone"),
        ("sec1", curve, False, "name --private"),
        ("sec1", whole, True, "SEC1 holds private EC keys alone"),
        ("pem", {"kty": "oct", "k": "AA"}, True, "has no PEM"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            writing.encoded([jwk], form, private=private)
    with pytest.raises(ConfigurationError, match="DER holds one key"):
        writing.encoded([whole, curve], "der", private=False)


def test_certificates_go_into_x5c_and_come_out_again() -> None:
    leaf = certificate(key("P-256"))
    jwk = writing.with_certificates(keys.public_members(key("P-256").public_key()), [leaf])
    assert json.loads(json.dumps(jwk)) == jwk
    assert writing.certificates(jwk) == writing.encoded([jwk], "certificate", private=False)
    assert writing.certificates(jwk) == leaf.public_bytes(s.Encoding.PEM)
    with pytest.raises(ConfigurationError, match="for another key"):
        writing.certificates(jwk | keys.public_members(key("Ed25519").public_key()))
    for odd in ([], ["AA=="], [1], 1, ["!"], None):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            writing.certificates({"x5c": odd})
