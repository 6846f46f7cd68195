"""Processes that know nothing of one another: eight at once on one key set, and some that are killed at any moment.

Whoever wins a step has done it alone, nobody who loses complains, and what a killed process leaves behind is put
right by the next tick.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from rotator import app
from rotator.keys.plan import gate
from rotator.settings import Configuration
from tests import emulators
from tests.accounts import Account, moto
from tests.processes import PATIENCE, Ended, Rotators, killed, timed, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rotator.engine import Engine, Report
    from rotator.keys.keyring import Keyring

pytestmark = pytest.mark.slow

#: With two of them there is always somebody who writes the ledger in the middle of somebody else's step.
ALGORITHMS = ("ES256", "EdDSA")

#: How often eight processes race for a rotation.
ROUNDS = 20

#: How many lives begin with kills, for each store.
LIVES = 8

FILES = """
[stores]
keys = "{0}/keys"
ledger = "{0}/ledger"
public = "{0}/public"
"""

POLICY = """
[policy]
algorithms = ["ES256", "EdDSA"]
lifetime = "30d"
max_creations_per_day = 100
token_lifetime = "0.5s"
signer_lag = "0s"
cache_max_age = "1s"
cache_stale = "0s"
verifier_cache = "0.1s"
verifier_leeway = "0.5s"
clock_skew = "0.2s"
[schedule]
interval = "1s"
[server]
port = 0
[[keysets]]
name = "acme"
path = "acme/jwks.json"
"""


# -- homes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Home:
    """A configured key set, and how many private keys were ever made for it, whoever made them."""

    file: Path
    private_keys: Callable[[], int]
    account: Account | None = None

    @property
    def engine(self) -> Engine:
        return app.engines(Configuration.load(self.file))["acme"]

    def ring(self) -> Keyring:
        return self.engine.look().ring


def files(at: Path) -> Home:
    return Home(configured(at, FILES.format(at.as_uri())), lambda: len(_left_in(at / "keys")))


def _left_in(keys: Path) -> list[Path]:
    """Every file that can hold a private key, also one that a dead process left half-written."""
    return [each for each in keys.rglob("*") if each.is_file() and each.name not in {"pointer.json", ".lock"}]


def on_aws(at: Path, url: str, scheme: str) -> Home:
    account = Account(url, scheme, at.name, ALGORITHMS)
    return Home(configured(at, account.toml), account.private_keys_ever_made, account)


def configured(at: Path, stores: str) -> Path:
    (at / "rotator.toml").write_text(stores + POLICY, encoding="ascii")
    return at / "rotator.toml"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Callable[[], Home]]]:
    """What makes a new home, for each kind of store."""
    at = tmp_path_factory.mktemp
    with moto() as secrets, emulators.ministack() as kms:
        yield {
            "files": lambda: files(at("files")),
            "Secrets Manager + S3": lambda: on_aws(at("secrets"), secrets, "secretsmanager"),
            "KMS + S3": lambda: on_aws(at("kms"), kms, "kms"),
        }


# -- eight at once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["Secrets Manager + S3", "KMS + S3"])
def test_of_eight_processes_at_once_one_wins_each_step(
    store: str, stores: dict[str, Callable[[], Home]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = stores[store]()
    done: Counter[tuple[str, str]] = Counter()

    def race(*commands: Sequence[str]) -> list[Ended]:
        told = together(home.file, *commands)
        for each in told:
            assert each.code in {0, 3}, each
            assert not [line for line in each.lines if "Traceback" in line or "met a bug" in line], each
            done.update(each.steps())
        return told

    born = race(*[["init"]] * 4, *[["tick"]] * 4)
    assert {each.code for each in born if each.words == ("init",)} == {0}
    # A tick that came before every init found no ledger, and said so.
    race(["tick"])
    assert stages(home.ring()) == {"current": 2, "next": 2}

    with Rotators(home.file, ["run"], ["run"]) as daemons:
        for turn in range(ROUNDS):
            wait_for_the_gate(home.engine)
            before = home.ring()
            told = race(*[["rotate", "acme"], ["tick"]] * 3)
            after = quiet(home)
            assert any(each.code == 0 for each in told if each.words[0] == "rotate")
            assert made(after) - made(before) == len(ALGORITHMS), f"round {turn}: one rotation of each, not more"
            assert not current(before) & current(after)
        daemons.stop()
        stopped = daemons.ended()
    for each in stopped:
        assert each.code == 0, each
        done.update(each.steps())

    once = {"create", "promote", "activate", "disable", "withdraw", "destroy"}
    assert [each for each, count in done.items() if each[0] in once and count > 1] == []
    assert done["intend", ""] == home.private_keys() == made(home.ring()) == len(ALGORITHMS) * (ROUNDS + 2)
    settled(home)
    by_daemons = sum((Counter(each.steps()) for each in stopped), Counter()).total()
    print(f"\n{store}: {ROUNDS} rounds, {done.total()} steps, {by_daemons} of them by the daemons, none of them twice")  # noqa: T201 - quoted in the README

    # Half a day later even what a store was left with in secret would be gone: a key that signs, and one that is next.
    for module in ("rotator.documents.s3", "rotator.stores.secretsmanager"):
        monkeypatch.setattr(f"{module}.date_of", lambda _: None)
    monkeypatch.setattr(app, "now", lambda: datetime.now(UTC) + timedelta(hours=12))
    home.engine.tick()
    settled(home)
    assert home.account
    assert home.account.private_keys_in_use() == 2 * len(ALGORITHMS)


def quiet(home: Home) -> Keyring:
    """The ledger, once each algorithm has a key that signs and one that is next, and nothing is under way."""
    deadline = time.monotonic() + PATIENCE
    while True:
        look = home.engine.look()
        if look.plan.step is None and all(
            stages(look.ring).get(each) == len(ALGORITHMS) for each in ("current", "next")
        ):
            return look.ring
        assert time.monotonic() < deadline, look.plan
        time.sleep(0.2)


def wait_for_the_gate(engine: Engine) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        look = engine.look()
        opens = [at for key in look.ring.keys if key.standby and (at := gate(engine.keyset, key))]
        if len(opens) == len(ALGORITHMS) and max(opens) <= look.at:
            return
        assert time.monotonic() < deadline, look.plan
        time.sleep(0.2)


def stages(ring: Keyring) -> dict[str, int]:
    return dict(Counter(str(key.stage) for key in ring.keys))


def current(ring: Keyring) -> set[str | None]:
    return {key.kid for alg in ALGORITHMS if (key := ring.current(alg))}


def made(ring: Keyring) -> int:
    """How many keys the ledger knows to have been made, ever."""
    return sum(key.created_at is not None for key in ring.keys) + len(ring.retired)


def settled(home: Home) -> Sequence[Report]:
    """Ledger, pointer and public document agree after one more tick; what that tick still did."""
    outcome = home.engine.tick()
    assert outcome.plan.step is None
    assert outcome.foreign == {}
    assert outcome.ring.trouble is None
    assert not any(map(outcome.ring.promoting, ALGORITHMS))
    assert stages(home.ring()) == stages(outcome.ring)
    return outcome.steps


# -- kill -9 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["files", "Secrets Manager + S3"])
def test_whenever_a_process_is_killed_the_next_tick_ends_in_the_same_state(
    store: str, stores: dict[str, Callable[[], Home]]
) -> None:
    chance = random.Random()
    home = stores[store]()
    init, tick = timed(home.file, ["init"]), timed(home.file, ["tick"])
    for _ in range(LIVES):
        home = stores[store]()
        killed(home.file, ["init"], after=chance.uniform(0, init))
        assert alone(home, "init").code == 0, "a second init finds or creates"
        for _ in range(2):
            killed(home.file, ["tick"], after=chance.uniform(0, tick))
        told = alone(home, "tick")
        assert told.code == 0, told
        assert stages(home.ring()) == {"current": 2, "next": 2}
        assert home.private_keys() == made(home.ring()) == 2 * len(ALGORITHMS)
        assert settled(home) == ()


def test_however_often_a_process_is_killed_kms_makes_no_more_keys_than_recorded_attempts(
    stores: dict[str, Callable[[], Home]],
) -> None:
    chance = random.Random()
    home = stores["KMS + S3"]()
    tick = timed(home.file, ["init"]) and timed(home.file, ["tick"])
    for _ in range(LIVES):
        home = stores["KMS + S3"]()
        assert alone(home, "init").code == 0
        for _ in range(3):
            killed(home.file, ["tick"], after=chance.uniform(0, tick))
            assert home.private_keys() <= len(home.ring().attempts)
        assert alone(home, "tick").code == 0, "it may have to wait for five minutes, and that is no failure"
        assert home.private_keys() <= len(home.ring().attempts)


def alone(home: Home, command: str) -> Ended:
    return together(home.file, [command])[0]
