"""Stories from attacks on the engine: each broke a promise once, or made one failure hold up what had no part in it."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from rotator.errors import AccessDenied, Refused, StoreError
from rotator.keys import facts, jwks
from rotator.keys.keyring import Stage
from rotator.keys.policy import KeySet, PublicDocument
from tests.world import POLICY, Turns, World

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = timedelta(days=1)
URL = "https://auth.example.com/jwks.json"
FAST = replace(POLICY, lifetime=4 * DAY)
BOTH = replace(FAST, algorithms=("EdDSA", "ES256"))
JWKS = PublicDocument("jwks", "acme/jwks.json")


def founded(**kwargs: Any) -> World:
    world = World(**kwargs)
    world.init()
    world.tick()
    return world


def begun(world: World, alg: str) -> str:
    """A promotion of ``alg`` is recorded; the worker that recorded it is gone. The kid that is promoted."""
    ring, path = world.ring, "acme/ledger.json"
    key = next(key for key in ring.of(alg) if key.standby)
    with_promotion = facts.promoting(ring, world.policy, key.id, world.now, forced=False)
    engine = world.engine()
    engine._ledger.replace(with_promotion, ring.revision, world.documents[path][1])
    return key.kid or ""


def strangers(count: int) -> list[jwks.Jwk]:
    return [{"kty": "OKP", "crv": "Ed25519", "kid": f"theirs-{n}", "x": "AA"} for n in range(count)]


# -- one failure does not hold up the rest -----------------------------------------------------------------------


def test_a_promotion_that_fails_does_not_hold_up_a_revoke() -> None:
    world = founded(policy=BOTH, urls=(URL,))
    world.advance(2 * DAY)
    begun(world, "EdDSA")
    leaked, heir = world.ring.current("ES256"), world.kid(Stage.NEXT, "ES256")
    assert leaked
    world.unreachable.add(URL)
    world.engine().revoke(leaked.kid or "", "leaked")
    with pytest.raises(StoreError, match="is not promoted"):
        world.engine().tick()
    assert world.pointers["ES256"].id == world.ring.by_kid(heir).id  # type: ignore[union-attr]
    assert leaked.kid not in world.public_kids()
    assert leaked.handle in world.disabled


def test_a_pointer_that_cannot_be_repaired_does_not_hold_up_a_revoke() -> None:
    world = founded(policy=BOTH)
    broken, leaked = world.ring.current("EdDSA"), world.ring.current("ES256")
    assert broken
    assert leaked
    world.advance(DAY)
    world.move_pointer_by_hand("EdDSA", world.ring.by_kid(world.kid(Stage.NEXT, "EdDSA")).id)  # type: ignore[union-attr]
    world.disabled.add(broken.handle or "")
    world.engine().revoke(leaked.kid or "", "leaked")
    with pytest.raises(StoreError, match="disabled"):
        world.engine().tick()
    assert world.pointers["ES256"].id == world.ring.current("ES256").id  # type: ignore[union-attr]
    assert leaked.kid not in world.public_kids()


def test_a_pointer_that_cannot_be_cleared_does_not_hold_up_the_document() -> None:
    world = founded()
    for kid in (world.kid(Stage.NEXT), leaked := world.kid(Stage.CURRENT)):
        world.engine().revoke(kid, "leaked")
    engine = world.engine()

    def failing(*_: object) -> None:
        raise StoreError("the key store does not answer")

    engine._steps._keys.clear_pointer = failing  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreError, match="does not answer"):
        engine.tick()
    assert leaked not in world.public_kids()


def test_an_old_key_that_cannot_be_disabled_does_not_hold_up_the_end_of_a_revoked_one() -> None:
    world = founded(policy=FAST)
    world.advance(4 * DAY)
    world.tick()
    old, leaked = world.ring.by_kid(world.kid(Stage.PREVIOUS)), world.ring.current("EdDSA")
    assert old
    assert leaked
    world.advance(timedelta(hours=3))
    engine = world.engine()
    store = engine._steps._keys
    honest = store.disable

    def failing(ref: Any) -> None:
        if ref.id == old.id:
            raise StoreError("kms:DisableKey is throttled")
        honest(ref)

    store.disable = failing  # type: ignore[method-assign]
    engine.revoke(leaked.kid or "", "leaked")
    with pytest.raises(StoreError, match="throttled"):
        engine.tick()
    assert leaked.handle in world.disabled
    assert world.ring.by_kid(leaked.kid or "").gone  # type: ignore[union-attr]


def test_a_document_that_cannot_be_written_holds_up_neither_the_other_one_nor_the_disabling() -> None:
    world = two_documents()
    leaked = world.ring.current("EdDSA")
    assert leaked
    engine = world.engine()
    honest = engine._steps._public.replace

    def failing(path: str, *rest: Any) -> str:
        if path == "acme/jwks.json":
            raise AccessDenied("s3:PutObject on acme/jwks.json is denied")
        return honest(path, *rest)

    engine._steps._public.replace = failing  # type: ignore[method-assign, assignment]
    engine.revoke(leaked.kid or "", "leaked")
    told = len(world.invalidations)
    with pytest.raises(AccessDenied, match="is denied"):
        engine.tick()
    parsed = jwks.parse(world.documents["acme/more.json"][0])
    assert parsed
    assert leaked.kid not in parsed.kids()
    assert leaked.handle in world.disabled
    # While the origin still shows the key, neither the CDN is told nor is the key called gone.
    assert [world.ring.documents[name].invalidate_due for name in ("jwks", "more")] == [True, False]
    assert not any(reference.endswith("-jwks") for reference in world.invalidations[told:])
    assert set(world.ring.by_kid(leaked.kid or "").gone) == {"more"}  # type: ignore[union-attr]
    world.tick()
    assert set(world.ring.by_kid(leaked.kid or "").gone) == {"jwks", "more"}  # type: ignore[union-attr]


def test_a_ledger_that_cannot_be_written_after_the_pointer_moved_is_tried_once_a_tick() -> None:
    world = founded(policy=FAST)
    world.advance(5 * DAY)
    begun(world, "EdDSA")
    engine = world.engine()
    calls = []

    def failing(*_: Any) -> str:
        calls.append(world.now)
        raise StoreError("the ledger's store does not answer")

    engine._ledger.replace = failing  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreError, match="does not answer"):
        engine.tick()
    assert world.pointers["EdDSA"].id == world.ring.promoting("EdDSA").id  # type: ignore[union-attr]
    assert len(calls) < 5
    world.tick()
    assert world.ring.promoting("EdDSA") is None


# -- a revoke in every state -------------------------------------------------------------------------------------


def test_revoking_the_heir_before_it_signs_lets_the_next_key_sign_as_soon_as_it_is_seen() -> None:
    world = founded()
    world.engine().revoke(world.kid(Stage.CURRENT), "leaked")
    world.engine().revoke(world.kid(Stage.NEXT), "leaked too")
    world.tick()
    current = world.ring.current("EdDSA")
    assert current
    assert current.forced
    assert world.pointers["EdDSA"].id == current.id


# -- a ledger older than the world -------------------------------------------------------------------------------


def test_an_old_ledger_never_grows_as_new_as_the_world_by_its_own_error_notes() -> None:
    world = founded(policy=FAST)
    old = world.documents["acme/ledger.json"]
    leaked = world.kid(Stage.NEXT)
    world.engine().revoke(leaked, "leaked")
    world.tick()
    world.documents["acme/ledger.json"] = (old[0], "restored", old[2])
    for _ in range(20):
        with pytest.raises(Refused, match="older than the world"):
            world.tick()
    assert leaked not in world.public_kids()


def test_a_document_of_another_key_set_is_overwritten_however_high_its_revision() -> None:
    world = founded()
    kids = world.public_kids()
    world.restore(jwks.serialize(strangers(1), 10_000))
    world.tick()
    assert kids < world.public_kids()


def test_a_document_read_again_that_another_worker_wrote_meanwhile_is_no_old_ledger() -> None:
    for seed in range(40):
        world = founded(policy=FAST, seed=seed)
        leaked = world.kid(Stage.NEXT)
        world.restore(jwks.serialize([], 0))
        refusals: list[Refused] = []

        def tick(world: World = world, refusals: list[Refused] = refusals) -> None:
            try:
                world.engine("a").tick()
            except Refused as exc:
                refusals.append(exc)

        def person(world: World = world, leaked: str = leaked) -> None:
            world.engine("b").revoke(leaked, "leaked")
            world.engine("b").tick()

        tasks: dict[str, Callable[[], Any]] = {"a": tick, "b": person}
        Turns(world, random.Random(seed), lambda _: timedelta(0)).run(tasks)
        assert not refusals


# -- several public documents ------------------------------------------------------------------------------------


def with_documents(world: World, *documents: PublicDocument) -> None:
    world.keyset = KeySet("acme", world.policy, documents)


def two_documents() -> World:
    world = World(policy=FAST)
    with_documents(world, JWKS, PublicDocument("more", "acme/more.json"))
    world.init()
    world.tick()
    return world


def test_a_key_waiting_for_a_document_that_is_not_configured_any_more_goes_on() -> None:
    world = two_documents()
    unreachable = "https://auth.example.com/more.json"
    world.unreachable.add(unreachable)
    with_documents(world, JWKS, PublicDocument("more", "acme/more.json", (unreachable,)))
    world.advance(DAY)
    revoked = world.ring.by_kid(world.kid(Stage.NEXT))
    assert revoked
    world.engine().revoke(revoked.kid or "", "drill")
    world.tick()
    waiting = world.ring.by_kid(world.kid(Stage.PENDING))
    assert waiting
    assert set(waiting.published) == {"jwks"}
    with_documents(world, replace(JWKS, urls=(URL,)))
    world.advance(4 * DAY)
    world.unreachable.add(URL)
    world.tick()
    assert world.kid(Stage.PENDING) == waiting.kid
    world.unreachable.clear()
    world.run(2 * DAY, every=timedelta(hours=6))
    assert world.kid(Stage.CURRENT) == waiting.kid


def test_a_document_that_shows_an_algorithm_no_more_takes_nothing_from_its_standby_key() -> None:
    world = two_documents()
    standby = world.kid(Stage.NEXT)
    with_documents(world, JWKS, PublicDocument("more", "acme/more.json", algorithms=frozenset({"ES256"})))
    world.run(5 * DAY, every=timedelta(hours=6))
    assert world.kid(Stage.CURRENT) == standby


def test_a_document_of_one_algorithm_is_empty_once_that_ended() -> None:
    world = World(policy=BOTH)
    with_documents(world, JWKS, PublicDocument("es", "acme/es.json", algorithms=frozenset({"ES256"})))
    world.init()
    world.tick()
    world.configure(FAST)
    with_documents(world, JWKS, PublicDocument("es", "acme/es.json", algorithms=frozenset({"ES256"})))
    world.engine().retire("ES256")
    world.run(10 * DAY, every=timedelta(hours=6))
    parsed = jwks.parse(world.documents["acme/es.json"][0])
    assert parsed
    assert parsed.kids() == set()
    assert {key.alg for key in world.ring.keys if key.public} == {"EdDSA"}


# -- a policy that changes at the worst moment -------------------------------------------------------------------


def test_copies_served_with_an_old_header_pass_every_cache_that_a_new_policy_knows_of() -> None:
    long = replace(FAST, cache_max_age=timedelta(hours=40), cache_stale=timedelta(0), verifier_cache=timedelta(hours=1))
    world = founded(policy=long)
    world.engine().revoke(world.kid(Stage.NEXT), "drill")
    world.configure(replace(long, cache_max_age=timedelta(minutes=1), cache_tiers=2))
    world.tick()
    key = world.ring.by_kid(world.kid(Stage.NEXT))
    assert key
    assert key.ready["jwks"] - key.published["jwks"] >= 2 * long.cache_max_age


def test_a_cap_of_creations_that_shrinks_says_when_the_next_one_may_be() -> None:
    world = founded(policy=replace(POLICY, max_creations_per_day=3))
    world.advance(timedelta(hours=20))
    world.engine().revoke(world.kid(Stage.NEXT), "drill")
    world.tick()
    world.advance(timedelta(hours=5))
    world.configure(replace(POLICY, max_creations_per_day=1))
    world.engine().revoke(world.kid(Stage.NEXT), "drill")
    outcome = world.tick()
    assert [wait.at for wait in outcome.plan.waits if wait.step == "intend"] == [world.ring.attempts[-1] + DAY]


# -- too many keys -----------------------------------------------------------------------------------------------


def test_a_new_key_waits_while_strangers_fill_the_document() -> None:
    world = founded(policy=FAST)
    public = jwks.parse(world.documents["acme/jwks.json"][0])
    assert public
    world.restore(jwks.serialize([*public.keys, *strangers(8)], 0))
    outcome = world.engine().tick()
    world.advance(5 * DAY)
    outcome = world.engine().tick()
    assert any("8 of them not ours" in wait.reason for wait in outcome.plan.waits)
    assert len(world.public_kids()) == 10
    for n in range(8):
        world.engine().drop(f"theirs-{n}")
    world.tick()
    assert Stage.NEXT in {key.stage for key in world.ring.keys}
