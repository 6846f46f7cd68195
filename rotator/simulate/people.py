"""People who rotate, revoke and change the configuration at the worst moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rotator.errors import RotatorError
from rotator.keys.keyring import Stage
from rotator.keys.policy import Policy, text
from rotator.simulate.world import Killed, Violation

if TYPE_CHECKING:
    from rotator.simulate.schedule import Schedule

_SECOND = timedelta(seconds=1)

#: Algorithms that ``algorithms`` adds beside the configured ones.
_OTHERS = ("ES256", "EdDSA")

#: The durations that ``policy`` changes, and by what.
_CHANGED = (
    "lifetime",
    "token_lifetime",
    "signer_lag",
    "cache_max_age",
    "cache_stale",
    "verifier_cache",
    "verifier_leeway",
)
_FACTORS = (0.25, 0.5, 1, 1, 1, 2, 4)


class People:
    """One method for each thing that a person does now and then."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.world, self.rng = schedule, schedule.world, schedule.rng

    def operator(self) -> None:
        """A person rotates, or revokes."""
        if self.rng.random() < 0.75:
            self.schedule.note("operator", "a person wants to rotate as soon as it is allowed")
            self.hasty(30)
        else:
            public = [key for key in self.schedule.known() if key.public]
            kid = self.rng.choice(public).kid if public else "unknown"
            self.revoke(kid or "")

    def hasty(self, tries: int) -> None:
        """A person wants to rotate, and tries again where that is refused."""
        world = self.world
        alg = self.rng.choice(world.keyset.policy.algorithms)
        try:
            self.schedule.engine("person").rotate([alg])
        except (RotatorError, Killed):
            if tries:
                # Exactly when the gate opens, if anybody knows; else again soon.
                opens = (
                    [wait.at for wait in self.schedule.outcome.plan.waits if wait.step == "promote" and wait.at]
                    if self.schedule.outcome
                    else []
                )
                span = min((at - world.now for at in opens if at > world.now), default=world.hour)
                self.schedule.later(
                    min(span, self.schedule.short(6 * world.hour)) + _SECOND / 50, lambda: self.hasty(tries - 1)
                )
        except Violation as exc:
            self.schedule.violation = exc
        else:
            eager = self.rng.choice(self.schedule.workers)
            self.schedule.later(_SECOND / 50, lambda: self.schedule.hurried(eager))
            if "edge" in world.faults and self.rng.random() < 0.5:
                # The key that is made next shall meet a CDN that does not show it.
                self.schedule.mishaps.edge()

    def revoke_promoting(self) -> None:
        """A person revokes the key that is being promoted."""
        promoting = [key for key in self.schedule.known() if key.promoting]
        if promoting:
            self.revoke(promoting[0].kid or "")

    def revoke(self, kid: str, tries: int = 20) -> None:
        """A person revokes ``kid``, and tries again where that fails."""
        world = self.world
        key = next((key for key in self.schedule.known() if key.kid == kid), None)
        person = self.schedule.engine("person")
        try:
            radius = person.blast_radius(kid)
            person.revoke(kid, "a drill")
        except (RotatorError, Killed):
            radius = None
        if key is None or (after := world.ring.by_kid(kid) if world.ledger_path in world.documents else None) is None:
            return
        if after.revoked_at and kid not in world.revoked:
            self.schedule.note("operator", f"a person revokes {world.called(key.id)} ({key.stage})")
            self.schedule.result.revokes += 1
            world.revoked[kid] = world.now
            world.lives[kid].revoked = world.now
            named = world.pointers.get(key.alg)
            if key.stage is Stage.CURRENT or key.promoting or (named and named.id == key.id):
                world.emergencies.add(key.alg)
            if radius:
                self._compare(radius, key)
            eager = self.rng.choice(self.schedule.workers)
            self.schedule.later(self.schedule.short(world.minute), lambda: self.schedule.hurried(eager))
        elif tries and not after.revoked_at and not after.withdrawn_at:
            self.schedule.later(self.schedule.short(world.hour), lambda: self.revoke(kid, tries - 1))

    def _compare(self, radius: Any, key: Any) -> None:
        """The blast radius that was told must hold for every token that this world knows of."""
        world = self.world
        alive = world.public.alive.get(radius.kid)
        slack = 4 * world.truth.clock_skew + timedelta(seconds=5)
        if (
            alive
            and key.id not in world.by_hand
            and not world.amnesia
            and (radius.tokens_until is None or alive[1] > radius.tokens_until + slack)
        ):
            raise Violation(
                f"a revoke said that tokens of {world.called(key.id)} end by {radius.tokens_until}, but one"
                f" lives until {alive[1]:%Y-%m-%d %H:%M:%S}"
            )

    def policy(self) -> None:
        """Somebody changes durations; what has grown is obeyed once workers know, what has shrunk at once."""
        world = self.world
        algorithms = world.keyset.policy.algorithms
        for _ in range(20):
            changed: dict[str, Any] = {
                name: _whole(getattr(self.schedule.base, name) * self.rng.choice(_FACTORS))
                for name in self.rng.sample(_CHANGED, 3)
            }
            policy = replace(self.schedule.base, algorithms=algorithms, **changed)
            if not policy.faults():
                self.schedule.note(
                    "policy", "now " + ", ".join(f"{name} {text(value)}" for name, value in changed.items())
                )
                self._configure(policy)
                return

    def algorithms(self) -> None:
        """The configuration names another algorithm, or one less; or a person retires one."""
        world = self.world
        old = world.keyset.policy
        named = old.algorithms
        pool = [alg for alg in (*self.schedule.base.algorithms, *_OTHERS) if alg not in named]
        gone = sorted({key.alg for key in self.schedule.known() if not key.destroyed_at} - {*named})
        kind = self.rng.choice(("add", "remove", "retire"))
        if kind == "add" and pool and not gone:
            algorithms = (*named, self.rng.choice(pool))
        elif kind == "remove" and len(named) > 1:
            leaving = self.rng.choice(named)
            algorithms = tuple(alg for alg in named if alg != leaving)
        elif gone and kind == "retire":
            try:
                self.schedule.engine("person").retire(gone[0])
                self.schedule.note("algorithms", f"a person retires {gone[0]}")
            except (RotatorError, Killed):
                pass
            return
        elif gone:
            algorithms = (*named, gone[0])
        else:
            return
        policy = replace(old, algorithms=tuple(dict.fromkeys(algorithms)))
        if not policy.faults():
            self.schedule.note("algorithms", f"the configuration names {', '.join(policy.algorithms)}")
            self._configure(policy)

    def _configure(self, policy: Policy) -> None:
        world = self.world
        for alg in set(policy.algorithms) - set(world.keyset.policy.algorithms):
            self.schedule.named[alg] = world.now
        world.keyset = replace(world.keyset, policy=policy)
        smaller = {name: min(getattr(world.truth, name), getattr(policy, name)) for name in _CHANGED}
        world.obey(replace(world.truth, **smaller))
        self.schedule.grows = policy


def _whole(span: timedelta) -> timedelta:
    # What the policy leaves at nothing stays so: a protection against it would protect from something else.
    return timedelta(seconds=max(1, int(span.total_seconds()))) if span else span
