"""Copies from before: what a cache hands out from an earlier time says nothing of what verifiers get from now on."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from rotator.errors import Conflict
from rotator.keys import facts, jwks
from rotator.keys.keyring import Stage
from rotator.keys.publication import Seen, older
from rotator.ports import Fetched, Traits
from tests.test_attacks import FAST, URL, SameBytesSameVersion
from tests.test_discovery import DOCUMENT, OIDC
from tests.test_plan import JWKS, jwk_of, key, ring
from tests.test_world_machine import Life
from tests.world import World as Small

if TYPE_CHECKING:
    from rotator.simulate.world import World

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def life() -> Life:
    """A key set behind a CDN for a day; its next key is known to every cache."""
    life = Life()
    life.begin(behind_a_cdn=True, traits=Traits())
    tick(life)
    life.world.now += DAY
    tick(life)
    life.world.now += HOUR
    tick(life)
    return life


def tick(life: Life) -> None:
    life.tick("a", "now")
    life.judge()


def through_one_edge(world: World, number: int) -> Any:
    """Lead every fetch to one edge; it serves stale for as long as it may."""
    public: Any = world.public  # type: ignore[attr-defined]
    edge = public.edges[number]
    edge.held.clear()
    public.edges[:] = [edge]
    return edge


def test_a_key_that_was_lost_is_not_seen_again_in_a_copy_from_before(life: Life) -> None:
    world = life.world
    edge = through_one_edge(world, 0)
    current, lost = world.ring.current("EdDSA"), next(key for key in world.ring.keys if key.standby)
    assert current
    world.now += 2 * HOUR
    edge.get(world, world.keyset.documents[0], world.rng)
    world.now += 2 * MINUTE
    world.restore(jwks.serialize([current.jwk or {}], 0))
    world.now += 3 * MINUTE
    # What is written from now on is seen an hour later; until then the CDN's other edges show what was overwritten.
    world.frozen_until = world.now + HOUR
    tick(life)
    key = world.ring.by_kid(lost.kid or "")
    assert key
    assert not key.published
    for _ in range(160):
        world.now += 15 * MINUTE
        life.rotate("now")
        tick(life)
    key = world.ring.by_kid(lost.kid or "")
    assert key
    assert key.activated_at


def test_a_revoke_is_not_called_over_by_a_copy_from_before_the_key_was_public(life: Life) -> None:
    world = life.world
    document = world.keyset.documents[0]
    public: Any = world.public
    stale, fresh = public.edges[0], public.edges[2]
    for edge in public.edges:
        edge.held.clear()
    life.engine("person").revoke(next(key.kid for key in world.ring.keys if key.standby and key.kid), "drill")
    world.now += MINUTE
    stale.get(world, document, world.rng)
    public.edges[:] = [fresh]
    tick(life)
    leaked = next(key for key in world.ring.keys if key.standby)
    fresh.held.clear()
    fresh.get(world, document, world.rng)
    world.now += 3 * MINUTE
    life.engine("person").revoke(leaked.kid or "", "leaked")
    # The invalidation has yet to reach the edges, and what was written is seen an hour later.
    public.invalidate = lambda: None
    world.frozen_until = world.now + HOUR
    public.edges[:] = [stale]
    tick(life)
    key = world.ring.by_kid(leaked.kid or "")
    assert key
    assert not key.gone
    assert life.outcome
    assert any("older copy" in wait.reason for wait in life.outcome.plan.waits if wait.step == "note-gone")
    world.now += 2 * HOUR
    tick(life)
    key = world.ring.by_kid(leaked.kid or "")
    assert key
    assert key.gone


def test_a_first_publish_that_stalls_across_a_revoke_brings_no_revoked_key() -> None:
    world = SameBytesSameVersion(policy=FAST)
    world.init()
    world.tick()
    world.advance(HOUR)
    world.engine().revoke(world.kid(Stage.NEXT), "drill")
    stalled = world.engine("stalled")
    honest, leaked = stalled._steps._public.replace, list[str]()

    def late(path: str, body: bytes, *rest: Any) -> str:
        fresh = [key.kid for key in world.ring.keys if key.stage is Stage.PENDING and key.kid]
        if leaked or not path.endswith("jwks.json") or not fresh or fresh[0].encode() not in body:
            return honest(path, body, *rest)
        leaked.append(fresh[0])
        world.engine("person").revoke(leaked[0], "the key store was read")
        # No other key may be made that would change the document.
        intend = world.engine("b")
        intend._steps._table = {
            step: do for step, do in intend._steps._table.items() if step.__name__ not in {"Intend", "Create"}
        }
        with pytest.raises(KeyError):
            intend.tick()
        with pytest.raises(Conflict):
            honest(path, body, *rest)
        raise Conflict("somebody else was here")

    stalled._steps._public.replace = late  # type: ignore[method-assign, assignment]
    stalled.tick()
    assert leaked
    assert leaked[0] not in world.public_kids()


def led(algs: list[str], **more: int) -> bytes:
    about = {"issuer": OIDC.issuer, "jwks_uri": OIDC.jwks_uri, "id_token_signing_alg_values_supported": algs}
    return json.dumps(about | more).encode()


OLD, NEW = jwks.serialize([jwk_of("a")], 3), jwks.serialize([jwk_of("a")], 4)
REWRITTEN = b'{"keys": [{"kid": "a"}]}'


@pytest.mark.parametrize(
    ("copy", "origin", "is_older"),
    [
        (NEW, NEW, False),
        (NEW, OLD, False),
        (OLD, NEW, True),
        # Somebody in the path writes sets anew, without what he does not know.
        (REWRITTEN, NEW, False),
        (b'{"keys": []}', NEW, True),
        (b'{"keys": [{"kid": "theirs"}, {"kid": "a"}]}', NEW, False),
        (jwks.serialize([jwk_of("theirs")], 99, "another"), jwks.serialize([jwk_of("a")], 4, "ours"), True),
        (jwks.serialize([jwk_of("a")], 3, "another"), jwks.serialize([jwk_of("a")], 4, "ours"), False),
        (jwks.serialize([jwk_of("a")], 3, "ours"), jwks.serialize([jwk_of("a")], 4, "ours"), True),
        (b"<html>", NEW, True),
        # Somebody wrote the origin, without a revision.
        (OLD, REWRITTEN, False),
        (OLD, b'{"keys": []}', True),
        (REWRITTEN, REWRITTEN, False),
        # Of a discovery document only what is looked for there counts.
        (led(["RS256"], more=1), led(["RS256"]), False),
        (led(["RS256"]), led(["RS256", "ES256"]), True),
        (b"<html>", led(["RS256"]), True),
    ],
)
def test_which_copies_may_be_older(copy: bytes, origin: bytes, *, is_older: bool) -> None:
    handed_out, standing = (Seen(exists=True, jwks=jwks.parse(body), body=body) for body in (copy, origin))
    about = DOCUMENT if b"issuer" in origin else JWKS
    assert older(handed_out, standing, about, ring(key("a", "current"))) is is_older


def test_a_copy_from_before_the_headers_changed_is_no_header_of_the_cdn() -> None:
    life = Life()
    life.begin(behind_a_cdn=True, traits=Traits())
    through_one_edge(life.world, 0)
    tick(life)
    life.change("cache_stale", 2)
    tick(life)
    life.world.now += 3 * HOUR
    tick(life)
    life.world.now += 3 * DAY
    life.change("cache_stale", 1)
    life.rotate("now")
    life.world.public.pass_by()
    # The edge still hands out what it got under the longer header, and does not hear of the change.
    before = life.world.kids[life.world.pointers["EdDSA"].id or ""]
    assert life._ticked("a")
    life.judge()
    assert life.world.kids[life.world.pointers["EdDSA"].id or ""] != before


class Merging:
    """A gateway that serves what the CDN serves, and another issuer's keys beside it."""

    def __init__(self, world: Small) -> None:
        self._honest = world.fetch

    def fetch(self, worker: str, document: Any, url: str) -> Any:
        got = self._honest(worker, document, url)
        parsed = jwks.parse(got.body) if got else None
        if got is None or parsed is None:
            return got
        return replace(got, body=json.dumps({"keys": [*parsed.keys, jwk_of("theirs")]}).encode())


def test_behind_a_gateway_that_merges_sets_keys_are_seen_and_revokes_end() -> None:
    world = Small(policy=FAST, urls=(URL,))
    world.fetch = Merging(world).fetch  # type: ignore[method-assign, assignment]
    world.init()
    world.run(9 * DAY, every=2 * HOUR)
    assert len({key_id for key_id, _ in world.pointed}) >= 2
    leaked = world.kid(Stage.NEXT)
    world.engine().revoke(leaked, "leaked")
    world.tick()
    key_ = world.ring.by_kid(leaked)
    assert key_
    assert key_.gone


def test_a_document_that_somebody_writes_anew_is_written_once_for_a_revoke_and_no_more() -> None:
    world = Small(policy=FAST)
    world.init()
    world.tick()
    world.advance(HOUR)
    world.engine().revoke(world.kid(Stage.NEXT), "drill")
    world.tick()
    found = jwks.parse(world.documents["acme/jwks.json"][0])
    assert found
    world.restore(json.dumps({"keys": found.keys}).encode())
    assert not world.tick().steps, "the same keys, and nobody waits for another revision"


def test_an_older_copy_is_excused_for_no_longer_than_its_own_header_allows() -> None:
    life = Life()
    life.begin(behind_a_cdn=True, traits=Traits())
    tick(life)
    world = life.world
    document = world.keyset.documents[0]
    observer = life.engine("a")._observer
    seen = observer.observe()
    stale = Seen(exists=True, jwks=jwks.parse(jwks.serialize([], 0, seen.ring.ledger_id)), body=b"old")
    allowed = world.keyset.policy.staleness
    for age, fine in ((allowed, True), (allowed + MINUTE, False)):
        fetched = Fetched(b"old", world.keyset.policy.cache_control, age)
        assert (observer._freshness_fault("url", fetched, stale, document, seen) is None) is fine
    of = facts.served(seen.ring, world.keyset, "jwks", "max-age=604800", foreign=True)
    seen.ring = of
    override = Fetched(b"old", "max-age=604800")
    fault = observer._freshness_fault("url", override, stale, document, seen)
    assert fault, "remembered, and the CDN's all the same"


def test_a_url_that_serves_no_set_does_not_show_that_a_revoked_key_is_gone() -> None:
    world = Small(policy=FAST, urls=(URL,))
    world.init()
    world.run(HOUR * 3)
    leaked = world.kid(Stage.NEXT)
    engine = world.engine()
    engine.revoke(leaked, "leaked")
    page = Fetched(b"<html>", world.policy.cache_control)
    engine._observer._web.fetch = lambda _: page  # type: ignore[method-assign, assignment]
    waits = [wait.reason for wait in engine.tick().plan.waits if wait.step == "note-gone"]
    assert waits == [f"{URL} serves no set that every reader takes, so it does not show that it is gone"]
    world.advance(HOUR)
    world.tick()
    key_ = world.ring.by_kid(leaked)
    assert key_
    assert key_.gone
