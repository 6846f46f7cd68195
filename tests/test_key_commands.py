"""``rotator inspect``, ``generate``, ``convert`` and ``thumbprint`` as a person meets them, with good input and bad."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from typer.testing import CliRunner

from rotator.cli import app
from rotator.documents.web import HttpsWeb
from rotator.jose import keys, writing
from rotator.keys import jwks
from rotator.keys.algorithms import PRIVATE_MEMBERS, algorithm
from rotator.keys.material import b64u, unb64u
from tests.adapters.test_web import Site, served
from tests.adapters.test_web import certificate as tls_certificate
from tests.test_inspect import ED25519, NOW, VECTORS, certificate, good, needs_vectors, numbered, private, token
from tests.test_jose import SECRET, key, private_pem, public_pem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typer.testing import Result

FINE, FAILED, USAGE, WARNINGS, ERRORS = 0, 1, 2, 4, 5


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rotator.app.now", lambda: NOW)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def run(*words: str, stdin: bytes = b"") -> Result:
    done = CliRunner().invoke(app, list(words), input=stdin)
    assert "Traceback" not in done.output, done.output
    assert not isinstance(done.exception, Exception) or isinstance(done.exception, SystemExit), done.exception
    return done


def written(path: Path, content: Any) -> str:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path.name


def secrets_of(jwk: jwks.Jwk) -> list[str]:
    return [value for name, value in jwk.items() if name in PRIVATE_MEMBERS]


# -- inspect -------------------------------------------------------------------------------------------------------


def test_a_good_set_is_shown_key_by_key(tmp_path: Path) -> None:
    name = written(tmp_path / "jwks.json", {"keys": [good("RS256"), good("ES256")]})
    done = run("inspect", name)
    assert done.exit_code == FINE
    assert done.output == (
        f"jwks.json: JWKS, 2 keys, {(tmp_path / 'jwks.json').stat().st_size:,} bytes\n"
        "\n"
        "key 1: RSA 2048, use sig, alg RS256\n"
        f"  kid           {good('RS256')['kid']}\n"
        f"  thumbprint    {good('RS256')['kid']}  (RFC 7638)\n"
        f"  SPKI SHA-256  {spki_of('RS256')}\n"
        "\n"
        "key 2: EC P-256, use sig, alg ES256\n"
        f"  kid           {good()['kid']}\n"
        f"  thumbprint    {good()['kid']}  (RFC 7638)\n"
        f"  SPKI SHA-256  {spki_of('ES256')}\n"
        "Nothing is wrong with it.\n"
    )


def spki_of(alg: str) -> str:
    return jwks.kid_of(keys.spki(private(alg).public_key()), algorithm(alg), "spki-sha256")


@needs_vectors
def test_faults_are_grouped_the_worst_first() -> None:
    done = run("inspect", str(VECTORS / "jwks" / "yahoo.json"))
    assert done.exit_code == ERRORS
    *_, error, warning, other, note, total = done.output.splitlines()
    assert error.startswith("error    keys 1, 3, 4: An RSA key of 1024 bits: 2048 is the least.")
    assert error.endswith("(RFC 7518 section 3.3)")
    assert warning.startswith("warning  ")
    assert other.startswith("warning  ")
    assert note.startswith("note     all 4 keys: 'kid' is not the thumbprint")
    assert total == "3 errors, 4 warnings, 4 notes"


def test_many_keys_with_one_fault_are_counted(tmp_path: Path) -> None:
    odd = [jwk | {"kid": str(n)} for n, jwk in enumerate(numbered(20))]
    name = written(tmp_path / "jwks.json", {"keys": [*odd, good()]})
    assert "note     20 keys, key 1 among them: 'kid' is not" in run("inspect", name).output


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"keys": [good()]}, FINE),
        ({"keys": [good(kid="by-hand")]}, FINE),
        ({"keys": [{"kty": "QKP", "kid": "a", "use": "sig", "alg": "ES256"}, good()]}, WARNINGS),
        ({"keys": [good(alg="ES384")]}, ERRORS),
        (b"", ERRORS),
        (b"<html>", ERRORS),
    ],
)
def test_the_exit_code_is_that_of_the_worst_finding(tmp_path: Path, document: Any, code: int) -> None:
    name = written(tmp_path / "a.json", document)
    assert run("inspect", name).exit_code == code
    assert run("inspect", name, "--json").exit_code == code


def test_programs_read_json(tmp_path: Path) -> None:
    leaf = certificate(key("P-256"))
    jwk = writing.with_certificates(keys.public_members(key("P-256").public_key()), [leaf]) | {"kid": "a"}
    name = written(tmp_path / "jwks.json", {"keys": [jwk, {"kty": "QKP"}]})
    done = run("inspect", name, "--json", "--for", "alb")
    facts = json.loads(done.stdout)
    assert (facts["form"], facts["input"], facts["worst"], done.exit_code) == ("JWKS", name, "error", ERRORS)
    first, second = facts["keys"]
    assert (first["kty"], first["kind"], first["kid"], first["private"]) == ("EC", "P-256", "a", False)
    assert first["certificates"][0]["subject"] == "CN=leaf"
    assert (second["kty"], second["thumbprint"], second["where"]) == (None, None, "key 2")
    assert {"no-alg", "no-use", "kid-not-thumbprint"} == {found["code"] for found in first["findings"]}
    assert {found.keys() == {"severity", "code", "where", "says", "source"} for found in facts["findings"]} == {True}
    assert "verifier" in {found["code"] for found in facts["findings"]}
    assert facts["token"] is None


def test_a_private_key_is_told_of_and_never_shown(tmp_path: Path) -> None:
    for name in ("RSA", "P-256", "Ed448", "ML-DSA-65"):
        jwk = keys.private_members(key(name))
        bodies = (json.dumps(jwk).encode(), json.dumps({"keys": [jwk]}).encode(), private_pem(name))
        for body, code in zip(bodies, (WARNINGS, ERRORS, WARNINGS), strict=True):
            for more in ((), ("--json",)):
                done = run("inspect", written(tmp_path / "key", body), *more)
                assert done.exit_code == code
                assert "private" in done.output
                assert not any(secret in done.output for secret in secrets_of(jwk))
                assert body.splitlines()[1][:40].decode() not in done.output if body.startswith(b"-----") else True


def test_a_certificate_is_shown_with_its_dates_and_a_broken_block_beside_it(tmp_path: Path) -> None:
    body = certificate(key("P-256")).public_bytes(s.Encoding.PEM) + private_pem("P-256").replace(b"M", b"*")
    done = run("inspect", written(tmp_path / "a.pem", body))
    assert "block 1: EC P-256, certificate\n" in done.output
    assert "  certificate   CN=leaf  2026-04-01 to 2026-07-30\n" in done.output
    assert "error    block 2: The PKCS#8 private key cannot be read" in done.output
    assert done.exit_code == ERRORS


def test_a_token_is_shown_with_the_key_that_verifies_it(tmp_path: Path) -> None:
    named, other = (written(tmp_path / f"{alg}.json", {"keys": [good(alg)]}) for alg in ("ES256", "ES384"))
    words = token(typ="JWT", aud=["a", "b"])
    done = run("inspect", "-", "--jwks", named, stdin=words.encode())
    assert done.exit_code == FINE
    assert f"  verified by {good()['kid']}\n" in done.output
    assert '  aud         ["a", "b"]\n' in done.output
    assert "  exp         2026-05-01 00:10:00Z\n" in done.output
    assert words.rpartition(".")[2] not in done.output
    assert "SECRET" not in done.output
    wrong = run("inspect", "-", "--jwks", other, "--json", stdin=words.encode())
    assert wrong.exit_code == ERRORS
    assert json.loads(wrong.stdout)["token"]["verified_by"] is None
    assert run("inspect", "-", stdin=words.encode()).exit_code == FINE


def test_a_kid_cannot_steer_the_terminal(tmp_path: Path) -> None:
    done = run("inspect", written(tmp_path / "a.json", {"keys": [good(kid="\x1b[2Jgone")]}))
    assert "\x1b" not in done.output


FORGED = "a\nNothing is wrong with it.\r\x1b[2J\u202e\u2028"


@pytest.mark.parametrize(
    "jwk",
    [good(kid=FORGED), good(alg=FORGED), good(use=FORGED), good(kty=FORGED), good(crv=FORGED), good(key_ops=[FORGED])],
)
def test_no_key_adds_a_line_of_its_own(tmp_path: Path, jwk: jwks.Jwk) -> None:
    name = written(tmp_path / "a.json", {"keys": [jwk, good("ES384")]})
    for command in ("inspect", "thumbprint", "convert"):
        done = run(command, name)
        assert not {"Nothing is wrong with it.", ""} & set(done.output.replace("\n\n", "\n").splitlines())
        assert set(done.output).isdisjoint("\r\x1b\u202e\u2028")


def test_no_certificate_and_no_token_adds_a_line_of_its_own(tmp_path: Path) -> None:
    leaf = certificate(key("P-256"), name=FORGED, by=FORGED).public_bytes(s.Encoding.DER)
    words = token(header={"alg": FORGED, "kid": FORGED, "typ": FORGED}, iss=FORGED, aud=[FORGED])
    named = written(tmp_path / "a.json", {"keys": [good(kid=FORGED), good("ES384")]})
    for done in (
        run("inspect", written(tmp_path / "leaf.der", leaf)),
        run("inspect", "-", stdin=words.encode()),
        run("inspect", "-", "--jwks", named, stdin=token(header={"alg": "ES256"}).encode()),
    ):
        assert FORGED[0] in done.output
        assert "Nothing is wrong with it." not in done.output.splitlines()[:-1]
        assert set(done.output).isdisjoint("\r\x1b\u202e\u2028")


def test_our_own_document_has_no_fault(tmp_path: Path) -> None:
    config = tmp_path / "rotator.toml"
    stores = "\n".join(f'{name} = "{(tmp_path / name).as_uri()}"' for name in ("keys", "ledger", "public"))
    algs = '["ES256", "EdDSA"]'
    config.write_text(f'[stores]\n{stores}\n[policy]\nalgorithms = {algs}\n[[keysets]]\nname = "acme"\n', "utf-8")
    for command in ("init", "tick"):
        assert run("--config", str(config), command).exit_code == FINE
    done = run("inspect", str(tmp_path / "public/acme/.well-known/jwks.json"), "--for", "openid")
    assert done.exit_code == FINE
    assert done.output.count("\nkey ") >= 2
    assert done.output.endswith("Nothing is wrong with it.\n")


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bad")
    secret = private_pem("P-256", secret=SECRET)
    from cryptography.hazmat.primitives.asymmetric import ec

    curve = ec.generate_private_key(ec.BrainpoolP256R1()).public_key()
    for name, content in {
        "empty": b"",
        "page.html": b"<!DOCTYPE html><html><title>Sign in</title></html>",
        "encrypted.pem": secret,
        "curve.pem": curve.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo),
        "large.json": b'{"keys": [' + b" " * 10_000_000 + b"]}",
        "words.txt": b"hello",
        "token": token().encode(),
        "nothing.json": b'{"keys": []}',
        "broken.json": json.dumps({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}).encode(),
        "oct.json": b'{"kty": "oct", "k": "AAAA"}',
        "wrong": b"guess\n",
    }.items():
        (directory / name).write_bytes(content)
    return directory


@pytest.mark.parametrize("command", ["inspect", "convert", "thumbprint"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "The input is empty"),
        ("page.html", "HTML or XML, not JSON"),
        ("encrypted.pem", "is encrypted: name a file"),
        ("curve.pem", "brainpoolP256r1 has no name in JOSE"),
        ("large.json", "nothing above 5,000,000 is read"),
        ("words.txt", "no JSON either"),
        ("nothing.json", "The set is empty"),
        ("broken.json", "has 1 bytes, not 32|no public key"),
        ("no-such-file", "There is no file"),
        (".", "is a directory|cannot be read"),
        ("a\0b", "no file can have that name"),
        ("www.example.com/jwks.json", "begins with https://"),
    ],
)
def test_bad_input_ends_with_a_sentence(
    bad: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str, words: str
) -> None:
    monkeypatch.chdir(bad)
    done = run(command, name)
    assert done.exit_code in ({USAGE, ERRORS} if command == "inspect" else {USAGE})
    assert re.search(words, done.output, re.IGNORECASE), done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("inspect", "encrypted.pem", "--passphrase-file", "wrong"), "passphrase is wrong"),
        (("inspect", "encrypted.pem", "--passphrase-file", "no-such-file"), "There is no file no-such-file"),
        (("inspect", "empty", "--for", "nginx"), "There is no verifier 'nginx'"),
        (("inspect", "oct.json", "--jwks", "oct.json"), "--jwks is for a token, and oct.json is none"),
        (("inspect", "token", "--jwks", "nothing.json"), "nothing.json is no key set to verify with"),
        (("inspect", "-", "--jwks", "-"), "Only one of"),
        (("inspect", "token", "--for", "alb"), "--for is for a key set, and token is a token"),
        (("convert", "token"), "is a token, and holds no key"),
        (("convert", "oct.json"), "no key with a public half"),
        (("convert", "oct.json", "--private", "--to", "pem"), "has no PEM"),
        (("convert", "oct.json", "--to", "yaml"), "--to yaml: choose from jwk, jwks, pem"),
        (("thumbprint", "oct.json"), "symmetric key"),
        (("thumbprint", "token"), "There is no key in it"),
        (("generate",), "Say what to make with --alg"),
        (("generate", "--alg", "RS257"), "There is no algorithm 'RS257'"),
        (("generate", "--alg", "oct", "--public"), "has no public half"),
        (("generate", "--alg", "oct", "--out", "a.pem"), "has no PEM"),
        (("generate", "--alg", "ES256", "--kid", "a", "--kid", "b"), "1 --alg, and 2 --kid"),
        (("generate", "--alg", "ES256", "--alg", "EdDSA", "--kid", "a", "--kid", "a"), "cannot have one kid"),
        (("generate", "--alg", "ES256", "--use", "both"), "say sig or enc"),
        (("generate", "--alg", "ES256", "--use", "enc"), "--use enc does not go with ES256"),
        (("generate", "--alg", "ES256", "--key-ops", "dance"), "--key-ops: choose from sign, verify"),
        (("generate", "--alg", "ES256", "--key-ops", "sign,sign"), "each once"),
        (("generate", "--alg", "ES256", "--key-ops", "encrypt"), "--key-ops encrypt does not go with ES256"),
        (("generate", "--alg", "ES256", "--out", "empty"), "empty exists, and was left as it is"),
        (("generate", "--alg", "ES256", "--out", "no-such-directory/a"), "There is no directory no-such-directory"),
        (("generate", "--alg", "ES256", "--out", "."), "is a directory"),
        (("generate", "--alg", "ES256", "--alg", "EdDSA", "--out", "a.der"), "DER holds one key"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_bad_usage_ends_with_a_sentence(
    bad: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(bad)
    before = sorted(path.name for path in bad.iterdir())
    done = run(*words)
    assert done.exit_code in {USAGE, ERRORS}
    assert message in done.output
    assert sorted(path.name for path in bad.iterdir()) == before


@pytest.fixture
def site() -> Iterator[Site]:
    with served() as site:
        yield site


def test_a_url_is_inspected(site: Site) -> None:
    site.answer("/jwks", 200, json.dumps({"keys": [good()]}).encode())
    done = run("inspect", f"{site.url.replace('//', '//user:word@')}/jwks?token=secret")
    assert done.exit_code == FINE
    assert done.output.startswith(f"{site.url}/jwks: JWKS, 1 key, ")
    assert run("convert", f"{site.url}/jwks").output.startswith('{\n  "keys"')


def test_a_url_that_redirects_is_read_and_told(site: Site) -> None:
    site.answer("/old", 302, Location="/jwks")
    site.answer("/jwks", 200, json.dumps({"keys": [good()]}).encode())
    done = run("inspect", f"{site.url}/old")
    assert done.exit_code == WARNINGS
    assert "The URL redirects, and verifiers such as jose and jwks-rsa (npm) do not follow. Name" in done.output
    told = run("verify", f"{site.url}/old")
    assert told.exit_code == 1
    assert "the URL redirects" in told.output


def test_a_private_key_at_a_url_is_an_error(site: Site) -> None:
    site.answer("/key", 200, private_pem("P-256"))
    assert run("inspect", f"{site.url}/key").exit_code == ERRORS


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/gone", r"no such document \(404 or 410\)"),
        ("/error", "answered 500"),
        ("/elsewhere", "only redirects to the same host are followed"),
        ("/round", "redirects more than 3 times"),
        ("/slow", "gave no whole answer in time"),
    ],
)
def test_a_url_that_does_not_answer_ends_with_a_sentence(
    site: Site, monkeypatch: pytest.MonkeyPatch, path: str, words: str
) -> None:
    patient = HttpsWeb.__init__
    limit = 1.0 if path == "/slow" else 30.0
    monkeypatch.setattr(HttpsWeb, "__init__", lambda self, **options: patient(self, timeout=limit, **options))
    site.answer("/gone", 404)
    site.answer("/error", 500)
    site.answer("/elsewhere", 302, Location="https://example.com/jwks")
    site.answer("/round", 302, Location="/round")

    def stall(_: object) -> None:
        site.over.wait(5)

    site.answers["/slow"] = stall
    for command in ("inspect", "convert", "thumbprint"):
        done = run(command, f"{site.url}{path}?token=secret")
        assert done.exit_code == FAILED
        assert re.search(words, done.output), done.output
        assert "secret" not in done.output


def test_what_is_too_large_is_an_error_of_the_input_from_a_file_and_from_a_url(site: Site, tmp_path: Path) -> None:
    site.answer("/large", 200, b" " * 10_000_000)
    (tmp_path / "large").write_bytes(b" " * 10_000_000)
    for source in (f"{site.url}/large?token=secret", "large"):
        for command, code in (("inspect", ERRORS), ("convert", USAGE), ("thumbprint", USAGE)):
            done = run(command, source)
            assert done.exit_code == code
            assert "has 5,000,001 bytes or more; nothing above 5,000,000 is read" in done.output
            assert "secret" not in done.output


def test_a_bad_certificate_ends_with_a_sentence(tmp_path: Path) -> None:
    with served(tls_certificate(tmp_path, "127.0.0.1")) as site:
        site.answer("/jwks", 200, b'{"keys": []}')
        done = run("inspect", f"{site.url}/jwks")
    assert done.exit_code == FAILED
    assert "its certificate is not trusted" in done.output
    plain = run("inspect", "http://example.com/jwks")
    assert plain.exit_code == USAGE
    assert "must begin with https://" in plain.output


# -- passphrases ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_passphrase_comes_from_a_file(tmp_path: Path, end: bytes) -> None:
    name = written(tmp_path / "key.pem", private_pem("P-256", secret=SECRET))
    secret = written(tmp_path / "secret", SECRET + end)
    done = run("convert", name, "--passphrase-file", secret, "--to", "pem")
    assert done.stdout.encode() == public_pem("P-256")


def asked_on_a_terminal(answer: bytes | signal.Signals, *words: str) -> tuple[int, bytes, bytes]:
    """Exit code, output and what the terminal showed of a command that asks for a passphrase and gets ``answer``."""
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "rotator", *words]
    with subprocess.Popen(
        command, stdin=child, stdout=subprocess.PIPE, stderr=child, start_new_session=True
    ) as process:
        os.close(child)
        seen = b""
        end = time.monotonic() + 20
        while b"Passphrase of the PKCS#8 private key: " not in seen and time.monotonic() < end:
            seen += os.read(parent, 1024)
        if isinstance(answer, bytes):
            os.write(parent, answer)
        else:
            process.send_signal(answer)
        out, _ = process.communicate(timeout=20)
    with suppress(OSError):  # the other end is closed
        seen += os.read(parent, 1024)
    os.close(parent)
    return process.returncode, out, seen


def test_a_passphrase_is_asked_for_on_a_terminal(tmp_path: Path) -> None:
    name = written(tmp_path / "key.pem", private_pem("P-256", secret=SECRET) * 2)
    code, out, seen = asked_on_a_terminal(SECRET + b"\n", "thumbprint", name, "--json")
    assert code == FINE
    assert [row["thumbprint"] for row in json.loads(out)["keys"]] == [
        jwks.thumbprint(keys.public_members(key("P-256").public_key()))
    ] * 2
    assert SECRET not in seen


@pytest.mark.parametrize(
    ("typed", "code", "told"),
    [(signal.SIGINT, 130, b"Interrupted."), (b"\x04", USAGE, b"No answer was given.")],
    ids=["Ctrl-C", "Ctrl-D"],
)
def test_a_question_that_gets_no_answer_ends_the_command(
    tmp_path: Path, typed: bytes | signal.Signals, code: int, told: bytes
) -> None:
    name = written(tmp_path / "key.pem", private_pem("P-256", secret=SECRET))
    ended, out, seen = asked_on_a_terminal(typed, "inspect", name)
    assert (ended, out) == (code, b"")
    assert told in seen


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("inspect key.pem", "is encrypted: name a file that holds its passphrase"),
        ("inspect key.der", "is encrypted: name a file that holds its passphrase"),
        ("inspect -", "The input is empty"),
        ("adopt acme --key -", "There is no configuration"),
    ],
)
def test_a_closed_standard_input_is_an_empty_one(tmp_path: Path, words: str, told: str) -> None:
    pem = written(tmp_path / "key.pem", private_pem("P-256", secret=SECRET))
    written(tmp_path / "key.der", base64.b64decode("".join((tmp_path / pem).read_text().splitlines()[1:-1])))
    shell = f"exec '{sys.executable}' -m rotator {words} 2>&1 <&-"
    done = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode in {USAGE, ERRORS}
    assert told in done.stdout
    assert "bug" not in done.stdout


def test_what_is_closed_to_reading_is_told(tmp_path: Path) -> None:
    shell = f"exec '{sys.executable}' -m rotator inspect - 0>'{tmp_path / 'written'}'"
    done = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (USAGE, "Error: Standard input cannot be read: Bad file descriptor.\n")


def test_output_that_nobody_takes_stops_no_command(tmp_path: Path) -> None:
    name = written(tmp_path / "jwks.json", {"keys": [good("RS256")]})
    shell = f"exec '{sys.executable}' -m rotator thumbprint {name} >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", shell], timeout=20, check=False).returncode == FINE


# -- generate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alg", ["RS256", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed448", "X25519", "ML-DSA-44", "ML-DSA-87"]
)
def test_a_key_is_made_in_all_its_forms(alg: str) -> None:
    done = run("generate", "--alg", alg, "--json")
    assert done.exit_code == FINE
    facts = json.loads(done.stdout)
    (row,) = facts["keys"]
    keys.prove(row["private_jwk"])
    assert jwks.without_private(row["private_jwk"]) == row["public_jwk"] == facts["jwks"]["keys"][0]
    assert row["public_jwk"]["kid"] == row["kid"] == jwks.thumbprint(row["public_jwk"])
    private = s.load_pem_private_key(row["private_pem"].encode(), None)
    public = s.load_pem_public_key(row["public_pem"].encode())
    assert private.public_key() == public == keys.public_key(row["public_jwk"])


def test_what_is_printed_can_be_copied(tmp_path: Path) -> None:
    done = run("generate", "--alg", "ES256", "--kid", "mine")
    heads = [line for line in done.output.splitlines() if line.startswith(("Private ", "Public "))]
    assert heads == [
        "Private JWK: keep it to yourself",
        "Public JWK",
        "Private PEM (PKCS#8): keep it to yourself",
        "Public PEM (SPKI)",
    ]
    private, public, private_text, public_text = re.split(r"^P[a-z]+ .*\n", done.output, flags=re.MULTILINE)[1:]
    assert json.loads(private)["kid"] == json.loads(public)["kid"] == "mine"
    assert run("convert", written(tmp_path / "a.json", private.encode()), "--private", "--to", "pem").stdout == (
        private_text.rstrip("\n") + "\n"
    )
    assert run("convert", written(tmp_path / "b.json", public.encode()), "--to", "pem").stdout == (
        public_text.rstrip("\n") + "\n"
    )


@pytest.mark.parametrize("kid", ["", " ", "a\n", "\x1b[2J", "\udcff", "\u202e"])
def test_a_kid_that_inspect_would_call_wrong_is_refused(tmp_path: Path, kid: str) -> None:
    name = written(tmp_path / "a.json", good())
    for command in (("generate", "--alg", "ES256"), ("convert", name)):
        done = run(*command, "--kid", kid)
        assert done.exit_code == USAGE
        assert "--kid: a name that is blank, or has signs in it" in done.output


def test_several_keys_become_one_set_and_public_means_public() -> None:
    done = run(
        "generate",
        "--alg",
        "ES256",
        "--alg",
        "EdDSA",
        "--alg",
        "HS256",
        "--public",
        "--kid",
        "a",
        "--kid",
        "b",
        "--kid",
        "c",
    )
    assert done.exit_code == FINE
    assert "Private" not in done.output
    assert '"d"' not in done.output
    found = json.loads(done.output.partition("Public JWKS\n")[2].partition("\n\n")[0])
    assert [jwk["kid"] for jwk in found["keys"]] == ["a", "b"], "a symmetric key has no public half"
    facts = json.loads(run("generate", "--alg", "ES256", "--public", "--json").stdout)
    assert facts["keys"][0].keys() == {"kid", "public_jwk", "public_pem"}


def test_a_size_or_curve_is_for_those_that_have_several() -> None:
    done = run(
        "generate", "--alg", "ES256", "--alg", "RS256", "--alg", "ECDH-ES", "--bits", "3072", "--crv", "X448", "--json"
    )
    curve, sized, agreement = (row["public_jwk"] for row in json.loads(done.stdout)["keys"])
    assert (curve["crv"], len(unb64u(sized["n"])), agreement["crv"]) == ("P-256", 384, "X448")
    assert run("generate", "--alg", "ES256", "--alg", "EdDSA", "--bits", "3072").exit_code == USAGE


def test_use_and_operations_can_be_said() -> None:
    facts = json.loads(run("generate", "--alg", "ES256", "--key-ops", "sign, verify", "--json").stdout)["keys"][0]
    assert facts["private_jwk"]["key_ops"] == ["sign", "verify"]
    assert facts["public_jwk"]["key_ops"] == ["verify"]
    assert "use" not in facts["public_jwk"]
    both = json.loads(run("generate", "--alg", "oct", "--use", "sig", "--key-ops", "sign", "--json").stdout)["keys"][0]
    assert (both["private_jwk"]["use"], both["public_jwk"], both["public_pem"]) == ("sig", None, None)


@pytest.mark.parametrize(
    ("name", "private"), [("key.json", True), ("key.pem", True), ("key.der", True), ("key.json", False)]
)
def test_a_file_with_a_private_key_is_for_its_owner_alone(tmp_path: Path, name: str, private: bool) -> None:
    old = os.umask(0o022)
    try:
        done = run("generate", "--alg", "ES256", "--out", name, *(() if private else ("--public",)))
    finally:
        os.umask(old)
    file = tmp_path / name
    assert done.exit_code == FINE
    assert f"{file.stat().st_mode & 0o777:o}" == ("600" if private else "644")
    assert "Private" not in done.stdout
    assert "keep it" not in done.output
    assert run("inspect", name).exit_code == (WARNINGS if private else FINE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
    before = file.read_bytes()
    assert run("generate", "--alg", "ES256", "--out", name).exit_code == USAGE
    assert file.read_bytes() == before
    assert run("generate", "--alg", "ES256", "--out", name, "--force").exit_code == FINE
    assert file.read_bytes() != before


def test_a_link_that_leads_nowhere_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "key.json").symlink_to("nowhere")
    done = run("generate", "--alg", "ES256", "--out", "key.json")
    assert done.exit_code == USAGE
    assert "key.json exists, and was left as it is" in done.output


def test_what_a_crash_left_is_named(tmp_path: Path) -> None:
    (tmp_path / ".key.json.tmp").write_bytes(b"")
    done = run("generate", "--alg", "ES256", "--out", "key.json")
    assert done.exit_code == USAGE
    assert ".key.json.tmp was left by a crash: remove it" in done.output


# -- convert -------------------------------------------------------------------------------------------------------


def test_many_inputs_become_one_set_without_private_halves(tmp_path: Path) -> None:
    names = [
        written(tmp_path / "a.pem", private_pem("RSA")),
        written(tmp_path / "b.der", keys.spki(key("Ed448").public_key())),
        written(tmp_path / "c.json", keys.private_members(key("P-256")) | {"kid": "mine"}),
        written(tmp_path / "d.json", {"keys": [ED25519, {"kty": "oct", "k": "AAAA", "kid": "s"}]}),
    ]
    done = run("convert", *names, "-", stdin=public_pem("X25519"))
    assert done.exit_code == FINE
    found = json.loads(done.stdout)["keys"]
    assert [jwk.get("crv", jwk["kty"]) for jwk in found] == ["RSA", "Ed448", "P-256", "Ed25519", "X25519"]
    assert found[2]["kid"] == "mine"
    assert found[3]["kid"] == jwks.thumbprint(ED25519)
    assert not any(jwks.is_private(jwk) for jwk in found)
    assert "Left out: 2 private halves (--private).\nLeft out: 1 symmetric key (--private).\n" in done.stderr
    kept = json.loads(run("convert", *names, "--private").stdout)["keys"]
    assert [jwks.is_private(jwk) for jwk in kept] == [True, False, True, False, True]


def test_there_and_back_again(tmp_path: Path) -> None:
    for name in ("RSA", "P-521", "Ed25519", "X448", "ML-DSA-44"):
        written(tmp_path / "start.pem", private_pem(name))
        assert run("convert", "start.pem", "--private", "--out", "a.json", "--force").exit_code == FINE
        assert f"{(tmp_path / 'a.json').stat().st_mode & 0o777:o}" == "600"
        assert run("convert", "a.json", "--private", "--to", "der", "--out", "b.der", "--force").exit_code == FINE
        assert run("convert", "b.der", "--private", "--to", "pem").stdout.encode() == private_pem(name)
        assert run("convert", "a.json", "--to", "der").stdout_bytes == keys.spki(key(name).public_key())


def test_a_certificate_joins_its_private_key_and_comes_out_again(tmp_path: Path) -> None:
    leaf = certificate(key("P-256")).public_bytes(s.Encoding.PEM)
    names = [written(tmp_path / "leaf.pem", leaf), written(tmp_path / "key.pem", private_pem("P-256"))]
    public = json.loads(run("convert", names[0], "--alg", "ES256").stdout)
    assert {"x5c", "x5t", "x5t#S256"} < public.keys()
    assert (public["use"], public["alg"]) == ("sig", "ES256")
    both = json.loads(run("convert", *names, "--private", "--kid", "mine").stdout)
    assert both["x5c"] == public["x5c"]
    assert (both["kid"], jwks.is_private(both)) == ("mine", True)
    written(tmp_path / "jwk.json", both)
    assert run("convert", "jwk.json", "--to", "certificate").stdout.encode() == leaf


def test_a_key_that_is_given_twice_is_written_once_with_all_that_is_said_of_it(tmp_path: Path) -> None:
    written(tmp_path / "public.pem", public_pem("P-256"))
    written(tmp_path / "key.pem", private_pem("P-256"))
    done = run("convert", "public.pem", "key.pem", "--private", "--to", "jwks", "--out", "set.json")
    assert "Wrote set.json: 1 key." in done.output
    (found,) = json.loads((tmp_path / "set.json").read_bytes())["keys"]
    assert jwks.is_private(found)
    secret = written(tmp_path / "oct.json", {"kty": "oct", "k": "AAAA", "kid": "s"})
    assert json.loads(run("convert", secret, secret, "--private").stdout)["k"] == "AAAA"


def test_two_keys_of_one_kid_do_not_become_a_set(tmp_path: Path) -> None:
    for name, kind in (("a.json", "RSA"), ("b.json", "P-256")):
        written(tmp_path / name, keys.public_members(key(kind).public_key()) | {"kid": "mine"})
    done = run("convert", "a.json", "b.json")
    assert done.exit_code == USAGE
    assert "Two keys have the kid 'mine'" in done.output
    assert run("convert", "a.json", "b.json", "--to", "pem").stdout.count("BEGIN PUBLIC KEY") == 2


def test_the_jwk_that_is_no_key_is_named(tmp_path: Path) -> None:
    done = run("convert", written(tmp_path / "set.json", {"keys": [good(), good(kid="b", x="AA==")]}))
    assert done.exit_code == USAGE
    assert "set.json, key 2: The JWK is no public key" in done.output


def miswritten() -> dict[str, tuple[jwks.Jwk, jwks.Jwk]]:
    """Keys that are written badly, and as they should be."""
    pair = ec.derive_private_key(379, ec.SECP256R1())
    whole = keys.private_members(pair)
    assert unb64u(whole["x"])[0] == 0
    large, octets = keys.private_members(key("RSA")), unb64u(whole["y"])
    table = str.maketrans("-_", "+/")
    return {
        "zeros stripped": (whole | {"x": b64u(unb64u(whole["x"])[1:]), "d": b64u(b"\x01\x7b")}, whole),
        "zeros added": (large | {"n": b64u(b"\0" + unb64u(large["n"])), "d": b64u(b"\0" + unb64u(large["d"]))}, large),
        "padded": (whole | {"y": base64.urlsafe_b64encode(octets).decode(), "d": whole["d"] + "="}, whole),
        "base64": (large | {name: large[name].translate(table) for name in ("n", "d", "p")}, large),
        "bits beyond the end": (ED25519 | {"x": ED25519["x"][:-1] + "p"}, ED25519),
    }


@pytest.mark.parametrize(("wrong", "right"), miswritten().values(), ids=miswritten().keys())
def test_members_that_are_written_badly_are_put_right(tmp_path: Path, wrong: jwks.Jwk, right: jwks.Jwk) -> None:
    written(tmp_path / "wrong.json", wrong)
    found = json.loads(run("convert", "wrong.json", "--private").stdout)
    assert found == right | {"kid": jwks.thumbprint(right)}
    assert run("convert", "wrong.json", "--to", "pem").stdout_bytes == writing.encoded([right], "pem", private=False)
    written(tmp_path / "right.json", right)
    both = json.loads(run("convert", "wrong.json", "right.json").stdout)
    assert both == {"keys": [jwks.without_private(found)]} or both == jwks.without_private(found)


@needs_vectors
def test_nothing_is_wrong_with_what_is_written_that_lies_not_in_the_key(tmp_path: Path) -> None:
    converted = 0
    for path in sorted((VECTORS / "jwks").glob("*.json")) + sorted((VECTORS / "rfc").glob("*.jw*")):
        for more in ((), ("--private",)):
            done = run("convert", str(path), *more, "--out", "out.json", "--force")
            if done.exit_code != FINE:
                assert re.search(r"holgerkoser|no key with a public half", done.output), done.output
                continue
            converted += 1
            facts = json.loads(run("inspect", "out.json", "--json").stdout)
            found = [each for part in (facts, *facts["keys"]) for each in part["findings"]]
            faults = {each["code"] for each in found if each["severity"] != "note"}
            assert faults <= {"rsa-size", "duplicate-key", "certificate-expired", "private-key", "symmetric-key"}, path
            before = json.loads(run("inspect", str(path), "--json").stdout)["keys"]
            prints = {each["thumbprint"] for each in before}
            assert {each["thumbprint"] for each in facts["keys"]} <= prints
    assert converted > 30


def test_certificates_are_put_right_and_those_of_another_key_are_refused(tmp_path: Path) -> None:
    leaf = certificate(private("ES256"))
    right = writing.with_certificates(good(), [leaf])
    text = right["x5c"][0]
    hexadecimal = b64u(unb64u(right["x5t"]).hex().upper().encode())
    written(tmp_path / "a.json", right | {"x5c": [text[:64] + "\n" + text[64:]], "x5t": hexadecimal})
    assert json.loads(run("convert", "a.json").stdout) == right
    written(tmp_path / "b.json", writing.with_certificates(good(), [certificate(private("ES384"))]))
    for more in ((), ("--to", "certificate")):
        done = run("convert", "b.json", *more)
        assert done.exit_code == USAGE
        assert "first certificate of 'x5c' is for another key" in done.output
        assert "BEGIN" not in done.output
    assert run("convert", "b.json", "--to", "pem").exit_code == FINE


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b'{"kty": "EC", ' + json.dumps(good()).encode()[1:], "'kty' stands more than once"),
        (json.dumps(good()).encode()[:-1] + b', "a": 1e999}', "a number in it is too large"),
        (good(alg="ES384"), "'alg' is ES384, which needs a key of kind P-384"),
        (good(key_ops="verify"), "'key_ops' must be an array"),
        (good(x5c=["AAAA"]), "'x5c' cannot be read"),
    ],
)
def test_what_cannot_be_put_right_is_refused_in_words(tmp_path: Path, document: Any, words: str) -> None:
    done = run("convert", written(tmp_path / "a.json", document))
    assert done.exit_code == USAGE
    assert words in done.output


def test_a_private_key_in_pem_that_does_not_belong_together_is_refused_as_what_it_is(tmp_path: Path) -> None:
    pair = key("RSA").private_numbers()
    other = rsa.RSAPrivateNumbers(pair.p, pair.q, pair.d ^ 4, pair.dmp1, pair.dmq1, pair.iqmp, pair.public_numbers)
    damaged = other.private_key(unsafe_skip_rsa_key_validation=True)
    body = damaged.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    done = run("convert", written(tmp_path / "a.pem", body), "--private")
    assert done.exit_code == USAGE
    assert "a.pem: The parts of the PKCS#8 private key do not belong together" in done.output
    assert "private half does not belong" in run("inspect", "a.pem").output


def test_a_key_for_pss_alone_takes_no_other_algorithm(tmp_path: Path) -> None:
    plain, restricted = bytes.fromhex("300d06092a864886f70d0101010500"), bytes.fromhex("300b06092a864886f70d01010a")
    public = keys.spki(key("RSA").public_key()).replace(plain, restricted)
    name = written(tmp_path / "a.der", public[:2] + (len(public) - 4).to_bytes(2, "big") + public[4:])
    done = run("convert", name, "--alg", "RS256")
    assert done.exit_code == USAGE
    assert (
        "a.der: the key is for RSASSA-PSS alone (RFC 4055 section 1.2): choose from PS256, PS384, PS512" in done.output
    )
    assert json.loads(run("convert", name, "--alg", "PS384").stdout)["alg"] == "PS384"
    silent = run("convert", name)
    assert silent.exit_code == FINE
    assert "does not say so: name one of PS256, PS384, PS512 as --alg" in silent.stderr


def test_an_algorithm_that_is_named_settles_the_use(tmp_path: Path) -> None:
    name = written(tmp_path / "a.json", keys.public_members(key("RSA").public_key()) | {"use": "enc", "alg": "RSA1_5"})
    found = json.loads(run("convert", name, "--alg", "PS256").stdout)
    assert (found["use"], found["alg"]) == ("sig", "PS256")
    operated = written(
        tmp_path / "b.json", {name: good()[name] for name in ("kty", "crv", "x", "y")} | {"key_ops": ["verify"]}
    )
    assert "use" not in json.loads(run("convert", operated, "--alg", "ES256").stdout)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a.pem", "b.pem", "--to", "jwk"), "A JWK is one key, and there are 2"),
        (("a.pem", "b.pem", "--kid", "mine"), "--kid is for one key, and there are 2"),
        (("a.pem", "b.pem", "--alg", "ES256"), "ES256 does not work with this key"),
        (("a.pem", "--to", "certificate"), "has no certificates"),
        (("a.pem", "--to", "sec1"), "SEC1 holds private EC keys alone"),
        (("a.pem", "--out", "b.pem"), "b.pem exists, and was left as it is"),
    ],
)
def test_what_cannot_be_converted_is_refused_in_words(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    written(tmp_path / "a.pem", public_pem("RSA"))
    written(tmp_path / "b.pem", public_pem("P-256"))
    done = run("convert", *words)
    assert done.exit_code == USAGE
    assert message in done.output


def test_der_is_not_written_to_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.pem", public_pem("RSA"))
    monkeypatch.setattr("rotator.cli.convert._is_terminal", lambda: True)
    done = run("convert", "a.pem", "--to", "der")
    assert done.exit_code == USAGE
    assert "DER is no text" in done.output


# -- thumbprint ----------------------------------------------------------------------------------------------------


def test_the_fingerprints_of_the_rfcs(tmp_path: Path) -> None:
    found = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"  # RFC 8037 appendix A.3
    done = run("thumbprint", written(tmp_path / "a.json", ED25519))
    assert done.exit_code == FINE
    assert f"  thumbprint    {found}  (RFC 7638)\n" in done.output
    assert f"  URI           urn:ietf:params:oauth:jwk-thumbprint:sha-256:{found}  (RFC 9278)\n" in done.output
    row = json.loads(run("thumbprint", "a.json", "--json").stdout)["keys"][0]
    assert unb64u(row["spki_sha256"]).hex() == row["spki_sha256_hex"]


def test_the_fingerprints_of_a_set_name_each_key_and_those_that_have_none(tmp_path: Path) -> None:
    name = written(tmp_path / "a.json", {"keys": [good(), {"kty": "oct", "k": "AAAA"}]})
    done = run("thumbprint", name)
    assert done.exit_code == USAGE
    assert f"key 1 {good()['kid']}\n" in done.output
    assert "1 of 2 keys have none." in done.output


@pytest.mark.parametrize("command", ["inspect", "generate", "convert", "thumbprint"])
def test_help_names_what_is_typed(command: str) -> None:
    done = run(command, "--help")
    assert done.exit_code == FINE
    assert f"rotator {command} " in done.output


def test_the_names_in_the_help_of_inspect_are_those_there_are() -> None:
    from rotator.inspect.verifiers import TITLES

    words = re.sub(r"\s+", " ", run("inspect", "--help").output).replace("- ", "-")
    assert all(f"{name}," in words or f"{name} (" in words for name in TITLES)
