"""Formats of the ledger: an older one is read, upgraded and written anew; a newer one is left alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rotator.errors import Damaged, Refused
from rotator.keys.keyring import HISTORY, Stage, from_json, to_json
from rotator.keys.ledger_json import FORMAT, UPGRADES
from tests.world import START, World

#: A ledger as it was before there were several documents: a key was seen "in public", at one time, with one promise;
#: durations were whole seconds under longer names, and a key that left was a bare kid.
FORMAT_0 = """{
 "created_at": "2026-01-01T00:00:00Z",
 "document": {"cache_control": "public, max-age=300", "content_type": "application/jwk-set+json"},
 "format": 0,
 "founded_at": "2026-01-01T00:00:00Z",
 "keys": [
  {
   "alg": "EdDSA", "attempt": "n-1", "attempted_at": "2026-01-01T00:00:00Z", "created_at": "2026-01-01T00:00:01Z",
   "handle": "h-1", "id": "i-1", "intended_at": "2026-01-01T00:00:00Z",
   "jwk": {"alg": "EdDSA", "crv": "Ed25519", "kid": "k-1", "kty": "OKP", "use": "sig", "x": "AA"}, "kid": "k-1",
   "published_at": "2026-01-01T00:00:02Z", "ready_at": "2026-01-02T00:00:02Z",
   "activated_at": "2026-01-02T00:00:03Z", "signer_lag_seconds": 7200
  }
 ],
 "keyset": "acme",
 "ledger_id": "l-1",
 "retired_kids": ["k-0"],
 "revision": 12
}"""


def from_format_0(old: dict[str, Any]) -> dict[str, Any]:
    """The upgrade that such a ledger would need: one document becomes one named ``jwks``."""
    new = {name: value for name, value in old.items() if name not in {"document", "retired_kids", "keys"}}
    new["documents"] = {"jwks": old["document"]}
    new["retired"] = [{"id": "", "kid": kid, "alg": "", "at": old["created_at"]} for kid in old["retired_kids"]]
    new["keys"] = []
    for key in old["keys"]:
        kept = {name: value for name, value in key.items() if name not in {"ready_at", "signer_lag_seconds"}}
        kept["published"] = {"jwks": key["published_at"]}
        kept["ready"] = {"jwks": key["ready_at"]}
        kept["signer_lag"] = key["signer_lag_seconds"]
        new["keys"].append(kept)
    return new


@pytest.fixture
def upgradable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(UPGRADES, 0, from_format_0)


@pytest.mark.usefixtures("upgradable")
def test_an_older_ledger_is_upgraded_when_it_is_read() -> None:
    ring = from_json(FORMAT_0.encode(), "acme")
    assert ring.revision == 12
    (key,) = ring.keys
    assert key.stage is Stage.CURRENT
    assert key.published == {"jwks": datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC)}
    assert key.ready == {"jwks": datetime(2026, 1, 2, 0, 0, 2, tzinfo=UTC)}
    assert key.signer_lag == timedelta(hours=2)
    assert ring.spent_kids() == {"k-0"}
    assert json.loads(to_json(ring))["format"] == FORMAT


def test_without_its_upgrade_an_older_ledger_is_refused() -> None:
    with pytest.raises(Damaged, match="no format is below 1"):
        from_json(FORMAT_0.encode(), "acme")


@pytest.mark.usefixtures("upgradable")
def test_below_the_oldest_format_that_is_read_nothing_is_a_ledger() -> None:
    with pytest.raises(Damaged, match="no format is below 0"):
        from_json(FORMAT_0.replace('"format": 0', '"format": -1').encode(), "acme")


@pytest.mark.usefixtures("upgradable")
@pytest.mark.parametrize("lost", ["document", "retired_kids", "ready_at", "keys"])
def test_an_older_ledger_that_is_damaged_is_refused_and_not_half_upgraded(lost: str) -> None:
    with pytest.raises(Damaged, match=f"damaged at \"'{lost}'\""):
        from_json(FORMAT_0.replace(f'"{lost}"', '"gone"').encode(), "acme")


def test_upgrades_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(old: str, new: str) -> Any:
        return lambda document: {new if name == old else name: value for name, value in document.items()}

    monkeypatch.setitem(UPGRADES, -1, rename("key_set_id", "ring_id"))
    monkeypatch.setitem(UPGRADES, 0, rename("ring_id", "ledger_id"))
    oldest = b'{"format": -1, "keyset": "acme", "key_set_id": "l-1", "created_at": "2026-01-01T00:00:00Z"}'
    assert from_json(oldest, "acme").ledger_id == "l-1"


def test_a_newer_ledger_is_refused_and_is_not_called_damaged() -> None:
    # 'rotator recover' replaces what is damaged: never a ledger that only another rotator understands.
    newer = FORMAT_0.replace('"format": 0', '"format": 2').encode()
    with pytest.raises(Refused, match="format 2, this rotator knows up to 1") as caught:
        from_json(newer, "acme")
    assert not isinstance(caught.value, Damaged)


def test_the_next_fact_writes_todays_format(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.init()
    world.tick()
    body, version, headers = world.documents["acme/ledger.json"]
    older = json.loads(body)
    older["format"], older["key_set"] = 0, older.pop("keyset")
    # The name is checked before anything else is believed: it is the one member that no upgrade may move.
    older["keyset"] = older["key_set"]
    monkeypatch.setitem(UPGRADES, 0, lambda old: {name: value for name, value in old.items() if name != "key_set"})
    world.documents["acme/ledger.json"] = (json.dumps(older).encode(), version, headers)

    world.tick()
    assert json.loads(world.documents["acme/ledger.json"][0])["format"] == 0  # no fact, no write
    world.advance(timedelta(days=31))
    world.tick()
    assert json.loads(world.documents["acme/ledger.json"][0])["format"] == FORMAT


def test_history_is_short_in_the_ledger_and_whole_in_the_log() -> None:
    world = World()
    world.init()
    told: set[tuple[str, str]] = set()
    longest = 0
    while world.now < START + timedelta(days=120):
        world.tick()
        longest = max(longest, len(world.ring.history))
        told |= {(event.step, event.reason) for event in world.ring.history}
        world.advance(timedelta(hours=6))
    assert longest == HISTORY
    assert len(world.steps()) > 2 * HISTORY
    assert told <= {(report.step, report.reason) for report in world.reports}
