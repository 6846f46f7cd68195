"""``rotator simulate``: what it lives through, what it prints, and that it can fail."""

from __future__ import annotations

import json
import re
import shlex
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from rotator.cli import app
from rotator.errors import ConfigurationError
from rotator.keys.policy import KeySet, Policy, PublicDocument
from rotator.ports import Traits
from rotator.simulate.campaign import STRAYS, Campaign, run, shortest, table
from rotator.simulate.faults import FAULTS, chosen, listed
from rotator.simulate.gates import GATES, named, without
from rotator.simulate.schedule import Order, Result, simulate

if TYPE_CHECKING:
    from pathlib import Path

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
    assert result.verified > 1_000
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


def broken_without(gate: str, *, seconds: float) -> tuple[Order, Result]:
    campaign = Campaign(keyset(), years=2, faults=ALL, gate=gate)
    totals = run(campaign)
    assert totals.broken
    order, best = shortest(campaign, totals.broken, seconds)
    assert best.violation
    return order, best


@pytest.mark.slow
def test_the_loss_of_every_protection_is_noticed() -> None:
    rows = list(table(keyset(), worlds=150))
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


def test_several_processes_find_the_same() -> None:
    alone = run(Campaign(keyset(), years=0.05, seed=5))
    together = run(Campaign(keyset(), years=0.05, seed=5), jobs=2)
    assert (alone.steps, alone.verified, alone.faults) == (together.steps, together.verified, together.faults)
