"""``rotator adopt`` as a person types it, from their own files to two rotations later."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner

from rotator import app
from rotator.cli import app as commands
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS
from tests.test_cli import DOCUMENT, Operator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from typer.testing import Result

PASSPHRASE = "correct horse"


class Owner(Operator):
    """Somebody whose tokens are signed already, with keys in files of their own."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.private: dict[str, PrivateKeyTypes] = {}
        self.standing: list[dict[str, Any]] = []
        self.configure(max_keys=8)

    def has(self, kid: str, alg: str = "ES256", **members: Any) -> Path:
        """A key pair: the public half in the document, the private one in a file."""
        self.private[kid] = private = material.generate(ALGORITHMS[alg], 2048)
        public = jwks.public_jwk(material.spki(private), ALGORITHMS[alg]) | {"kid": kid} | members
        self.standing.append(public)
        self.publish(*self.standing)
        file = self.home / f"{kid.replace('/', '-')}.pem"
        file.write_bytes(material.private_pem(private))
        return file

    def publish(self, *keys: object, **members: object) -> None:
        file = self.home / "public" / DOCUMENT.format("acme")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"keys": keys, **members}), encoding="utf-8")

    def token(self, kid: str, alg: str = "ES256") -> str:
        return jwt.encode({"sub": "you", "exp": self.now + timedelta(hours=1)}, self.private[kid], alg, {"kid": kid})  # type: ignore[arg-type]

    def accepts(self, token: str) -> bool:
        """What a verifier says who fetches the document now."""
        body = json.loads((self.home / "public" / DOCUMENT.format("acme")).read_bytes())
        keys = jwt.PyJWKSet.from_dict(body)
        try:
            key = keys[jwt.get_unverified_header(token)["kid"]]
        except KeyError:
            return False
        claims = jwt.decode(token, key, algorithms=["ES256", "RS256", "EdDSA"], options={"verify_exp": False})
        return bool(claims["exp"] > self.now.timestamp())

    def issuer(self, alg: str = "ES256") -> tuple[str, str]:
        """What an issuer that follows the pointer signs, and with which kid."""
        home = self.home / "keys" / "acme" / alg
        pointer = json.loads((home / "pointer.json").read_bytes())
        private = serialization.load_pem_private_key((home / pointer["key"]).read_bytes(), None)
        claims = {"sub": "you", "exp": self.now + timedelta(hours=1)}
        return jwt.encode(claims, private, alg, {"kid": pointer["kid"]}), pointer["kid"]  # type: ignore[arg-type]


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Owner:
    person = Owner(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(app, "now", lambda: person.now)
    return person


def adopted(done: Result) -> str:
    assert done.exit_code == 0, done.output
    assert "acme: adopted." in done.output
    return done.output


def refused(done: Result, *words: str, code: int = 3) -> str:
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    for word in words:
        assert word in done.output
    return done.output


# -- a whole life ----------------------------------------------------------------------------------------------------


@pytest.mark.no_cover
def test_an_adopted_key_set_rotates_twice_and_no_token_is_rejected(owner: Owner) -> None:
    before = owner.has("last-year")
    now = owner.has("2026/№1", x5t="AA", note=["kept"])
    owner.has("partner", "EdDSA")
    document = owner.home / "public" / DOCUMENT.format("acme")
    stood = document.read_bytes()
    adopted(owner.does("adopt", "acme", "--key", str(now), "--key", str(before), "--current", "2026/№1", "--yes"))
    assert document.read_bytes() == stood, "byte for byte"
    began = owner.now
    alive: list[str] = [owner.token("last-year")]
    kids: list[str] = []
    while owner.now < began + timedelta(days=75):
        assert owner.does("tick").exit_code == 0
        token, kid = owner.issuer()
        kids += [kid] if kid not in kids else []
        alive.append(token)
        if owner.now < began + timedelta(days=30):
            alive.append(owner.token("2026/№1"))
        ended = owner.now.timestamp()
        alive = [each for each in alive if jwt.decode(each, options={"verify_signature": False})["exp"] > ended]
        assert all(owner.accepts(each) for each in alive)
        shown = {key["kid"]: key for key in json.loads(document.read_bytes())["keys"]}
        assert all(shown[key["kid"]] == key for key in owner.standing if key["kid"] in shown), "member for member"
        assert "partner" in shown
        owner.wait(minutes=40 if owner.now < began + timedelta(hours=4) else 600)
    assert kids[0] == "2026/№1"
    assert len(kids) == 3
    assert not {"2026/№1", "last-year"} & shown.keys()
    assert not [file for file in (owner.home / "keys").rglob("*.pem*") if "№" in file.name]
    assert now.exists(), "the owner's own file is the owner's"


def test_two_algorithms_are_adopted_at_once_and_each_has_its_own_current_key(owner: Owner) -> None:
    owner.configure(algorithms=["RS256", "EdDSA", "ES256"], max_keys=12)
    files = [owner.has("rsa", "RS256"), owner.has("ed", "EdDSA")]
    adopted(owner.does("adopt", "acme", "--key", str(files[0]), "--key", str(files[1]), "--yes"))
    assert owner.does("tick").exit_code == 0
    assert (owner.issuer("RS256")[1], owner.issuer("EdDSA")[1]) == ("rsa", "ed")
    stages = [(key["alg"], key["stage"]) for key in owner.reads("status")["keys"]]
    assert ("ES256", "current") not in stages, "the first key of an added algorithm waits its full gate"
    assert ("ES256", "next") in stages


def test_the_new_key_may_not_sign_before_every_cache_has_it(owner: Owner) -> None:
    owner.has("now")
    adopted(owner.does("adopt", "acme", "--key", "now.pem", "--yes"))
    assert owner.does("tick").exit_code == 0
    refused(owner.does("rotate", "acme"), "caches may lack the next key until")
    # Nobody knows with which headers a plain file was handed out: two days, and the verifiers' own.
    owner.wait(days=2)
    refused(owner.does("rotate", "acme"), "caches may lack the next key until")
    owner.wait(days=1, hours=1)
    assert owner.does("rotate", "acme").exit_code == 0
    assert owner.issuer()[1] != "now"


def test_a_revoke_right_after_the_adoption_is_seen_through(owner: Owner) -> None:
    owner.has("now")
    adopted(owner.does("adopt", "acme", "--key", "now.pem", "--yes"))
    done = owner.does("revoke", "acme", "now", "--reason", "leaked", "--yes")
    assert done.exit_code == 0, done.output
    assert "since an unknown time" in done.output
    assert "now" not in owner.public()
    assert owner.issuer()[1] in owner.public()


# -- what it says ----------------------------------------------------------------------------------------------------


def test_a_dry_run_says_everything_and_writes_nothing(owner: Owner) -> None:
    now, before = owner.has("now"), owner.has("before")
    owner.has("partner", "RS256")
    owner.publish(*owner.standing, owner="us")
    left = owner.snapshot()
    done = owner.does("adopt", "acme", "--key", str(now), "--key", str(before), "--current", "now", "--dry-run")
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0].startswith("acme: adopt file://")
    assert [line.split()[:3] for line in lines[2:5]] == [
        ["now", "ES256", "current"],
        ["before", "ES256", "previous"],
        ["partner", "RS256", "foreign"],
    ]
    order = [
        f"a copy of {now} (now)",
        f"a copy of {before} (before)",
        f"{owner.home}/keys/acme/ES256/pointer.json: now",
        f"the ledger {(owner.home / 'ledger').as_uri()}/acme/ledger.json",
    ]
    assert lines[5:10] == ["It will write, in this order:", *(f"  {line}" for line in order)]
    notes = "\n".join(lines[10:])
    assert "previous keys may have signed until now; they stay published for 3h9m" in notes
    assert "members beside 'keys' are not kept when the document is next written: owner" in notes
    assert "caches that keep it for 2d, longer than the policy says" in notes
    assert owner.snapshot() == left


def test_afterwards_it_says_where_issuers_must_be_led_and_until_when(owner: Owner) -> None:
    now, before = owner.has("now"), owner.has("before")
    said = adopted(owner.does("adopt", "acme", "--key", str(now), "--key", str(before), "--current", "now", "--yes"))
    pointer = owner.home / "keys/acme/ES256/pointer.json"
    assert f"Lead issuers of ES256 to {pointer} before 2026-05-31 03:00Z: it names now now" in said
    assert "before verifies until 2026-05-01 06:09Z: no issuer may sign with it any more" in said
    assert "destroy the originals once no issuer reads them" in said


def test_without_private_halves_it_says_what_that_means(owner: Owner) -> None:
    owner.has("theirs")
    said = adopted(owner.does("adopt", "acme", "--yes"))
    assert "no private key is given, so every key stays foreign" in said
    assert "destroy the originals" not in said
    assert owner.does("tick").exit_code == 0
    assert "theirs" in owner.public()
    assert owner.does("drop", "acme", "theirs").exit_code == 0
    assert "theirs" not in owner.public()


def test_a_document_that_is_full_is_told(owner: Owner) -> None:
    for n in range(8):
        owner.has(f"key-{n}")
    said = adopted(owner.does("adopt", "acme", "--key", "key-0.pem", "--yes"))
    assert "the document holds 8 keys and max_keys is 8: a next key waits until there is room" in said


def test_a_document_with_too_many_keys_is_refused(owner: Owner) -> None:
    for n in range(9):
        owner.has(f"key-{n}")
    refused(owner.does("adopt", "acme", "--key", "key-0.pem", "--yes"), "holds 9 keys; max_keys is 8")


def test_it_may_be_said_twice_and_something_else_may_not(owner: Owner) -> None:
    owner.has("now")
    other = owner.has("other", "EdDSA")
    adopted(owner.does("adopt", "acme", "--key", "now.pem", "--yes"))
    left = owner.snapshot()
    again = owner.does("adopt", "acme", "--key", "now.pem", "--yes")
    assert again.exit_code == 0
    assert again.output == "acme: it was adopted before. Nothing was changed.\n"
    refused(owner.does("adopt", "acme", "--key", str(other), "--yes"), "Key set acme has a ledger already")
    assert owner.snapshot() == left


# -- where private keys come from ------------------------------------------------------------------------------------


def test_a_private_jwk_a_set_of_them_and_stdin_are_read(owner: Owner) -> None:
    owner.configure(algorithms=["ES256", "EdDSA"], max_keys=12)
    owner.has("one")
    owner.has("two")
    owner.has("ed", "EdDSA")
    sets = {
        kid: material.private_jwk(owner.private[kid], public)
        for kid, public in zip(owner.private, owner.standing, strict=True)
    }
    (owner.home / "one.jwk").write_text(json.dumps(sets["one"]))
    (owner.home / "ed.json").write_text(json.dumps({"keys": [sets["ed"]]}))
    words = ["--config", str(owner.file), "adopt", "acme", "--key", "one.jwk", "--key", "ed.json", "--key", "-"]
    private = (owner.home / "two.pem").read_bytes()
    done = CliRunner().invoke(commands, [*words, "--current", "one", "--yes"], input=private)
    said = adopted(done)
    assert "stdin" in said
    stages = {key["kid"]: key["stage"] for key in owner.reads("status")["keys"]}
    assert stages == {"one": "current", "two": "previous", "ed": "current"}


def encrypted(owner: Owner, kid: str) -> None:
    (owner.home / f"{kid}.pem").write_bytes(material.private_pem(owner.private[kid], PASSPHRASE.encode()))


def test_the_passphrase_of_a_key_comes_from_the_environment(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    owner.has("now")
    encrypted(owner, "now")
    words: tuple[str, ...] = ("adopt", "acme", "--key", "now.pem", "--yes")
    refused(owner.does(*words), "now.pem is encrypted, and there is no terminal", "--passphrase-env", code=2)
    words = (*words, "--passphrase-env", "OLD_KEYS")
    refused(owner.does(*words), "OLD_KEYS is not set", code=2)
    monkeypatch.setenv("OLD_KEYS", "battery staple")
    assert "battery" not in refused(owner.does(*words), "wrong passphrase", code=2)
    monkeypatch.setenv("OLD_KEYS", PASSPHRASE)
    adopted(owner.does(*words))
    assert owner.issuer()[1] == "now"


def test_on_a_terminal_the_passphrase_and_the_question_are_asked_for(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    owner.has("now")
    encrypted(owner, "now")
    command = [sys.executable, "-m", "rotator", "--config", str(owner.file), "adopt", "acme", "--key", "now.pem"]

    def on_a_terminal(*answers: tuple[str, str]) -> tuple[str, int]:
        master, slave = pty.openpty()
        with subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, close_fds=True, cwd=tmp_path
        ) as process:
            os.close(slave)
            said = ""
            waiting = list(answers)
            while True:
                try:
                    piece = os.read(master, 1000).decode()
                except OSError:
                    break
                if not piece:
                    break
                said += piece
                if waiting and waiting[0][0] in said:
                    os.write(master, waiting.pop(0)[1].encode())
            os.close(master)
            return said, process.wait(30)

    asked = ("Passphrase of now.pem: ", f"{PASSPHRASE}\n")
    said, code = on_a_terminal(asked, ("Adopt it now? [y/N]: ", "n\n"))
    assert (code, "Nothing was changed." in said) == (3, True)
    assert not (tmp_path / "keys").exists()
    said, code = on_a_terminal(asked, ("Adopt it now? [y/N]: ", "y\n"))
    assert code == 0, said
    assert "acme: adopted." in said
    assert PASSPHRASE not in said


# -- what is refused -------------------------------------------------------------------------------------------------


def test_without_a_terminal_and_without_yes_nothing_happens(owner: Owner) -> None:
    owner.has("now")
    left = owner.snapshot()
    refused(owner.does("adopt", "acme", "--key", "now.pem"), "There is no terminal to ask on", "--yes")
    assert owner.snapshot() == left


def test_a_private_key_in_the_public_document_is_refused_loudly_and_never_shown(owner: Owner) -> None:
    owner.has("now")
    private = material.private_jwk(owner.private["now"], owner.standing[0])
    owner.publish(private)
    left = owner.snapshot()
    said = refused(
        owner.does("adopt", "acme", "--key", "now.pem", "--yes"), "PUBLISHES PRIVATE KEYS: now", "compromised"
    )
    assert private["d"] not in said
    assert owner.snapshot() == left


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["nobody"], "There is no key set 'nobody'", 2),
        (["acme", "--key", "missing.pem"], "--key 'missing.pem' cannot be read: No such file", 2),
        (["acme", "--key", "."], "--key '.' cannot be read: Is a directory", 2),
        (["acme", "--key", "a\0b"], "it is no name of a file", 2),
        (["acme", "--key", "rotator.toml"], "rotator.toml is neither PEM nor JSON", 2),
        (["acme", "--key", "now.pem", "--current", "then"], "--current 'then' is not among the keys", 3),
        (["acme", "--key", "now.pem", "--jwks", "missing.json"], "--jwks 'missing.json' cannot be read", 2),
        (["acme", "--key", "now.pem", "--jwks", "now.pem"], "The document given with --jwks is no JWKS", 3),
        (["acme", "--kms-key", "alias/x"], "stores.keys is file://, and no private key leaves KMS", 2),
    ],
)
def test_what_makes_no_sense_is_told_in_a_sentence_and_changes_nothing(
    owner: Owner, words: list[str], said: str, code: int
) -> None:
    owner.has("now")
    left = owner.snapshot()
    refused(owner.does("adopt", *words, "--yes"), said, code=code)
    assert owner.snapshot() == left


def test_private_keys_are_not_brought_into_kms(owner: Owner) -> None:
    owner.has("now")
    owner.file.write_text(owner.file.read_text().replace((owner.home / "keys").as_uri(), "kms://acme/jwt"))
    for option in ("--key", "--secret"):
        refused(owner.does("adopt", "acme", option, "now.pem"), "no private key is brought into KMS", code=2)


def test_an_open_directory_of_keys_is_refused_before_anything_is_written(owner: Owner) -> None:
    owner.has("now")
    (owner.home / "keys").mkdir(0o755)
    refused(owner.does("adopt", "acme", "--key", "now.pem", "--yes"), "chmod 700", code=2)
    assert not (owner.home / "ledger").exists()


def test_init_of_a_set_that_stands_names_adopt(owner: Owner) -> None:
    owner.has("now")
    refused(owner.does("init"), "'rotator adopt acme'")


# -- another place ---------------------------------------------------------------------------------------------------


class Elsewhere(BaseHTTPRequestHandler):
    """Where the document was served until now."""

    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Cache-Control", "max-age=120, stale-if-error=0, stale-while-revalidate=0")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/jwks.json"
        server.shutdown()


def test_a_document_that_is_served_elsewhere_is_taken_from_its_url(owner: Owner, elsewhere: str) -> None:
    now = owner.has("now")
    document = owner.home / "public" / DOCUMENT.format("acme")
    Elsewhere.body = document.read_bytes()
    document.unlink()
    owner.file.write_text(owner.file.read_text() + f'\npublic_url = "{elsewhere}"\n')
    said = adopted(owner.does("adopt", "acme", "--key", str(now), "--yes"))
    assert f"acme: adopt {elsewhere}" in said
    assert f"the public document, as it is, to {document.as_uri()}" in said
    assert document.read_bytes() == Elsewhere.body
    assert owner.does("tick").exit_code == 0
    stages = {key["stage"] for key in owner.reads("status")["keys"]}
    assert stages == {"current", "pending"}, "until the URL leads to our document"
    Elsewhere.body = document.read_bytes()
    assert owner.does("tick").exit_code == 0
    assert {key["stage"] for key in owner.reads("status")["keys"]} == {"current", "next"}


def test_a_document_in_a_file_is_published_as_it_is(owner: Owner) -> None:
    now = owner.has("now")
    document = owner.home / "public" / DOCUMENT.format("acme")
    file = document.rename(owner.home / "old.json")
    adopted(owner.does("adopt", "acme", "--key", str(now), "--jwks", str(file), "--yes"))
    assert document.read_bytes() == file.read_bytes()
