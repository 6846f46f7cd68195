"""What upkeep discards, what it spares and why: at once on request, and in every sweep."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from rotator.cli import app as commands
from rotator.engine import Engine
from rotator.errors import Refused, StoreError
from rotator.keys.algorithms import ALGORITHMS
from rotator.keys.keyring import Key, Keyring
from rotator.keys.upkeep import known, why_spared
from rotator.ports import Held, Stray, Traits
from tests.accounts import Account
from tests.contracts.key_store import intend
from tests.world import START, Ports, World

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

HOUR = timedelta(hours=1)

#: The ledger of every world whose seed is 0.
OURS = "00000000-00000001"
LEAKY = Traits(attempt_pause=timedelta(minutes=5), leaves_strays=True)


def a_ledger() -> Keyring:
    key = Key("made", "ES256", START, "n", START, created_at=START, kid="k", jwk={"kid": "k"}, handle="handle")
    unmade = Key("unmade", "ES256", START, "n", START)
    return Keyring("acme", "ours", START, keys=(key, unmade))


def test_a_key_of_the_ledger_is_known_by_its_handle() -> None:
    assert known(a_ledger(), "handle")
    assert not known(a_ledger(), "another")


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({}, None),
        ({"ledger_id": None}, "does not say which ledger"),
        ({"ledger_id": "theirs"}, r"another ledger \(theirs\)"),
        ({"key_id": "unmade"}, "may adopt it"),
        ({"key_id": "made"}, None),
        ({"created_at": None}, "younger than 1h"),
        ({"created_at": START - HOUR}, None),
        ({"created_at": START - HOUR + timedelta(microseconds=1)}, "younger than 1h"),
        ({"created_at": START + HOUR}, "younger than 1h"),
    ],
)
def test_a_key_is_spared_for_a_reason(facts: dict[str, Any], why: str | None) -> None:
    import re

    stray: dict[str, Any] = {"key_id": "stray", "ledger_id": "ours", "created_at": START - 2 * HOUR} | facts
    said = why_spared(a_ledger(), START, **stray)
    assert said is None if why is None else re.search(why, said or "")


class Left(Ports):
    """A key store that can be looked through, in which crashes leave keys."""

    def held(self, keyset: str) -> Sequence[Held]:
        world = self.world
        found = [
            Held(world.handles[id_], id_, "EdDSA", OURS, at)
            for id_, _, at in world.creations
            if world.handles[id_] not in world.destroyed | world.discarded
        ]
        return [*found, *getattr(world, "others", ())]

    def strays(self, keyset: str) -> Iterator[Stray]:
        for held in self.held(keyset)[: len(self.world.creations)]:
            assert held.created_at
            yield Stray(held.handle, OURS, held.id, "attempt", held.created_at)

    def public_half(self, keyset: str, held: Held) -> Any:
        raise AssertionError("upkeep reads no key")

    def kid_in_tokens(self, keyset: str, algorithm: Any) -> str | None:
        raise AssertionError("upkeep reads no key")


def engine(world: World, ports: type[Ports] = Left) -> Engine:
    left: Any = ports(world, "person")
    return Engine(
        world.keyset,
        ledger=left,
        public=left,
        keys=left,
        clock=lambda: world.now + world.skew.get("person", timedelta(0)),
        web=left,
        elapsed=world.age,
        report=world.reports.append,
    )


@pytest.fixture
def world() -> World:
    """Two keys that the ledger knows; a stray of long ago, and one of a moment ago."""
    world = World(traits=LEAKY)
    world.init()
    world.tick()
    assert world.ring.ledger_id == OURS
    world.stray("stray", "handle-of-a-stray")
    world.advance(2 * HOUR)
    world.stray("young", "handle-of-a-young-one")
    return world


def test_leftovers_are_listed_with_their_fate_and_nothing_is_changed(world: World) -> None:
    found = {left.handle: left.spared for left in engine(world).upkeep().leftovers()}
    assert found.keys() == {"handle-of-a-stray", "handle-of-a-young-one"}
    assert found["handle-of-a-stray"] is None
    assert "younger" in (found["handle-of-a-young-one"] or "")
    assert not world.discarded


def test_what_is_listed_is_what_a_sweep_discards(world: World) -> None:
    listed = {left.handle for left in engine(world).upkeep().leftovers() if left.spared is None}
    world.advance(timedelta(minutes=1) + 4 * HOUR)
    world.run(HOUR, every=timedelta(minutes=30))
    assert listed <= world.discarded
    assert world.discarded == {"handle-of-a-stray", "handle-of-a-young-one"}


@pytest.mark.no_cover
def test_on_request_it_is_discarded_at_once(world: World) -> None:
    told = engine(world).upkeep().discard()
    assert [left.handle for left in told if left.spared is None] == ["handle-of-a-stray"]
    assert world.discarded == {"handle-of-a-stray"}
    assert [(told.step, told.level) for told in world.reports if "handle-of-a-stray" in told.reason] == [
        ("sweep", "warning")
    ]
    assert [left.handle for left in engine(world).upkeep().discard()] == ["handle-of-a-young-one"]
    world.run(timedelta(days=40))


def test_keys_of_others_and_without_every_tag_are_named_and_never_touched(world: World) -> None:
    old = world.now - timedelta(days=9)
    world.others = (  # type: ignore[attr-defined]
        Held("theirs", "x", None, "another-ledger", old),
        Held("untagged", "", "EdDSA", None, old),
        Held("half-tagged", "y", None, OURS, old),
    )
    told = {left.handle: left.spared for left in engine(world).upkeep().discard()}
    assert "another ledger" in (told["theirs"] or "")
    assert "does not say" in (told["untagged"] or "")
    assert "every tag" in (told["half-tagged"] or "")
    assert world.discarded == {"handle-of-a-stray"}


def test_where_no_crash_leaves_keys_none_is_touched(world: World) -> None:
    world.traits = Traits()
    told = engine(world).upkeep().discard()
    assert {left.handle for left in told} == {"handle-of-a-stray", "handle-of-a-young-one"}
    assert all("by hand" in (left.spared or "") for left in told)
    assert not world.discarded


def test_without_a_ledger_that_can_be_trusted_no_key_is_judged(world: World) -> None:
    body, version, headers = world.documents["acme/ledger.json"]
    del world.documents["acme/ledger.json"]
    with pytest.raises(Refused, match="there is no ledger"):
        engine(world).upkeep().discard()
    world.documents["acme/ledger.json"] = (body[:-10], version, headers)
    with pytest.raises(Refused, match="half-written"):
        engine(world).upkeep().discard()
    world.documents["acme/ledger.json"] = (body, version, headers)
    world.move_pointer_by_hand("EdDSA", "stray")
    with pytest.raises(Refused, match="older than the world"):
        engine(world).upkeep().discard()
    assert not world.discarded


def test_a_clock_that_is_wrong_judges_no_key(world: World) -> None:
    world.skew["person"] = timedelta(hours=5)
    world.store_date = lambda: world.now
    with pytest.raises(Refused, match="clock"):
        engine(world).upkeep().discard()
    assert not world.discarded


def test_what_cannot_be_read_stops_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Blind(Left):
        def read_pointer(self, *_: Any) -> Any:
            raise StoreError("the pointer cannot be read")

    with pytest.raises(StoreError, match="cannot be read"):
        engine(world, Blind).upkeep().discard()
    with pytest.raises(Refused, match="cannot be looked through"):
        engine(world, Ports).upkeep().leftovers()


# -- in KMS ----------------------------------------------------------------------------------------------------------


def test_on_the_command_line_a_stray_of_kms_is_listed_then_discarded(
    ministack_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rotator import app
    from rotator.settings import Configuration

    account = Account(ministack_url, "kms", f"gc-{uuid4().hex[:8]}", ("ES256",))
    file = tmp_path / "rotator.toml"
    file.write_text(account.toml + '[policy]\nalgorithms = ["ES256"]\n[[keysets]]\nname = "acme"\n')

    def does(*words: str) -> Any:
        return CliRunner().invoke(commands, ["--config", str(file), *words])

    assert does("init").exit_code == 0
    assert does("tick").exit_code == 0
    assert does("gc").output == "Every key in the key store is known to its ledger.\n"
    configuration = Configuration.load(file)
    engine = app.engines(configuration)["acme"]
    lost = replace(intend("acme", ALGORITHMS["ES256"]), ledger_id=engine.ledger().ledger_id)
    arn = engine._keys.create(lost).handle
    other = engine._keys.create(intend("acme", ALGORITHMS["ES256"])).handle

    young = does("gc")
    assert young.exit_code == 0
    assert "younger than 1h" in young.output
    assert "another ledger" in young.output
    assert "Nothing was changed" not in young.output
    monkeypatch.setattr("rotator.keys.upkeep.STRAY_AGE", timedelta(0))
    listed = does("gc")
    assert "'rotator gc --yes' discards 1 of them" in listed.output
    assert account.kms.describe_key(KeyId=arn)["KeyMetadata"]["KeyState"] == "Enabled"
    done = does("gc", "acme", "--yes")
    assert done.exit_code == 0
    assert arn in done.output
    states = {each: account.kms.describe_key(KeyId=each)["KeyMetadata"]["KeyState"] for each in (arn, other)}
    assert states == {arn: "PendingDeletion", other: "Enabled"}
    assert arn not in does("gc").output
