"""What fails for one key, algorithm or document holds up no revoke, no repair, and no other algorithm."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from rotator.errors import AccessDenied, ConfigurationError, Refused, RotatorError, StoreError
from rotator.keys import jwks
from rotator.keys.keyring import Stage
from rotator.ports import Intent, KeyRef, Traits
from tests.test_attacks import BOTH, DAY, FAST, URL, begun, founded, strangers, unable

if TYPE_CHECKING:
    from rotator.engine import Engine
    from tests.world import World

HOUR = timedelta(hours=1)


def ticked(world: World, engine: Engine, hours: int = 3) -> str:
    """What the last of some ticks failed with."""
    said = ""
    for _ in range(hours):
        with suppress(RotatorError):
            try:
                engine.tick()
            except RotatorError as exc:
                said = str(exc)
                raise
        world.check()
        world.advance(HOUR)
    return said


def gone(world: World, leaked: str) -> bool:
    key = world.ring.by_kid(leaked)
    assert key
    return leaked not in world.public_kids() and key.handle in world.disabled and bool(key.gone)


def test_an_algorithm_whose_pointer_cannot_be_cleared_holds_up_neither_a_revoke_nor_a_repair() -> None:
    world = founded(policy=BOTH)
    world.advance(2 * DAY)
    world.configure(FAST)
    world.engine().retire("ES256")
    engine = unable(world, "clear_pointer", denied=AccessDenied)
    leaked = world.kid(Stage.CURRENT, "EdDSA")
    engine.revoke(leaked, "leaked")
    assert ticked(world, engine)
    assert gone(world, leaked)
    world.restore(b'{"keys":[]}')
    assert ticked(world, engine)
    assert world.kid(Stage.CURRENT, "EdDSA") in world.public_kids()
    assert world.ring.current("ES256"), "its issuers were told nothing yet"


def test_a_promotion_that_cannot_be_fenced_holds_up_neither_a_revoke_nor_a_repair() -> None:
    world = founded(policy=BOTH)
    world.advance(2 * DAY)
    promoted = begun(world, "EdDSA")
    engine = unable(world, "fence", denied=StoreError)
    world.restore(b'{"keys":[]}')
    assert ticked(world, engine)
    assert {key.kid for key in world.ring.keys if key.public} == world.public_kids()
    key = world.ring.by_kid(promoted)
    assert key
    assert key.promoting, "taken back only once stalled workers are fenced"
    assert world.pointers["EdDSA"].id != key.id
    leaked = world.kid(Stage.CURRENT, "ES256")
    engine.revoke(leaked, "leaked")
    assert ticked(world, engine)
    assert gone(world, leaked)


def test_a_key_that_cannot_be_made_holds_up_no_other_algorithm() -> None:
    world = founded(policy=FAST)
    world.configure(BOTH)

    def of_es256(intent: object, *_: object) -> bool:
        return isinstance(intent, Intent) and intent.algorithm.alg == "ES256"

    engine = unable(world, "create", of_es256, denied=ConfigurationError)
    assert ticked(world, engine)
    for stage in (Stage.NEXT, Stage.CURRENT):
        engine.revoke(world.kid(stage, "EdDSA"), "leaked")
    assert ticked(world, engine)
    assert world.ring.current("EdDSA")


@pytest.mark.parametrize("alg", BOTH.algorithms)
def test_a_key_that_cannot_be_destroyed_holds_up_no_rotation(alg: str) -> None:
    world = founded(policy=BOTH)
    world.run(4 * DAY + HOUR, every=4 * HOUR)
    old = next(key for key in world.ring.of(alg) if key.stage is Stage.PREVIOUS)

    def of_old(ref: KeyRef) -> bool:
        return ref.id == old.id

    engine = unable(world, "destroy", of_old, denied=StoreError)
    for _ in range(30):
        ticked(world, engine, 1)
        world.advance(8 * HOUR)
    for each in BOTH.algorithms:
        current = world.ring.current(each)
        assert current
        assert current.activated_at
        assert world.now - current.activated_at < BOTH.lifetime + DAY
        assert any(key.standby and key.published_at for key in world.ring.of(each))


def test_a_pointer_that_cannot_be_read_is_counted_as_if_it_named_the_key() -> None:
    world = founded(policy=FAST)
    standby = world.kid(Stage.NEXT)
    engine = unable(world, "read_pointer", denied=StoreError)
    assert engine.blast_radius(standby).tokens_until
    assert world.engine().blast_radius(standby).tokens_until is None
    with pytest.raises(Refused, match="unknown"):
        engine.blast_radius("nobody")


def test_keys_that_cannot_be_swept_hold_up_no_rotation() -> None:
    world = founded(policy=FAST, traits=Traits(leaves_strays=True))
    first = world.kid(Stage.CURRENT)
    engine = unable(world, "strays", denied=StoreError)
    for _ in range(20):
        ticked(world, engine, 1)
        world.advance(8 * HOUR)
    assert world.kid(Stage.CURRENT) != first
    assert world.ring.swept_at is None


@pytest.mark.parametrize("kind", [StoreError, ConfigurationError])
def test_a_url_that_cannot_be_fetched_from_here_holds_up_no_new_next_key(kind: type[RotatorError]) -> None:
    world = founded(policy=FAST, urls=(URL,))
    world.advance(HOUR)
    engine = unable(world, "fetch", denied=kind)
    engine.revoke(world.kid(Stage.NEXT), "leaked")
    outcome = engine.tick()
    assert any(key.standby for key in world.ring.keys)
    assert {wait.step for wait in outcome.plan.waits if wait.at is None} == {"note-gone", "note-published"}


def test_an_origin_that_cannot_be_read_again_holds_up_no_other_step() -> None:
    world = founded(policy=FAST)
    world.advance(HOUR)
    leaked = world.kid(Stage.NEXT)
    engine = world.engine()
    engine.revoke(leaked, "leaked")
    honest = engine._observer.read_again

    def away(*_: object) -> None:
        raise StoreError("the store is away")

    engine._observer.read_again = away  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreError, match="is away"):
        engine.tick()
    assert leaked not in world.public_kids()
    assert any(key.standby for key in world.ring.keys), "a new next key was made"
    engine._observer.read_again = honest  # type: ignore[method-assign]
    engine.tick()
    assert gone(world, leaked)


def test_strangers_up_to_max_keys_hold_up_no_revoke() -> None:
    world = founded(policy=BOTH)
    signing = [key for alg in BOTH.algorithms if (key := world.ring.current(alg))]
    world.restore(jwks.serialize([key.jwk or {} for key in signing] + strangers(8), 0))
    ticked(world, world.engine())
    leaked = signing[0].kid or ""
    world.engine().revoke(leaked, "leaked")
    ticked(world, world.engine())
    assert gone(world, leaked)
    assert world.ring.current(signing[0].alg)
    assert len(world.public_kids()) <= BOTH.max_keys


@pytest.mark.parametrize("denied", [False, True], ids=["every pointer is read", "one is not"])
def test_another_rotators_document_is_no_newer_one_where_a_pointer_tells(*, denied: bool) -> None:
    world = founded(policy=BOTH)
    world.advance(DAY)
    engine = unable(world, "read_pointer", lambda _, row: denied and row.alg == "ES256", denied=StoreError)
    world.restore(jwks.serialize(strangers(1), 10_000))
    ticked(world, engine, 1)
    assert {key.kid for key in world.ring.keys if key.public} <= world.public_kids()


def test_a_key_of_an_algorithm_that_leaves_in_the_middle_of_its_promotion_is_not_taken_away() -> None:
    world = founded(policy=FAST, urls=(URL,))
    world.advance(DAY)
    world.configure(BOTH)
    world.tick()
    world.advance(3 * DAY)
    promoted = begun(world, "ES256")
    world.configure(FAST)
    world.unreachable.add(URL)
    ticked(world, world.engine("b"), 1)
    world.unreachable.clear()
    world.tick("b")
    assert world.kid(Stage.CURRENT, "ES256") == promoted, "rolled forward: a stalled worker may have moved the pointer"


def test_a_key_that_was_forced_for_an_algorithm_that_left_skips_no_gate_when_it_comes_back() -> None:
    world = founded(policy=BOTH)
    world.advance(DAY)
    world.configure(FAST)
    world.tick()
    for stage in (Stage.NEXT, Stage.CURRENT):
        world.engine().revoke(world.kid(stage, "ES256"), "leaked")
    assert world.tick().ring.succession("ES256").forced_at
    world.skew["off"] = timedelta(0)
    world.advance(DAY)
    world.store_date = lambda: world.now - HOUR
    assert any(wait.step == "lapse" for wait in world.tick().plan.waits), "not by a clock that is off"
    world.store_date = lambda: None
    world.tick()
    assert not world.ring.succession("ES256").forced_at
    world.run(30 * DAY, every=DAY)
    world.configure(BOTH)
    world.tick()
    assert world.ring.current("ES256") is None, "its first key waits the full gate"
    world.run(2 * DAY, every=2 * HOUR)
    assert world.ring.current("ES256")


def test_a_document_emptied_in_the_middle_of_a_promotion_is_filled_again() -> None:
    world = founded(policy=FAST)
    world.advance(5 * DAY)
    stalled = world.engine("stalled")
    store = stalled._steps._keys
    honest, done = store.move_pointer, list[bool]()

    def moves_late(pointer: object, ref: KeyRef) -> object:
        if not done:
            done.append(True)
            # Between the look and the move: what that breaks is the outsider's, and the checker has no word for it.
            world.check_moved = lambda *_: None  # type: ignore[method-assign]
            world.restore(b'{"keys":[]}')
            other = world.engine("b")
            fence = other._steps._keys.fence
            moved: list[object] = []

            def after_the_move(*given: object) -> object:
                moved.append(honest(pointer, ref))  # type: ignore[arg-type]
                return fence(*given)  # type: ignore[arg-type]

            other._steps._keys.fence = after_the_move  # type: ignore[method-assign, assignment]
            with suppress(RotatorError):
                other.tick()
            return moved[0]
        return honest(pointer, ref)  # type: ignore[arg-type]

    store.move_pointer = moves_late  # type: ignore[method-assign, assignment]
    with suppress(RotatorError):
        stalled.tick()
    world.tick("c")
    assert {key.kid for key in world.ring.keys if key.public} == world.public_kids()


def test_a_skew_that_shrinks_is_remembered_as_long_as_the_key_may_verify() -> None:
    long = replace(FAST, clock_skew=timedelta(minutes=10))
    world = founded(policy=long)
    world.advance(4 * DAY + HOUR)
    world.skew["slow"] = timedelta(seconds=1) - long.clock_skew
    world.tick("slow")
    world.skew.clear()
    world.advance(timedelta(minutes=1))
    world.configure(replace(long, clock_skew=timedelta(seconds=1)))
    for _ in range(5 * 60):
        world.tick("right")
        world.advance(timedelta(minutes=1))
    assert "retired" in world.stages().values()


def test_a_promotion_whose_pointer_moved_is_not_taken_back_for_a_document_that_lost_its_key() -> None:
    world = founded(policy=FAST)
    world.advance(5 * DAY)
    heir = world.kid(Stage.NEXT)
    old = jwks.serialize([key.jwk or {} for key in world.ring.keys if key.stage is Stage.CURRENT], 0)
    engine = world.engine()
    store = engine._steps._keys
    honest = store.move_pointer

    def applied_and_lost(*given: object) -> object:
        honest(*given)  # type: ignore[arg-type]
        world.check_moved = lambda *_: None  # type: ignore[method-assign]
        world.restore(old)
        # So late that all is looked at again, in the same tick.
        world.advance(2 * HOUR)
        raise StoreError("the answer was lost")

    store.move_pointer = applied_and_lost  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreError, match="lost"):
        engine.tick()
    world.tick("b")
    assert world.kid(Stage.CURRENT) == heir, "rolled forward: it may have signed"
    assert heir in world.public_kids()


def test_an_old_request_to_retire_that_lapses_ends_no_emergency() -> None:
    world = founded(policy=BOTH)
    world.configure(FAST)
    engine = world.engine()
    ring, path = world.ring, "acme/ledger.json"
    asked = ring.with_succession("ES256", retire_requested_at=world.now)
    engine._ledger.replace(asked, ring.revision, world.documents[path][1])
    world.configure(BOTH)
    world.advance(20 * HOUR)
    world.unreachable.add(URL)
    for stage in (Stage.NEXT, Stage.CURRENT):
        world.engine().revoke(world.kid(stage, "ES256"), "leaked")
    away = unable(world, "create", denied=StoreError)
    ticked(world, away, 5)
    assert world.ring.succession("ES256").forced_at
    assert world.ring.succession("ES256").retire_requested_at is None
    world.tick()
    assert world.ring.current("ES256"), "at once, as nobody could sign"
