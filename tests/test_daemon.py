"""The daemon: its schedule in slices of a second, its small web server, and the real process under real signals."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest
from typer.testing import CliRunner

from rotator import daemon
from rotator.cli import app as commands
from rotator.daemon import Daemon, Standing, next_tick, retry_in, standings
from rotator.documents.filesystem import FilesystemDocuments
from rotator.engine import Outcome, Report
from rotator.errors import ConfigurationError, StoreError
from rotator.keys.keyring import Key, Keyring
from rotator.keys.plan import Plan, Wait
from rotator.logs import Log
from rotator.metrics import Metrics
from rotator.ports import Headers, Reading
from rotator.serve import Server, Site, plainly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from rotator.engine import Engine

NOW = datetime(2026, 5, 1, 3, tzinfo=UTC)
KID = "kA8fQ2xyZr0N3s1V5tB7uD9wE2mC4jL6hG8iK0oPqRs"


def ended(at: datetime = NOW, due: datetime | None = None, name: str = "acme") -> Outcome:
    """A tick that went well, after which time makes something due."""
    key = Key("id", "ES256", NOW, "n", NOW, created_at=NOW, kid=KID, published_at=NOW, activated_at=NOW)
    waits = (Wait("promote", "the current key signs", due),) if due else ()
    return Outcome(Keyring(name, "ledger", NOW, keys=(key,)), Plan(None, waits), at)


# -- the schedule ----------------------------------------------------------------------------------------------------


def test_the_next_tick_is_at_the_due_moment_or_after_the_interval() -> None:
    minute = timedelta(minutes=1)
    soon, late = NOW + timedelta(seconds=7), NOW + timedelta(days=1)
    assert next_tick(ended(due=soon), NOW, minute) == soon
    assert next_tick(ended(due=late), NOW, minute) == NOW + minute
    assert next_tick(ended(), NOW, minute) == NOW + minute
    assert next_tick(ended(due=NOW), NOW, minute) == NOW + minute, "what was due and not done waits for something else"
    passed = NOW + timedelta(seconds=9)
    assert next_tick(ended(due=soon), passed, minute) == soon < passed, "due while the tick still ran: at once"


def test_retries_double_and_stay_bounded() -> None:
    minute, second = timedelta(minutes=1), timedelta(seconds=1)
    first = [retry_in(1, minute) for _ in range(50)]
    assert all(0.75 * second <= delay <= second for delay in first)
    assert len(set(first)) > 1, "no two key sets in step"
    assert 3 * second <= retry_in(3, minute) <= 4 * second
    assert all(retry_in(n, minute) <= timedelta(minutes=5) for n in (9, 50, 10**9))
    assert retry_in(10**9, second) <= 5 * second, "a short policy is not kept waiting"
    assert retry_in(10**9, timedelta(hours=6)) <= timedelta(minutes=5)


class Fake:
    """An engine whose tick is a function."""

    def __init__(self, tick: Callable[[], Outcome]) -> None:
        self.tick = tick


class Watched:
    """A daemon over fakes, and what it said."""

    def __init__(self, interval: float = 60, **ticks: Callable[[], Outcome]) -> None:
        self.said: list[tuple[str, str, Mapping[str, Any]]] = []
        self.offset = timedelta(0)
        engines = cast("dict[str, Engine]", {name: Fake(tick) for name, tick in ticks.items()})
        self.daemon = Daemon(
            engines,
            standings(tuple(ticks)),
            interval=timedelta(seconds=interval),
            clock=lambda: datetime.now(UTC) + self.offset,
            say=lambda level, event, **facts: self.said.append((level, event, facts)),
        )

    def events(self, name: str | None = None) -> list[str]:
        return [event for _, event, facts in self.said if name is None or facts.get("keyset") == name]


def until(true: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_it_wakes_at_the_due_moment_long_before_the_interval() -> None:
    at: list[datetime] = []

    def tick() -> Outcome:
        at.append(datetime.now(UTC))
        return ended(at[-1], at[-1] + timedelta(seconds=0.2))

    watched = Watched(acme=tick)
    watched.daemon.start()
    until(lambda: len(at) >= 3)
    assert watched.daemon.stop() == []
    assert all(timedelta(seconds=0.2) <= b - a < timedelta(seconds=2) for a, b in pairwise(at))


def test_a_failing_key_set_is_tried_again_with_growing_pauses_and_stops_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(daemon, "RETRY_FIRST", timedelta(seconds=0.05))
    tries: list[float] = []
    good: list[float] = []

    def flaky() -> Outcome:
        tries.append(time.monotonic())
        if len(tries) < 4:
            raise StoreError("S3 is away")
        return ended()

    def fine() -> Outcome:
        good.append(time.monotonic())
        return ended()

    watched = Watched(0.1, acme=flaky, globex=fine)
    watched.daemon.start()
    until(lambda: "recovered" in watched.events("acme"))
    watched.daemon.stop()
    pauses = [b - a for a, b in pairwise(tries)]
    assert pauses[2] > pauses[0]
    assert watched.events("acme") == ["failed", "failed", "failed", "recovered"]
    assert watched.said[0][2]["error"] == "S3 is away"
    assert len(good) >= 3
    standing = watched.daemon.standings["acme"]
    assert standing.failures == {"StoreError": 3}
    assert standing.error is None


def test_a_bug_ends_no_daemon_and_is_logged_without_what_it_was_about() -> None:
    def broken() -> Outcome:
        raise KeyError("secret material")

    watched = Watched(acme=broken)
    watched.daemon.start()
    until(lambda: len(watched.events("acme")) >= 2)
    watched.daemon.stop()
    error = watched.said[0][2]["error"]
    assert error.startswith("rotator met a bug: KeyError at ")
    assert "secret" not in error


def test_a_stop_waits_for_a_running_step_but_not_for_ever_and_begins_nothing_new() -> None:
    begun, go_on = threading.Event(), threading.Event()
    second: list[int] = []

    def slow() -> Outcome:
        begun.set()
        go_on.wait(20)
        return ended()

    def never() -> Outcome:
        second.append(1)
        return ended()

    watched = Watched(acme=slow, globex=never)
    # One worker: the second key set waits in the queue when the stop comes.
    watched.daemon = Daemon(
        cast("dict[str, Engine]", {"acme": Fake(slow), "globex": Fake(never)}),
        standings(("acme", "globex")),
        interval=timedelta(seconds=60),
        clock=lambda: datetime.now(UTC),
        say=lambda *_, **__: None,
        workers=1,
    )
    watched.daemon.start()
    begun.wait(10)
    assert watched.daemon.stop(grace=0.1) == ["acme"]
    go_on.set()
    assert watched.daemon.stop(grace=10) == []
    time.sleep(0.1)
    assert second == []


def test_when_somebody_sets_the_clock_every_key_set_ticks_at_once() -> None:
    ticks: list[int] = []

    def tick() -> Outcome:
        ticks.append(1)
        return ended()

    watched = Watched(3600, acme=tick)

    def asked(_: float) -> str | None:
        until(lambda: ticks and not watched.daemon._running)
        if watched.offset:
            until(lambda: len(ticks) >= 2)
            return "SIGTERM"
        watched.offset = timedelta(hours=-5)
        return None

    assert watched.daemon.run(asked) == []
    assert watched.events() == ["clock-set", "stopping"]


def test_health_tells_who_is_stuck_and_who_is_not_ready() -> None:
    watched = Watched(acme=ended, globex=ended)
    assert watched.daemon.unready() == ["acme", "globex"]
    watched.daemon.standings["acme"].did(ended())
    assert watched.daemon.unready() == ["globex"]
    assert watched.daemon.stuck() == []
    watched.daemon.standings["globex"].stirred -= 3600
    assert watched.daemon.stuck() == ["globex"]
    watched.daemon.standings["globex"].heard(Report("globex", "create", "r", NOW))
    assert watched.daemon.stuck() == [], "a step is a sign of life"


def test_signals_are_answers_and_the_old_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with daemon.signals() as asked:
        assert asked(0.01) is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked(5) == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


# -- metrics and log -------------------------------------------------------------------------------------------------


def test_metrics_tell_ticks_steps_failures_keys_and_the_next_change() -> None:
    standing = Standing("acme", time.monotonic())
    standing.heard(Report("acme", "activate", "r", NOW))
    standing.heard(Report("acme", "invalidate", "r", NOW, level="warning"))
    standing.did(ended(due=NOW + timedelta(seconds=60)))
    standing.failed(StoreError("x"), "x")
    scrape = Metrics({"acme": standing, "globex": Standing("globex", 0)}).exposition().decode()
    for line in (
        'rotator_ticks_total{keyset="acme",result="ok"} 1.0',
        'rotator_ticks_total{keyset="acme",result="failed"} 1.0',
        'rotator_steps_total{keyset="acme",step="activate"} 1.0',
        'rotator_failures_total{keyset="acme",kind="StoreError"} 1.0',
        'rotator_failed_ticks_in_a_row{keyset="acme"} 1.0',
        'rotator_keys{keyset="acme",stage="current"} 1.0',
        'rotator_keys{keyset="acme",stage="revoked"} 0.0',
        f'rotator_next_change_timestamp_seconds{{keyset="acme"}} {NOW.timestamp() + 60:.10g}'.replace("+09", "e+09"),
        'rotator_foreign_keys{keyset="acme"} 0.0',
        'rotator_clock_fault{keyset="acme"} 0.0',
    ):
        name, value = line.rsplit(" ", 1)
        found = re.search(re.escape(name) + r" (\S+)", scrape)
        assert found, name
        assert "timestamp" in name or found[1] == value, line
    assert re.search(r'rotator_seconds_since_success\{keyset="acme"\} 0\.\d+', scrape)
    assert 'since_success{keyset="globex"}' not in scrape, "never is not 0 seconds ago"
    assert "invalidate" not in scrape
    assert KID not in scrape


def test_a_step_is_one_json_line_for_programs_and_one_in_words_for_people() -> None:
    step = Report("acme", "activate", f"it replaces {KID}", NOW, 0.0123, "ES256", KID)
    stream = io.StringIO()
    Log(stream).step(step)
    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "step",
        "level": "info",
        "keyset": "acme",
        "step": "activate",
        "alg": "ES256",
        "kid": KID,
        "reason": f"it replaces {KID}",
        "seconds": 0.012,
    }
    stream = io.StringIO()
    log = Log(stream, words=True)
    log.step(step)
    log.say("error", "failed", keyset="acme", error="S3 is away", again="in 2s")
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\dZ  acme        activate         ES256 kA8fQ2xy  → current   it replaces kA8fQ2xy…", first
    )
    assert second.endswith("S3 is away  again=in 2s")


def test_a_log_that_nobody_reads_any_more_stops_nothing() -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    Log(Gone()).say("info", "started")


# -- the web server --------------------------------------------------------------------------------------------------

PATH = "acme/.well-known/jwks.json"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    tmp_path = tmp_path_factory.mktemp("served")
    store = FilesystemDocuments(tmp_path)
    store.create(PATH, b'{"keys":[]}', Headers("application/jwk-set+json", "public, max-age=300"))
    (tmp_path / "secret.pem").write_text("key")
    pages = {"/healthz": lambda: plainly(HTTPStatus.OK, "ok")}
    server = Server(Site(store, [("acme", PATH), ("new", "new/jwks.json")], pages), "127.0.0.1", 0)
    with httpx.Client(base_url=server.url) as client:
        yield client
    server.close()


def test_a_document_is_served_with_the_headers_that_s3_would_send(served: httpx.Client) -> None:
    got = served.get(PATH)
    assert (got.status_code, got.content) == (200, b'{"keys":[]}')
    assert got.headers["content-type"] == "application/jwk-set+json"
    assert got.headers["cache-control"] == "public, max-age=300"
    assert got.headers["content-length"] == "11"
    assert got.headers["access-control-allow-origin"] == "*"
    assert re.fullmatch(r'"[0-9a-f]{64}"', got.headers["etag"])
    assert got.headers["date"].endswith("GMT")
    head = served.head(PATH)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == got.headers["etag"]
    assert head.headers["content-length"] == "11"


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
def test_who_has_the_document_already_gets_304(form: str, served: httpx.Client) -> None:
    etag = served.get(PATH).headers["etag"]
    got = served.get(PATH, headers={"If-None-Match": form.format(etag)})
    assert (got.status_code, got.content) == (304, b"")
    assert got.headers["etag"] == etag
    assert got.headers["cache-control"] == "public, max-age=300"
    assert served.get(PATH, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "target",
    [
        "/secret.pem",
        "/acme/.well-known/.jwks.json.headers.json",
        "/acme/.well-known/.lock",
        "/acme/.well-known/",
        "/acme",
        "/../secret.pem",
        "/acme/%2e%2e/secret.pem",
        "/acme/.well-known/..%2f..%2fsecret.pem",
        "/acme/.well-known/jwks.json/",
        "//etc/passwd",
        "/%00",
    ],
)
def test_nothing_else_can_be_reached(target: str, served: httpx.Client) -> None:
    # By hand: clients tidy such paths up before they send them.
    with socket.create_connection((served.base_url.host, served.base_url.port or 80)) as raw:
        raw.sendall(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        answer = raw.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 404"), answer
    assert b"Cache-Control: no-store" in answer


def test_the_front_page_links_the_documents_and_a_missing_one_is_never_cached(served: httpx.Client) -> None:
    page = served.get("/")
    assert f'<a href="/{PATH}">' in page.text
    assert '<a href="/healthz">' in page.text
    missing = served.get("/new/jwks.json")
    assert missing.status_code == 404
    assert missing.headers["cache-control"] == "no-store"
    assert served.get("/healthz").text == "ok\n"
    assert served.get(f"{PATH}?x=1").status_code == 200
    assert served.post("/").status_code == 501


def test_a_store_that_fails_is_no_missing_document(tmp_path: Path) -> None:
    class Failing(FilesystemDocuments):
        def read(self, path: str) -> Reading:
            raise StoreError(f"cannot read {path}")

    site = Site(Failing(tmp_path), [("acme", PATH)])
    assert site.answer(f"/{PATH}").status == 503


def test_an_address_that_cannot_be_used_is_told_with_its_port() -> None:
    server = Server(Site(), "127.0.0.1", 0)
    with pytest.raises(ConfigurationError, match=rf"Port {server.port} on 127.0.0.1 is taken .* --port"):
        Server(Site(), "127.0.0.1", server.port)
    server.close()
    for host in ("192.0.2.1", "no.such.host.invalid"):
        with pytest.raises(ConfigurationError, match=host):
            Server(Site(), host, 0)


# -- the real process ------------------------------------------------------------------------------------------------

#: A whole life of keys in three seconds.
SECONDS = """
[stores]
keys = "{home}/keys"
ledger = "{home}/ledger"
public = "{home}/public"
[policy]
algorithms = ["ES256"]
lifetime = "2s"
token_lifetime = "0.3s"
signer_lag = "0.1s"
cache_max_age = "1s"
cache_stale = "0s"
verifier_cache = "0.1s"
verifier_leeway = "0.1s"
clock_skew = "0s"
[schedule]
interval = "0.2s"
[server]
port = {port}
[[keysets]]
name = "acme"
[[keysets]]
name = "globex"
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(*words: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "rotator", *words]
    with (
        (cwd / "log").open("a") as log,
        subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def kids(client: httpx.Client) -> list[str]:
    try:
        got = client.get(PATH)
    except httpx.TransportError:
        return []
    return [key["kid"] for key in got.json()["keys"]] if got.status_code == 200 else []


def log_of(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "log").read_text().splitlines()]


def test_a_real_daemon_rotates_serves_survives_a_kill_and_stops_when_told(tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "rotator.toml"
    file.write_text(SECONDS.format(home=tmp_path.as_uri(), port=port))
    assert CliRunner().invoke(commands, ["-c", str(file), "init", "acme"]).exit_code == 0
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        with running("-c", str(file), "run", cwd=tmp_path) as process:
            until(lambda: len(kids(client)) >= 2)
            first = kids(client)
            got = client.get(PATH)
            assert got.headers["cache-control"].startswith("public, max-age=1, stale-while-revalidate=0")
            assert client.get(PATH, headers={"If-None-Match": got.headers["etag"]}).status_code in {304, 200}
            until(lambda: first[0] not in kids(client))
            assert first[1] in kids(client)
            scrape = client.get("/metrics").text
            assert re.search(r'rotator_steps_total\{keyset="acme",step="withdraw"\} \d', scrape)
            # globex was never initialised: it fails alone, and says so.
            assert re.search(r'rotator_failures_total\{keyset="globex",kind="Refused"\} \d', scrape)
            ready = client.get("/readyz")
            assert (ready.status_code, ready.text) == (503, "no good tick yet: globex\n")
            assert client.get("/healthz").status_code == 200
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        with running("-c", str(file), "run", cwd=tmp_path) as process:
            until(lambda: kids(client))
            second = kids(client)
            until(lambda: second[0] not in kids(client))
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert time.monotonic() - begun < 5
    said = log_of(tmp_path)
    assert {"started", "step", "failed", "stopping", "stopped"} <= {line["event"] for line in said}
    assert not [line for line in said if line["event"] == "failed" and line["keyset"] == "acme"]


def test_without_a_configuration_it_makes_one_and_says_where_everything_is(tmp_path: Path) -> None:
    port = free_port()
    with running("run", "--port", str(port), cwd=tmp_path) as process:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            until(lambda: client_gets(client, "/readyz"), 20)
            assert len(client.get("default/.well-known/jwks.json").json()["keys"]) == 2
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=10)
        assert process.returncode == 0
    assert f"JWKS URL   http://127.0.0.1:{port}/default/.well-known/jwks.json" in said
    assert f"JWKS file  {tmp_path}/rotator-data/public/default/.well-known/jwks.json" in said
    assert "rotator status" in said
    shown = subprocess.run(
        [sys.executable, "-m", "rotator", "status"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert " current " in shown.stdout


def test_without_a_configuration_any_free_port_will_do(tmp_path: Path) -> None:
    with socket.socket() as other:
        with suppress(OSError):
            # Where somebody else has it already, that is as good.
            other.bind(("127.0.0.1", 8765))
            other.listen()
        with running("run", cwd=tmp_path) as process:
            assert process.stdout
            line = next(line for line in process.stdout if "JWKS URL" in line)
            process.terminate()
            assert process.wait(10) == 0
    assert re.search(r"http://127\.0\.0\.1:(?!8765/)\d+/default/", line)


def client_gets(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx.TransportError:
        return False


def test_a_port_that_is_taken_is_a_clear_error(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        told = CliRunner().invoke(commands, ["run", "--dir", str(tmp_path / "data"), "--port", str(port)])
    assert told.exit_code == 2
    assert f"Port {port} on 127.0.0.1 is taken" in told.stderr
    assert "--port" in told.stderr


@pytest.mark.parametrize("option", [["--demo"], ["--dir", "x"]])
def test_what_needs_no_configuration_never_touches_a_configured_store(option: list[str], tmp_path: Path) -> None:
    file = tmp_path / "rotator.toml"
    file.write_text(SECONDS.format(home=tmp_path.as_uri(), port=0))
    told = CliRunner().invoke(commands, ["-c", str(file), "run", *option])
    assert told.exit_code == 2
    assert "there is a configuration" in told.stderr
    by_env = CliRunner().invoke(commands, ["run", *option], env={"ROTATOR_STORES__KEYS": "kms://acme"})
    assert by_env.exit_code == 2
    assert "there is a configuration" in by_env.stderr
    assert list(tmp_path.iterdir()) == [file]


def test_a_directory_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = CliRunner().invoke(commands, ["run", "--dir", str(tmp_path / "file" / "data")])
    assert told.exit_code == 2
    assert "Choose another directory with --dir" in told.stderr


@pytest.mark.slow
def test_a_step_that_hangs_is_abandoned_within_ten_seconds(tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "rotator.toml"
    file.write_text(SECONDS.format(home=tmp_path.as_uri(), port=port).replace('[[keysets]]\nname = "globex"\n', ""))
    CliRunner().invoke(commands, ["-c", str(file), "init"])
    with (
        running("-c", str(file), "run", cwd=tmp_path) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        until(lambda: client_gets(client, "/readyz"))
        with (tmp_path / "ledger" / "acme" / ".lock").open() as lock:
            # Whoever wants the ledger waits for this lock.
            fcntl.flock(lock, fcntl.LOCK_EX)
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
    assert log_of(tmp_path)[-2]["event"] == "abandoned"


@pytest.mark.slow
def test_a_person_at_a_terminal_sees_each_step_in_words_and_where_the_keys_stand(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "rotator", "run"]
    with subprocess.Popen(command, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while b"promote in" not in seen:
            seen += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    os.close(ours)
    words = re.sub(r"\x1b\[[\d;]*m", "", seen.decode())
    assert re.search(r"\d\dZ  default     activate         RS256 \S{8}  → current", words)
    assert re.search(r"keys +\S{8} current  \S{8} next  promote in 29d23h", words)
    assert "{" not in words


@pytest.mark.slow
def test_the_demo_shows_a_whole_life_of_keys_within_two_minutes(tmp_path: Path) -> None:
    with running("run", "--demo", "--dir", "demo", "--port", str(free_port()), cwd=tmp_path) as process:
        wanted = {"create", "note-published", "activate", "disable", "withdraw", "destroy"}
        until(lambda: wanted <= {line.get("step") for line in log_of(tmp_path)}, 120)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=10)
        assert process.returncode == 0
    assert "pending → next → current → previous → retired" in said
    assert "rotator --config demo/rotator.toml status" in said
