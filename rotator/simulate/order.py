"""What a tick leaves in order when it ends well, and what has come to its end when a world is at rest.

The checker of :mod:`rotator.simulate.world` asks at each effect whether a token could be rejected. An engine that does
nothing at all rejects none: what it has to do besides is asked here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rotator.keys import jwks
from rotator.keys.plan import withdraw_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

    from rotator.keys.plan import Plan
    from rotator.simulate.world import World


def left_undone(world: World) -> str | None:
    """What a tick that ended well, while no other stalled, may not leave; ``None``: all is in order."""
    return next(_undone(world), None)


def _undone(world: World) -> Iterator[str]:
    ring = world.ring
    for document in world.keyset.documents:
        stored = world.documents.get(document.path)
        parsed = jwks.parse(stored[0]) if stored else None
        there = parsed.kids() if parsed else set()
        for key in ring.keys:
            called = world.called(key.id)
            if ring.founded_at and key.public and document.shows(key.alg) and key.kid not in there:
                yield f"a tick ends well and leaves {called} out of {document.path}"
            if key.kid in there and not key.public:
                yield f"a tick ends well and leaves {called} ({key.stage}) in {document.path}"
    for key in ring.keys:
        if key.revoked_at and key.created_at and (not key.disabled_at or not world.was_stopped(key.handle)):
            yield f"a tick ends well, and {world.called(key.id)}, which is revoked, can sign"
    for alg, pointer in world.pointers.items():
        current = ring.current(alg)
        if pointer.id != (current.id if current else None):
            yield f"a tick ends well and leaves the pointer of {alg} on {world.called(pointer.id)}"


def unfinished(world: World, plan: Plan, late: timedelta) -> Iterator[str]:
    """What should have come to its end in a world that was at rest for as long as its policy asks; ``late``: grace."""
    ring, policy = world.ring, world.keyset.policy
    # Where somebody else's keys take all the room there is, a next key waits for a person.
    no_room = {wait.alg for wait in plan.waits if wait.step == "intend"}
    for alg in (each for each in policy.algorithms if each not in no_room):
        current = ring.current(alg)
        if current and current.activated_at and world.now - current.activated_at > policy.lifetime + late:
            yield f"at the end {world.called(current.id)} signs for longer than it should"
        young = world.now - late
        if not any(key.standby and (key.published_at or key.intended_at > young) for key in ring.of(alg)):
            yield f"at the end no next {alg} key stands by"
    for key in ring.keys:
        if key.revoked_at and not key.destroyed_at:
            yield f"at the end the revoke of {world.called(key.id)} is not over"
        if key.superseded_at and not key.withdrawn_at and not key.revoked_at:
            at = withdraw_at(policy, key, key.superseded_at)
            if world.now > at + late:
                yield f"at the end {world.called(key.id)} has not left, though its last token ended"
