"""Whatever order workers, people, outsiders, faults and time take: hypothesis looks for one that breaks a promise.

``rotator simulate`` throws dice for centuries; this machine looks for the shortest story, and shrinks what it finds.
Both run the real engine over the same world, with the same checker. A rule says what somebody does, or how time goes
by; what breaks on the way is raised by :meth:`Life.judge`, after the rule.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rotator.engine import Engine
from rotator.errors import RotatorError, StoreError
from rotator.keys.keyring import Stage
from rotator.keys.policy import KeySet, Policy, PublicDocument
from rotator.ports import Traits
from rotator.simulate.campaign import STRAYS
from rotator.simulate.faults import FaultyWorld, Stalling
from rotator.simulate.gates import without
from rotator.simulate.order import left_undone
from rotator.simulate.ports import Ports
from rotator.simulate.world import Killed, Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from rotator.engine import Outcome

MILLISECOND, SECOND, HOUR, DAY = timedelta(milliseconds=1), timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
POLICY = Policy(algorithms=("EdDSA",), lifetime=timedelta(days=4))
URL = "https://auth.example.com/jwks.json"

#: How the time until a moment at which something is due is missed.
OFF = {"just before": -SECOND, "at once": timedelta(0), "just after": 50 * MILLISECOND, "late": 10 * HOUR}
SPANS = {"seconds": SECOND, "minutes": timedelta(minutes=7), "hours": 5 * HOUR, "days": 2 * DAY, "weeks": 16 * DAY}

WORKERS = st.sampled_from(["a", "b"])
#: How much time goes by: none, or until the first, second or third thing that is due and a little less or more.
MOMENTS = st.one_of(
    st.just("now"),
    st.tuples(st.sampled_from(list(OFF)), st.integers(0, 2)),
    st.sampled_from(list(SPANS)),
)
#: The durations that a person changes.
CHANGED = (
    "lifetime",
    "token_lifetime",
    "signer_lag",
    "cache_max_age",
    "cache_stale",
    "verifier_cache",
    "verifier_leeway",
)


class ArmedWorld(FaultyWorld):
    """A world in which nothing goes wrong by chance: one effect, and that alone, goes as it was armed."""

    armed: tuple[str, int] | None = None

    def effect(self, worker: str, name: str, apply: Callable[[], Any]) -> Any:
        return super().effect(worker, name, lambda: self._fated(name, apply))

    def _fated(self, name: str, apply: Callable[[], Any]) -> Any:
        if self.armed is None:
            return apply()
        how, after = self.armed
        self.armed = (how, after - 1) if after else None
        if after:
            return apply()
        self.tell("fault", f"{name}: {how}")
        if how == "lost":
            raise StoreError(f"{name} failed: it was not applied")
        if how == "killed before":
            raise Killed
        result = apply()
        if how == "applied":
            raise StoreError(f"{name} failed: it was applied")
        if how == "killed after":
            raise Killed
        # A client never repeats what must happen once: CreateKey has no idempotency token.
        return result if name == "keys.create" and self.traits.leaves_strays else apply()


class Life(RuleBasedStateMachine):
    """One key set, two workers that may stall, a person, somebody else's deployments, and time."""

    rests = True

    @initialize(behind_a_cdn=st.booleans(), traits=st.sampled_from([Traits(), STRAYS]))
    def begin(self, behind_a_cdn: bool, traits: Traits) -> None:
        document = PublicDocument("jwks", "acme/jwks.json", (URL,) if behind_a_cdn else ())
        keyset = KeySet("acme", POLICY, (document,))
        self.world = ArmedWorld(keyset, traits=traits, rng=random.Random(0))
        self.engines: dict[str, tuple[KeySet, Engine]] = {}
        self.outcome: Outcome | None = None
        self.grows: Policy | None = None
        self.raised: BaseException | None = None
        self.over = self.quiet = False
        self._tried(self.engine("person").init)

    # -- workers -------------------------------------------------------------------------------------------------

    @rule(worker=WORKERS, when=MOMENTS)
    def tick(self, worker: str, when: Any) -> None:
        self._pass(when)
        if task := self.world.stalling.get(worker):
            while task.resume() is not None:
                pass
            self.world.stalling.pop(worker)
        alone = not self.world.stalling
        self.quiet = self._ticked(worker) and alone

    @rule(worker=WORKERS, when=MOMENTS, before=st.sampled_from(["move pointer", "keys.sign"]) | st.integers(0, 25))
    def stall(self, worker: str, when: Any, before: int | str) -> None:
        """A tick that stops before one of its effects; others go on meanwhile."""
        self._pass(when)
        if worker not in self.world.stalling:
            task = self.world.stalling[worker] = Stalling(lambda: self._work(worker), {before: SECOND})
            if task.resume() is None:
                del self.world.stalling[worker]

    @precondition(lambda self: self.world.stalling)
    @rule(when=MOMENTS)
    def go_on(self, when: Any) -> None:
        """The worker that stalled for longest goes on."""
        self._pass(when)
        worker, task = next(iter(self.world.stalling.items()))
        while task.resume() is not None:
            pass
        del self.world.stalling[worker]

    # -- what goes wrong -----------------------------------------------------------------------------------------

    @rule(
        how=st.sampled_from(["lost", "applied", "twice", "killed before", "killed after"]),
        after=st.integers(0, 30),
    )
    def arm(self, how: str, after: int) -> None:
        self.world.armed = (how, after)

    @rule(worker=WORKERS, off=st.sampled_from([-1, 0, 1]))
    def set_clock(self, worker: str, off: int) -> None:
        """Anywhere within clock_skew; what is sent in whole seconds takes one of them."""
        self.world.skews[worker] = off * (self.world.truth.clock_skew - SECOND)

    @rule(span=st.sampled_from(list(SPANS)))
    def freeze(self, span: str) -> None:
        """The CDN goes on showing what it showed."""
        self.world.frozen_until = self.world.now + SPANS[span]

    @precondition(lambda self: self.world.past)
    @rule(ago=st.integers(0, 9))
    def restore(self, ago: int) -> None:
        """Somebody's deployment brings an old document back."""
        path, body, headers = self.world.past[-1 - ago % len(self.world.past)]
        self.world.restore(body, headers, path)

    @precondition(lambda self: self.world.pointers)
    @rule(which=st.integers(0, 4))
    def move_pointer(self, which: int) -> None:
        """Somebody moves the pointer by hand."""
        keys = [key for key in self._public() if not self.world.stopped(key.handle)]
        if keys:
            key = keys[which % len(keys)]
            self.world.move_pointer_by_hand(key.alg, key.id)

    # -- people --------------------------------------------------------------------------------------------------

    @rule(when=MOMENTS)
    def rotate(self, when: Any) -> None:
        self._pass(when)
        self._tried(lambda: self.engine("person").rotate(POLICY.algorithms))

    @rule(when=MOMENTS, which=st.integers(0, 4))
    def revoke(self, when: Any, which: int) -> None:
        self._pass(when)
        keys = self._public()
        if not keys:
            return
        key, world = keys[which % len(keys)], self.world
        kid = key.kid
        self._tried(lambda: self.engine("person").revoke(kid, "a drill"))
        after = world.ring.by_kid(kid)
        if after and after.revoked_at and kid not in world.revoked:
            world.revoked[kid] = world.now
            named = world.pointers.get(key.alg)
            if key.stage is Stage.CURRENT or key.promoting or (named and named.id == key.id):
                world.emergencies.add(key.alg)

    @rule(name=st.sampled_from(CHANGED), by=st.sampled_from([1, 0.25, 0.5, 2, 4]))
    def change(self, name: str, by: float) -> None:
        """A duration changes: what has grown is obeyed once workers know of it, what has shrunk at once."""
        world = self.world
        policy = replace(world.keyset.policy, **{name: getattr(POLICY, name) * by})
        if policy.faults():
            return
        world.keyset = replace(world.keyset, policy=policy)
        smaller = {each: min(getattr(world.truth, each), getattr(policy, each)) for each in CHANGED}
        world.obey(replace(world.truth, **smaller))
        self.grows = policy

    # -- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def judge(self) -> None:
        """No token could be rejected, and the ledger is in order."""
        self.over = True
        if self.raised:
            raise self.raised
        if self.world.ledger_path in self.world.documents:
            self._judged()
        if self.quiet:
            self._in_order()
        self.over = self.quiet = False

    def _judged(self) -> None:
        world = self.world
        world.check()
        world.public.pass_by()
        for alg in POLICY.algorithms:
            signing = [key.id for key in world.ring.of(alg) if key.stage is Stage.CURRENT]
            assert len(signing) <= 1, signing
        if not world.traits.leaves_strays and not world.stalling:
            assert not world.lost_keys(), "a key was made, but no ledger knows it"

    def _in_order(self) -> None:
        """A tick that ended well, with no other under way, leaves nothing undone."""
        world = self.world
        ring = world.ring
        for alg in world.keyset.policy.algorithms:
            if ring.current(alg) is None and any(key.alg == alg and key.activated_at for key in ring.keys):
                heir = ring.promoting(alg)
                revoked = ring.succession(alg).forced_at or (heir and heir.forced)
                assert revoked, "no key signs, and nobody revoked the last"
        assert not left_undone(world)

    def teardown(self) -> None:
        """Whatever happened, everything comes right by itself."""
        if not hasattr(self, "world"):
            return
        try:
            if self.rests and not self.over:
                self._rest()
        finally:
            for task in list(self.world.stalling.values()):
                task.abandon()

    def _rest(self) -> None:
        world = self.world
        while world.stalling:
            self.go_on("now")
            self.judge()
        world.armed, world.frozen_until = None, world.now
        world.coming = {name: [(world.now, copy) for _, copy in coming] for name, coming in world.coming.items()}
        world.skews.clear()
        end = world.now + world.keyset.policy.lifetime + 2 * (world.truth.prepublish + world.truth.retention) + DAY
        while world.now < end:
            self.tick("a", "now")
            quiet = self.quiet
            self.judge()
            assert quiet, "a tick fails for no reason"
            due = self.outcome.plan.due if self.outcome else None
            world.now = min(end, max(due or world.now + HOUR, world.now + SECOND))
        look = self.engine("a").look()
        assert all(look.ring.current(alg) for alg in world.keyset.policy.algorithms), look.plan

    # -- how it is done ------------------------------------------------------------------------------------------

    def engine(self, worker: str) -> Engine:
        """The engine of ``worker``; a changed configuration starts it anew."""
        world = self.world
        known = self.engines.get(worker)
        if known is None or known[0] is not world.keyset:
            ports = Ports(world, worker)
            engine = Engine(
                world.keyset,
                ledger=ports,
                public=ports,
                keys=ports,
                clock=lambda: world.clock(worker),
                web=ports,
                cdn=ports,
                report=lambda report: world.tell(worker, f"{report.step}: {report.reason}"),
                nonce=world.nonce,
                elapsed=world.age,
            )
            known = self.engines[worker] = (world.keyset, engine)
        return known[1]

    def _pass(self, when: Any) -> None:
        world = self.world
        if when in SPANS:
            world.now += SPANS[when]
        elif when != "now":
            off, nth = when
            waits = self.outcome.plan.waits if self.outcome else ()
            due = sorted({wait.at for wait in waits if wait.at and wait.at > world.now})
            if due:
                world.now = max(world.now, due[nth % len(due)] + OFF[off])
        if world.documents:
            with suppress(Killed):
                world.public.pass_by()

    def _public(self) -> list[Any]:
        documents = self.world.documents
        return [key for key in self.world.ring.keys if key.public] if self.world.ledger_path in documents else []

    def _work(self, worker: str) -> None:
        self._ticked(worker)

    def _ticked(self, worker: str) -> bool:
        """One tick, whatever comes of it; whether it ended well."""
        world, keyset, began, engine = self.world, self.world.keyset, self.world.now, self.engine(worker)

        def tick() -> None:
            if world.ledger_path not in world.documents:
                engine.init()
            self.outcome = engine.tick()

        if not self._tried(tick, worker):
            return False
        world.ticked = max(world.ticked, began)
        if self.grows and keyset is world.keyset and not world.stalling:
            world.obey(self.grows)
            self.grows = None
        return True

    def _tried(self, what: Callable[[], object], who: str = "person") -> bool:
        """Whether it came to its end; what no worker may ever do is kept for :meth:`judge`."""
        try:
            what()
        except Killed:
            self.engines.pop(who, None)
        except RotatorError as exc:
            self.world.tell(who, f"failed: {exc}")
        except BaseException as exc:  # noqa: BLE001 - it may be a thread's own; raised in the test's
            self.raised = exc
        else:
            return True
        return False


class Unrested(Life):
    """A life that ends with its story: what breaks breaks before."""

    rests = False


def live(life: type[Life], examples: int, steps: int, **options: Any) -> None:
    run_state_machine_as_test(
        life,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            database=None,
            report_multiple_bugs=False,
            # To explain a failure would take longer than to shrink it.
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            **options,
        ),
    )


def test_no_story_breaks_a_promise() -> None:
    live(Life, 20, 20)


@pytest.mark.slow
def test_no_long_story_breaks_a_promise() -> None:
    live(Life, 500, 50)


def found_without(gate: str, steps: int = 25) -> list[str]:
    """The shortest story that is found to break a promise where the protection ``gate`` is taken away."""
    with without(gate), pytest.raises(Violation) as told:
        live(Unrested, 3_000, steps, derandomize=True)
    lines = [line.removeprefix("state.") for line in told.value.__notes__ if line.startswith("state.")]
    return [line for line in lines if not line.startswith(("begin(", "judge(", "teardown("))]


def test_without_the_gate_a_story_is_found_and_shrunk_to_a_rotation_that_comes_too_early() -> None:
    found = [line.partition("(")[0] for line in found_without("prepublish", steps=8)]
    assert len(found) <= 5, found
    assert {"rotate", "revoke"} & {*found}, found


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["verifier-cache", "retention", "signer-lag", "token-lifetime", "fence"])
def test_without_a_protection_a_short_story_is_found_that_it_prevents(gate: str) -> None:
    found = found_without(gate)
    assert len(found) <= 10, found
