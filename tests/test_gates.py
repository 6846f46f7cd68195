"""Take one protection away and see the world break: the proof that the checker can see what each gate prevents."""

from __future__ import annotations

import functools
import itertools
import random
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from rotator.engine.steps import Steps
from rotator.errors import RotatorError
from rotator.keys import plan, publication
from rotator.keys.jwks import serialize
from rotator.keys.keyring import Stage
from rotator.ports import Traits
from rotator.simulate.gates import without
from rotator.simulate.world import Killed, Violation
from tests.test_attacks import (
    grown_over_copies_that_lack_the_key,
    overwritten_between_document_and_ledger,
    overwritten_while_a_look_stalls,
    set_back_while_the_pointer_moves,
)
from tests.world import POLICY, Ports, Turns, World

if TYPE_CHECKING:
    from collections.abc import Callable

FAST = replace(POLICY, lifetime=timedelta(days=4))


def life(world: World) -> None:
    """Eleven days of two workers, restarts of old documents and fine ticks after each promotion."""
    world.init()
    while len(world.effects) < 2500 and world.now < world.ring.created_at + timedelta(days=11):
        world.tick("a")
        world.advance(timedelta(minutes=30))


def races(world: World, seed: int) -> None:
    world.init()
    world.tick()
    rng = random.Random(seed)

    def work(worker: str) -> None:
        for _ in range(3):
            with suppress(RotatorError):
                world.engine(worker).tick()

    for _ in range(2):
        world.advance(timedelta(days=4, hours=1))
        turns = Turns(world, rng, lambda rng: timedelta(seconds=5) * rng.random())
        turns.run({worker: functools.partial(work, worker) for worker in "ab"})


def test_with_every_protection_nothing_breaks() -> None:
    life(World(policy=FAST))


def test_without_prepublish_a_cache_lacks_the_key_that_signs() -> None:
    world = World(policy=replace(FAST, lifetime=timedelta(hours=3)))
    with without("prepublish"), pytest.raises(Violation, match="a cache may hold a copy without it"):
        life(world)


def test_without_verifier_cache_a_verifier_lacks_the_key_that_signs() -> None:
    world = World(policy=replace(FAST, verifier_cache=timedelta(minutes=1), lifetime=timedelta(hours=6)))
    world.init()
    world.tick()
    lied_to = world.engine()
    world.policy = replace(world.policy, verifier_cache=timedelta(hours=24))
    world.advance(timedelta(hours=7))
    with pytest.raises(Violation, match="a cache may hold a copy without it"):
        lied_to.tick()


@pytest.mark.parametrize("gate", ["retention", "token-lifetime"])
def test_without_a_part_of_retention_a_key_leaves_too_early(gate: str) -> None:
    with without(gate), pytest.raises(Violation, match="tokens it signed may be alive"):
        life(World(policy=FAST))


def test_without_signer_lag_a_private_half_stops_while_issuers_use_it() -> None:
    with without("signer-lag"), pytest.raises(Violation, match="disabled while issuers may sign"):
        life(World(policy=FAST))


def test_without_taking_back_a_restored_document_goes_unnoticed() -> None:
    world = World(policy=replace(FAST, lifetime=timedelta(hours=30)))
    world.init()
    world.tick()
    old = publication.ours(world.ring, world.keyset.documents[0])[:1]
    world.advance(timedelta(hours=29, minutes=30))
    world.restore(serialize(old, 0))
    world.advance(timedelta(minutes=31))
    with without("drift"), pytest.raises(Violation, match="a cache may hold a copy without it"):
        world.tick()


def test_without_remembering_stale_copies_a_shorter_header_is_believed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "gate", lambda keyset, key: (at := key.published_at) and at + keyset.policy.prepublish)
    long = replace(FAST, cache_max_age=timedelta(hours=40), cache_stale=timedelta(0), verifier_cache=timedelta(hours=1))
    world = World(policy=long)
    world.init()
    world.tick()
    # The standby key that this revoke makes enters copies served with the long header, just before the change.
    world.engine().revoke(world.kid(Stage.NEXT), "drill")
    world.configure(replace(long, cache_max_age=timedelta(minutes=1), lifetime=timedelta(hours=3)))
    world.tick()
    world.advance(timedelta(hours=4))
    with pytest.raises(Violation, match="a cache may hold a copy without it"):
        world.tick()


def test_without_compare_and_swap_the_ledger_loses_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Ports.replace

    def blind(self: Ports, path: str, body: bytes, headers: Any, version: str) -> str:
        return honest(self, path, body, headers, self.world.documents[path][1])

    monkeypatch.setattr(Ports, "replace", blind)
    assert any(keys_lost_at_a_founding(cut) for cut in range(1, 8))


def test_with_compare_and_swap_a_stalled_worker_adopts_the_key_of_the_other() -> None:
    assert not any(keys_lost_at_a_founding(cut) for cut in range(1, 8))


def keys_lost_at_a_founding(cut: int) -> set[str]:
    """Keys that no ledger knows, after one worker stalled at its ``cut``-th effect while another founded the set."""
    world = World(policy=FAST)
    world.init()
    calls = itertools.count()

    def choose(names: list[str]) -> str:
        return "stalled" if names == ["stalled"] or ("stalled" in names and next(calls) < cut) else "founder"

    turns = Turns(world, random.Random(0), lambda _: timedelta(0))
    turns.run({worker: world.engine(worker).tick for worker in ("stalled", "founder")}, choose)
    return {intent for intent, _, _ in world.creations} - {key.id for key in world.ring.keys}


def test_without_promoting_first_a_half_done_promotion_looks_like_drift() -> None:
    with without("promoting-first"):
        assert broken(exposed_by_a_race)


def exposed_by_a_race(seed: int) -> None:
    world = World(policy=FAST, seed=seed)
    races(world, seed)
    world.tick()
    if any(key.superseded_at and not key.activated_at for key in world.ring.keys):
        raise Violation("a promotion was undone")
    named = [key_id for key_id, _ in itertools.groupby(key_id for key_id, _ in world.pointed)]
    if len(named) > len(set(named)):
        raise Violation("the pointer went back")


def test_with_promoting_first_no_race_undoes_a_promotion() -> None:
    assert not broken(exposed_by_a_race, seeds=range(10))


def test_without_the_pointer_read_before_the_ledger_a_promotion_looks_like_drift(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Noting that the pointer strayed loses the same race: without it, too.
    monkeypatch.setattr(Steps, "_note_astray", lambda *_: None)
    with without("pointer-before-ledger"):
        assert broken(exposed_by_a_race)


def test_without_a_fence_a_stalled_worker_hands_the_pointer_to_a_revoked_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ports, "fence", lambda _self, _keyset, _algorithm, pointer: pointer)
    assert any(stalled_over_a_revoke(cut) for cut in range(3, 10))


def test_with_the_fence_a_stalled_worker_fails() -> None:
    assert not any(stalled_over_a_revoke(cut) for cut in range(3, 10))


def stalled_over_a_revoke(cut: int) -> bool:
    """Whether the pointer ever named a key after it was revoked."""
    world = World(policy=FAST)
    world.init()
    world.tick()
    world.advance(timedelta(days=5))
    kid = world.kid(Stage.NEXT)
    key = world.ring.by_kid(kid)
    assert key
    calls = 0

    def choose(names: list[str]) -> str:
        nonlocal calls
        calls += 1
        return "stalled" if "stalled" in names and (calls <= cut or names == ["stalled"]) else names[0]

    def person() -> None:
        world.engine("person").revoke(kid, "leaked")
        world.engine("person").tick()

    turns = Turns(world, random.Random(0), lambda _: timedelta(0))
    tasks: dict[str, Callable[[], Any]] = {"stalled": world.engine("stalled").tick, "person": person}
    turns.run(tasks, choose)
    revoked_at = world.ring.by_kid(kid)
    assert revoked_at
    assert revoked_at.revoked_at
    return any(alg_key == key.id and at > revoked_at.revoked_at for alg_key, at in world.pointed)


def test_without_a_ledger_write_before_a_repair_a_stalled_look_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Steps, "_may_have_lost", lambda *_: False)
    world = overwritten_while_a_look_stalls()
    world.engine().rotate(["EdDSA"])
    with pytest.raises(Violation, match="a cache may hold a copy without it"):
        world.tick()


def test_without_the_end_of_copies_that_lack_it_a_cache_that_grew_lacks_the_key_that_signs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = plan.gate
    monkeypatch.setattr(plan, "gate", lambda keyset, key: honest(keyset, replace(key, lacking={})))
    world, standby, _ = grown_over_copies_that_lack_the_key()
    world.now = standby.ready["jwks"]
    with pytest.raises(Violation, match="a cache may hold a copy without it"):
        world.tick()


def test_without_a_clock_that_nobody_sets_a_private_half_stops_while_issuers_use_it() -> None:
    world, superseded = set_back_while_the_pointer_moves(lambda _: timedelta(0))
    key = world.ring.by_kid(superseded)
    assert key
    assert key.superseded_at
    # The pointer moved an hour later than that.
    world.now = key.superseded_at + FAST.signer_lag + 2 * FAST.clock_skew
    with pytest.raises(Violation, match="disabled while issuers may sign"):
        world.tick("right")


def test_without_a_clock_that_nobody_sets_a_stalled_look_is_taken_for_a_fresh_one() -> None:
    _, engine = overwritten_between_document_and_ledger()
    engine._observer.elapsed = lambda: timedelta(0)
    with pytest.raises(Violation, match="a cache may hold a copy without it"):
        engine.tick()


def test_without_recording_attempts_a_crash_loop_makes_key_after_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def again(self: Steps, step: Any, world: Any) -> None:
        world.attempts.add(self._key(world, step).attempt)

    monkeypatch.setattr(Steps, "_attempt", again)
    world = World(policy=FAST, traits=Traits(attempt_pause=timedelta(minutes=5), leaves_strays=True))
    world.init()
    world.arm("kill-after", 4)
    assert isinstance(world.try_tick(), Killed)
    assert world.effects[-1] == "keys.create"
    world.advance(timedelta(minutes=6))
    with pytest.raises(Violation, match="two creations"):
        world.tick()


def broken(story: Callable[[int], None], seeds: range = range(200)) -> bool:
    """Whether any of many orders of two workers breaks the world."""
    for seed in seeds:
        try:
            with suppress(RotatorError, Killed):
                story(seed)
        except Violation:
            return True
    return False
