"""What goes wrong beside the effects: services, the CDN, clocks, and somebody else's deployments."""

from __future__ import annotations

import codecs
import math
from typing import TYPE_CHECKING

from rotator.keys import jwks, material
from rotator.keys.algorithms import algorithm

if TYPE_CHECKING:
    from rotator.simulate.schedule import Schedule


class Mishaps:
    """One method for each fault that the schedule lets happen now and then."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.world, self.rng = schedule, schedule.world, schedule.rng
        self.hour, self.day = self.world.hour, self.world.day

    def outage(self) -> None:
        """A service is away for hours or days."""
        service = self.rng.choice(("ledger", "documents", "keys", "web", "cdn"))
        span = self.rng.choice((self.hour, self.day, 4 * self.day)) * self.rng.random()
        self.schedule.note("outage", f"{service} is away for {span}")
        self.world.away[service] = self.world.now + span

    def gap(self) -> None:
        """No worker runs for up to two lifetimes."""
        span = self.schedule.base.lifetime * 2 * self.rng.random()
        self.schedule.note("gap", f"no worker runs for {span}")
        self.schedule.stopped_until = self.world.now + span

    def clock(self) -> None:
        """A clock is set, or jumps, and is put right after days."""
        worker = self.rng.choice(self.schedule.workers)
        if self.rng.random() < 0.5:
            self.world.set_clock(worker)
        else:
            self.world.jump(worker)
        self.schedule.later(self.schedule.short(3 * self.day), lambda: self.world.set_clock(worker))

    def edge(self) -> None:
        """The CDN shows what it showed for hours."""
        span = self.rng.choice((self.hour, self.day)) * self.rng.random()
        self.schedule.note("edge", f"the CDN shows what it showed for {span}")
        self.world.frozen_until = self.world.now + span

    def header(self) -> None:
        """The CDN sends a header of its own for a while."""
        if (
            self.world.edge_headers
            or self.world.amnesia
            or not any(document.urls for document in self.world.keyset.documents)
        ):
            return
        age = math.ceil(self.rng.choice((self.hour, self.day, 7 * self.day)).total_seconds())
        self.schedule.note("header", f"the CDN sends max-age={age}")
        self.world.override_headers(f"public, max-age={age}, stale-while-revalidate=0, stale-if-error=0")
        self.schedule.later(self.schedule.short(2 * self.day), lambda: self.world.override_headers(None))

    def outsider(self) -> None:
        """Somebody overwrites the public document, or moves the pointer."""
        world = self.world
        if not world.past or world.amnesia or world.ledger_path not in world.documents:
            return
        kind = self.rng.choice(("restore", "restore", "restore", "garbage", "stranger", "pointer"))
        path, body, headers = self.rng.choice(world.past)
        if kind == "pointer":
            ring = world.ring
            keys = [
                key for key in ring.keys if key.public and key.alg in world.pointers and not world.stopped(key.handle)
            ]
            if keys:
                key = self.rng.choice(keys)
                self.schedule.note("outsider", f"somebody moves the pointer of {key.alg} to {world.called(key.id)}")
                world.move_pointer_by_hand(key.alg, key.id)
            return
        if kind == "garbage":
            body = self.rng.choice(
                (b"", b"{}", b'{"keys":[]}', b"<html>", body[: len(body) // 2], codecs.BOM_UTF8 + body)
            )
        elif kind == "stranger":
            path, stored = world.keyset.documents[0].path, world.documents.get(world.keyset.documents[0].path)
            there = (jwks.parse(stored[0]) if stored else None) or jwks.PublicSet((), 0)
            row = algorithm("EdDSA")
            alien = jwks.public_jwk(material.spki(material.generate(row, 0)), row)
            body = jwks.serialize([*there.keys, alien], there.revision or 0, there.ledger)
        self.schedule.note("outsider", f"somebody overwrites {path} ({kind})")
        world.restore(body, headers, path)
        if "edge" in world.faults and self.rng.random() < 0.5:
            # It is put right while some caches hold a copy from before, and others see it late; somebody is in a hurry.
            worker = self.rng.choice(self.schedule.workers)
            self.schedule.later(self.schedule.short(world.hour / 6), lambda: self.schedule.hurried(worker))
            self.edge()
            if "operator" in world.faults:
                self.schedule.people.hasty(30)

    def ledger(self) -> None:
        """The ledger is lost, or an old one is restored; a person puts the newest back."""
        world = self.world
        if world.amnesia or len(world.ledgers) < 10 or world.ledger_path not in world.documents:
            return
        if any(copy.outsider for copy in world.shown_at_origin.values()):
            # An old ledger beside an old public document is a past that nobody can tell from the present.
            return
        newest = world.documents[world.ledger_path]
        lost = self.rng.random() < 0.3
        self.schedule.note("ledger", "the ledger is lost" if lost else "an old ledger is restored")
        if lost:
            del world.documents[world.ledger_path]
        else:
            world.amnesia = True
            world.documents[world.ledger_path] = (
                self.rng.choice(world.ledgers[-40:]),
                f"v{next(world.counter)}",
                newest[2],
            )
        revision = None if lost else world.ring.revision

        def mend() -> None:
            # Where workers went on with it, it was not older than the world in any way that counts.
            if revision == (world.ring.revision if world.ledger_path in world.documents else None):
                world.documents[world.ledger_path] = (newest[0], f"v{next(world.counter)}", newest[2])
                world.amnesia = False
                world.tell("person", "puts the newest ledger back")
            else:
                # What happened between the two is forgotten for good, a promise among it perhaps.
                self.schedule.over = True

        self.schedule.later(self.schedule.short(self.day), mend)

    def key(self) -> None:
        """A private half breaks; a person finds out and revokes it."""
        world = self.world
        ready = [key for key in self.schedule.known() if key.standby and key.handle and key.handle not in world.broken]
        if not ready:
            return
        key = self.rng.choice(ready)
        self.schedule.note("key", f"the private half of {world.called(key.id)} breaks")
        world.broken.add(key.handle or "")
        self.schedule.later(self.schedule.short(3 * self.day), lambda: self.schedule.people.revoke(key.kid or ""))
