"""The engine in the simulated world: every effect that fails, in both ways, and workers that race."""

from __future__ import annotations

import codecs
import itertools
import random
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from rotator.engine import MAX_CONFLICTS, Engine
from rotator.errors import AccessDenied, ConfigurationError, Conflict, Refused, RotatorError, StoreError
from rotator.keys import jwks
from rotator.keys.keyring import Keyring, Stage, from_json
from rotator.keys.policy import Policy
from rotator.ports import Fetched, Headers, Traits
from rotator.simulate.world import Killed
from tests.world import POLICY, Ports, Turns, World

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
KMS_LIKE = Traits(attempt_pause=timedelta(minutes=5), leaves_strays=True)


def founded(**kwargs: object) -> World:
    world = World(**kwargs)  # type: ignore[arg-type]
    world.init()
    world.tick()
    return world


# -- a life without faults ---------------------------------------------------------------------------------------


@pytest.mark.no_cover
def test_a_key_lives_from_pending_to_retired() -> None:
    world = World()
    world.init()
    seen: dict[str, list[str]] = {}
    for _ in range(6 * 70):
        world.tick()
        for key_id, stage in world.stages().items():
            stages = seen.setdefault(key_id, [])
            if stages[-1:] != [stage]:
                stages.append(stage)
        world.advance(4 * HOUR)
    assert seen.popitem()[1] == ["next"]
    lives = list(seen.values())
    # The founding key signs in the tick that makes it; its successors pass through every stage.
    assert lives[0] == ["current", "previous", "retired"]
    assert lives[1] == ["next", "current", "previous", "retired"]


def test_the_first_tick_makes_a_current_and_a_standby_key() -> None:
    world = founded()
    assert sorted(world.stages().values()) == ["current", "next"]
    assert world.public_kids() == {key.kid for key in world.ring.keys}


def test_a_tick_with_nothing_to_do_reads_thrice_and_writes_nothing() -> None:
    world = founded()
    before = len(world.effects)
    outcome = world.tick()
    assert world.effects[before:] == ["read pointer EdDSA", "read acme/jwks.json", "read acme/ledger.json"]
    assert outcome.steps == ()
    assert outcome.plan.due == world.ring.current("EdDSA").activated_at + POLICY.lifetime  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("how", ["kill-after", "applied"])
def test_the_kid_of_a_key_is_the_one_that_issuers_find_beside_it_whatever_the_policy_says_since(how: str) -> None:
    world = World()
    world.init()
    world.arm(how, effects_before_a_creation())
    assert world.try_tick() is not None
    world.configure(replace(world.policy, kid="spki-sha256"))
    for _ in range(3):
        world.tick()
        world.advance(HOUR)
    first, *later = world.ring.keys
    assert {key.id: key.kid for key in world.ring.keys} == world.kids
    assert first.jwk
    assert first.kid == jwks.thumbprint(first.jwk)
    assert [key.kid == jwks.thumbprint(key.jwk or {}) for key in later] == [False]
    assert world.public_kids() == set(world.kids.values())


def effects_before_a_creation() -> int:
    """How many effects the first tick has before it makes a key."""
    rehearsal = World()
    rehearsal.init()
    done = len(rehearsal.effects)
    rehearsal.tick()
    return rehearsal.effects[done:].index("keys.create")


def test_a_kid_that_does_not_follow_from_its_key_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.init()
    made = world.made

    def misnamed(key_id: str, handle: str, alg: str, _kid: str, private: Any) -> None:
        made(key_id, handle, alg, "a name of somebody's own", private)

    monkeypatch.setattr(world, "made", misnamed)
    with pytest.raises(Refused, match="does not follow from the key"):
        world.tick()
    assert world.ring.keys[0].kid is None
    assert "acme/jwks.json" not in world.documents


@pytest.mark.no_cover
def test_the_current_key_stands_first() -> None:
    world = founded()
    world.run(32 * DAY)
    parsed = jwks.parse(world.documents["acme/jwks.json"][0])
    assert parsed
    assert parsed.keys[0]["kid"] == world.kid(Stage.CURRENT)


def test_a_daemon_away_for_a_year_is_late_and_nothing_else() -> None:
    world = founded()
    world.advance(365 * DAY)
    world.tick()
    assert sorted(world.stages().values()) == ["current", "next", "previous"]


@pytest.mark.parametrize("traits", [Traits(), KMS_LIKE], ids=["idempotent store", "store that leaves strays"])
@pytest.mark.no_cover
def test_two_algorithms_each_have_their_own_succession(traits: Traits) -> None:
    world = founded(policy=replace(POLICY, algorithms=("EdDSA", "ES256")), traits=traits)
    world.run(70 * DAY, every=12 * HOUR)
    ring = world.ring
    assert ring.current("EdDSA")
    assert ring.current("ES256")
    assert {key.alg for key in ring.keys if key.stage is Stage.RETIRED} == {"EdDSA", "ES256"}


# -- every effect, both ways -------------------------------------------------------------------------------------


def rotation(world: World) -> None:
    """Two rotations, ticked just after each gate and a few times more, as a worker that errs would be."""
    for _ in range(2):
        for pause in (timedelta(days=4), timedelta(hours=3), timedelta(hours=3)):
            world.advance(pause)
            for _ in range(3):
                world.try_tick()
                world.advance(timedelta(minutes=6))


FAST = replace(POLICY, lifetime=timedelta(days=4))


def effects_of_a_rotation(traits: Traits) -> int:
    world = founded(policy=FAST, traits=traits)
    before = len(world.effects)
    rotation(world)
    return len(world.effects) - before


WAYS = ("lost", "applied", "kill-before", "kill-after")
HOWS = pytest.mark.parametrize("how", WAYS)
STORES = pytest.mark.parametrize("traits", [Traits(), KMS_LIKE], ids=["idempotent store", "store that leaves strays"])


@HOWS
@STORES
@pytest.mark.no_cover
def test_a_fault_at_some_effects_changes_no_outcome(how: str, traits: Traits) -> None:
    a_fault_changes_no_outcome(how, traits, every=20)


@pytest.mark.slow
@HOWS
@STORES
def test_a_fault_at_any_effect_changes_no_outcome(how: str, traits: Traits) -> None:
    a_fault_changes_no_outcome(how, traits, every=1)


def a_fault_changes_no_outcome(how: str, traits: Traits, every: int) -> None:
    quiet = founded(policy=FAST, traits=traits)
    rotation(quiet)
    for at in range(0, effects_of_a_rotation(traits), every):
        world = founded(policy=FAST, traits=traits)
        world.arm(how, at)
        rotation(world)
        world.check()
        # One fault may delay a rotation by a few ticks, and never makes a second key.
        assert abs(len(world.ring.keys) - len(quiet.ring.keys)) <= 1, at
        assert {"current", "next"} <= set(world.stages().values()), at
        assert len(world.creations) <= len(quiet.creations), at
        assert world.ring.trouble is None or world.try_tick() is None


@HOWS
@pytest.mark.no_cover
def test_a_fault_at_some_effects_of_the_first_start_is_repaired(how: str) -> None:
    # Each effect fails, in one of the ways; in all of them below.
    a_first_start_is_repaired(how, range(WAYS.index(how), 60, len(WAYS)))


@pytest.mark.slow
@HOWS
def test_a_fault_at_any_effect_of_the_first_start_is_repaired(how: str) -> None:
    a_first_start_is_repaired(how, range(60))


def a_first_start_is_repaired(how: str, effects: range) -> None:
    for at in effects:
        world = World(policy=replace(POLICY, algorithms=("EdDSA", "ES256")))
        world.arm(how, at)
        for _ in range(6):
            try:
                world.engine().init()
                world.tick()
            except (RotatorError, Killed):
                pass
            world.advance(timedelta(minutes=6))
        assert sorted(world.stages().values()) == ["current", "current", "next", "next"], at
        assert len(world.creations) == 4, at


# -- workers that race -------------------------------------------------------------------------------------------


@STORES
def test_three_first_starts_make_one_key_set(traits: Traits) -> None:
    first_starts(range(10), traits)


@pytest.mark.slow
@STORES
def test_three_first_starts_in_many_orders_make_one_key_set(traits: Traits) -> None:
    first_starts(range(1000, 1300), traits)


def first_starts(seeds: range, traits: Traits) -> None:
    for seed in seeds:
        world = World(seed=seed, traits=traits)
        turns = Turns(world, random.Random(seed), lambda _: timedelta(0))

        def start(worker: str, world: World = world) -> None:
            world.engine(worker).init()
            world.engine(worker).tick()

        turns.run({worker: (lambda worker=worker: start(worker)) for worker in "abc"})  # type: ignore[misc]
        for _ in range(3):
            world.advance(timedelta(minutes=6))
            world.tick()
        assert sorted(world.stages().values()) == ["current", "next"], seed
        assert len(world.creations) == 2, seed


STALLS = pytest.mark.parametrize("stall", [timedelta(0), timedelta(minutes=3), timedelta(hours=9)])


@STALLS
@pytest.mark.no_cover
def test_two_workers_in_one_promotion_in_random_order(stall: timedelta) -> None:
    race(range(8), stall)


@pytest.mark.slow
@STALLS
def test_two_workers_in_one_promotion_in_many_random_orders(stall: timedelta) -> None:
    race(range(1000, 1600), stall)


def race(seeds: range, stall: timedelta) -> None:
    for seed in seeds:
        world = founded(policy=FAST, seed=seed)
        rng = random.Random(seed)
        for _ in range(4):
            world.advance(timedelta(days=4, hours=1) if rng.random() < 0.5 else timedelta(hours=5))
            turns = Turns(world, rng, lambda rng: stall * rng.random() if rng.random() < 0.2 else timedelta(0))
            turns.run({"a": world.engine("a").tick, "b": world.engine("b").tick})
        world.advance(HOUR)
        world.tick()
        world.check()
        assert len({intent for intent, _, _ in world.creations}) == len(world.creations)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))])
@pytest.mark.no_cover
def test_clocks_off_by_the_whole_skew_in_every_direction(seed: int) -> None:
    policy = replace(FAST, clock_skew=timedelta(minutes=5))
    world = World(policy=policy, seed=seed)
    world.skew = {"a": timedelta(minutes=5), "b": timedelta(minutes=-5)}
    world.init()
    for _ in range(400):
        world.try_tick(world.rng.choice("ab"))
        world.advance(world.rng.choice([timedelta(minutes=1), timedelta(minutes=20), HOUR]))
    assert {"current", "next"} <= set(world.stages().values())


@pytest.mark.no_cover
def test_a_worker_that_sleeps_through_whole_lifetimes_hurts_nobody_when_it_wakes() -> None:
    for cut in range(1, 14):
        world = founded(policy=FAST)
        world.advance(timedelta(days=5))
        turns = Turns(world, random.Random(cut), lambda _: timedelta(0))
        calls = 0

        def sleeper_first(names: list[str], cut: int = cut, turns: Turns = turns) -> str:
            nonlocal calls
            calls += 1
            if calls <= cut and "sleeper" in names:
                return "sleeper"
            return "busy" if "busy" in names else "sleeper"

        def busy(world: World = world) -> None:
            for _ in range(40):
                with suppress(RotatorError):
                    world.engine("busy").tick()
                world.advance(timedelta(hours=8))

        turns.run({"sleeper": world.engine("sleeper").tick, "busy": busy}, sleeper_first)
        world.tick()
        assert sorted(set(world.stages().values())) == ["current", "next", "retired"]


def overtaking(world: World, when: Callable[[int], bool]) -> Engine:
    """An engine that finds the ledger written by another worker whenever its ``when``-th write is one to lose."""
    engine, writes = world.engine(), itertools.count()
    honest, other = engine._ledger.replace, world.engine("b")._ledger

    def overtaken(*given: Any) -> Any:
        if when(next(writes)):
            ring, version, _ = other.read()
            other.replace(ring, ring.revision, version)
        return honest(*given)

    engine._ledger.replace = overtaken  # type: ignore[method-assign, assignment]
    return engine


def test_races_that_are_lost_one_at_a_time_do_not_end_a_tick() -> None:
    world = World(policy=replace(POLICY, algorithms=("EdDSA", "ES256", "ES384", "ES512")))
    world.init()
    lost: list[int] = []

    def every_other(write: int) -> bool:
        lost.extend([write] * (write % 2))
        return write % 2 == 1

    overtaking(world, every_other).tick()
    assert len(lost) > MAX_CONFLICTS, "more than may be lost in a row"
    assert sorted(world.stages().values()) == ["current"] * 4 + ["next"] * 4


@pytest.mark.parametrize("losses", [MAX_CONFLICTS, MAX_CONFLICTS + 1])
def test_so_many_races_may_be_lost_in_a_row_and_not_one_more(losses: int) -> None:
    world = World()
    world.init()
    engine = overtaking(world, lambda write: 3 <= write < 3 + losses)
    if losses > MAX_CONFLICTS:
        with pytest.raises(Conflict):
            engine.tick()
        assert "current" not in world.stages().values()
    else:
        engine.tick()
        assert sorted(world.stages().values()) == ["current", "next"]


# -- drift -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: codecs.BOM_UTF8 + body,
        lambda body: body.decode().encode("utf-16"),
        lambda body: body.replace(b"{", b'{"keys": [],', 1),
        lambda body: body.replace(b'"x":', b'"x": "AAAA", "x":', 1),
        lambda body: body.replace(b"[", b"[null,", 1),
    ],
    ids=["byte order mark", "UTF-16", "keys twice", "a member twice", "null among the keys"],
)
def test_what_strict_readers_refuse_is_put_right_and_the_clock_starts_again(spoil: Callable[[bytes], bytes]) -> None:
    world = founded(policy=FAST)
    standby = world.kid(Stage.NEXT)
    body = world.documents["acme/jwks.json"][0]
    world.advance(timedelta(hours=1))
    world.restore(spoil(body))
    spoilt_until = world.now
    world.tick()
    mended = world.documents["acme/jwks.json"][0]
    assert jwks.parse(mended) == replace(jwks.parse(body), revision=world.ring.revision - 1)  # type: ignore[type-var]
    key = world.ring.by_kid(standby)
    assert key
    assert key.published["jwks"] > spoilt_until
    revision = world.ring.revision
    world.tick()
    assert world.ring.revision == revision, "there is nothing left to do"


def test_an_old_document_restored_just_before_the_gate_restarts_the_clock() -> None:
    world = World(policy=replace(FAST, lifetime=timedelta(hours=30)))
    world.init()
    world.tick()
    old = jwks.parse(world.documents["acme/jwks.json"][0]).keys  # type: ignore[union-attr]
    current = world.kid(Stage.CURRENT)
    world.advance(timedelta(hours=29, minutes=30))
    world.restore(jwks.serialize([jwk for jwk in old if jwk["kid"] == current], 1))
    world.advance(timedelta(minutes=31))
    outcome = world.tick()
    assert world.kid(Stage.CURRENT) == current
    assert "unpublish" in world.steps()
    # The gate is open again one prepublish after the repair, not a second earlier.
    opens = next(wait.at for wait in outcome.plan.waits if wait.step == "promote")
    assert opens
    world.now = opens - timedelta(minutes=1)
    world.tick()
    assert world.kid(Stage.CURRENT) == current
    world.now = opens + timedelta(minutes=1)
    world.tick()
    assert world.kid(Stage.CURRENT) != current


@pytest.mark.no_cover
def test_a_copy_restored_with_a_long_max_age_is_waited_for() -> None:
    world = founded(policy=replace(FAST, lifetime=timedelta(hours=30)))
    current = world.kid(Stage.CURRENT)
    only = [jwk for jwk in jwks.parse(world.documents["acme/jwks.json"][0]).keys if jwk["kid"] == current]  # type: ignore[union-attr]
    world.advance(HOUR)
    world.restore(jwks.serialize(only, 0), Headers("application/json", "max-age=864000"))
    world.run(timedelta(days=10))
    assert world.kid(Stage.CURRENT) == current
    world.run(timedelta(days=3))
    assert world.kid(Stage.CURRENT) != current


def test_a_pointer_moved_by_hand_to_next_is_moved_back_and_that_key_is_retained() -> None:
    world = founded()
    stray, current = world.kid(Stage.NEXT), world.kid(Stage.CURRENT)
    world.move_pointer_by_hand("EdDSA", world.ring.by_kid(stray).id)  # type: ignore[union-attr]
    world.tick()
    assert world.pointers["EdDSA"].id == world.ring.by_kid(current).id  # type: ignore[union-attr]
    assert world.ring.by_kid(stray).stage is Stage.PREVIOUS  # type: ignore[union-attr]
    assert stray in world.public_kids()
    world.run(timedelta(days=31), every=4 * HOUR)
    assert world.ring.by_kid(stray).stage is Stage.RETIRED  # type: ignore[union-attr]


@HOWS
@pytest.mark.parametrize("onto", [Stage.PREVIOUS, Stage.NEXT])
def test_wherever_a_repair_of_the_pointer_dies_it_is_known_until_when_issuers_were_led_astray(
    how: str, onto: Stage
) -> None:
    for at in itertools.count():
        world = founded(policy=FAST)
        world.advance(timedelta(days=4))
        world.tick()
        world.advance(2 * HOUR)
        stray = world.ring.by_kid(world.kid(onto))
        assert stray
        world.move_pointer_by_hand("EdDSA", stray.id)
        world.arm(how, at)
        world.try_tick()
        if world.fault:
            break
        # Without the stray, the previous key's private half would stop now.
        world.advance(timedelta(minutes=3))
        world.tick()
        known, led_away = world.ring.key(stray.id), world.named_until[stray.id]
        assert known
        assert known.superseded_at
        assert led_away
        assert led_away <= known.superseded_at
        assert not known.disabled_at
    assert at > 5


def test_a_current_key_revoked_while_the_pointer_is_led_back_to_it_has_an_heir_that_signs() -> None:
    for cut in range(30):
        world = founded()
        leaked, heir = world.kid(Stage.CURRENT), world.kid(Stage.NEXT)
        world.move_pointer_by_hand("EdDSA", world.ring.by_kid(heir).id)  # type: ignore[union-attr]
        world.arm("kill-after", cut)
        world.try_tick()
        if world.fault:
            break
        world.engine("person").revoke(leaked, "leaked")
        world.tick()
        current = world.ring.current("EdDSA")
        # Whoever was led to it already, or is led to it now: with a second one that is ready, issuers go on.
        assert current or world.ring.succession("EdDSA").forced_at, cut
    assert cut > 5


def test_a_pointer_at_a_key_that_the_ledger_does_not_know_stops_everything() -> None:
    world = founded()
    world.move_pointer_by_hand("EdDSA", "somebody-else")
    with pytest.raises(Refused, match="Lost ledger"):
        world.tick()


def test_a_document_that_somebody_deleted_is_put_back() -> None:
    world = founded()
    kids = world.public_kids()
    del world.documents["acme/jwks.json"]
    world.tick()
    assert world.public_kids() == kids


def test_a_document_that_is_no_jwks_is_replaced() -> None:
    world = founded()
    kids = world.public_kids()
    world.restore(b"<html>")
    world.tick()
    assert world.public_kids() == kids


def test_foreign_keys_are_kept_until_dropped_and_never_with_private_members() -> None:
    world = founded()
    stranger = {"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "theirs", "d": "secret"}
    shared = {"kty": "oct", "k": "secret", "kid": "symmetric"}
    ours = jwks.parse(world.documents["acme/jwks.json"][0])
    assert ours
    world.restore(jwks.serialize([stranger, shared, *ours.keys[1:]], 0))
    outcome = world.tick()
    body = world.documents["acme/jwks.json"][0]
    assert outcome.foreign == {"jwks": ("theirs",)}
    assert b"secret" not in body
    assert b"theirs" in body
    assert ours.kids() < world.public_kids()
    world.engine().drop("theirs")
    world.tick()
    assert world.public_kids() == ours.kids()
    with pytest.raises(Refused, match="own keys"):
        world.engine().drop(world.kid(Stage.CURRENT))


@pytest.mark.no_cover
def test_a_retired_key_that_somebody_restores_does_not_come_back() -> None:
    world = founded()
    first = jwks.parse(world.documents["acme/jwks.json"][0])
    assert first
    world.run(timedelta(days=100), every=timedelta(hours=6))
    now = world.public_kids()
    world.restore(jwks.serialize(first.keys, 0))
    world.tick()
    assert world.public_kids() == now


# -- headers and policy ------------------------------------------------------------------------------------------


@pytest.mark.no_cover
def test_a_shorter_max_age_still_waits_for_copies_served_with_the_longer_one() -> None:
    long = replace(FAST, cache_max_age=timedelta(hours=40), cache_stale=timedelta(0), lifetime=timedelta(days=4))
    world = World(policy=long)
    world.init()
    world.tick()
    for change in (
        replace(long, cache_max_age=timedelta(minutes=1), verifier_cache=HOUR),
        replace(long, cache_max_age=timedelta(hours=50)),
        replace(long, cache_max_age=timedelta(minutes=1), cache_tiers=1, verifier_cache=HOUR),
    ):
        world.run(timedelta(days=4), every=timedelta(minutes=50))
        world.configure(change)
    world.run(timedelta(days=12), every=timedelta(minutes=50))
    assert "serve" in world.steps()


def test_a_header_change_is_a_change_of_the_document() -> None:
    world = founded()
    world.configure(replace(POLICY, cache_max_age=timedelta(minutes=7)))
    body, version, _ = world.documents["acme/jwks.json"]
    world.tick()
    after = world.documents["acme/jwks.json"]
    assert "max-age=420" in (after[2].cache_control or "")
    assert after[1] != version
    assert after[0] != body, "a header-only change would keep the ETag"


def test_a_policy_that_shrinks_keeps_what_was_promised_of_a_previous_key() -> None:
    generous = replace(FAST, token_lifetime=timedelta(hours=20), signer_lag=timedelta(hours=10))
    world = founded(policy=generous)
    first = world.kid(Stage.CURRENT)
    world.run(timedelta(days=4, hours=2))
    assert world.ring.by_kid(first).stage is Stage.PREVIOUS  # type: ignore[union-attr]
    world.configure(replace(FAST, token_lifetime=timedelta(minutes=5), signer_lag=timedelta(0)))
    world.run(timedelta(hours=25))
    assert first in world.public_kids()
    world.run(timedelta(hours=8))
    assert first not in world.public_kids()


def test_a_policy_that_grows_is_remembered_by_the_key_that_signs() -> None:
    world = founded(policy=FAST)
    first = world.kid(Stage.CURRENT)
    world.configure(replace(FAST, token_lifetime=timedelta(hours=30)))
    world.tick()
    world.configure(FAST)
    world.run(timedelta(days=4, hours=2))
    world.run(timedelta(hours=28))
    assert first in world.public_kids()


# -- algorithms come and go --------------------------------------------------------------------------------------


def test_an_added_algorithm_waits_the_full_gate_without_a_pointer() -> None:
    world = founded()
    world.run(timedelta(days=2))
    world.configure(replace(POLICY, algorithms=("EdDSA", "ES256")))
    world.tick()
    assert world.ring.current("ES256") is None
    assert "ES256" not in world.pointers
    world.run(POLICY.prepublish - HOUR)
    assert world.ring.current("ES256") is None
    world.run(timedelta(hours=3))
    assert world.ring.current("ES256")


@pytest.mark.no_cover
def test_a_removed_algorithm_stays_until_a_person_retires_it() -> None:
    both = replace(FAST, algorithms=("EdDSA", "ES256"))
    world = founded(policy=both)
    kid = world.kid(Stage.CURRENT, "ES256")
    with pytest.raises(Refused, match="still names it"):
        world.engine().retire("ES256")
    world.configure(FAST)
    world.run(timedelta(days=12))
    assert world.kid(Stage.CURRENT, "ES256") == kid
    world.engine().retire("ES256")
    world.tick()
    assert world.pointers["ES256"].id is None
    assert kid in world.public_kids()
    world.run(timedelta(days=2))
    assert kid not in world.public_kids()
    assert all(key.stage is Stage.RETIRED for key in world.ring.of("ES256"))
    with pytest.raises(Refused, match="Nothing to retire"):
        world.engine().retire("ES256")


def test_an_algorithm_put_back_before_its_retirement_goes_on_signing() -> None:
    both = replace(FAST, algorithms=("EdDSA", "ES256"))
    world = founded(policy=both)
    kid = world.kid(Stage.CURRENT, "ES256")
    world.configure(FAST)
    world.engine().retire("ES256")
    world.configure(both)
    world.tick()
    assert world.kid(Stage.CURRENT, "ES256") == kid


def test_an_algorithm_put_back_after_its_retirement_starts_anew() -> None:
    both = replace(FAST, algorithms=("EdDSA", "ES256"))
    world = founded(policy=both)
    world.configure(FAST)
    world.engine().retire("ES256")
    world.run(timedelta(days=3))
    world.configure(both)
    world.run(timedelta(days=3))
    assert world.ring.current("ES256")


def test_an_algorithm_taken_out_before_it_ever_signed_leaves_quietly() -> None:
    world = founded(policy=FAST)
    world.configure(replace(FAST, algorithms=("EdDSA", "ES256")))
    world.tick()
    world.configure(FAST)
    world.run(timedelta(hours=3))
    assert {key.stage for key in world.ring.of("ES256")} == {Stage.RETIRED}


# -- a person ----------------------------------------------------------------------------------------------------


def test_rotate_says_until_when_it_must_wait_and_obeys_when_it_may() -> None:
    world = founded()
    with pytest.raises(Refused, match=r"until 2026-01-02"):
        world.engine().rotate(["EdDSA"])
    assert world.ring.succession("EdDSA").rotate_requested_at is None
    world.run(timedelta(hours=26))
    before = world.kid(Stage.CURRENT)
    world.engine().rotate(["EdDSA"])
    world.tick()
    assert world.kid(Stage.CURRENT) != before
    with pytest.raises(Refused, match="does not name"):
        world.engine().rotate(["RS512"])


def test_rotate_before_the_first_key_says_so() -> None:
    world = World()
    world.init()
    with pytest.raises(Refused, match="no key signs yet"):
        world.engine().rotate(["EdDSA"])


def test_revoking_the_current_key_promotes_the_next_at_once_and_ends_when_it_is_gone() -> None:
    world = founded()
    world.run(timedelta(days=2))
    bad, heir = world.kid(Stage.CURRENT), world.kid(Stage.NEXT)
    radius = world.engine().blast_radius(bad)
    assert radius.heir == heir
    assert radius.early_until is None
    world.engine().revoke(bad, "leaked")
    world.tick()
    assert world.kid(Stage.CURRENT) == heir
    assert bad not in world.public_kids()
    key = world.ring.by_kid(bad)
    assert key
    assert key.gone
    assert key.disabled_at
    assert sorted(world.stages().values()) == ["current", "next", "revoked"]
    assert world.ring.documents["jwks"].invalidate_due is False
    before = world.ring
    world.engine().revoke(bad, "again")
    assert world.ring.by_kid(bad) == before.by_kid(bad)


def test_revoking_before_the_gate_says_what_it_costs() -> None:
    world = founded()
    radius = world.engine().blast_radius(world.kid(Stage.CURRENT))
    assert radius.early_until
    assert any("before its gate" in sentence for sentence in radius.sentences)


def test_revoking_the_only_key_stops_signing_until_a_new_one_is_seen() -> None:
    world = founded(traits=KMS_LIKE)
    world.engine().revoke(world.kid(Stage.NEXT), "leaked too")
    radius = world.engine().blast_radius(world.kid(Stage.CURRENT))
    assert radius.heir is None
    world.engine().revoke(world.kid(Stage.CURRENT), "leaked")
    world.tick()
    assert sorted(world.stages().values()) == ["current", "next", "revoked", "revoked"]


@pytest.mark.no_cover
def test_revoking_a_previous_key_leaves_the_signing_key_alone() -> None:
    world = founded()
    world.run(timedelta(days=30, minutes=30))
    previous, current = world.kid(Stage.PREVIOUS), world.kid(Stage.CURRENT)
    world.engine().revoke(previous, "late discovery")
    world.tick()
    assert previous not in world.public_kids()
    assert world.kid(Stage.CURRENT) == current
    with pytest.raises(Refused, match="unknown"):
        world.engine().revoke("nobody", "typo")


def test_revoking_a_key_whose_promotion_stalls_fences_the_stalled_worker() -> None:
    for cut in range(4, 9):
        world = founded(policy=FAST)
        world.advance(timedelta(days=5))
        turns = Turns(world, random.Random(0), lambda _: timedelta(0))
        calls = 0

        def choose(names: list[str], cut: int = cut) -> str:
            nonlocal calls
            calls += 1
            return "stalled" if calls <= cut and "stalled" in names else names[0]

        next_kid = world.kid(Stage.NEXT)

        def person(world: World = world, kid: str = next_kid) -> None:
            world.engine("person").revoke(kid, "leaked")
            world.engine("person").tick()

        turns.run({"stalled": world.engine("stalled").tick, "person": person}, choose)
        world.tick()
        bad = world.ring.by_kid(next_kid)
        assert bad
        assert bad.revoked_at
        assert world.pointers["EdDSA"].id != bad.id
        assert next_kid not in world.public_kids()


@HOWS
@pytest.mark.no_cover
def test_a_revoke_goes_on_when_some_step_of_it_fails(how: str) -> None:
    a_revoke_goes_on(how, range(WAYS.index(how), 30, len(WAYS)))


@pytest.mark.slow
@HOWS
def test_a_revoke_goes_on_when_any_step_of_it_fails(how: str) -> None:
    a_revoke_goes_on(how, range(30))


def a_revoke_goes_on(how: str, effects: range) -> None:
    for at in effects:
        world = founded(policy=FAST)
        world.advance(timedelta(days=2))
        bad = world.kid(Stage.CURRENT)
        world.engine().revoke(bad, "leaked")
        world.arm(how, at)
        world.try_tick()
        assert all(key.disabled_at for key in world.ring.keys if key.destroyed_at), (how, at)
        world.advance(timedelta(minutes=1))
        world.try_tick()
        assert bad not in world.public_kids(), (how, at)
        assert world.pointers["EdDSA"].id == world.ring.by_kid(world.kid(Stage.CURRENT)).id  # type: ignore[union-attr]


# -- observed publication ----------------------------------------------------------------------------------------

URL = "https://cdn.example/acme/jwks.json"


def test_the_clock_of_next_starts_when_the_public_url_shows_it() -> None:
    world = World(urls=(URL,))
    world.edge_lag = timedelta(minutes=50)
    world.init()
    outcome = world.tick()
    assert set(world.stages().values()) == {"pending"}
    assert any("404" in wait.reason for wait in outcome.plan.waits)
    world.advance(HOUR)
    world.tick()
    assert "current" in world.stages().values()
    outcome = world.tick()
    assert any("still serves an older copy" in wait.reason for wait in outcome.plan.waits)
    world.run(timedelta(days=40), every=4 * HOUR)


def test_a_cdn_that_overrides_the_headers_stops_the_clock() -> None:
    world = World(urls=(URL,))
    world.edge_headers = "max-age=86400"
    world.init()
    outcome = world.tick()
    assert any("lets caches keep it" in wait.reason for wait in outcome.plan.waits)
    assert set(world.stages().values()) == {"pending"}


def test_an_unreachable_url_stops_the_clock() -> None:
    world = World(urls=(URL,))
    world.unreachable.add(URL)
    world.init()
    outcome = world.tick()
    assert any("does not answer" in wait.reason for wait in outcome.plan.waits)


def test_a_promotion_waits_while_the_public_document_cannot_be_fetched() -> None:
    world = World(urls=(URL,), policy=FAST)
    world.init()
    world.tick()
    world.tick()
    before = world.kid(Stage.CURRENT)
    world.advance(timedelta(days=5))
    world.unreachable.add(URL)
    with pytest.raises(StoreError, match="is not promoted"):
        world.tick()
    assert world.ring.trouble
    revision = world.ring.revision
    with pytest.raises(StoreError, match="is not promoted"):
        world.tick()
    assert world.ring.revision == revision, "the same trouble is noted once"
    world.unreachable.clear()
    world.tick()
    assert world.kid(Stage.CURRENT) != before
    assert world.ring.trouble is None


def test_a_key_that_cannot_sign_is_never_promoted() -> None:
    world = founded(policy=FAST)
    key = world.ring.by_kid(world.kid(Stage.NEXT))
    assert key
    assert key.handle
    other = world.ring.by_kid(world.kid(Stage.CURRENT))
    assert other
    world.private[key.handle] = world.private[other.handle or ""]
    world.advance(timedelta(days=5))
    with pytest.raises(StoreError, match="does not verify"):
        world.tick()
    assert world.pointers["EdDSA"].id == other.id


def test_a_revoke_says_which_url_still_serves_the_key() -> None:
    world = World(urls=(URL,))
    world.init()
    world.tick()
    world.tick()
    world.advance(timedelta(days=2))
    bad = world.kid(Stage.CURRENT)
    world.edge_lag = timedelta(hours=1)
    world.engine().revoke(bad, "leaked")
    outcome = world.tick()
    assert any("still serves it, and may until" in wait.reason for wait in outcome.plan.waits)
    world.advance(timedelta(hours=2))
    world.tick()
    assert world.ring.by_kid(bad).gone  # type: ignore[union-attr]


# -- clocks ------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_off_stops_what_depends_on_time_and_nothing_else() -> None:
    world = founded(policy=FAST)
    before = world.kid(Stage.CURRENT)
    world.advance(timedelta(days=5))
    world.store_date = lambda: world.now - timedelta(minutes=10)
    outcome = world.tick()
    assert outcome.clock_fault
    assert "9m5" in outcome.clock_fault
    assert "ahead of the store" in outcome.clock_fault
    assert world.kid(Stage.CURRENT) == before
    with pytest.raises(Refused, match="ahead of"):
        world.engine().rotate(["EdDSA"])
    world.restore(jwks.serialize([], 0))
    world.tick()
    assert before in world.public_kids()
    world.store_date = lambda: world.now.replace(microsecond=0)
    world.run(timedelta(days=2))
    assert world.kid(Stage.CURRENT) != before


def test_a_clock_before_the_newest_fact_is_refused() -> None:
    world = founded()
    world.now -= timedelta(hours=1)
    with pytest.raises(Refused, match="Set this machine's clock"):
        world.tick()


# -- init and ledgers --------------------------------------------------------------------------------------------


def test_init_refuses_where_a_public_document_or_a_key_exists_without_a_ledger() -> None:
    world = founded()
    ledger = world.documents.pop("acme/ledger.json")
    with pytest.raises(Refused, match="exists, but no ledger"):
        world.engine().init()
    del world.documents["acme/jwks.json"]
    with pytest.raises(Refused, match="exists, but no ledger"):
        world.engine().init()
    with pytest.raises(Refused, match="there is no ledger"):
        world.tick()
    world.documents["acme/ledger.json"] = ledger
    assert world.engine().init() is False


def test_a_document_that_appears_before_the_first_publication_is_not_overwritten() -> None:
    world = World()
    world.init()
    world.documents["acme/jwks.json"] = (b'{"keys": []}', "v0", Headers("application/json", None))
    with pytest.raises(Refused, match="never wrote"):
        world.tick()
    assert world.documents["acme/jwks.json"][0] == b'{"keys": []}'


def test_a_damaged_ledger_stops_the_tick_and_is_not_written() -> None:
    world = founded()
    body, version, headers = world.documents["acme/ledger.json"]
    world.documents["acme/ledger.json"] = (body[: len(body) // 2], version, headers)
    with pytest.raises(Refused, match="not readable JSON"):
        world.tick()
    assert world.documents["acme/ledger.json"][0] == body[: len(body) // 2]


def test_a_ledger_that_did_not_change_is_parsed_once_and_one_that_did_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = founded()
    parsed: list[bytes] = []

    def counted(body: bytes, keyset: str) -> Keyring:
        parsed.append(body)
        return from_json(body, keyset)

    monkeypatch.setattr("rotator.engine.ledger.from_json", counted)
    engine = world.engine()
    first = engine.tick().ring
    # What is parsed no more is not what was read: the store is asked each time.
    assert engine.tick().ring is first
    assert engine.look().ring is engine.ledger() is first
    assert len(parsed) == 1
    world.engine("b").drop("theirs")
    assert engine.look().ring.dropped.keys() == {"theirs"}
    assert engine.look().ring == world.ring


def test_a_ledger_damaged_after_it_was_read_is_refused_until_it_is_whole_again() -> None:
    world = founded()
    engine = world.engine()
    engine.tick()
    whole = body, version, headers = world.documents["acme/ledger.json"]
    for damaged, why in (
        (body[:-3], "not readable JSON"),
        (body.replace(b'"acme"', b'"acne"'), "acne"),
        (b"", "not readable JSON"),
    ):
        world.documents["acme/ledger.json"] = (damaged, version, headers)
        for ask in (engine.tick, engine.look, engine.ledger, engine.init):
            with pytest.raises(Refused, match=why) as told:
                ask()
            assert "memory:acme/ledger.json" in str(told.value)
        assert world.documents["acme/ledger.json"][0] == damaged
    world.documents["acme/ledger.json"] = whole
    assert engine.tick().ring == from_json(body, "acme")


def test_a_ledger_that_never_rests_is_given_up_on() -> None:
    world = founded()
    engine = world.engine()

    def always(*_: object) -> str:
        raise Conflict("moved")

    engine._ledger._store.replace = always  # type: ignore[method-assign, assignment]
    world.advance(timedelta(days=40))
    with pytest.raises(Conflict):
        engine.tick()
    with pytest.raises(Conflict, match="changes all the time"):
        engine.revoke(world.kid(Stage.CURRENT), "leaked")


# -- creations ---------------------------------------------------------------------------------------------------


def test_creations_are_capped_per_day() -> None:
    world = founded(policy=replace(FAST, max_creations_per_day=3))
    for _ in range(3):
        world.engine().revoke(world.kid(Stage.NEXT), "drill")
        outcome = world.tick()
        if Stage.NEXT not in world.stages().values():
            break
    assert len(world.creations) == 3
    assert any("max_creations_per_day" in wait.reason for wait in outcome.plan.waits)
    world.advance(timedelta(days=1, hours=1))
    world.tick()
    assert len(world.creations) == 4


def test_a_full_document_waits_with_a_new_key() -> None:
    world = founded(policy=replace(FAST, max_keys=3))
    world.run(timedelta(days=4, hours=2))
    outcome = world.engine().look()
    assert len(world.public_kids()) <= 3
    assert outcome.ring.revision == world.ring.revision


def test_keys_that_no_ledger_knows_are_swept_within_a_day() -> None:
    world = founded(policy=FAST, traits=KMS_LIKE)
    world.stray("lost-intent", "key-lost")
    world.run(timedelta(days=1))
    assert world.discarded == {"key-lost"}
    assert any(report.level == "warning" and "key-lost" in report.reason for report in world.reports)


def test_a_failed_invalidation_is_a_warning_after_a_rotation_and_an_error_after_a_revoke() -> None:
    world = founded()
    world.run(timedelta(days=2))

    def broken(*_: object) -> None:
        raise StoreError("CloudFront is away")

    engine = world.engine()
    engine._steps._cdn.invalidate = broken  # type: ignore[method-assign, union-attr]
    world.restore(jwks.serialize([], 0))
    engine.tick()
    assert any(report.level == "warning" for report in world.reports)
    bad = world.kid(Stage.CURRENT)
    engine.revoke(bad, "leaked")
    with pytest.raises(StoreError, match="CloudFront is away"):
        engine.tick()
    assert bad not in world.public_kids(), "a failing CDN must not stop the rest of the revoke"
    world.tick()
    assert world.ring.documents["jwks"].invalidate_due is False


def test_an_unknown_policy_algorithm_is_a_configuration_error() -> None:
    world = World(policy=replace(Policy(), algorithms=("XX256",)))
    with pytest.raises(ConfigurationError, match="XX256"):
        world.engine().init()


# -- a promotion that loses its ground ---------------------------------------------------------------------------


def promotion_begun(world: World) -> str:
    """A worker recorded the promotion and died before it moved the pointer; returns the kid."""
    kid = world.kid(Stage.NEXT)
    world.advance(timedelta(days=5))
    while world.ring.promoting("EdDSA") is None:
        world.arm("kill-after", 3)
        assert isinstance(world.try_tick(), Killed)
    return kid


def test_a_promotion_whose_document_was_overwritten_is_taken_back_and_fenced() -> None:
    world = founded(policy=FAST)
    current = world.kid(Stage.CURRENT)
    only = [jwk for jwk in jwks.parse(world.documents["acme/jwks.json"][0]).keys if jwk["kid"] == current]  # type: ignore[union-attr]
    kid = promotion_begun(world)
    token = world.pointers["EdDSA"].token
    world.restore(jwks.serialize(only, 0))
    world.tick()
    key = world.ring.by_kid(kid)
    assert key
    assert not key.promoting
    assert world.kid(Stage.CURRENT) == current
    assert world.pointers["EdDSA"].token != token, "a worker that still stalls in that promotion must fail"
    world.run(timedelta(hours=27))
    assert world.kid(Stage.CURRENT) == kid


def test_a_promotion_that_was_begun_is_rolled_forward_by_anybody() -> None:
    world = founded(policy=FAST)
    kid = promotion_begun(world)
    world.tick("b")
    assert world.kid(Stage.CURRENT) == kid


def test_retiring_an_algorithm_in_the_middle_of_its_promotion_ends_both_keys() -> None:
    world = founded(policy=FAST)
    promotion_begun(world)
    world.configure(replace(FAST, algorithms=("ES256",)))
    world.engine().retire("EdDSA")
    world.run(timedelta(days=5))
    assert world.pointers["EdDSA"].id is None
    assert {key.stage for key in world.ring.of("EdDSA")} == {Stage.RETIRED}


def test_revoking_a_key_whose_promotion_was_begun_fences_once_and_keeps_the_old_key() -> None:
    world = founded(policy=FAST)
    current = world.kid(Stage.CURRENT)
    kid = promotion_begun(world)
    world.engine().revoke(kid, "leaked")
    world.tick()
    assert world.steps().count("fence") == 1
    assert world.kid(Stage.CURRENT) == current


def test_revoking_a_key_to_which_the_pointer_moved_a_moment_ago_moves_it_back() -> None:
    world = founded(policy=FAST)
    current = world.kid(Stage.CURRENT)
    kid = promotion_begun(world)
    key = world.ring.by_kid(kid)
    assert key
    world.move_pointer_by_hand("EdDSA", key.id)
    world.engine().revoke(kid, "leaked")
    world.tick()
    assert world.pointers["EdDSA"].id == world.ring.by_kid(current).id  # type: ignore[union-attr]


def test_a_pointer_moved_by_hand_to_a_key_retired_long_ago_is_moved_back() -> None:
    world = founded()
    first = world.ring.current("EdDSA")
    assert first
    world.run(timedelta(days=130), every=timedelta(hours=6))
    assert world.ring.key(first.id) is None
    world.move_pointer_by_hand("EdDSA", first.id)
    world.tick()
    assert world.pointers["EdDSA"].id == world.ring.current("EdDSA").id  # type: ignore[union-attr]


# -- small print -------------------------------------------------------------------------------------------------


def test_a_public_url_that_serves_html_or_an_old_copy_stops_the_clock() -> None:
    for fetched, words in (
        (Fetched(b"<html>", "max-age=300, stale-if-error=0"), "does not serve a JWKS"),
        (Fetched(b'{"keys": []}', "max-age=300, stale-if-error=0", timedelta(days=2)), "2d old"),
        (Fetched(b'{"keys": ["key"]}', "max-age=300, stale-if-error=0"), "serves what strict readers refuse"),
    ):
        world = World(urls=(URL,))
        world.init()
        engine = world.engine()
        engine._observer._web.fetch = lambda _, fetched=fetched: fetched  # type: ignore[method-assign, misc]
        outcome = engine.tick()
        assert any(words in wait.reason for wait in outcome.plan.waits)


def test_a_public_url_that_serves_a_later_set_without_the_key_stops_the_clock() -> None:
    world = World(urls=(URL,))
    world.init()
    engine = world.engine()
    later = jwks.serialize([], 99, world.ring.ledger_id)
    engine._observer._web.fetch = lambda _: Fetched(later, "max-age=300, stale-if-error=0")  # type: ignore[method-assign, assignment]
    outcome = engine.tick()
    assert any("does not show" in wait.reason for wait in outcome.plan.waits)


def test_a_revoke_says_when_a_url_does_not_answer() -> None:
    world = World(urls=(URL,))
    world.init()
    world.tick()
    world.tick()
    world.advance(timedelta(days=2))
    world.engine().revoke(world.kid(Stage.CURRENT), "leaked")
    world.unreachable.add(URL)
    outcome = world.tick()
    assert any("does not answer" in wait.reason for wait in outcome.plan.waits)


def test_denied_writes_are_not_mistaken_for_lost_races() -> None:
    world = founded(policy=FAST)
    world.advance(timedelta(days=5))
    engine = world.engine()

    def denied(*_: object) -> str:
        raise AccessDenied("s3:PutObject on acme is denied")

    store = engine._ledger._store
    honest, store.replace = store.replace, denied  # type: ignore[method-assign, assignment]
    before = len(world.effects)
    with pytest.raises(AccessDenied):
        engine.tick()
    assert world.effects[before:].count("read acme/ledger.json") == 2, "once to observe, once to note the trouble"
    store.replace = honest  # type: ignore[method-assign]
    world.restore(jwks.serialize([], 0))
    engine._steps._public.replace = denied  # type: ignore[method-assign, assignment]
    with pytest.raises(AccessDenied):
        engine.tick()


def test_a_plan_that_never_ends_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    world = founded()
    monkeypatch.setattr("rotator.engine.MAX_STEPS", 3)
    world.engine().revoke(world.kid(Stage.CURRENT), "leaked")
    with pytest.raises(RotatorError, match="no end"):
        world.tick()


def test_without_a_cdn_a_revoke_has_nothing_to_invalidate() -> None:
    world = founded()
    engine = world.engine()
    engine._steps._cdn = None
    engine.revoke(world.kid(Stage.CURRENT), "leaked")
    engine.tick()
    assert world.ring.documents["jwks"].invalidate_due is False


def test_nonces_are_random_by_default() -> None:
    world = World()
    ports = Ports(world, "a")
    engine = Engine(
        world.keyset, ledger=ports, public=ports, keys=ports, clock=lambda: world.now, web=ports, elapsed=world.age
    )
    assert engine.init()
    engine.tick()
    assert len({key.id for key in world.ring.keys}) == 2
    assert all(len(key.id) == 36 for key in world.ring.keys)


def test_retiring_an_algorithm_that_never_signed_has_no_pointer_to_clear() -> None:
    world = founded(policy=FAST)
    world.configure(replace(FAST, algorithms=("EdDSA", "ES256")))
    world.tick()
    world.configure(FAST)
    world.engine().retire("ES256")
    world.tick()
    assert "ES256" not in world.pointers
    assert {key.stage for key in world.ring.of("ES256")} == {Stage.RETIRED}


def test_an_old_ledger_restored_under_a_live_daemon_stops_it() -> None:
    world = founded(policy=FAST)
    old = world.documents["acme/ledger.json"]
    world.run(timedelta(days=4, hours=2))
    pointer, kids = world.pointers["EdDSA"], world.public_kids()
    world.documents["acme/ledger.json"] = (old[0], "restored", old[2])
    with pytest.raises(Refused, match="older than the world"):
        world.tick()
    assert (world.pointers["EdDSA"], world.public_kids()) == (pointer, kids)


def test_a_pointer_is_never_moved_back_to_a_key_that_cannot_sign() -> None:
    world = founded()
    current = world.ring.current("EdDSA")
    stray = world.ring.by_kid(world.kid(Stage.NEXT))
    assert current
    assert stray
    world.move_pointer_by_hand("EdDSA", stray.id)
    world.disabled.add(current.handle or "")
    with pytest.raises(StoreError, match="disabled"):
        world.engine().tick()
    assert world.pointers["EdDSA"].id == stray.id


def test_a_key_made_while_somebody_else_wrote_the_ledger_is_recorded_and_not_made_again() -> None:
    world = World(policy=replace(POLICY, algorithms=("EdDSA", "ES256")), traits=KMS_LIKE)
    world.init()
    engine = world.engine()
    store = engine._ledger._store
    honest = store.create

    def overtaken(*args: object) -> object:
        made = honest(*args)  # type: ignore[arg-type]
        ring, version, _ = engine._ledger.read()
        engine._ledger.replace(ring, ring.revision, version)
        return made

    store.create = overtaken  # type: ignore[method-assign, assignment]
    engine.tick()
    assert sorted(world.stages().values()) == ["current", "current", "next", "next"]
    assert len(world.creations) == 4


def test_a_look_that_finds_nothing_is_no_step_done() -> None:
    world = World(urls=(URL,))
    world.edge_lag = timedelta(minutes=50)
    world.init()
    outcome = world.tick()
    assert "note-published" not in [report.step for report in outcome.steps]


def test_our_keys_come_back_though_strangers_filled_the_document() -> None:
    world = founded(policy=FAST)
    ours = world.public_kids()
    crowd = [{"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": f"theirs-{n}"} for n in range(9)]
    world.restore(jwks.serialize(crowd, 0))
    world.tick()
    assert ours <= world.public_kids()
    assert len(world.public_kids()) == POLICY.max_keys
    assert any("gave way" in report.reason for report in world.reports)


def test_a_private_half_that_was_public_is_removed_and_told_of() -> None:
    world = founded(policy=FAST)
    stored = jwks.parse(world.documents["acme/jwks.json"][0])
    assert stored
    ours, *others = stored.keys
    world.restore(jwks.serialize([ours | {"d": "c2VjcmV0"}, *others], stored.revision or 0))
    world.tick()
    assert b"c2VjcmV0" not in world.documents["acme/jwks.json"][0]
    (told,) = [report for report in world.reports if report.level == "warning"]
    assert told.step == "private-key"
    assert told.reason.startswith(f"{ours['kid']} was public with private members")
    assert "c2VjcmV0" not in str(world.reports)


def test_an_error_that_tells_the_time_is_noted_once() -> None:
    world = founded()
    world.now -= timedelta(hours=1)
    for _ in range(3):
        with pytest.raises(Refused):
            world.tick()
        body = world.documents["acme/ledger.json"]
        world.advance(timedelta(minutes=1))
    with pytest.raises(Refused):
        world.tick()
    assert world.documents["acme/ledger.json"] == body


def test_after_a_crash_in_create_another_attempt_is_recorded_when_the_pause_is_over() -> None:
    world = World(traits=KMS_LIKE)
    world.init()
    world.arm("kill-after", 4)
    assert isinstance(world.try_tick(), Killed)
    assert world.effects[-1] == "keys.create"
    outcome = world.tick()
    assert any(wait.step == "attempt" for wait in outcome.plan.waits)
    world.advance(timedelta(minutes=6))
    world.tick()
    assert world.steps().count("attempt") == 1
    assert sorted(world.stages().values()) == ["current", "next"]
