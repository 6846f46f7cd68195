"""Stories from attacks on the engine: each broke a promise once, or made one failure hold up what had no part in it."""

from __future__ import annotations

import hashlib
import json
import random
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from rotator.errors import AccessDenied, ConfigurationError, Conflict, Refused, RotatorError, StoreError
from rotator.keys import facts, jwks
from rotator.keys.keyring import Key, Keyring, Stage
from rotator.keys.plan import gate
from rotator.keys.policy import KeySet, PublicDocument
from rotator.keys.publication import Seen, project
from rotator.ports import Fetched
from tests.world import POLICY, Turns, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from rotator.engine import Engine
    from rotator.ports import Headers

DAY = timedelta(days=1)
URL = "https://auth.example.com/jwks.json"
FAST = replace(POLICY, lifetime=4 * DAY)
BOTH = replace(FAST, algorithms=("EdDSA", "ES256"))
PATH = "acme/jwks.json"
JWKS = PublicDocument("jwks", PATH)


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


@pytest.mark.parametrize("fault", [AccessDenied, ConfigurationError])
def test_a_document_that_cannot_be_written_holds_up_neither_the_other_one_nor_the_disabling(
    fault: type[RotatorError],
) -> None:
    world = two_documents()
    leaked = world.ring.current("EdDSA")
    assert leaked
    engine = world.engine()
    honest = engine._steps._public.replace

    def failing(path: str, *rest: Any) -> str:
        if path == "acme/jwks.json":
            raise fault("s3:PutObject on acme/jwks.json is denied")
        return honest(path, *rest)

    engine._steps._public.replace = failing  # type: ignore[method-assign, assignment]
    engine.revoke(leaked.kid or "", "leaked")
    told = len(world.invalidations)
    with pytest.raises(fault, match="is denied"):
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


def test_a_pointer_that_cannot_be_read_holds_up_nothing_of_another_algorithm() -> None:
    world = founded(policy=BOTH)
    leaked, heir = world.ring.current("ES256"), world.kid(Stage.NEXT, "ES256")
    assert leaked
    world.engine().revoke(leaked.kid or "", "leaked")
    world.advance(5 * DAY)
    engine = unable(world, "read_pointer", lambda _, algorithm: algorithm.alg == "EdDSA")
    with pytest.raises(AccessDenied, match="is denied"):
        engine.tick()
    assert world.pointers["ES256"].id == world.ring.by_kid(heir).id  # type: ignore[union-attr]
    assert leaked.kid not in world.public_kids()
    assert leaked.handle in world.disabled
    assert world.ring.promoting("EdDSA") is None
    assert world.ring.trouble
    with pytest.raises(AccessDenied):
        unable(world, "read_pointer").look()
    with pytest.raises(AccessDenied):
        unable(world, "read_pointer").rotate(["ES256"])
    world.tick()
    assert len(world.ring.of("EdDSA")) == 3


@pytest.mark.parametrize("fault", [AccessDenied, ConfigurationError])
def test_a_document_that_cannot_be_read_keeps_no_revoked_key_signing(fault: type[RotatorError]) -> None:
    world = founded(policy=FAST)
    leaked, heir = world.ring.current("EdDSA"), world.kid(Stage.NEXT)
    assert leaked
    before = world.documents["acme/jwks.json"]
    engine = unable(world, "read", lambda path: path.endswith("jwks.json"), denied=fault)
    engine.revoke(leaked.kid or "", "leaked")
    with pytest.raises(fault, match="is denied"):
        engine.tick()
    assert world.pointers["EdDSA"].id == world.ring.by_kid(heir).id  # type: ignore[union-attr]
    assert leaked.handle in world.disabled
    # What the document holds is not known: it is not written, nothing is called gone, and no private half destroyed.
    assert world.documents["acme/jwks.json"] == before
    assert not world.ring.by_kid(leaked.kid or "").gone  # type: ignore[union-attr]
    assert leaked.handle not in world.destroyed
    world.tick()
    assert leaked.kid not in world.public_kids()


def test_while_a_document_cannot_be_read_no_key_is_promoted_and_no_pointer_led_back() -> None:
    world = founded(policy=FAST)
    world.advance(5 * DAY)
    current, standby = world.ring.current("EdDSA"), world.ring.by_kid(world.kid(Stage.NEXT))
    assert current
    assert standby
    for _ in range(2):
        with pytest.raises(AccessDenied):
            unable(world, "read", lambda path: path.endswith("jwks.json")).tick()
    assert world.ring.promoting("EdDSA") is None
    world.move_pointer_by_hand("EdDSA", standby.id)
    with pytest.raises(AccessDenied):
        unable(world, "read", lambda path: path.endswith("jwks.json")).tick()
    assert world.pointers["EdDSA"].id == standby.id
    world.engine().tick()
    assert world.pointers["EdDSA"].id == current.id


def unable(
    world: World,
    call: str,
    about: Callable[..., bool] = lambda *_: True,
    denied: type[RotatorError] = AccessDenied,
) -> Engine:
    """An engine that is denied one call of a port, where it is ``about`` something."""
    engine = world.engine()
    ports: Any = engine._steps._keys
    honest = getattr(ports, call)

    def refusing(*given: Any) -> Any:
        if about(*given):
            raise denied(f"{call} is denied")
        return honest(*given)

    setattr(ports, call, refusing)
    return engine


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


def test_a_persons_requests_do_not_make_an_old_ledger_look_new() -> None:
    world = founded(policy=FAST)
    old, leaked = world.documents["acme/ledger.json"], world.kid(Stage.NEXT)
    world.engine().revoke(leaked, "leaked")
    world.tick()
    world.documents["acme/ledger.json"] = restored = (old[0], "restored", old[2])
    for _ in range(5):
        with pytest.raises(Refused, match="older than the world"):
            world.engine().revoke(world.kid(Stage.CURRENT), "drill")
        with pytest.raises(Refused, match="older than the world"):
            world.engine().drop("theirs")
    assert world.documents["acme/ledger.json"] == restored


# -- clocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [timedelta(hours=5), timedelta(hours=-5)], ids=["ahead", "behind"])
def test_a_revoke_by_a_machine_whose_clock_is_off_leaves_no_fact_from_another_time(off: timedelta) -> None:
    world = founded(policy=FAST)
    world.store_date = lambda: world.now.replace(microsecond=0)
    world.advance(DAY)
    world.skew["laptop"] = off
    for stage in (Stage.NEXT, Stage.CURRENT):
        world.engine("laptop").revoke(world.kid(stage), "stolen")
    assert world.engine("laptop").look().clock_fault
    world.engine("laptop").tick()
    revoked = [key.revoked_at for key in world.ring.keys if key.revoked_at]
    assert all(abs(at - world.now) < timedelta(seconds=3) for at in (*revoked, world.ring.newest_fact()))
    # Nobody could sign, so the new key was looked for and promoted, whatever that clock says.
    assert world.pointers["EdDSA"].id == world.ring.by_kid(world.kid(Stage.CURRENT)).id  # type: ignore[union-attr]
    world.tick("right")


def told(world: World, worker: str, elapsed: Callable[[], timedelta]) -> Engine:
    """An engine that is told by ``elapsed`` how much time went by."""
    engine = world.engine(worker)
    engine._observer.elapsed = elapsed
    return engine


def set_back_while_the_pointer_moves(elapsed: Callable[[World], timedelta]) -> tuple[World, str]:
    """A worker stalls for an hour while it promotes, and its clock is set back by two; the key that signed until then.

    Its clock is right again when the others look.
    """
    world = founded(policy=FAST)
    superseded = world.kid(Stage.CURRENT)
    world.advance(5 * DAY)
    engine = told(world, "a", lambda: elapsed(world))
    store = engine._steps._keys
    honest = store.move_pointer

    def stalls(*given: Any) -> Any:
        world.advance(timedelta(hours=1))
        moved = honest(*given)
        world.skew["a"] = -timedelta(hours=2)
        return moved

    store.move_pointer = stalls  # type: ignore[method-assign, assignment]
    with suppress(Refused):
        engine.tick()
    return world, superseded


def test_a_clock_set_back_while_the_pointer_moves_dates_nothing_before_it_happened() -> None:
    world, superseded = set_back_while_the_pointer_moves(lambda world: world.now - world.ring.created_at)
    since = world.ring.by_kid(superseded).superseded_at  # type: ignore[union-attr]
    assert since
    assert world.now - timedelta(seconds=1) < since <= world.now
    with pytest.raises(Refused, match="Set this machine's clock"):
        world.tick("a")
    for left, public in ((timedelta(seconds=1), True), (timedelta(0), False)):
        world.now = since + FAST.retention - left
        world.tick("right")
        assert (superseded in world.public_kids()) is public


@pytest.mark.parametrize(
    ("back", "by"),
    [
        (timedelta(0), timedelta(0)),
        (timedelta(seconds=1), timedelta(seconds=1)),
        (timedelta(seconds=1, microseconds=1), timedelta(0)),
        (timedelta(hours=1), timedelta(0)),
        (timedelta(hours=-1), timedelta(hours=-1)),
    ],
    ids=["right", "a second apart", "more than that", "set back", "set ahead"],
)
def test_two_clocks_that_run_apart_by_a_second_mean_nothing(back: timedelta, by: timedelta) -> None:
    world = founded()
    observer = told(world, "a", lambda: world.now - world.ring.created_at)._observer
    observer.observe()
    looked = world.now
    world.advance(timedelta(minutes=1))
    world.skew["a"] = -back
    assert observer.now() == world.now - by
    # However short ago it looked: nothing is dated before that.
    world.now = looked
    assert observer.now() == max(world.now - by, looked)


def test_before_anything_was_looked_at_the_clock_is_taken_at_its_word() -> None:
    world = founded()
    observer = told(world, "a", lambda: 9000 * DAY)._observer
    assert observer.now() == world.now
    world.skew["a"] = -DAY
    assert observer.now() == world.now - DAY


@pytest.mark.parametrize(("took", "slow"), [(60, False), (61, True), (3600, True)])
def test_an_answer_so_slow_that_nobody_can_tell_the_time_by_it_is_a_fault_of_the_clock(took: int, slow: bool) -> None:
    world = founded()
    observer, faults, asked, date = world.engine()._observer, list[str](), world.age(), world.now
    world.advance(timedelta(seconds=took))
    observer.compare_clocks(asked, date, faults)
    assert len(faults) == slow
    assert all("to answer, so nobody can tell" in fault for fault in faults)
    assert observer.now() == world.now, "nothing speaks against this machine's clock"
    observer.compare_clocks(world.age(), world.now, faults)
    assert len(faults) == slow, "the next answer was quick"


@pytest.mark.parametrize("off", [timedelta(hours=2), timedelta(hours=-2)], ids=["ahead", "behind"])
@pytest.mark.parametrize(("call", "about"), [("read_pointer", "acme"), ("read", PATH), ("read", "acme/ledger.json")])
def test_a_clock_that_is_put_right_while_a_store_answers_dates_nothing_by_what_it_said_before(
    call: str, about: str, off: timedelta
) -> None:
    world = founded(policy=FAST)
    world.store_date = lambda: world.now.replace(microsecond=0)
    superseded = world.kid(Stage.CURRENT)
    world.advance(5 * DAY)
    world.skew["a"] = off
    engine = world.engine("a")
    ports: Any = engine._steps._keys
    honest = getattr(ports, call)

    def answer(asked: str, *given: Any) -> Any:
        answered = honest(asked, *given)
        if asked == about:
            world.skew.clear()
        return answered

    setattr(ports, call, answer)
    engine.tick()
    assert not world.skew
    # What was read before that told of a fault.
    setattr(ports, call, honest)
    engine.tick()
    since = world.ring.by_kid(superseded).superseded_at  # type: ignore[union-attr]
    assert since
    assert abs(world.now - since) < timedelta(seconds=5)


@pytest.mark.parametrize(("call", "about"), [("read_pointer", "acme"), ("read", PATH), ("read", "acme/ledger.json")])
def test_nothing_depends_on_a_clock_that_is_set_ahead_while_a_store_answers(call: str, about: str) -> None:
    world = founded(policy=FAST)
    world.store_date = lambda: world.now.replace(microsecond=0)
    current, standby = world.kid(Stage.CURRENT), world.kid(Stage.NEXT)
    engine = world.engine("a")
    ports: Any = engine._steps._keys
    honest = getattr(ports, call)

    def answer(asked: str, *given: Any) -> Any:
        answered = honest(asked, *given)
        if asked == about:
            world.skew["a"] = 5 * DAY
        return answered

    setattr(ports, call, answer)
    # Nothing is due, and by that clock a rotation would be; then it is, but this machine cannot know.
    for passed in (timedelta(hours=2), 5 * DAY):
        world.skew.clear()
        world.advance(passed)
        outcome = engine.tick()
        assert "ahead of the store's" in (outcome.clock_fault or "")
        assert outcome.steps == ()
        assert world.kid(Stage.CURRENT) == current
    assert [(wait.at, wait.reason) for wait in outcome.plan.waits] == [(None, outcome.clock_fault)]
    # A person's request is done all the same, and dated by the store.
    world.skew.clear()
    engine.revoke(current, "leaked")
    revoked = world.ring.by_kid(current)
    assert revoked
    assert revoked.revoked_at
    assert abs(revoked.revoked_at - world.now) < timedelta(seconds=2)
    world.skew.clear()
    world.tick("a")
    assert world.kid(Stage.CURRENT) == standby


# -- somebody who stalls between two looks -----------------------------------------------------------------------


@pytest.mark.parametrize(("stall", "again"), [(59, 0), (61, 1)])
def test_a_look_is_as_old_as_its_beginning(stall: int, again: int) -> None:
    world = founded(policy=FAST)
    world.advance(5 * DAY)
    before, due = len(world.effects), world.kid(Stage.NEXT)
    stalls_before_the_ledger(world, timedelta(seconds=stall)).tick()
    assert world.kid(Stage.CURRENT) == due
    promoted = world.effects.index("move pointer", before)
    assert world.effects[before:promoted].count(f"read {PATH}") == 1 + again


def test_a_worker_that_stalls_after_it_read_the_document_reads_it_again_before_it_promotes() -> None:
    world, engine = overwritten_between_document_and_ledger()
    current = world.kid(Stage.CURRENT)
    engine.tick()
    assert world.kid(Stage.CURRENT) == current
    assert "unpublish" in world.steps()


def overwritten_between_document_and_ledger() -> tuple[World, Engine]:
    """A worker about to promote, and stalled for long enough that somebody restored a document without the next key."""
    world = founded(policy=FAST)
    world.advance(5 * DAY)
    current = world.kid(Stage.CURRENT)
    only = [jwk for jwk in jwks.parse(world.documents[PATH][0]).keys if jwk["kid"] == current]  # type: ignore[union-attr]
    stall = timedelta(minutes=2)
    return world, stalls_before_the_ledger(world, stall, lambda: world.restore(jwks.serialize(only, 0)))


def stalls_before_the_ledger(world: World, stall: timedelta, meanwhile: Callable[[], None] = lambda: None) -> Engine:
    """An engine that read pointer and document, and then stalls once before it reads the ledger."""
    engine = told(world, "a", lambda: world.now - world.ring.created_at)
    honest = engine._ledger.read

    def late() -> Any:
        engine._ledger.read = honest  # type: ignore[method-assign]
        world.advance(stall)
        meanwhile()
        return honest()

    engine._ledger.read = late  # type: ignore[method-assign]
    return engine


# -- somebody who saw a key, stalled, and writes it down when it is not true any more ----------------------------


def test_a_worker_that_saw_a_key_before_the_document_was_overwritten_does_not_record_it_afterwards() -> None:
    world = overwritten_while_a_look_stalls()
    with pytest.raises(Refused, match="caches may lack the next key"):
        world.engine().rotate(["EdDSA"])
    world.advance(timedelta(minutes=100))
    world.engine().rotate(["EdDSA"])
    world.tick()


def overwritten_while_a_look_stalls() -> World:
    """Just after the gate of a key that was seen, and whose document was overwritten and put right before that was
    recorded."""
    world = founded(policy=FAST, urls=(URL,))
    old = world.documents["acme/jwks.json"][0]
    world.advance(4 * DAY)
    stalled = world.engine("stalled")
    honest = stalled._ledger.replace

    def later(ring: Keyring, *rest: Any) -> Any:
        known = {key.id: key for key in world.ring.keys}
        if any(key.published and not known[key.id].published for key in ring.keys if key.id in known):
            stalled._ledger.replace = honest  # type: ignore[method-assign]
            world.advance(timedelta(minutes=100))
            world.restore(old)
            # Another worker puts the document right, but the URL does not answer it, so it records nothing itself.
            world.unreachable.add(URL)
            world.engine("b").tick()
            world.unreachable.clear()
        return honest(ring, *rest)

    stalled._ledger.replace = later  # type: ignore[method-assign, assignment]
    begun_at = world.now
    stalled.tick()
    # The last copy that lacks the key was replaced 100 minutes after it was first seen: the gate counts from there.
    world.advance(begun_at + world.policy.prepublish + timedelta(minutes=10) - world.now)
    return world


class SameBytesSameVersion(World):
    """A store whose version of a document follows from its bytes, as the ETag of S3 does."""

    def _written(self, path: str, body: bytes, headers: Headers) -> str:
        super()._written(path, body, headers)
        version = hashlib.sha256(body).hexdigest()
        self.documents[path] = (body, version, headers)
        return version


@pytest.mark.parametrize("restored", [False, True], ids=["A to B", "A to B to A"])
def test_a_write_that_stalls_across_a_revoke_brings_no_key_back_for_longer_than_a_tick(*, restored: bool) -> None:
    world = SameBytesSameVersion(policy=FAST)
    world.init()
    world.tick()
    world.advance(4 * DAY)
    leaked, old = world.kid(Stage.CURRENT), world.documents["acme/jwks.json"]
    stalled = world.engine("stalled")
    honest = stalled._steps._public.replace
    outcomes: list[str] = []

    def later(path: str, *rest: Any) -> str:
        if outcomes or not path.endswith("jwks.json"):
            return honest(path, *rest)
        outcomes.append("begun")
        world.engine("person").revoke(leaked, "leaked")
        world.engine("person").tick()
        if restored:
            # A deployment puts back the very bytes that the stalled write expects: it goes through.
            world.restore(old[0])
        try:
            return honest(path, *rest)
        except Conflict:
            outcomes.append("conflict")
            raise

    stalled._steps._public.replace = later  # type: ignore[method-assign, assignment]
    stalled.tick()
    assert outcomes == (["begun"] if restored else ["begun", "conflict"])
    world.tick()
    assert leaked not in world.public_kids()
    assert world.pointers["EdDSA"].id == world.ring.by_kid(world.kid(Stage.CURRENT)).id  # type: ignore[union-attr]
    assert world.engine().look().plan.step is None


@pytest.mark.parametrize("stalls", range(0, 60, 6))
def test_a_worker_that_stalls_for_hours_between_plan_and_effect_hurts_nobody(stalls: int) -> None:
    world = founded(policy=FAST, seed=stalls)
    world.advance(4 * DAY + timedelta(minutes=stalls))
    honest, begun_effects = world.effect, []

    def slow(worker: str, name: str, apply: Callable[[], Any]) -> Any:
        if worker == "slow":
            begun_effects.append(name)
            if len(begun_effects) in (stalls, stalls + 7):
                # Others go on meanwhile, for longer than any gate.
                world.advance(timedelta(hours=7))
                world.engine("quick").tick()
                world.advance(timedelta(hours=20))
                world.try_tick("quick")
        return honest(worker, name, apply)

    world.effect = slow  # type: ignore[method-assign]
    for _ in range(3):
        world.try_tick("slow")
        world.advance(timedelta(hours=26))
    world.effect = honest  # type: ignore[method-assign]
    world.run(2 * DAY, every=timedelta(hours=4))


# -- lost, denied, mistyped --------------------------------------------------------------------------------------


def test_denied_is_never_missing_and_nothing_is_created() -> None:
    world = World(policy=FAST)
    with pytest.raises(AccessDenied):
        unable(world, "read").init()
    assert not world.documents
    assert not world.creations
    world.init()
    world.tick()
    before, keys = dict(world.documents), len(world.creations)
    for ask in ("tick", "look", "init", "ledger"):
        with pytest.raises(AccessDenied):
            getattr(unable(world, "read", lambda path: path.endswith("ledger.json")), ask)()
    assert world.documents == before
    assert len(world.creations) == keys


def test_a_mistyped_home_of_ledgers_or_keys_makes_no_second_key_set() -> None:
    world = founded()
    kept = world.documents.pop("acme/ledger.json")
    # Another bucket: no ledger is there, and the public document and the keys are.
    for ask in ("tick", "init", "look"):
        with pytest.raises(Refused):
            getattr(world.engine(), ask)()
    document = world.documents.pop("acme/jwks.json")
    with pytest.raises(Refused, match="exists, but no ledger does"):
        world.engine().init()
    assert not world.documents
    world.documents |= {"acme/ledger.json": kept, "acme/jwks.json": document}
    world.tick()


# -- guards ------------------------------------------------------------------------------------------------------

BAD_SETS: dict[str, Callable[[list[jwks.Jwk]], list[jwks.Jwk]]] = {
    "private or symmetric": lambda keys: [keys[0] | {"d": "c2VjcmV0"}, *keys[1:]],
    "symmetric key": lambda keys: [*keys, {"kty": "oct", "kid": "s", "k": "c2VjcmV0"}],
    "would be missing": lambda _: [],
    r"\(current\) would be missing": lambda keys: keys[1:],
    "would have one kid": lambda keys: [*keys, keys[0]],
    "it would hold 13 keys": lambda keys: [*keys, *strangers(11)],
    "other members than its kid was made from": lambda keys: [keys[0] | {"x": keys[1]["x"]}, *keys[1:]],
    "bytes": lambda keys: [*keys, {"kty": "OKP", "kid": "fat", "x": "A" * 1_000_000}],
}


@pytest.mark.parametrize("fault", BAD_SETS)
def test_a_set_that_would_hurt_a_verifier_is_refused_and_nothing_is_written(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = founded()
    world.restore(b"gone" if fault != "other members than its kid was made from" else world.documents[PATH][0])
    spoilt = BAD_SETS[fault](project(world.ring, JWKS, Seen()))
    if fault.startswith("other members"):
        ring = world.ring
        current = ring.current("EdDSA")
        assert current
        ring = ring.with_key(current.id, jwk=spoilt[0])
        engine = world.engine()
        engine._ledger.replace(ring, ring.revision, world.documents["acme/ledger.json"][1])
    monkeypatch.setattr("rotator.engine.steps.project", lambda *_: spoilt)
    before, writes = world.documents[PATH], world.effects.count(f"replace {PATH}")
    with pytest.raises(Refused, match=fault) as told:
        world.engine().tick()
    assert told.value.exit_code == 3
    assert "Nothing was written" in str(told.value)
    assert world.documents[PATH] == before
    assert world.effects.count(f"replace {PATH}") == writes


def test_strangers_too_large_for_any_reader_hold_up_a_new_key_and_no_revoke() -> None:
    world = founded(policy=FAST)
    ours = jwks.parse(world.documents[PATH][0])
    assert ours
    fat = [{"kty": "OKP", "kid": f"fat-{n}", "x": "A" * 39_000} for n in range(25)]
    room = jwks.MAX_BYTES - len(json.dumps({"keys": [*ours.keys, *fat]}))
    fat[0]["x"] += "A" * room
    world.restore(json.dumps({"keys": [*ours.keys, *fat]}).encode())
    world.configure(replace(FAST, max_keys=30))
    leaked = world.kid(Stage.CURRENT)
    world.engine().revoke(leaked, "leaked")
    world.tick()
    assert leaked not in world.public_kids()
    assert world.kid(Stage.CURRENT) in world.public_kids()
    assert "fat-0" not in world.public_kids(), "a revoke is held up by no guard: strangers gave way"


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


def grown_over_copies_that_lack_the_key() -> tuple[World, Key, timedelta]:
    """A key was seen while copies without it may be served for 40 hours, and then verifiers keep a set for a day."""
    long = replace(FAST, cache_max_age=timedelta(hours=40), cache_stale=timedelta(0), verifier_cache=timedelta(hours=1))
    world = founded(policy=long)
    world.engine().revoke(world.kid(Stage.NEXT), "drill")
    # The new standby key enters a document whose copies were served with the long header until now.
    short = replace(long, cache_max_age=timedelta(minutes=1), lifetime=timedelta(hours=30))
    world.configure(short)
    world.tick()
    standby = world.ring.by_kid(world.kid(Stage.NEXT))
    assert standby
    world.advance(DAY)
    world.configure(replace(short, verifier_cache=DAY))
    return world, standby, timedelta(hours=40)


def test_a_verifier_cache_that_grows_is_filled_with_the_last_copies_that_lack_the_key() -> None:
    world, standby, lacking = grown_over_copies_that_lack_the_key()
    current = world.kid(Stage.CURRENT)
    opens = standby.published["jwks"] + lacking + DAY + 2 * world.policy.clock_skew
    for at, signs in ((standby.ready["jwks"], current), (opens - timedelta(seconds=1), current), (opens, standby.kid)):
        world.now = at
        world.tick()
        assert world.kid(Stage.CURRENT) == signs


# -- a CDN that puts its own headers in the place of ours --------------------------------------------------------

OVERRIDDEN = "max-age=259200, must-revalidate"


def overridden_while_a_key_enters(world: World) -> Key:
    """A standby key is made while the CDN serves its own header; seen as soon as the CDN is mended."""
    world.edge_headers = OVERRIDDEN
    world.engine().revoke(world.kid(Stage.NEXT), "drill")
    outcome = world.tick()
    assert any("lets caches keep it 3d" in wait.reason for wait in outcome.plan.waits)
    world.advance(timedelta(hours=1))
    world.tick()
    kid = world.kid(Stage.PENDING)
    world.edge_headers = None
    world.tick()
    standby = world.ring.by_kid(kid)
    assert standby
    assert world.now - standby.published["jwks"] < timedelta(seconds=1)
    return standby


def test_after_a_cdn_is_mended_the_next_key_waits_for_what_went_out_before() -> None:
    world = World(policy=replace(FAST, lifetime=timedelta(hours=30)), urls=(URL,))
    world.init()
    world.tick()
    for _ in range(2):
        # Once is no protection from the next time, with the very same header.
        recorded, current = world.steps().count("serve"), world.kid(Stage.CURRENT)
        standby = overridden_while_a_key_enters(world)
        assert world.steps().count("serve") == recorded + 1, "however many ticks meet it"
        opens = standby.published["jwks"] + 3 * DAY + world.policy.verifier_cache + 2 * world.policy.clock_skew
        for at, signs in ((opens - timedelta(seconds=1), current), (opens, standby.kid)):
            world.now = at
            world.tick()
            assert world.kid(Stage.CURRENT) == signs


def test_a_cdn_that_overrides_again_while_the_copies_of_the_last_time_are_about_is_waited_for_from_now() -> None:
    world = World(policy=replace(FAST, lifetime=timedelta(hours=30)), urls=(URL,))
    world.init()
    world.tick()
    current = world.kid(Stage.CURRENT)
    first = overridden_while_a_key_enters(world)
    world.advance(2 * DAY)
    # The copies of the first time are about for a day yet, those of the second for three.
    second = overridden_while_a_key_enters(world)
    assert second.lacking["jwks"] - second.published["jwks"] == 3 * DAY
    assert first.lacking["jwks"] < second.lacking["jwks"] - 2 * DAY
    opens = second.lacking["jwks"] + world.policy.verifier_cache + 2 * world.policy.clock_skew
    for at, signs in ((opens - timedelta(seconds=1), current), (opens, second.kid)):
        world.now = at
        world.tick()
        assert world.kid(Stage.CURRENT) == signs


def test_the_header_of_a_cdn_is_remembered_where_only_the_end_of_a_revoked_key_is_looked_for() -> None:
    world = founded(policy=FAST, urls=(URL,))
    world.advance(4 * DAY)
    world.tick()
    current, standby, old = (world.kid(stage) for stage in (Stage.CURRENT, Stage.NEXT, Stage.PREVIOUS))
    world.edge_headers = OVERRIDDEN
    world.engine().revoke(old, "late discovery")
    world.tick()
    assert world.ring.by_kid(old).gone  # type: ignore[union-attr]
    assert "serve" in world.steps()
    world.edge_headers = None
    # Whichever key enters next, when the CDN was mended long before anybody looked again.
    world.engine().revoke(standby, "drill")
    world.tick()
    key = world.ring.by_kid(world.kid(Stage.NEXT))
    assert key
    assert world.kid(Stage.CURRENT) == current
    assert key.lacking["jwks"] - key.published["jwks"] == 3 * DAY


def test_a_url_that_shows_nothing_shows_no_revoked_key_and_the_next_url_is_asked_all_the_same() -> None:
    urls = ("https://a.example/jwks.json", "https://b.example/jwks.json")
    for missing in (urls[:1], urls):
        world = founded(policy=FAST, urls=urls)
        world.advance(4 * DAY)
        world.tick()
        old = world.kid(Stage.PREVIOUS)
        engine = world.engine()
        engine.revoke(old, "late discovery")
        stale = jwks.serialize([world.ring.by_kid(old).jwk or {}], 0)  # type: ignore[union-attr]

        def fetch(url: str, missing: tuple[str, ...] = missing, stale: bytes = stale) -> Fetched | None:
            return None if url in missing else Fetched(stale, "max-age=300, stale-if-error=0")

        engine._observer._web.fetch = fetch  # type: ignore[method-assign]
        outcome = engine.tick()
        assert bool(world.ring.by_kid(old).gone) is (missing == urls)  # type: ignore[union-attr]
        told = any(f"{urls[1]} still serves it" in wait.reason for wait in outcome.plan.waits)
        assert told is (missing != urls)


def test_of_two_urls_that_override_the_longer_header_is_waited_for_whichever_is_asked_first() -> None:
    shorter = "max-age=172800, must-revalidate"
    for first, second in ((shorter, OVERRIDDEN), (OVERRIDDEN, shorter)):
        headers = {"https://a.example/jwks.json": first, "https://b.example/jwks.json": second}
        world = World(policy=FAST, urls=tuple(headers))
        world.init()
        world.tick()
        world.engine().revoke(world.kid(Stage.NEXT), "drill")
        engine = world.engine()
        honest = engine._observer._web.fetch

        def overridden(url: str, honest: Any = honest, headers: dict[str, str] = headers) -> Any:
            return replace(honest(url), cache_control=headers[url])

        engine._observer._web.fetch = overridden  # type: ignore[method-assign]
        engine.tick()
        kid = world.kid(Stage.PENDING)
        # Both are mended at once.
        world.tick()
        standby = world.ring.by_kid(kid)
        assert standby
        assert standby.lacking["jwks"] - standby.published["jwks"] == 3 * DAY


def test_a_header_that_a_cdn_sent_is_not_forgotten_over_a_lost_race() -> None:
    world = founded(policy=FAST, urls=(URL,))
    world.edge_headers = OVERRIDDEN
    world.engine().revoke(world.kid(Stage.NEXT), "drill")
    engine = world.engine()
    honest, races = engine._ledger.replace, list[str]()

    def overtaken(ring: Keyring, *rest: Any) -> Any:
        if not races and any(served.cache_control == OVERRIDDEN for served in ring.documents["jwks"].served):
            races.append("lost")
            # Another worker writes the ledger first, and whoever looks next finds the CDN mended.
            other = world.engine("b")._ledger
            known, version, _ = other.read()
            other.replace(known, known.revision, version)
            world.edge_headers = None
        return honest(ring, *rest)

    engine._ledger.replace = overtaken  # type: ignore[method-assign, assignment]
    engine.tick()
    assert races
    assert OVERRIDDEN in [served.cache_control for served in world.ring.documents["jwks"].served]


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


def test_a_policy_that_grows_in_the_middle_of_a_promotion_closes_its_gate_again() -> None:
    world = founded(policy=FAST)
    world.advance(2 * DAY)
    promoted = begun(world, "EdDSA")
    world.configure(replace(FAST, verifier_cache=3 * DAY))
    world.tick()
    assert world.ring.promoting("EdDSA") is None
    assert world.kid(Stage.CURRENT) != promoted
    world.run(3 * DAY, every=timedelta(hours=1))
    assert world.kid(Stage.CURRENT) == promoted


DURATIONS = (
    "lifetime",
    "token_lifetime",
    "signer_lag",
    "cache_max_age",
    "cache_stale",
    "verifier_cache",
    "verifier_leeway",
)


@pytest.mark.parametrize("duration", DURATIONS)
@pytest.mark.parametrize("factor", [0.25, 3], ids=["shorter", "longer"])
@pytest.mark.no_cover
def test_a_duration_that_changes_in_the_middle_of_a_promotion_rejects_no_token(duration: str, factor: float) -> None:
    changed(duration, factor, hours=49)


@pytest.mark.slow
@pytest.mark.parametrize("duration", DURATIONS)
@pytest.mark.parametrize("factor", [0.25, 3], ids=["shorter", "longer"])
def test_a_duration_that_changes_at_any_moment_rejects_no_token(duration: str, factor: float) -> None:
    for hours in range(0, 60, 5):
        changed(duration, factor, hours)


def changed(duration: str, factor: float, hours: int) -> None:
    """``hours`` after the start, and where it can be in the middle of a promotion, the policy changes."""
    world = founded(policy=replace(FAST, lifetime=2 * DAY), urls=(URL,))
    world.run(timedelta(hours=hours), every=timedelta(hours=1))
    standby = next((key for key in world.ring.keys if key.standby), None)
    opens = standby and gate(world.keyset, standby)
    if standby and opens and opens <= world.now:
        begun(world, standby.alg)
    grown = replace(world.policy, **{duration: getattr(world.policy, duration) * factor})
    # What a policy must be to be safe: a key signs for longer than its successor waits.
    world.configure(replace(grown, lifetime=max(grown.lifetime, grown.prepublish + timedelta(hours=1))))
    end = world.now + world.policy.lifetime + 2 * DAY
    while world.now < end:
        world.try_tick()
        world.check()
        world.advance(timedelta(minutes=100))
    world.tick()
    assert len([key for key in world.ring.keys if key.activated_at]) + len(world.ring.retired) >= 2


@pytest.mark.no_cover
def test_the_keys_of_an_algorithm_that_ended_leave_the_ledger_but_for_two() -> None:
    world = founded(policy=replace(BOTH, lifetime=timedelta(hours=30), token_lifetime=3 * DAY))
    world.run(6 * DAY, every=timedelta(hours=2))
    world.configure(replace(world.policy, algorithms=("EdDSA",)))
    world.engine().retire("ES256")
    world.run(8 * DAY, every=timedelta(hours=2))
    assert len(world.ring.of("ES256")) == 2
    assert len([gone for gone in world.ring.retired if gone.alg == "ES256"]) > 2


def test_a_request_to_end_an_algorithm_does_not_strike_a_year_later() -> None:
    world = founded(policy=BOTH)
    world.configure(FAST)
    world.engine().retire("ES256")
    # Before any tick, somebody puts the algorithm back.
    world.configure(BOTH)
    world.run(2 * DAY)
    world.configure(FAST)
    world.run(2 * DAY)
    assert world.pointers["ES256"].id == world.ring.current("ES256").id  # type: ignore[union-attr]


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
