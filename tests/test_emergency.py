"""The drill of the README's runbook "A key is compromised": each state a key can be in when it must go."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from rotator.errors import Refused, StoreError
from rotator.keys.blast_radius import blast_radius
from rotator.keys.keyring import Stage
from tests.world import POLICY, Ports, Turns, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from rotator.keys.blast_radius import BlastRadius

DAY = timedelta(days=1)
URL = "https://auth.example.com/jwks.json"
FAST = replace(POLICY, lifetime=4 * DAY, token_lifetime=4 * DAY)


def settled() -> World:
    """A key set with a previous, a current and a next key, all gates open."""
    world = World(policy=FAST, urls=(URL,))
    world.init()
    world.run(7 * DAY, every=timedelta(hours=6))
    assert {Stage.PREVIOUS, Stage.CURRENT, Stage.NEXT} <= {key.stage for key in world.ring.keys}
    return world


def over(world: World, kid: str) -> None:
    """The key is out of use: not public, not pointed at, stopped, seen to be gone, and the CDN was told."""
    key, ring = world.ring.by_kid(kid), world.ring
    assert key
    assert kid not in world.public_kids()
    assert world.pointers["EdDSA"].id != key.id
    assert key.handle in world.disabled
    assert set(key.gone) == {"jwks"}
    assert not ring.documents["jwks"].invalidate_due
    current = ring.current("EdDSA")
    assert current
    assert world.pointers["EdDSA"].id == current.id
    assert any(each.standby for each in ring.keys), "the next emergency has its heir"


def revoked(world: World, kid: str) -> BlastRadius:
    radius = world.engine().blast_radius(kid)
    world.engine("person").revoke(kid, "leaked")
    return radius


def test_the_current_key() -> None:
    world = settled()
    kid, heir = world.kid(Stage.CURRENT), world.kid(Stage.NEXT)
    radius = revoked(world, kid)
    assert (radius.heir, radius.early_until) == (heir, None)
    assert "every verifier knows it already" in radius.sentences[-1]
    world.tick()
    over(world, kid)
    assert world.kid(Stage.CURRENT) == heir


def test_the_next_key() -> None:
    world = settled()
    kid, current = world.kid(Stage.NEXT), world.kid(Stage.CURRENT)
    assert "no token is affected" in revoked(world, kid).sentences[0]
    world.tick()
    over(world, kid)
    assert world.kid(Stage.CURRENT) == current


def test_a_previous_key() -> None:
    world = settled()
    kid, current = world.kid(Stage.PREVIOUS), world.kid(Stage.CURRENT)
    assert "must log in again" in revoked(world, kid).sentences[0]
    world.tick()
    over(world, kid)
    assert world.kid(Stage.CURRENT) == current


def test_an_unknown_key_or_one_that_retired() -> None:
    world = settled()
    world.run(9 * DAY, every=timedelta(hours=6))
    retired = next(key.kid for key in world.ring.keys if key.stage is Stage.RETIRED)
    before = world.documents["acme/ledger.json"]
    for kid, why in ((retired, "is retired already"), ("nobody", "is unknown")):
        with pytest.raises(Refused, match=why):
            world.engine().revoke(kid or "", "leaked")
    assert world.documents["acme/ledger.json"] == before


def test_twice() -> None:
    world = settled()
    kid = world.kid(Stage.CURRENT)
    revoked(world, kid)
    world.tick()
    ring = world.ring
    world.advance(timedelta(hours=1))
    radius = revoked(world, kid)
    assert radius.sentences[0].startswith("It was revoked at ")
    assert world.engine().blast_radius(kid).trusted_until == radius.trusted_until, "it does not slide"
    world.tick()
    assert world.ring == ring


@pytest.mark.parametrize("clock", ["right", "off"])
def test_with_no_next_key_in_public(clock: str) -> None:
    world = settled()
    world.store_date = lambda: world.now.replace(microsecond=0)
    world.skew["a"] = timedelta(hours=5 if clock == "off" else 0)
    revoked(world, world.kid(Stage.NEXT))
    kid = world.kid(Stage.CURRENT)
    radius = revoked(world, kid)
    assert radius.heir is None
    assert "nothing signs until a new key is made and seen" in radius.sentences[-1]
    # A tick that cannot look in public: nothing signs, and the key is out of use all the same.
    world.unreachable.add(URL)
    world.tick()
    assert world.pointers["EdDSA"].id is None
    assert kid not in world.public_kids()
    world.unreachable.clear()
    world.tick()
    over(world, kid)


@pytest.mark.parametrize("of", [Stage.CURRENT, Stage.NEXT])
@pytest.mark.parametrize("cut", range(3, 12))
def test_while_a_worker_is_in_the_middle_of_the_rotation(of: Stage, cut: int) -> None:
    world = settled()
    world.advance(world.ring.current("EdDSA").activated_at + 4 * DAY + timedelta(minutes=1) - world.now)  # type: ignore[union-attr, operator]
    kid, turns = world.kid(of), 0

    def choose(names: list[str]) -> str:
        nonlocal turns
        turns += 1
        return "worker" if "worker" in names and (turns <= cut or names == ["worker"]) else "person"

    def person() -> None:
        world.engine("person").revoke(kid, "leaked")
        world.engine("person").tick()

    tasks: dict[str, Callable[[], Any]] = {"worker": world.engine("worker").tick, "person": person}
    Turns(world, world.rng, lambda _: timedelta(seconds=1)).run(tasks, choose)
    world.tick()
    over(world, kid)


def test_with_cloudfront_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = settled()
    kid = world.kid(Stage.CURRENT)

    def deaf(*_: object) -> None:
        raise StoreError("cloudfront:CreateInvalidation is throttled")

    revoked(world, kid)
    with monkeypatch.context() as failing:
        failing.setattr(Ports, "invalidate", deaf)
        for _ in range(2):
            with pytest.raises(StoreError, match="CreateInvalidation"):
                world.engine().tick()
        assert kid not in world.public_kids()
        assert world.ring.by_kid(kid).gone  # type: ignore[union-attr]
        assert world.ring.documents["jwks"].invalidate_due
    world.tick()
    over(world, kid)


def test_every_url_that_still_serves_it_is_named_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = settled()
    world.urls = other, silent = ("https://other.example/jwks.json", "https://silent.example/jwks.json")
    document = replace(world.keyset.documents[0], urls=(URL, other, silent))
    world.keyset = replace(world.keyset, documents=(document,))
    kid = world.kid(Stage.CURRENT)
    revoked(world, kid)
    world.edge_lag = timedelta(minutes=30)
    world.unreachable.add(silent)
    (wait,) = [wait for wait in world.tick().plan.waits if wait.step == "note-gone"]
    for told in (f"{URL} still serves it, and may until 2026", f"{other} still serves it", f"{silent} does not answer"):
        assert told in wait.reason
    world.unreachable.clear()
    world.advance(timedelta(hours=1))
    world.edge_lag = timedelta(0)
    world.tick()
    over(world, kid)


def test_a_revoked_key_that_a_deployment_brings_back_is_driven_out_again() -> None:
    world = settled()
    old, kid = world.documents["acme/jwks.json"][0], world.kid(Stage.CURRENT)
    revoked(world, kid)
    world.tick()
    before, told = world.engine().blast_radius(kid).trusted_until, len(world.invalidations)
    world.advance(timedelta(hours=5))
    world.restore(old)
    world.unreachable.add(URL)
    world.tick()
    assert len(world.invalidations) > told, "the CDN may have fetched it again"
    assert not world.ring.by_kid(kid).gone  # type: ignore[union-attr]
    world.unreachable.clear()
    world.tick()
    over(world, kid)
    assert world.engine().blast_radius(kid).trusted_until > before + timedelta(hours=4)
    ring = world.ring
    world.tick()
    assert world.ring == ring


def test_no_token_of_a_revoked_key_outlives_what_was_said() -> None:
    world = settled()
    kid = world.kid(Stage.CURRENT)
    radius = revoked(world, kid)
    policy = world.policy
    last = world.now + policy.signer_lag + policy.token_lifetime + policy.verifier_leeway
    assert radius.tokens_until
    assert abs(radius.tokens_until - last) < timedelta(seconds=1)
    world.tick()
    later = blast_radius(world.ring, world.keyset, kid, world.now + 3 * DAY)
    assert later.trusted_until <= radius.trusted_until + timedelta(minutes=1)
