"""``rotator simulate``: what it lives through, what it prints, and that it can fail."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from rotator.cli import app
from rotator.errors import ConfigurationError
from rotator.keys.policy import KeySet, Policy, PublicDocument
from rotator.ports import Traits
from rotator.simulate.campaign import STRAYS, YEAR, Campaign, run, shortest, table, usual_years, world_span
from rotator.simulate.faults import FAULTS, chosen, listed
from rotator.simulate.gates import GATES, named, without
from rotator.simulate.schedule import Order, Result, simulate

if TYPE_CHECKING:
    from typer.testing import Result as Ended

ALL = frozenset(FAULTS)
SHORT = Policy(algorithms=("EdDSA",), lifetime=timedelta(days=4))
SLOW_VERIFIERS = Policy(
    algorithms=("EdDSA", "ES256"), lifetime=timedelta(days=6), verifier_cache=timedelta(days=3), cache_tiers=2
)
CAREFUL = Policy(
    algorithms=("ES256",),
    lifetime=timedelta(days=3),
    clock_skew=timedelta(minutes=10),
    signer_lag=timedelta(hours=8),
    token_lifetime=timedelta(hours=12),
)
BRIEF = Policy(
    algorithms=("EdDSA",),
    lifetime=timedelta(seconds=25),
    token_lifetime=timedelta(seconds=3),
    signer_lag=timedelta(seconds=1),
    cache_max_age=timedelta(seconds=1),
    cache_stale=timedelta(0),
    verifier_cache=timedelta(seconds=3),
    verifier_leeway=timedelta(seconds=1),
    clock_skew=timedelta(0),
    interval=timedelta(seconds=1),
)
ENVIRONMENT = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(Path(__file__).parents[1])}
ENVIRONMENT.pop("ROTATOR_CONFIG", None)
CONFIG = Path(__file__).parents[1] / "config"


def keyset(policy: Policy = SHORT, *documents: PublicDocument) -> KeySet:
    main = PublicDocument("jwks", "acme/jwks.json", ("https://issuer.example/jwks.json",))
    return KeySet("acme", policy, documents or (main,))


def lived(
    policy: Policy = SHORT,
    *documents: PublicDocument,
    seed: int = 0,
    days: float = 30,
    faults: frozenset[str] = ALL,
    workers: int = 3,
    traits: Traits | None = None,
) -> Result:
    order = Order(
        keyset(policy, *documents), seed, timedelta(days=days), faults, workers, Traits() if traits is None else traits
    )
    return simulate(order)


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "rotator.toml"
    path.write_text(
        f"""
        [stores]
        keys = "file://{tmp_path}/keys"
        ledger = "file://{tmp_path}/ledger"
        public = "file://{tmp_path}/public"
        [[keysets]]
        name = "shop"
        policy = {{ algorithms = ["EdDSA"], lifetime = "4d" }}
        [[keysets]]
        name = "bank"
        policy = {{ algorithms = ["ES256"], lifetime = "3d" }}
        """
    )
    return str(path)


def told(*words: str) -> Ended:
    return CliRunner().invoke(app, [*words, "--jobs", "1"])


def numbers(*words: str) -> Any:
    return json.loads(told(*words, "--json").stdout)["keysets"]


# -- the world ---------------------------------------------------------------------------------------------------------


def test_with_every_fault_no_token_is_rejected() -> None:
    survived(SHORT, Traits(), 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("policy", "traits"), [(SHORT, Traits()), (SHORT, STRAYS), (SLOW_VERIFIERS, Traits()), (CAREFUL, STRAYS)]
)
def test_with_every_fault_and_policy_no_token_is_rejected(policy: Policy, traits: Traits, seed: int) -> None:
    survived(policy, traits, seed)


def survived(policy: Policy, traits: Traits, seed: int) -> None:
    result = lived(policy, seed=seed, traits=traits)
    assert result.violation is None, result.story
    assert result.rejections == 0
    # A world may end after some days: whose ledger was restored, and written to, promises nothing any more.
    assert result.verified > 100
    assert result.rotations > 1


def test_with_a_view_for_old_verifiers_too() -> None:
    old = PublicDocument("old", "acme/jwks-es256.json", ("https://issuer.example/old.json",), frozenset({"ES256"}))
    main = PublicDocument("jwks", "acme/jwks.json", ("https://issuer.example/jwks.json",))
    assert lived(SLOW_VERIFIERS, main, old, days=15).violation is None


def test_without_faults_every_rotation_is_on_time() -> None:
    result = lived(faults=frozenset(), days=60)
    assert result.violation is None
    assert not result.faults
    # The first key and one for each lifetime that was over; nobody waits longer than a tick for one.
    assert result.rotations >= 15
    assert result.delay <= timedelta(days=1)


def test_one_worker_alone_lives_as_well() -> None:
    assert lived(workers=1, seed=4).violation is None


def test_a_seed_replays_everything() -> None:
    first, again, other = (lived(seed=seed, days=6) for seed in (7, 7, 8))
    assert (first.steps, first.verified, first.faults, first.ended) == (
        again.steps,
        again.verified,
        again.faults,
        again.ended,
    )
    assert (first.steps, first.verified) != (other.steps, other.verified)


def test_a_world_lives_in_proportion_to_a_key() -> None:
    assert world_span(Policy()) == timedelta(days=365)
    assert usual_years(Policy()) == 10
    assert usual_years(Policy(lifetime=timedelta(days=90))) == 10
    # The loss that takes longest to show with the default policy shows after 42.
    assert usual_years(Policy(), lacking=True) == 50
    assert world_span(BRIEF) < timedelta(minutes=6)
    assert usual_years(BRIEF) * YEAR < timedelta(hours=1)
    # Where tokens outlive keys, many keys wait for the end of theirs.
    assert world_span(Policy(lifetime=timedelta(days=3), token_lifetime=timedelta(days=15))) > timedelta(days=180)


@pytest.mark.parametrize("traits", [Traits(), STRAYS])
def test_keys_that_live_for_seconds_are_lived_through_in_seconds(traits: Traits) -> None:
    result = simulate(Order(keyset(BRIEF), 0, world_span(BRIEF), ALL, traits=traits))
    assert result.violation is None, result.story
    assert result.rotations > 5
    assert result.span < timedelta(days=1)
    assert result.steps < 20_000


def test_whoever_watches_may_end_a_world_early() -> None:
    whole = lived(days=20)
    seen: list[int] = []

    def watch(steps: int, age: timedelta) -> bool:
        seen.append(steps)
        return steps < 300

    result = simulate(Order(keyset(), 0, timedelta(days=20), ALL), watch)
    assert seen == sorted(seen)
    assert 300 <= result.steps < whole.steps
    assert result.violation is None


@pytest.mark.slow
def test_every_fault_happens() -> None:
    happened: set[str] = set()
    for seed in range(6):
        happened |= {fault for fault, times in lived(seed=seed, days=60).faults.items() if times}
    assert happened >= ALL - {"algorithms"}
    assert any(lived(SLOW_VERIFIERS, seed=seed, faults=frozenset({"algorithms"}), days=90).faults for seed in range(3))


@pytest.mark.parametrize("fault", FAULTS)
def test_only_the_faults_that_were_chosen_happen(fault: str) -> None:
    result = lived(faults=frozenset({fault}), seed=1, days=15)
    assert result.violation is None
    # Who finds a broken key revokes it.
    also = {"operator"} if fault == "key" else set()
    assert {name for name, times in result.faults.items() if times and name in FAULTS} <= {fault} | also


def test_what_a_person_may_choose() -> None:
    assert chosen("all") == ALL
    assert chosen("none") == frozenset()
    assert chosen(" lost, kill ") == {"lost", "kill"}
    assert listed(ALL) == "all"
    assert listed(()) == "none"
    assert listed({"kill", "lost"}) == "lost,kill"
    with pytest.raises(ConfigurationError, match="'meteor'"):
        chosen("lost,meteor")
    for mixed in ("all,lost", "lost,none", "all,none"):
        with pytest.raises(ConfigurationError, match="cannot stand beside"):
            chosen(mixed)
    for empty in ("", " , "):
        with pytest.raises(ConfigurationError, match="No fault is named"):
            chosen(empty)


# -- without a protection ----------------------------------------------------------------------------------------------


def test_a_protection_is_back_when_the_block_ends() -> None:
    for name in GATES:
        before = [getattr(target, attribute) for target, attribute, _ in named(name).patches()]
        with without(name) as gate:
            assert gate.name == name
        assert [getattr(target, attribute) for target, attribute, _ in named(name).patches()] == before
    with pytest.raises(ConfigurationError, match="'luck'"), without("luck"):
        pytest.fail("there is no such protection")


@pytest.mark.parametrize("gate", ["prepublish", "retention", "drift"])
def test_without_a_protection_the_world_breaks_and_a_replay_breaks_the_same(gate: str) -> None:
    order, best = broken_without(gate, seconds=0)
    assert order.span < timedelta(days=365)
    with without(gate):
        assert simulate(order).violation == best.violation
    assert simulate(order).violation is None


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["prepublish", "retention", "drift"])
def test_the_replay_gets_shorter(gate: str) -> None:
    order, best = broken_without(gate, seconds=60)
    assert len(order.faults) < len(ALL)
    with without(gate):
        assert simulate(order).violation == best.violation
    assert simulate(order).violation is None


def test_no_candidate_for_a_shorter_replay_outlives_the_time_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = Campaign(keyset(), years=2, gate="prepublish")
    broken = run(campaign).broken
    assert broken
    endless = Order(keyset(), broken.seed, timedelta(days=3_650), ALL)
    monkeypatch.setattr(Campaign, "orders", lambda _: iter((endless,)))
    broken.ended = broken.began + endless.span
    began = time.monotonic()
    shortest(campaign, broken, seconds=0.5)
    assert time.monotonic() - began < 5


def broken_without(gate: str, *, seconds: float) -> tuple[Order, Result]:
    campaign = Campaign(keyset(), years=2, faults=ALL, gate=gate)
    totals = run(campaign)
    assert totals.broken
    order, best = shortest(campaign, totals.broken, seconds)
    assert best.violation
    return order, best


@pytest.mark.slow
def test_the_loss_of_every_protection_is_noticed() -> None:
    rows = list(table(Campaign(keyset(), years=150 * world_span(SHORT) / YEAR)))
    assert [row.gate for row in rows] == list(GATES)
    assert [row.gate for row in rows if row.violation is None] == []


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_summary_and_the_picture(config: str) -> None:
    ended = told("--config", config, "simulate", "shop", "--years", "0.2", "--seed", "3")
    assert ended.exit_code == 0, ended.output
    assert "shop: 0.2 years of EdDSA, lifetime 4d, 3 workers, faults: all, seed 3" in ended.output
    said = dict(re.findall(r"^  ([a-z ]+?) {2,}(\S.*)$", ended.output, re.MULTILINE))
    assert said["rejections"] == "0"
    assert said["invariants"] == "all held"
    assert {"lived through", "steps", "rotations", "faults", "tokens verified", "latest rotation"} <= said.keys()
    lives = [line for line in ended.output.splitlines() if re.match(r"  (EdDSA|ES256) +\d+ ", line)]
    assert len(lives) > 3
    assert any("█" in line for line in lives)


def test_each_key_set_is_told_as_data(config: str) -> None:
    shop, bank = numbers("--config", config, "simulate", "--years", "0.1", "--faults", "none")
    assert (shop["name"], bank["name"]) == ("shop", "bank")
    assert shop["violation"] is None
    assert shop["rejections"] == 0
    assert shop["faults"] == {}
    assert shop["tokens_verified"] > 0
    assert shop["steps"] > 0


@pytest.mark.parametrize("file", sorted(CONFIG.glob("*.toml")), ids=lambda file: file.stem)
def test_every_example_of_a_configuration_can_be_lived_through(file: Path) -> None:
    ended = told("--config", str(file), "simulate", "--years", "0.001", "--faults", "lost,kill")
    assert ended.exit_code == 0, ended.output
    assert "all held" in ended.output


@pytest.mark.slow
def test_steps_instead_of_years(config: str) -> None:
    (shop,) = numbers("--config", config, "simulate", "shop", "--steps", "500")
    assert shop["steps"] >= 500


def test_with_no_configuration_the_default_policy_is_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = told("simulate", "--years", "0.1", "--faults", "none")
    assert ended.exit_code == 0, ended.output
    assert "the default policy is simulated" in ended.output
    assert "RS256, lifetime 30d" in ended.output
    assert [*tmp_path.iterdir()] == []
    assert told("simulate", "shop").exit_code == 2


def test_what_breaks_is_told_with_a_replay_that_breaks_the_same(config: str) -> None:
    ended = told("--config", config, "simulate", "shop", "--without", "prepublish", "--years", "0.5")
    assert ended.exit_code == 1
    assert "BROKEN" in ended.output
    assert "a cache may hold a copy without it" in ended.output
    replay = ended.output.split("Replay it with:")[1].strip()
    words = shlex.split(replay)
    assert words[0] == "rotator"
    again = told(*words[1:])
    assert again.exit_code == 1
    assert re.findall(r"BROKEN: .*", again.output) != []
    # With the protection the same world holds.
    assert told(*words[1 : words.index("--without")]).exit_code == 0


def test_the_replay_is_told_as_data_and_quotes_what_a_shell_would_take_apart(config: str, tmp_path: Path) -> None:
    odd = tmp_path / "it's mine; really" / "rotator.toml"
    odd.parent.mkdir()
    Path(config).rename(odd)
    ended = told("--config", str(odd), "simulate", "shop", "--without", "retention", "--json")
    assert ended.exit_code == 1
    (shop,) = json.loads(ended.stdout)["keysets"]
    program, *words = shlex.split(shop["replay"])
    assert program == "rotator"
    assert words[1] == str(odd)
    assert "BROKEN" in told(*words).output


def test_what_breaks_in_the_first_second_has_a_replay_too(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sudden = Order(keyset(), 0, timedelta(milliseconds=5), frozenset(), 1)
    monkeypatch.setattr("rotator.simulate.campaign.shortest", lambda _, broken: (sudden, broken))
    words = ("--config", config, "simulate", "shop", "--without", "retention", "--json")
    (shop,) = json.loads(told(*words).stdout)["keysets"]
    assert told(*shlex.split(shop["replay"])[1:]).exit_code in {0, 1}


def test_a_loss_that_nobody_noticed_yet_is_told_and_no_failure(config: str) -> None:
    words = ("--config", config, "simulate", "shop", "--without", "fence", "--years", "0.001")
    ended = told(*words)
    assert ended.exit_code == 0, ended.output
    assert "Nobody noticed yet that fence is missing" in ended.output
    (shop,) = numbers(*words)
    assert (shop["violation"], shop["replay"], shop["means_nothing"]) == (None, None, None)


@pytest.fixture
def trusting(config: str) -> str:
    """The configuration of who leaves nothing to clocks, stale copies and slow issuers."""
    path = Path(config)
    path.write_text(path.read_text() + '[policy]\nclock_skew = "0s"\ncache_stale = "0s"\nsigner_lag = "0s"\n')
    return config


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        ("skew", "clock_skew is 0s"),
        ("cache-stale", "cache_stale is 0s"),
        ("signer-lag", "signer_lag is 0s"),
        ("seen-in-public", "no document has a public_url"),
    ],
)
def test_to_take_away_what_the_policy_does_not_give_means_nothing(trusting: str, gate: str, reason: str) -> None:
    ended = told("--config", trusting, "simulate", "shop", "--without", gate)
    assert ended.exit_code == 0, ended.output
    assert f"{gate} means nothing here, as {reason}" in ended.output
    assert "Nobody noticed" not in ended.output
    (shop,) = numbers("--config", trusting, "simulate", "shop", "--without", gate)
    assert (shop["means_nothing"], shop["steps"]) == (reason, 0)


def test_the_table_says_which_protection_means_nothing(trusting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: GATES[name] for name in ("skew", "retention")}
    monkeypatch.setattr("rotator.simulate.campaign.GATES", few)
    ended = told("--config", trusting, "simulate", "shop", "--without", "all")
    assert ended.exit_code == 0, ended.output
    assert re.search(r"^skew +nothing: clock_skew is 0s", ended.output, re.MULTILINE)
    assert re.search(r"^retention +caught after", ended.output, re.MULTILINE)
    assert "NOT CAUGHT" not in ended.output


def test_the_table_lives_through_as_much_as_was_asked_for(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: GATES[name] for name in ("fence",)}
    monkeypatch.setattr("rotator.simulate.campaign.GATES", few)
    words = ("--config", config, "simulate", "shop", "--without", "all", "--workers", "1", "--json")
    for length in (("--years", "0.001"), ("--steps", "50")):
        ended = told(*words, *length)
        assert ended.exit_code == 1
        (row,) = json.loads(ended.stdout)["protections"]
        # One world at most.
        assert 0 < row["steps"] < 5_000


def test_all_protections_as_a_table(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: GATES[name] for name in ("prepublish", "retention")}
    monkeypatch.setattr("rotator.simulate.campaign.GATES", few)
    ended = told("--config", config, "simulate", "shop", "--without", "all")
    assert ended.exit_code == 0, ended.output
    assert re.search(r"^prepublish +caught after [\d,]+ steps +key \d+ signs at", ended.output, re.MULTILINE)
    rows = json.loads(told("--config", config, "simulate", "shop", "--without", "all", "--json").stdout)["protections"]
    assert [row["without"] for row in rows] == ["prepublish", "retention"]
    assert all(row["violation"] for row in rows)


def test_a_protection_whose_loss_nobody_notices_fails(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = type(GATES["prepublish"])("prepublish", "nothing", frozenset(), list)
    monkeypatch.setitem(GATES, "prepublish", idle)
    monkeypatch.setattr("rotator.simulate.campaign.GATES", {"prepublish": idle})
    monkeypatch.setattr("rotator.simulate.campaign._LIFETIMES", 1)
    ended = told("--config", config, "simulate", "shop", "--without", "all")
    assert ended.exit_code == 1
    assert "NOT CAUGHT" in ended.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--faults", "meteor"], "Unknown fault 'meteor'"),
        (["--without", "luck"], "no protection 'luck'"),
        (["--years", "nan"], "--years"),
        (["--years", "0"], "--years"),
        (["--years", "1e9"], "--years"),
        (["--without", ""], "no protection ''"),
        (["--without", "all", "--faults", "lost"], "leave --faults out"),
        (["--faults", ""], "No fault is named"),
        (["--faults", "none,lost"], "'none' cannot stand beside"),
        (["--faults", "all,lost"], "'all' cannot stand beside"),
        (["--workers", "0"], "--workers"),
        (["--steps", "-1"], "--steps"),
        (["nobody"], "nobody"),
    ],
)
def test_bad_input_is_told(config: str, words: list[str], said: str) -> None:
    ended = told("--config", config, "simulate", *words)
    assert ended.exit_code == 2, ended.output
    assert said in ended.output


def test_the_help_names_every_fault_and_every_protection() -> None:
    words = set(re.findall(r"[a-z][a-z-]+", re.sub(r"-\s+", "-", told("simulate", "--help").output)))
    assert words >= set(FAULTS)
    assert words >= set(GATES)


def test_more_jobs_than_anybody_has_are_refused(config: str) -> None:
    ended = CliRunner().invoke(app, ["--config", config, "simulate", "--jobs", "99999999999"])
    assert ended.exit_code == 2
    assert "--jobs" in ended.output


def test_several_processes_find_the_same_and_tell_how_far_they_are() -> None:
    campaign, seen = Campaign(keyset(BRIEF), years=2.2 * world_span(BRIEF) / YEAR, seed=5), [0]

    def progress(steps: int, _: timedelta) -> None:
        seen.append(steps)

    alone = run(campaign, progress=progress)
    assert alone.worlds > 1
    assert seen == sorted(seen)
    assert len(seen) > 50
    del seen[1:]
    together = run(campaign, jobs=2, progress=progress)
    assert (alone.steps, alone.verified, alone.faults) == (together.steps, together.verified, together.faults)
    assert seen == sorted(seen)
    assert seen[-1] == alone.steps


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------

# Whoever runs the tests in the background had them ignore it.
HEARING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
MAIN = "from rotator.__main__ import main; main()"
COMMAND = (sys.executable, "-c", f"{HEARING}; {MAIN}", "simulate", "--jobs", "2")


def processes(session: int) -> list[str]:
    """The command lines of all processes of a session that are not over."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, belongs = (process / "stat").read_text().rpartition(") ")[2].split()[:4]
            if int(belongs) == session and state != "Z":
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            # It ended meanwhile.
            continue
    return found


def under_way(session: int) -> None:
    """Wait until both processes are there; they import still."""
    until = time.monotonic() + 30
    while sum("spawn_main" in line for line in processes(session)) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("everybody", [True, False], ids=["all processes hear it", "one process hears it"])
@pytest.mark.parametrize("words", [(), ("--without", "all")], ids=["with", "without"])
def test_an_interrupt_ends_all_processes_at_once(tmp_path: Path, words: tuple[str, ...], everybody: bool) -> None:
    with subprocess.Popen(
        [*COMMAND, *words],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        under_way(process.pid)
        began = time.monotonic()
        (os.killpg if everybody else os.kill)(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - began < 5
    assert said.splitlines()[1:] == ["Interrupted. Every step can be repeated safely."]
    while left := processes(process.pid):
        assert time.monotonic() - began < 10, left
        time.sleep(0.05)


def test_an_interrupt_gives_the_terminal_its_cursor_back(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, COMMAND, ENVIRONMENT)
    seen, until = b"", time.monotonic() + 30
    while b"\x1b[?25l" not in seen and time.monotonic() < until:
        seen += os.read(terminal, 4_096)
    os.write(terminal, b"\x03")
    try:
        while more := os.read(terminal, 4_096):
            seen += more
    except OSError:
        # Nobody is left at the other end.
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130, seen.decode()
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")
    assert b"Traceback" not in seen
