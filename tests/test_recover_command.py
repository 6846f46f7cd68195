"""``rotator recover`` and ``rotator gc`` as a person types them, on files and on AWS (an emulator)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from rotator import app
from rotator.cli import output
from rotator.engine.recovery import Recovery
from rotator.keys.keyring import from_json
from rotator.keys.recovery import LEAP
from tests.accounts import Account, moto
from tests.test_cli import DOCUMENT, Operator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    person = Operator(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(app, "now", lambda: person.now)
    return person.started()


def ledger(operator: Operator) -> Path:
    return operator.home / "ledger/acme/ledger.json"


# -- recover ---------------------------------------------------------------------------------------------------------


def test_a_sound_ledger_is_left_alone(operator: Operator) -> None:
    before = operator.snapshot()
    done = operator.does("recover", "acme")
    assert done.exit_code == 0
    assert done.output == "acme: the ledger is sound: there is nothing to recover.\n"
    refused = operator.does("recover", "acme", "--rebuild", "--yes")
    assert refused.exit_code == 3
    assert "the ledger is sound" in refused.stderr
    assert operator.snapshot() == before


def test_every_message_about_a_lost_ledger_leads_here(operator: Operator) -> None:
    body = ledger(operator).read_bytes()
    for broken in (None, b"", b"{}", body[:100], body.replace(b'"revision": ', b'"revisions": ')):
        ledger(operator).unlink() if broken is None else ledger(operator).write_bytes(broken)
        for command in ("tick", "plan", "status"):
            told = operator.does(command)
            assert told.exit_code == 3
            assert "rotator recover" in told.stderr
    ledger(operator).unlink()
    told = operator.does("init")
    assert told.exit_code == 3
    assert "rotator recover acme" in told.stderr


def test_a_lost_ledger_is_shown_asked_about_and_written(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    kids, public = operator.keys(), set(operator.public())
    ledger(operator).unlink()
    before = operator.snapshot()

    shown = operator.does("recover", "acme", "--dry-run")
    assert shown.exit_code == 0
    assert "the ledger cannot be used: it is missing." in shown.output
    rows = {words[0]: words[2] for line in shown.output.splitlines() if (words := line.split())[1:2] == ["ES256"]}
    assert rows == {kids["current"]: "current", kids["next"]: "previous"}
    assert "--revoked KID" in shown.output

    unasked = operator.does("recover", "acme")
    assert unasked.exit_code == 3
    assert "Say --yes" in unasked.stderr
    monkeypatch.setattr(output, "can_ask", lambda: True)
    declined = operator.does("recover", "acme", answers="n\n")
    assert declined.exit_code == 3
    assert "nothing was written" in declined.stderr
    assert operator.snapshot() == before

    written = operator.does("recover", "acme", answers="y\n")
    assert written.exit_code == 0
    assert "written, revision" in written.output
    assert '"step": "recover"' in written.stderr
    assert operator.does("tick").exit_code == 0
    assert set(operator.public()) > public
    assert operator.keys()["current"] == kids["current"]


def test_a_recovered_key_set_rotates_and_lets_the_old_keys_go(operator: Operator) -> None:
    old = operator.keys()
    operator.add_foreign("legacy-2019")
    ledger(operator).write_bytes(b"<html>")
    assert operator.does("recover", "acme", "--yes").exit_code == 0
    for _ in range(40):
        assert operator.does("tick").exit_code == 0
        operator.wait(days=1)
    assert operator.keys()["current"] not in old.values()
    assert set(operator.public()).isdisjoint(old.values())
    assert "legacy-2019" in operator.public()


def test_a_copy_goes_in_its_place(operator: Operator) -> None:
    kids = operator.keys()
    copy = operator.home / "copy.json"
    copy.write_bytes(ledger(operator).read_bytes())
    revision = json.loads(copy.read_bytes())["revision"]
    ledger(operator).unlink()
    done = operator.does("recover", "acme", "--from", str(copy), "--yes")
    assert done.exit_code == 0
    assert f"a copy that was kept of 2026-05-01 03:00:00Z, revision {revision}" in done.output
    assert operator.keys() == kids
    assert from_json(ledger(operator).read_bytes(), "acme").revision == revision + LEAP


def test_an_old_copy_is_refused_and_rebuilt_with_what_it_remembers(operator: Operator) -> None:
    old = ledger(operator).read_bytes()
    operator.wait(days=40)
    assert operator.does("tick").exit_code == 0
    ledger(operator).write_bytes(old)
    copy = operator.home / "copy.json"
    copy.write_bytes(old)
    refused = operator.does("recover", "acme", "--from", str(copy), "--yes")
    assert refused.exit_code == 3
    assert "the ledger is older than the world" in refused.stderr
    done = operator.does("recover", "acme", "--yes")
    assert done.exit_code == 0
    assert "Compared with the newest ledger that can be read:" in done.output
    assert "unknown before, now current" in done.output or "next before, now current" in done.output
    assert operator.does("tick").exit_code == 0


def test_a_revoked_kid_is_given_whole(operator: Operator) -> None:
    leaked = operator.keys()["next"]
    ledger(operator).unlink()
    for half in (leaked[:10], ""):
        refused = operator.does("recover", "acme", "--yes", "--revoked", half)
        assert refused.exit_code == 2
        assert leaked in refused.stderr
        assert "Give the whole kid" in refused.stderr
    assert not ledger(operator).exists()
    assert operator.does("recover", "acme", "--yes", "--revoked", leaked, "--revoked", "gone-2019").exit_code == 0
    assert operator.does("tick").exit_code == 0
    assert leaked not in operator.public()
    assert operator.keys()["revoked"] == leaked


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (("nobody",), "no key set 'nobody'", 2),
        (("acme", "--rebuild", "--version", "3"), "one of --version, --from and --rebuild", 2),
        (("acme", "--version", "3", "--yes"), "keeps no versions", 2),
        (("acme", "--from", "nowhere.json", "--yes"), "cannot be read: No such file", 2),
        (("acme", "--from", ".", "--yes"), "cannot be read: Is a directory", 2),
        (("acme", "--from", "a\0b", "--yes"), "cannot be read", 2),
    ],
)
def test_what_makes_no_sense_is_refused(operator: Operator, words: tuple[str, ...], said: str, code: int) -> None:
    ledger(operator).unlink()
    done = operator.does("recover", *words)
    assert (done.exit_code, said in done.stderr) == (code, True), done.stderr
    assert not ledger(operator).exists()


def test_without_the_public_document_it_says_what_to_do(operator: Operator) -> None:
    public = operator.home / "public" / DOCUMENT.format("acme")
    ledger(operator).unlink()
    public.unlink()
    missing = operator.does("recover", "acme", "--yes")
    assert missing.exit_code == 3
    assert '{"keys": []}' in missing.stderr
    public.write_text("<html>")
    garbage = operator.does("recover", "acme", "--yes")
    assert garbage.exit_code == 3
    assert "is not a JWKS" in garbage.stderr
    public.write_text('{"keys": []}')
    assert operator.does("recover", "acme", "--yes").exit_code == 0
    assert operator.does("tick").exit_code == 0
    assert operator.keys()["current"] in operator.public()


def test_a_file_that_is_no_key_stops_it_and_is_named(operator: Operator) -> None:
    ledger(operator).unlink()
    odd = operator.home / "keys/acme/ES256/odd.pem"
    odd.touch(0o600)
    refused = operator.does("recover", "acme", "--yes")
    assert refused.exit_code == 2
    assert str(odd) in refused.stderr
    assert "move away what is no key" in refused.stderr
    odd.unlink()
    assert operator.does("recover", "acme", "--yes").exit_code == 0


def test_the_wrong_key_store_is_noticed(operator: Operator) -> None:
    (operator.home / "keys").rename(operator.home / "elsewhere")
    ledger(operator).unlink()
    refused = operator.does("recover", "acme", "--yes")
    assert refused.exit_code == 3
    assert "is stores.keys right?" in refused.stderr
    everything = operator.does("recover", "acme", "--yes", "--rebuild")
    assert everything.exit_code == 0
    assert "foreign" in everything.output


def test_where_nothing_was_public_and_nothing_signs_there_is_an_empty_ledger(operator: Operator) -> None:
    operator.configure("acme", "globex")
    done = operator.does("recover", "globex", "--yes", "--rebuild")
    assert done.exit_code == 0
    assert "(no key)" in done.output


def test_what_changed_while_it_was_shown_stops_the_write(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger(operator).unlink()
    honest = Recovery.write

    def late(self: Recovery, *given: Any) -> Any:
        operator.add_foreign("legacy-2019")
        return honest(self, *given)

    monkeypatch.setattr(Recovery, "write", late)
    done = operator.does("recover", "acme", "--yes")
    assert done.exit_code == 1
    assert "something changed" in done.stderr
    assert not ledger(operator).exists()


def test_what_is_wrong_with_the_ledger_is_told_in_a_sentence(operator: Operator) -> None:
    ledger(operator).write_bytes(b"{")
    shown = operator.does("recover", "acme", "--dry-run")
    assert "acme: the ledger cannot be used: it is not readable JSON (half-written?).\n" in shown.output


def test_no_output_of_a_recovery_holds_a_private_key(operator: Operator) -> None:
    pems = [file.read_text() for file in (operator.home / "keys").rglob("*.pem")]
    ledger(operator).unlink()
    done = operator.does("recover", "acme", "--yes")
    told = done.output + done.stderr + ledger(operator).read_text() + operator.does("gc", "--json").output
    for pem in pems:
        assert not any(line in told for line in pem.splitlines()[1:-1])


# -- gc --------------------------------------------------------------------------------------------------------------


def test_of_files_strays_are_listed_and_never_touched(operator: Operator) -> None:
    assert operator.does("gc").output == "Every key in the key store is known to its ledger.\n"
    known = next((operator.home / "keys/acme/ES256").glob("*.pem"))
    stray = known.with_name("stray.pem")
    stray.write_bytes(known.read_bytes())
    stray.chmod(0o600)
    for words in (("gc",), ("gc", "acme", "--yes")):
        done = operator.does(*words)
        assert done.exit_code == 0
        assert "stray.pem" in done.output
        assert "spared" in done.output
        assert "by hand" in done.output
    assert stray.exists()
    (key,) = operator.reads("gc")["keys"]
    assert (key["handle"], key["alg"], key["fate"]) == ("stray.pem", "ES256", "spared")


def test_a_ledger_that_cannot_be_trusted_judges_no_key(operator: Operator) -> None:
    ledger(operator).unlink()
    done = operator.does("gc", "--yes")
    assert done.exit_code == 3
    assert "rotator recover acme" in done.stderr
    failed = operator.does("gc", "--json")
    assert "there is no ledger" in json.loads(failed.stdout)["keysets"][0]["error"]
    assert "Every key" not in operator.does("gc").output


# -- on AWS ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict_moto_url() -> Iterator[str]:
    with moto() as url:
        yield url


class OnAws(Operator):
    """The same person, with keys in Secrets Manager and a bucket for ledgers that keeps versions."""

    account: Account

    def configure(self, *keysets: str, **policy: object) -> None:
        toml = self.account.toml + '[policy]\nalgorithms = ["ES256", "EdDSA"]\n'
        self.file.write_text(toml + "".join(f'[[keysets]]\nname = "{name}"\n' for name in keysets or ("acme",)))

    def versions(self) -> list[str]:
        """The ids of every version of the ledger, newest first."""
        listed = self.account.s3.list_object_versions(Bucket=self.account.ledger, Prefix="acme/ledger.json")
        return [each["VersionId"] for each in listed["Versions"] if each["Key"] == "acme/ledger.json"]

    def public(self, keyset: str = "acme") -> list[str]:
        found = self.account.s3.get_object(Bucket=self.account.public, Key=DOCUMENT.format(keyset))
        return [key["kid"] for key in json.loads(found["Body"].read())["keys"]]

    def lose(self) -> None:
        self.account.s3.delete_object(Bucket=self.account.ledger, Key="acme/ledger.json")

    def all_keys(self) -> dict[str, str]:
        return {key["kid"]: key["stage"] for key in self.reads("status")["keys"]}


@pytest.fixture
def on_aws(strict_moto_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnAws:
    account = Account(strict_moto_url, "secretsmanager", f"recover-{uuid4().hex[:8]}", ("ES256", "EdDSA"))
    account.s3.put_bucket_versioning(Bucket=account.ledger, VersioningConfiguration={"Status": "Enabled"})
    monkeypatch.setattr(OnAws, "account", account, raising=False)
    monkeypatch.chdir(tmp_path)
    person = OnAws(tmp_path)
    person.started()
    return person


@pytest.mark.no_cover
def test_a_deleted_ledger_comes_back_from_its_versions(on_aws: OnAws) -> None:
    before, newest = on_aws.all_keys(), on_aws.versions()[0]
    on_aws.lose()
    assert on_aws.does("tick").exit_code == 3
    done = on_aws.does("recover", "acme", "--yes")
    assert done.exit_code == 0, done.stderr
    assert f"version {newest} of" in done.output
    assert on_aws.all_keys() == before
    assert on_aws.does("tick").exit_code == 0


def test_a_version_may_be_named(on_aws: OnAws) -> None:
    first, newest = on_aws.versions()[-1], on_aws.versions()[0]
    on_aws.account.s3.put_object(Bucket=on_aws.account.ledger, Key="acme/ledger.json", Body=b"torn")
    for version, said in ((first, "cannot be used"), ("nonsense", "has no version 'nonsense'")):
        refused = on_aws.does("recover", "acme", "--yes", "--version", version)
        assert (refused.exit_code, said in refused.stderr) == (3, True), refused.stderr
    assert on_aws.does("recover", "acme", "--yes", "--version", newest).exit_code == 0
    assert on_aws.does("tick").exit_code == 0


@pytest.mark.no_cover
def test_without_versions_it_is_rebuilt_from_secrets_manager(on_aws: OnAws) -> None:
    before = on_aws.all_keys()
    on_aws.lose()
    done = on_aws.does("recover", "acme", "--yes", "--rebuild")
    assert done.exit_code == 0, done.stderr
    after = on_aws.all_keys()
    assert {kid for kid, stage in before.items() if stage == "current"} == {
        kid for kid, stage in after.items() if stage == "current"
    }
    assert set(after) == set(before)
    assert on_aws.does("tick").exit_code == 0
    assert set(on_aws.public()) >= set(before)
    assert "AWSCURRENT" not in on_aws.does("gc").output


# -- under a live daemon ---------------------------------------------------------------------------------------------


FAST = """
[policy]
algorithms = ["ES256"]
lifetime = "12s"
token_lifetime = "15s"
signer_lag = "1s"
cache_max_age = "1s"
cache_stale = "0s"
verifier_cache = "2s"
verifier_leeway = "1s"
clock_skew = "1s"
max_keys = 20
max_creations_per_day = 1000
[schedule]
interval = "1s"
[server]
port = 0
[[keysets]]
name = "acme"
"""


class Files:
    """A home on this machine's disk, as everybody sees it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ledger, self.public = root / "ledger/acme/ledger.json", root / "public" / DOCUMENT.format("acme")
        stores = "".join(f'{name} = "{(root / name).as_uri()}"\n' for name in ("keys", "ledger", "public"))
        self.toml = f"[stores]\n{stores}"

    def read(self) -> bytes:
        return self.ledger.read_bytes()

    def write(self, body: bytes | None) -> None:
        self.ledger.unlink() if body is None else self.ledger.write_bytes(body)

    def kids(self) -> set[str]:
        return {key["kid"] for key in json.loads(self.public.read_bytes())["keys"]}

    def signing(self) -> str | None:
        named: str | None = json.loads((self.root / "keys/acme/ES256/pointer.json").read_bytes())["kid"]
        return named


class Aws:
    """A home in S3, whose ledgers keep their versions, and Secrets Manager."""

    def __init__(self, url: str) -> None:
        self.account = Account(url, "secretsmanager", f"recover-{uuid4().hex[:8]}")
        s3 = self.account.s3
        s3.put_bucket_versioning(Bucket=self.account.ledger, VersioningConfiguration={"Status": "Enabled"})
        self.toml = self.account.toml

    def read(self) -> bytes:
        return self.account.s3.get_object(Bucket=self.account.ledger, Key="acme/ledger.json")["Body"].read()

    def write(self, body: bytes | None) -> None:
        if body is None:
            self.account.s3.delete_object(Bucket=self.account.ledger, Key="acme/ledger.json")
        else:
            self.account.s3.put_object(Bucket=self.account.ledger, Key="acme/ledger.json", Body=body)

    def kids(self) -> set[str]:
        found = self.account.s3.get_object(Bucket=self.account.public, Key=DOCUMENT.format("acme"))
        return {key["kid"] for key in json.loads(found["Body"].read())["keys"]}

    def signing(self) -> str | None:
        value = self.account.secrets.get_secret_value(SecretId=f"{self.account.name}/acme/ES256")["SecretString"]
        kid: str | None = json.loads(value).get("kid")
        return kid


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "how", "words"),
    [
        ("files", "lost", ()),
        ("files", "torn", ()),
        ("files", "old", ()),
        ("aws", "lost", ()),
        ("aws", "torn", ("--rebuild",)),
    ],
)
def test_a_daemon_goes_on_after_its_ledger_came_back_and_no_published_key_left(
    tmp_path: Path, strict_moto_url: str, where: str, how: str, words: tuple[str, ...]
) -> None:
    home: Files | Aws = Files(tmp_path) if where == "files" else Aws(strict_moto_url)
    file = tmp_path / "rotator.toml"
    file.write_text(home.toml + FAST)
    rotator = [sys.executable, "-m", "rotator", "--config", str(file)]
    subprocess.run([*rotator, "init"], check=True, capture_output=True)
    daemon = subprocess.Popen([*rotator, "run"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        old = _until(lambda: home.read() if home.kids() else None)
        signing = _until(lambda: home.signing() if _rotated(home.read()) else None)
        home.write({"lost": None, "torn": b"torn", "old": old}[how])
        time.sleep(3)
        shown = home.kids()
        assert signing in shown
        done = subprocess.run(
            [*rotator, "recover", "acme", "--yes", *words], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert ("version" in done.stdout) == (where == "aws" and not words), done.stdout
        deadline, kept = time.monotonic() + 9, set(shown)
        while time.monotonic() < deadline and "rebuilt" in done.stdout:
            # Until the retention of each is over (1 + 15 + 1 s) nobody of them may leave.
            kept &= home.kids()
            time.sleep(0.1)
        assert kept == shown
        assert _until(lambda: (there := home.signing()) not in {signing, None} and there in home.kids())
        assert daemon.poll() is None
    finally:
        daemon.terminate()
        daemon.wait(20)


def _until(found: Callable[[], Any], patience: float = 90) -> Any:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError, ClientError):
            if value := found():
                return value
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


def _rotated(ledger: bytes) -> bool:
    return any(key.superseded_at for key in from_json(ledger, "acme").keys)
