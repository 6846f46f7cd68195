"""The command line as text: what a person types, what they read, and the exit code a script gets."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from rotator import __version__, app
from rotator.cli import COMMANDS, fleet, output, requests
from rotator.cli import app as commands
from rotator.cli.look import moment
from rotator.documents.filesystem import FilesystemDocuments
from rotator.engine import Engine
from rotator.errors import ConfigurationError, Refused, RotatorError, StoreError
from rotator.keys.plan import Wait
from rotator.ports import Headers
from rotator.settings import Configuration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from typer.testing import Result

HEAVY = ("structlog", "rich", "httpx", "apscheduler", "cryptography", "prometheus_client", "boto3", "botocore")
DOCUMENT = "{}/.well-known/jwks.json"


class Operator:
    """A person with a terminal, a configuration of file stores, and a clock that they can turn."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.file = home / "rotator.toml"
        self.now = datetime(2026, 5, 1, 3, tzinfo=UTC)
        self.configure()

    def configure(self, *keysets: str, **policy: object) -> None:
        policy = {"algorithms": ["ES256"]} | policy
        lines = ["[stores]"]
        lines += [f'{name} = "{(self.home / name).as_uri()}"' for name in ("keys", "ledger", "public")]
        lines += ["[policy]", *(f"{name} = {json.dumps(value)}" for name, value in policy.items())]
        lines += [f'[[keysets]]\nname = "{name}"' for name in keysets or ("acme",)]
        self.file.write_text("\n".join(lines), encoding="utf-8")

    def does(self, *words: str, answers: str | None = None) -> Result:
        return CliRunner().invoke(commands, ["--config", str(self.file), *words], input=answers)

    def reads(self, *words: str) -> dict[str, Any]:
        """The JSON of the first key set."""
        done = self.does(*words, "--json")
        assert done.exit_code == 0, done.output
        first: dict[str, Any] = json.loads(done.stdout)["keysets"][0]
        return first

    def keys(self) -> dict[str, str]:
        """Stage → kid, of the keys that there are."""
        return {key["stage"]: key["kid"] for key in self.reads("status")["keys"]}

    def public(self, keyset: str = "acme") -> list[str]:
        found = json.loads((self.home / "public" / DOCUMENT.format(keyset)).read_bytes())
        return [key["kid"] for key in found["keys"]]

    def started(self) -> Operator:
        assert self.does("init").exit_code == 0
        assert self.does("tick").exit_code == 0
        return self

    def wait(self, **time: float) -> None:
        self.now += timedelta(**time)

    def snapshot(self) -> dict[str, bytes]:
        files = (file for file in self.home.rglob("*") if file.is_file())
        return {str(file): file.read_bytes() for file in files if file.name != ".lock"}

    def add_foreign(self, *kids: str) -> None:
        """Somebody else edits the public document."""
        documents = FilesystemDocuments(self.home / "public")
        found = documents.read(DOCUMENT.format("acme")).document
        assert found
        body = json.loads(found.body)
        body["keys"] += [{"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": "A" * 43} for kid in kids]
        headers = found.headers or Headers("", None)
        documents.replace(DOCUMENT.format("acme"), json.dumps(body).encode(), headers, found.version)


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    person = Operator(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(app, "now", lambda: person.now)
    return person


# -- help, version, start --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_itself_with_an_example(command: str) -> None:
    shown = CliRunner().invoke(commands, [command, "--help"])
    assert shown.exit_code == 0
    assert "Examples:\n    rotator " in shown.output
    assert COMMANDS[command][1] in shown.output, "the list of commands says the same as the command itself"


def test_the_help_tells_the_exit_codes_and_where_to_start() -> None:
    shown = CliRunner().invoke(commands, ["--help"])
    assert shown.exit_code == 0
    for told in ("rotator run --demo", "0  fine", "1  a key set failed", "2  configuration", "3  refused", *COMMANDS):
        assert told in shown.output
    for _, purpose in COMMANDS.values():
        assert purpose in shown.output, "not cut off"


def test_the_version_is_told() -> None:
    shown = CliRunner().invoke(commands, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"rotator {__version__}\n")


def test_a_mistyped_command_or_option_is_a_usage_error() -> None:
    told = CliRunner().invoke(commands, ["stauts"])
    assert told.exit_code == 2
    assert "Did you mean 'status'?" in told.output
    assert CliRunner().invoke(commands, ["status", "--jsno"]).exit_code == 2
    assert CliRunner().invoke(commands, ["retire", "acme"]).exit_code == 2
    assert CliRunner().invoke(commands, ["revoke", "acme", "kid"]).exit_code == 2
    assert CliRunner().invoke(commands, ["run", "--port", "70000"]).exit_code == 2


def loaded_by(*words: str, cwd: Path) -> list[str]:
    """Which heavy modules a command loads."""
    script = (
        "import sys; sys.argv = ['rotator', *sys.argv[1:]]\n"
        "from rotator.__main__ import main\n"
        "try: main()\n"
        f"finally: print('LOADED', *[name for name in {(*HEAVY, 'pydantic')!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], cwd=cwd, capture_output=True, text=True, check=False)
    return done.stdout.rpartition("LOADED")[2].split()


def test_help_loads_nothing_that_takes_time(tmp_path: Path) -> None:
    assert loaded_by("--help", cwd=tmp_path) == []


def test_an_idle_tick_loads_only_what_it_needs(operator: Operator) -> None:
    operator.now = datetime.now(UTC)
    operator.started()
    assert loaded_by("--config", str(operator.file), "tick", cwd=operator.home) == ["pydantic"]


# -- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["init", "tick", "status", "plan", "policy"])
def test_without_a_configuration_a_command_says_how_to_get_one(command: str, operator: Operator) -> None:
    told = CliRunner().invoke(commands, [command])
    assert told.exit_code == 2
    assert "--config" in told.stderr
    assert "rotator run --demo" in told.stderr
    assert told.stdout == ""


def test_a_local_directory_made_by_run_is_found_without_a_configuration(operator: Operator) -> None:
    fleet.LOCAL.mkdir()
    operator.file.rename(fleet.LOCAL / fleet.FILE)
    assert CliRunner().invoke(commands, ["init"]).stdout == "acme: created\n"


def test_the_configuration_is_found_by_its_variable(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROTATOR_CONFIG", str(operator.file))
    assert CliRunner().invoke(commands, ["init"]).exit_code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("init",),
        ("tick",),
        ("status",),
        ("plan",),
        ("policy",),
        ("run",),
        ("rotate", "acme"),
        ("retire", "acme", "--alg", "ES256"),
        ("drop", "acme", "legacy-2019"),
        ("revoke", "acme", "kid", "--reason", "x", "--yes"),
    ],
    ids=lambda words: words[0],
)
def test_a_wrong_configuration_ends_every_command_with_2_and_no_traceback(
    words: tuple[str, ...], operator: Operator
) -> None:
    operator.file.write_text('[stores]\nkeys = "ftp://here"\n', encoding="utf-8")
    told = operator.does(*words)
    assert told.exit_code == 2
    assert told.stderr.startswith("Error: ")
    assert "Traceback" not in told.output
    assert list(operator.home.iterdir()) == [operator.file], "nothing was made"


def test_an_unsafe_policy_is_refused_by_every_command_with_its_numbers(operator: Operator) -> None:
    operator.configure(lifetime="1d")
    told = operator.does("tick")
    assert told.exit_code == 3
    assert "A key signs for 1d" in told.stderr


def test_an_unknown_key_set_is_an_error_that_suggests_the_nearest(operator: Operator) -> None:
    operator.configure("acme", "globex")
    told = operator.does("status", "acmee")
    assert told.exit_code == 2
    assert "Did you mean 'acme'?" in told.stderr
    assert "It has: acme, globex." in operator.does("rotate", "zzz").stderr


# -- init and tick ---------------------------------------------------------------------------------------------------


def test_init_creates_each_ledger_once(operator: Operator) -> None:
    operator.configure("acme", "globex")
    assert operator.does("init", "acme").stdout == "acme: created\n"
    assert operator.does("init").stdout == "acme: found\nglobex: created\n"
    found = json.loads(operator.does("init", "--json").stdout)
    assert found == {"keysets": [{"name": "acme", "result": "found"}, {"name": "globex", "result": "found"}]}


def test_init_refuses_a_document_without_a_ledger_and_still_makes_the_others(operator: Operator) -> None:
    operator.configure("acme", "globex")
    old = operator.home / "public" / DOCUMENT.format("acme")
    old.parent.mkdir(parents=True)
    old.write_text('{"keys": []}', encoding="utf-8")
    told = operator.does("init")
    assert told.exit_code == 3
    assert told.stdout == "acme: failed\nglobex: created\n"
    assert "no ledger does" in told.stderr
    assert not (operator.home / "ledger" / "acme" / "ledger.json").exists()


def test_a_tick_without_a_ledger_is_refused_and_changes_nothing(operator: Operator) -> None:
    before = operator.snapshot()
    told = operator.does("tick")
    assert told.exit_code == 3
    assert "rotator init" in told.stderr
    assert operator.snapshot() == before


def test_a_tick_says_what_it_did_and_what_comes_next(operator: Operator) -> None:
    operator.does("init")
    first = operator.does("tick")
    assert re.fullmatch(
        r"acme: \d+ steps: intend, create, found, publish, note-published, promote, activate;"
        r" next: promote 2026-05-31 03:00:00Z \(in 30d\)\n",
        first.stdout,
    )
    lines = [json.loads(line) for line in first.stderr.splitlines()]
    assert [line["step"] for line in lines[:2]] == ["intend", "create"]
    assert {"keyset", "step", "alg", "kid", "reason", "seconds", "timestamp", "level"} <= lines[1].keys()
    second = operator.does("tick")
    assert second.stdout == "acme: nothing to do; next: promote 2026-05-31 03:00:00Z (in 30d)\n"
    assert second.stderr == "", "what has nothing to say is quiet"


def test_a_tick_tells_programs_its_steps(operator: Operator) -> None:
    operator.does("init")
    told = operator.reads("tick")
    assert [step["step"] for step in told["steps"]][:2] == ["intend", "create"]
    assert told["next_change"]["step"] == "promote"
    assert told["next_change"]["at"] == "2026-05-31T03:00:00Z"
    assert told["foreign"] == {}
    assert told["clock_fault"] is None


def test_a_key_set_that_fails_keeps_no_other_from_its_tick(operator: Operator) -> None:
    operator.configure("acme", "globex", "initech")
    operator.does("init", "acme", "initech")
    told = operator.does("tick")
    assert told.exit_code == 3, "the one failure's own code"
    assert "Key set globex: there is no ledger" in told.stderr
    assert re.findall(r"^(\w+): \d+ steps", told.stdout, re.MULTILINE) == ["acme", "initech"]
    assert operator.public("initech")
    done = json.loads(operator.does("tick", "--json").stdout)["keysets"]
    assert [("error" in each, each["name"]) for each in done] == [(False, "acme"), (True, "globex"), (False, "initech")]


def test_failures_of_different_kinds_end_with_1(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    operator.configure("acme", "globex")
    errors = {"acme": ConfigurationError("no bucket"), "globex": Refused("older than the world")}

    def tick(engine: Engine) -> None:
        raise errors[engine.keyset.name]

    monkeypatch.setattr(Engine, "tick", tick)
    told = operator.does("tick")
    assert told.exit_code == 1
    assert told.stderr == "Error: Key set acme: no bucket\nError: Key set globex: older than the world\n"
    assert operator.does("tick", "acme").exit_code == 2


# -- status and plan -------------------------------------------------------------------------------------------------


def test_status_shows_every_key_at_a_glance(operator: Operator) -> None:
    operator.configure("acme", "globex", algorithms=["ES256", "EdDSA"])
    operator.started()
    operator.wait(days=2, hours=3)
    shown = operator.does("status")
    assert shown.exit_code == 0
    head, *rows = shown.stdout.splitlines()
    assert head.split("  ")[0] == "KEY SET"
    assert len(rows) == 8
    assert re.fullmatch(r"acme +\S{43}  ES256  current  2d3h", rows[0])
    assert re.fullmatch(r" +\S{43}  ES256  next     2d3h  promote in 27d21h", rows[1])
    assert rows[4].startswith("globex ")


def test_status_tells_programs_every_fact(operator: Operator) -> None:
    operator.started()
    operator.wait(days=30)
    operator.does("tick")
    shown = operator.reads("status")
    assert {"name", "keys", "next_change", "waits", "documents", "foreign", "clock_fault", "error"} <= shown.keys()
    assert [key["stage"] for key in shown["keys"]] == ["previous", "current", "next"]
    old = shown["keys"][0]
    assert old["created_at"] == old["published_at"] == old["activated_at"] == "2026-05-01T03:00:00Z"
    assert old["superseded_at"] == "2026-05-31T03:00:00Z"
    assert old["revoked_at"] is None
    assert shown["next_change"] == {
        "at": "2026-05-31T05:02:00Z",
        "step": "disable",
        "reason": "issuers may still sign with it",
        "alg": "ES256",
        "kid": old["kid"],
    }
    assert shown["documents"] == [
        {"name": "jwks", "path": "acme/.well-known/jwks.json", "urls": [], "shows": ["ES256"]}
    ]


def test_status_shows_retired_keys_too(operator: Operator) -> None:
    operator.started()
    operator.wait(days=30)
    operator.does("tick")
    for _ in range(2):
        operator.wait(days=1)
        operator.does("tick")
    assert [key["stage"] for key in operator.reads("status")["keys"]] == ["retired", "current", "next"]
    assert " retired " in operator.does("status").stdout


def test_status_shows_a_key_set_that_cannot_be_read_beside_the_others(operator: Operator) -> None:
    operator.configure("acme", "globex")
    operator.started()
    (operator.home / "ledger" / "acme" / "ledger.json").write_text("{", encoding="utf-8")
    shown = operator.does("status")
    assert shown.exit_code == 3
    assert re.search(r"^acme +unreadable", shown.stdout, re.MULTILINE)
    assert re.search(r"^globex +\S{43}  ES256  current", shown.stdout, re.MULTILINE)
    assert "half-written" in shown.stderr
    told = json.loads(operator.does("status", "--json").stdout)["keysets"]
    assert [(each["name"], len(each["keys"]), each["error"] is None) for each in told] == [
        ("acme", 0, False),
        ("globex", 2, True),
    ]


def test_status_remembers_the_last_error_until_a_tick_meets_none(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.started()
    operator.wait(days=31)
    with monkeypatch.context() as broken:
        broken.setattr(FilesystemDocuments, "replace", fails_for_public(FilesystemDocuments.replace))
        assert operator.does("tick").exit_code == 1
    operator.wait(minutes=5)
    assert "acme: last error, 5m ago: no space left" in operator.does("status").stdout
    assert operator.reads("status")["error"] == "no space left"
    operator.does("tick")
    assert operator.reads("status")["error"] is None


def fails_for_public(replace: Callable[..., str]) -> Callable[..., str]:
    def failing(self: FilesystemDocuments, path: str, *rest: Any) -> str:
        if path.endswith("jwks.json"):
            raise StoreError("no space left")
        return replace(self, path, *rest)

    return failing


def test_a_key_set_without_keys_has_a_row_that_says_so(operator: Operator) -> None:
    operator.does("init")
    assert re.search(r"^acme +\(no key yet\) +intend now$", operator.does("status").stdout, re.MULTILINE)


def test_plan_says_what_and_why_and_until_when_and_changes_nothing(operator: Operator) -> None:
    operator.started()
    before = operator.snapshot()
    shown = operator.does("plan")
    assert shown.exit_code == 0
    kid = operator.keys()["next"]
    assert shown.stdout == (
        "acme\n  do     nothing\n"
        f"  wait   promote ES256 {kid} until 2026-05-31 03:00:00Z (in 30d): the current key signs for 30d\n"
    )
    later = operator.does("plan", "--at", "+30d").stdout
    assert later == (f"acme at 2026-05-31 03:00:00Z\n  do     promote ES256 {kid}: the current key signs for 30d\n")
    told = operator.reads("plan", "--at", "2026-05-31T05:00:00+02:00")
    assert told["step"] == {"step": "promote", "reason": "the current key signs for 30d", "alg": "ES256", "kid": kid}
    assert told["at"] == "2026-05-31T03:00:00Z"
    assert operator.snapshot() == before


@pytest.mark.parametrize(
    "time",
    ["tomorrow", "2026-05-01", "2026-05-01T03:00:00", "+", "+3 fortnights", "+9999999d", "", "2026-05-01T02:59:59Z"],
)
def test_a_time_that_is_none_is_refused(time: str, operator: Operator) -> None:
    told = operator.does("plan", "--at", time)
    assert told.exit_code == 2
    assert "Traceback" not in told.output


def test_times_and_durations_name_the_same_moment() -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    assert moment("+1h30m", now) == moment("2026-05-01T01:30:00Z", now) == moment("2026-05-01T03:30+02:00", now)


def test_status_says_what_is_due_where_it_is_about_no_key(operator: Operator) -> None:
    operator.started()
    assert "due now" not in operator.does("status").stdout
    (operator.home / "public" / DOCUMENT.format("acme")).write_text("{", encoding="utf-8")
    assert "acme: due now: unpublish ES256: " in operator.does("status").stdout
    assert operator.does("tick").exit_code == 0
    assert "due now" not in operator.does("status").stdout


def test_status_reminds_of_an_algorithm_that_left_the_configuration(operator: Operator) -> None:
    operator.configure(algorithms=["ES256", "EdDSA"])
    operator.started()
    told = "acme: EdDSA is not configured any more: its keys stay as they are until 'rotator retire acme --alg EdDSA'"
    assert told not in operator.does("status").stdout
    operator.configure(algorithms=["ES256"])
    assert told in operator.does("status").stdout
    operator.does("retire", "acme", "--alg", "EdDSA")
    assert told not in operator.does("status").stdout


def test_a_tick_that_waits_for_no_time_says_so(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    operator.started()
    look = Engine.look(app.engines(Configuration.load(operator.file))["acme"])
    waits = (Wait("promote", "the clock is wrong", alg="ES256", kid="k"),)
    stuck = replace(look, plan=replace(look.plan, waits=waits))
    monkeypatch.setattr(Engine, "tick", lambda _: stuck)
    done = operator.does("tick")
    assert "acme: nothing to do; next: when something outside changes\n" in done.stdout
    assert "acme: promote waits: the clock is wrong" in done.stderr


def test_every_error_names_its_key_set(operator: Operator) -> None:
    operator.started()
    (operator.home / "keys").chmod(0o755)
    for words in (("tick",), ("status",), ("plan",), ("rotate", "acme"), ("drop", "acme", "nobody")):
        told = operator.does(*words)
        assert told.exit_code == 2
        assert told.stderr.startswith("Error: Key set acme: /"), words
        assert "chmod 700" in told.stderr


def test_plan_shows_a_key_set_that_cannot_be_planned_beside_the_others(operator: Operator) -> None:
    operator.configure("acme", "globex")
    operator.does("init", "globex")
    shown = operator.does("plan")
    assert shown.exit_code == 3
    assert (
        shown.stdout
        == "acme\n  cannot be planned: see the error below\nglobex\n  do     intend ES256: no key signs yet\n"
    )
    assert "rotator init" in shown.stderr


def test_plan_and_status_name_the_foreign_keys_and_the_waits_without_an_end(operator: Operator) -> None:
    operator.started()
    operator.add_foreign("legacy-2019")
    operator.does("tick")
    told = "foreign keys in jwks: legacy-2019. They are kept beside ours; 'rotator drop acme KID' removes one."
    assert told in operator.does("plan").stdout
    assert told in operator.does("status").stdout
    assert operator.reads("plan")["foreign"] == {"jwks": ["legacy-2019"]}


# -- requests --------------------------------------------------------------------------------------------------------


def test_rotate_refuses_while_caches_may_lack_the_next_key_and_says_until_when(operator: Operator) -> None:
    operator.started()
    before = operator.snapshot()
    told = operator.does("rotate", "acme")
    assert told.exit_code == 3
    assert "until 2026-05-02 04:07:00Z (in 1d1h7m). Nothing was changed." in told.stderr
    assert operator.snapshot() == before


def test_rotate_promotes_the_next_key_of_each_algorithm_once_the_gate_is_open(operator: Operator) -> None:
    operator.configure(algorithms=["ES256", "EdDSA"])
    operator.started()
    operator.wait(days=2)
    heirs = {key["kid"] for key in operator.reads("status")["keys"] if key["stage"] == "next"}
    done = operator.does("rotate", "acme")
    assert done.exit_code == 0, done.output
    assert "promote, activate" in done.stdout
    assert {key["kid"] for key in operator.reads("status")["keys"] if key["stage"] == "current"} == heirs


def test_rotate_of_one_algorithm_leaves_the_other_alone(operator: Operator) -> None:
    operator.configure(algorithms=["ES256", "EdDSA"])
    operator.started()
    operator.wait(days=2)
    assert operator.does("rotate", "acme", "--alg", "EdDSA").exit_code == 0
    stages = [(key["alg"], key["stage"]) for key in operator.reads("status")["keys"]]
    assert ("EdDSA", "previous") in stages
    assert ("ES256", "previous") not in stages
    assert operator.does("rotate", "acme", "--alg", "RS999").exit_code == 3


def test_retire_ends_an_algorithm_that_left_the_configuration(operator: Operator) -> None:
    operator.configure(algorithms=["ES256", "EdDSA"])
    operator.started()
    told = operator.does("retire", "acme", "--alg", "EdDSA")
    assert told.exit_code == 3
    assert "the configuration still names it" in told.stderr
    operator.configure(algorithms=["ES256"])
    done = operator.does("retire", "acme", "--alg", "EdDSA")
    assert done.exit_code == 0
    assert "end-succession" in done.stdout
    assert ("EdDSA", "previous") in [(key["alg"], key["stage"]) for key in operator.reads("status")["keys"]]


def test_retire_asks_before_issuers_are_left_without_a_key(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    operator.configure(algorithms=["RS256"])
    operator.started()
    operator.configure(algorithms=["ES256"])
    operator.does("tick")
    told = operator.does("retire", "acme", "--alg", "RS256")
    assert told.exit_code == 3
    assert told.stdout == (
        "acme: only RS256 signs. Once it is retired, issuers have no key until a key for ES256 signs, not before"
        " 2026-05-02 04:07:00Z. Better wait until 'rotator status acme' shows one as current.\n"
    )
    assert "Say --yes to retire without a question." in told.stderr
    monkeypatch.setattr(output, "can_ask", lambda: True)
    assert operator.does("retire", "acme", "--alg", "RS256", answers="n\n").exit_code == 3
    assert operator.reads("status")["keys"][0]["stage"] == "current"
    done = operator.does("retire", "acme", "--alg", "RS256", answers="y\n")
    assert done.exit_code == 0
    assert "end-succession" in done.stdout
    again = operator.does("retire", "acme", "--alg", "RS256")
    assert "only RS256 signs" not in again.stdout


def test_retire_with_yes_asks_nothing(operator: Operator) -> None:
    operator.configure(algorithms=["RS256"])
    operator.started()
    operator.configure(algorithms=["ES256"])
    done = operator.does("retire", "acme", "--alg", "RS256", "--yes")
    assert done.exit_code == 0
    assert "only RS256 signs" in done.stdout
    assert "end-succession" in done.stdout


def test_retire_asks_nothing_where_another_algorithm_signs(operator: Operator) -> None:
    operator.configure(algorithms=["RS256"])
    operator.started()
    operator.configure(algorithms=["RS256", "ES256"])
    operator.does("tick")
    operator.wait(days=2)
    operator.does("tick")
    operator.configure(algorithms=["ES256"])
    assert "only RS256" not in operator.does("retire", "acme", "--alg", "RS256").stdout
    assert [key["alg"] for key in operator.reads("status")["keys"] if key["stage"] == "current"] == ["ES256"]


def test_drop_removes_a_foreign_key_by_a_prefix_of_its_kid(operator: Operator) -> None:
    operator.started()
    operator.add_foreign("legacy-2019", "legacy-2020")
    operator.does("tick")
    assert "begins 2 of them" in operator.does("drop", "acme", "legacy").stderr
    assert operator.does("drop", "acme", "legacy-2019").exit_code == 0
    assert "legacy-2020" in operator.public()
    assert "legacy-2019" not in operator.public()


def test_a_foreign_kid_cannot_steer_the_terminal(operator: Operator) -> None:
    operator.started()
    operator.add_foreign("evil\x1b[2J\u202e")
    for words in (("tick",), ("status",), ("plan",), ("drop", "acme", "nobody")):
        said = operator.does(*words).output
        assert "evil" in said
        assert not {"\x1b", "\u202e"} & set(said)
    assert operator.does("drop", "acme", "evil\x1b[2J").exit_code == 0


def test_drop_of_a_key_that_is_not_foreign_changes_nothing(operator: Operator) -> None:
    operator.started()
    before = operator.snapshot()
    told = operator.does("drop", "acme", operator.keys()["current"])
    assert told.exit_code == 2
    assert "foreign keys: there are none" in told.stderr
    assert operator.snapshot() == before


def test_a_dry_run_of_a_revoke_tells_the_cost_and_changes_nothing(operator: Operator) -> None:
    operator.started()
    before = operator.snapshot()
    told = operator.does("revoke", "acme", operator.keys()["current"][:6], "--reason", "drill", "--dry-run")
    assert told.exit_code == 0
    assert "must log in again" in told.stdout
    assert "takes over at once, before its gate" in told.stdout
    assert operator.snapshot() == before


def test_a_revoke_asks_and_without_a_terminal_refuses(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    operator.started()
    before = operator.snapshot()
    kid = operator.keys()["current"]
    told = operator.does("revoke", "acme", kid, "--reason", "stolen")
    assert told.exit_code == 3
    assert "Say --yes" in told.stderr
    monkeypatch.setattr(output, "can_ask", lambda: True)
    declined = operator.does("revoke", "acme", kid, "--reason", "stolen", answers="n\n")
    assert declined.exit_code == 3
    assert "Nothing was changed." in declined.stderr
    assert operator.snapshot() == before
    done = operator.does("revoke", "acme", kid, "--reason", "stolen", answers="y\n")
    assert done.exit_code == 0, done.output


def test_a_revoke_is_seen_out_until_no_url_shows_the_key(operator: Operator) -> None:
    operator.started()
    keys = operator.keys()
    done = operator.does("revoke", "acme", keys["current"][:8], "--reason", "laptop stolen", "--yes")
    assert done.exit_code == 0, done.output
    assert f"acme: {keys['current']} is gone from every public URL." in done.stdout
    after = operator.reads("status")["keys"]
    assert [(key["stage"], key["kid"]) for key in after if key["kid"] in keys.values()] == [
        ("revoked", keys["current"]),
        ("current", keys["next"]),
    ]
    assert after[0]["revoke_reason"] == "laptop stolen"
    assert keys["current"] not in operator.public()
    assert keys["next"] in operator.public()
    again = operator.does("revoke", "acme", keys["current"], "--reason", "again", "--yes")
    assert again.exit_code == 0, "a second time changes nothing"


def hurry(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let the pauses of a revoke take no time; returns the seconds that seem to have passed."""
    seconds = [0.0]

    def sleep(pause: float) -> None:
        seconds[0] += pause

    monkeypatch.setattr(requests, "time", SimpleNamespace(monotonic=lambda: seconds[0], sleep=sleep))
    return seconds


def test_a_revoke_that_is_not_over_says_who_still_shows_the_key_and_until_when(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.started()
    monkeypatch.setattr(requests, "_is_gone", lambda *_: False)
    monkeypatch.setattr(requests, "_why", lambda *_: "https://cdn.example/jwks.json still shows it")
    clock = hurry(monkeypatch)
    told = operator.does("revoke", "acme", operator.keys()["current"], "--reason", "x", "--yes", "--wait", "1m")
    assert told.exit_code == 1
    assert clock == [60]
    assert "Looking again for 60 s; it is safe to stop (Ctrl-C)." in told.stdout
    assert (
        "https://cdn.example/jwks.json still shows it. A verifier may trust it until 2026-05-02 04:05:00Z"
        in told.stderr
    )


def test_a_revoke_that_the_cdn_was_not_told_of_says_that_the_key_is_gone_and_ends_with_1(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.started()
    hurry(monkeypatch)
    kid = operator.keys()["current"]

    class Deaf:
        def invalidate(self, paths: object, reference: str) -> None:
            raise StoreError("cloudfront:CreateInvalidation is throttled.")

    monkeypatch.setattr(app, "_cdn", lambda _: Deaf())
    told = operator.does("revoke", "acme", kid, "--reason", "x", "--yes", "--wait", "9s")
    assert told.exit_code == 1
    assert "throttled. Looking again for 9 s" in told.stdout
    assert f"acme: {kid} is gone from every public URL. A verifier that fetched it before" in told.stdout
    assert "may trust it until 2026-05-02 04:05:00Z" in told.stdout
    assert "Error: Key set acme: cloudfront:CreateInvalidation is throttled." in told.stderr
    monkeypatch.undo()
    monkeypatch.setattr(app, "now", lambda: operator.now)
    assert operator.does("revoke", "acme", kid, "--reason", "x", "--yes").exit_code == 0, "by any later tick"


def test_a_revoke_that_finds_no_ledger_any_more_is_not_called_over(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.started()
    hurry(monkeypatch)
    kid, revoke = operator.keys()["current"], Engine.revoke

    def and_lose(engine: Engine, *given: str) -> None:
        revoke(engine, *given)
        (operator.home / "ledger" / "acme" / "ledger.json").unlink()

    monkeypatch.setattr(Engine, "revoke", and_lose)
    told = operator.does("revoke", "acme", kid, "--reason", "x", "--yes", "--wait", "9s")
    assert told.exit_code == 1
    assert "is revoked, but it is not seen to be gone" in told.stderr
    assert "there is no ledger" in told.stderr


def test_a_revoke_after_which_nobody_signs_says_so_and_until_when(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.configure(max_creations_per_day=1)
    operator.started()
    hurry(monkeypatch)
    # The first key took the day's one, and its reserve makes another in an emergency.
    for n in range(2):
        kid = operator.keys()["current"]
        told = operator.does("revoke", "acme", kid, "--reason", "x", "--yes", "--wait", "9s")
        assert told.exit_code == n, told.output
        assert "No next key is in public: nothing signs until a new key is made" in told.stdout
        assert f"{kid} is gone from every public URL" in told.stdout
    assert "None can be made before 2026-05-02 03:00:00Z" in told.stdout
    says = "no ES256 key signs since a revoke: 2 creations are recorded within a day (max_creations_per_day) (until"
    assert f"Error: Key set acme: {says} 2026-05-02 03:00:00Z" in told.stderr
    assert f"acme: {says}" in operator.does("status").stdout
    assert operator.does("verify").exit_code == 1


def test_a_recorded_revoke_ends_with_1_whatever_the_tick_after_it_meets(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.started()
    hurry(monkeypatch)
    kid = operator.keys()["current"]
    (operator.home / "keys").rename(operator.home / "lost")
    told = operator.does("revoke", "acme", kid, "--reason", "x", "--yes", "--wait", "9s")
    assert told.exit_code == 1, "2 would say that nothing happened"
    assert kid not in operator.public()
    assert "Every further tick" in told.stderr


def test_a_key_revoked_long_ago_is_known(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    operator.started()
    hurry(monkeypatch)
    first = operator.keys()["current"]
    for _ in range(4):
        operator.wait(minutes=1)
        assert operator.does("revoke", "acme", operator.keys()["current"], "--reason", "x", "--yes").exit_code == 0
    before = operator.snapshot()
    again = operator.does("revoke", "acme", first, "--reason", "x", "--yes")
    assert again.exit_code == 0
    assert f"acme: {first} (ES256) was revoked and destroyed at" in again.stdout
    assert operator.snapshot() == before


def test_whoever_revokes_a_foreign_key_is_told_what_removes_it(operator: Operator) -> None:
    operator.started()
    operator.add_foreign("theirs")
    told = operator.does("revoke", "acme", "theirs", "--reason", "x", "--yes")
    assert told.exit_code == 2
    assert "leaves with 'rotator drop'" in told.stderr


def test_a_key_that_issuers_were_led_to_is_not_said_to_have_signed_nothing(operator: Operator) -> None:
    operator.started()
    pointer = operator.home / "keys" / "acme" / "ES256" / "pointer.json"
    old, keys = json.loads(pointer.read_text()), operator.keys()
    ledger = json.loads((operator.home / "ledger" / "acme" / "ledger.json").read_text())
    new = next(key["id"] for key in ledger["keys"] if key["kid"] == keys["next"])
    pointer.write_text(json.dumps(old | {"id": new, "kid": keys["next"], "key": f"{new}.pem"}, indent=1) + "\n")
    told = operator.does("revoke", "acme", keys["next"], "--dry-run")
    assert told.exit_code == 0
    assert "is rejected from now on" in told.stdout
    assert "never signed" not in told.stdout
    pointer.write_text("{")
    told = operator.does("revoke", "acme", keys["next"], "--dry-run")
    assert "The ES256 pointer cannot be read: it is counted as if it named this key." in told.stdout


def test_a_revoke_goes_on_after_a_tick_that_failed(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    operator.started()
    hurry(monkeypatch)
    tick, failures = Engine.tick, iter([StoreError("S3 is away")])

    def flaky(engine: Engine) -> Any:
        for failure in failures:
            raise failure
        return tick(engine)

    monkeypatch.setattr(Engine, "tick", flaky)
    done = operator.does("revoke", "acme", operator.keys()["current"], "--reason", "x", "--yes")
    assert done.exit_code == 0
    assert "acme: S3 is away. Looking again" in done.stdout


def test_a_revoke_that_the_ledger_does_not_take_says_that_the_key_is_trusted_still(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.started()
    kid = operator.keys()["current"]

    def full(*_: Any) -> str:
        raise StoreError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(FilesystemDocuments, "replace", full)
        told = operator.does("revoke", "acme", kid, "--reason", "drill", "--yes")
    assert told.exit_code == 1
    assert "no space left. The revoke may not be recorded" in told.stderr
    assert f"{kid} is trusted. Mend that and run the same command again." in told.stderr
    assert operator.does("revoke", "acme", kid, "--reason", "drill", "--yes").exit_code == 0


def test_a_revoke_is_begun_again_with_the_same_words(operator: Operator) -> None:
    operator.started()
    kid = operator.keys()["current"]
    words = ("revoke", "acme", kid[:8], "--reason", "x", "--yes")
    assert operator.does(*words).exit_code == 0
    before = operator.snapshot()
    again = operator.does(*words)
    assert again.exit_code == 0
    assert f"{kid} is gone from every public URL" in again.stdout
    assert operator.snapshot() == before


def test_output_that_cannot_be_written_is_no_bug(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("rotator.cli.output.table", full)
        told = operator.does("status")
    assert told.exit_code == 1
    assert told.stderr.endswith("Error: the output cannot be written: No space left on device.\n")


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_revoke_wants_a_reason(reason: str, operator: Operator) -> None:
    operator.started()
    before = operator.snapshot()
    told = operator.does("revoke", "acme", operator.keys()["current"], "--reason", reason, "--yes")
    assert told.exit_code == 2
    assert "--reason is empty" in told.stderr
    assert operator.snapshot() == before


@pytest.mark.parametrize("kid", ["", "a", "abcdef", "-abcdefg", "nobody\x1b[31m", "A" * 5000])
def test_a_kid_that_names_no_key_is_refused_and_changes_nothing(kid: str, operator: Operator) -> None:
    operator.started()
    before = operator.snapshot()
    told = operator.does("revoke", "acme", kid, "--reason", "x", "--yes")
    assert told.exit_code == 2
    assert "Nothing was changed" in told.stderr
    assert "\x1b" not in told.stderr
    assert len(told.stderr) < 1000
    assert operator.snapshot() == before


def test_kids_are_matched_whole_or_by_a_prefix_that_is_long_enough_and_alone() -> None:
    known = ["abcdef1", "abcdef2", "abcdef", "-dashed-kid"]
    assert requests.matched("abcdef", known, "keys") == "abcdef", "whole before prefix"
    assert requests.matched("abcdef1", known, "keys") == "abcdef1"
    assert requests.matched("-dashed", known, "keys") == "-dashed-kid"
    for kid in ("abcde", "bcdef1", "xyzxyz", ""):
        with pytest.raises(ConfigurationError):
            requests.matched(kid, known, "keys")
    with pytest.raises(ConfigurationError, match="begins 2 of them"):
        requests.matched("abcdef", ["abcdef1", "abcdef2"], "keys")


@pytest.mark.parametrize("wait", ["soon", "10", "-5m"])
def test_a_wait_that_is_no_duration_is_refused(wait: str, operator: Operator) -> None:
    operator.started()
    told = operator.does("revoke", "acme", operator.keys()["current"], "--reason", "x", "--yes", f"--wait={wait}")
    assert told.exit_code == 2
    assert "Not a duration" in told.stderr


# -- policy ----------------------------------------------------------------------------------------------------------


def test_policy_prints_the_proof_with_its_numbers(operator: Operator) -> None:
    shown = operator.does("policy")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[:5] == [
        "acme",
        "  staleness   1h5m      = cache_tiers 1 × (cache_max_age 5m + cache_stale 1h)",
        "  prepublish  1d1h7m    = staleness 1h5m + verifier_cache 1d + 2 × clock_skew 1m",
        "  retention   3h9m      = signer_lag 2h + token_lifetime 1h + verifier_leeway 5m + 4 × clock_skew 1m",
        "  Cache-Control: public, max-age=300, stale-while-revalidate=3600, stale-if-error=3600",
    ]
    assert "  ✓ lifetime > prepublish + 2 × interval" in shown.stdout
    told = operator.reads("policy", "acme")
    assert told["prepublish_seconds"] == 90420
    assert all(line["holds"] for line in told["inequalities"])


def test_policy_prints_the_refusal_with_its_numbers(operator: Operator) -> None:
    operator.configure(lifetime="1d", max_keys=2)
    shown = operator.does("policy")
    assert shown.exit_code == 3
    assert shown.stdout.count("✗") == 2
    assert "A key signs for 1d; its successor needs 1d1h7m in public" in shown.stdout
    assert "Nothing rotates with this policy" in shown.stderr
    told = operator.does("policy", "--json")
    assert told.exit_code == 3
    assert [line["holds"] for line in json.loads(told.stdout)["keysets"][0]["inequalities"]] == [False, False]


# -- when things go wrong --------------------------------------------------------------------------------------------


def test_a_bug_is_told_in_one_line_without_what_it_was_about(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Engine) -> None:
        raise KeyError("secret material")

    operator.started()
    monkeypatch.setattr(Engine, "tick", broken)
    told = operator.does("tick")
    assert told.exit_code == 1
    assert re.fullmatch(
        r"Error: rotator met a bug: KeyError at \S+:\d+\. Nothing is lost; please report it\."
        r" 'rotator --debug …' shows the traceback\.\n",
        told.stderr,
    )
    shown = CliRunner().invoke(commands, ["--config", str(operator.file), "--debug", "tick"])
    assert isinstance(shown.exception, KeyError)


def test_ctrl_c_ends_with_130(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Engine) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "tick", interrupted)
    told = operator.does("tick")
    assert told.exit_code == 130
    assert "safely" in told.stderr


def test_a_key_set_that_fails_elsewhere_keeps_its_order_and_its_error(operator: Operator) -> None:
    def call(engine: Engine) -> str:
        if engine.keyset.name == "b":
            raise RotatorError("b is broken")
        return engine.keyset.name.upper()

    operator.configure("c", "b", "a")
    engines = app.engines(Configuration.load(operator.file))
    done = fleet.each(engines, call, "test")
    assert list(done) == ["c", "b", "a"]
    assert (done["c"], str(done["b"]), done["a"]) == ("C", "b is broken", "A")


def test_long_work_shows_a_person_that_it_goes_on(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setattr(fleet, "_SHOW_AFTER", 0.01)
    monkeypatch.setenv("FORCE_COLOR", "1")
    operator.configure("acme", "globex")
    engines = app.engines(Configuration.load(operator.file))
    assert fleet.each(engines, lambda _: time.sleep(0.3), "making keys") == {"acme": None, "globex": None}
    said = capfd.readouterr()
    assert "making keys" in said.err
    assert said.out == ""


def test_no_command_prints_key_material(operator: Operator) -> None:
    operator.configure(algorithms=["ES256", "EdDSA"])
    said = [operator.does(*words).output for words in (("init",), ("tick",), ("status",), ("status", "--json"))]
    operator.wait(days=2)
    kid = operator.keys()["current"]
    said += [
        operator.does(*words).output
        for words in (
            ("plan",),
            ("plan", "--json"),
            ("rotate", "acme"),
            ("revoke", "acme", kid, "--reason", "x", "--yes"),
            ("tick", "--json"),
            ("policy",),
        )
    ]
    pems = [file.read_text("ascii") for file in (operator.home / "keys").rglob("*.pem*")]
    assert pems
    lines = [line for pem in pems for line in pem.splitlines() if "-----" not in line]
    assert not [line for line in lines for text in said if line in text]
    assert not [text for text in said if "PRIVATE" in text or '"d"' in text]


# -- on a terminal ---------------------------------------------------------------------------------------------------


def on_a_terminal(*words: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """What a person sees who runs ``rotator``."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "rotator", *words]
    process = subprocess.Popen(
        command,
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "120", **(env or {})},
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other end was closed
            break
        if not chunk:
            break
        seen += chunk
    os.close(ours)
    assert process.wait(20) == 0, seen
    return seen.decode()


def test_a_person_sees_steps_in_words_and_colours_and_tables(operator: Operator) -> None:
    operator.now = datetime.now(UTC)
    operator.does("init")
    seen = on_a_terminal("--config", str(operator.file), "tick", cwd=operator.home)
    assert re.search(r"acme +\x1b\[1;32mactivate +\x1b\[0m  ES256 \S{8}  \x1b\[1;32m→ current *\x1b\[0m", seen)
    assert "{" not in seen, "no JSON for people"
    table = on_a_terminal("--config", str(operator.file), "status", cwd=operator.home)
    assert "\x1b[1;32mcurrent\x1b[0m" in table
    plain = on_a_terminal("--config", str(operator.file), "status", cwd=operator.home, env={"NO_COLOR": "1"})
    assert "\x1b[1;32m" not in plain


def test_status_shows_the_keys_of_the_ledger_while_the_public_documents_cannot_be_read(tmp_path: Path) -> None:
    config = tmp_path / "rotator.toml"
    config.write_text(
        "\n".join(f'{name} = "file://{tmp_path}/{name}"' for name in ("keys", "ledger", "public")).join(
            ("[stores]\n", '\n[policy]\nalgorithms = ["ES256"]\n[[keysets]]\nname = "acme"\n')
        )
    )
    for command in ("init", "tick"):
        assert CliRunner().invoke(commands, ["--config", str(config), command]).exit_code == 0
    document = tmp_path / "public/acme/.well-known/jwks.json"
    document.unlink()
    document.mkdir()
    shown = CliRunner().invoke(commands, ["--config", str(config), "status"])
    assert shown.exit_code != 0
    assert "current" in shown.output
    assert "see the error below" in shown.output
