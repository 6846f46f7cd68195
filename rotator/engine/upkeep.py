"""The upkeep of a key store, all at once and before it is due: what ``Sweep`` discards, and what it spares and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rotator.engine.steps import Report
from rotator.errors import Refused
from rotator.keys import upkeep
from rotator.keys.plan import explain
from rotator.ports import Searchable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from rotator.engine.observe import Observer
    from rotator.keys.policy import KeySet
    from rotator.ports import KeyStore, Stray


@dataclass(frozen=True, slots=True)
class Leftover:
    """A key in the store that the ledger does not know."""

    handle: str
    alg: str | None
    created_at: datetime | None
    spared: str | None
    """Why it is left alone; ``None``: it is discarded."""


class Upkeep:
    """Looks through the key store of one key set."""

    def __init__(self, keyset: KeySet, *, observer: Observer, keys: KeyStore, report: Callable[[Report], None]) -> None:
        self.keyset, self._observer, self._keys, self._report = keyset, observer, keys, report

    def leftovers(self) -> list[Leftover]:
        """Every key in the store that the ledger does not know. Changes nothing.

        Raises:
            Refused: the ledger is missing, damaged or older than the world, or this machine's clock is wrong.
        """
        return [leftover for leftover, _ in self._judged()]

    def discard(self) -> list[Leftover]:
        """Stop every needless key, and schedule its deletion; idempotent. What was found, in the same words.

        Raises:
            Refused: as for :meth:`leftovers`; nothing was discarded.
        """
        judged = self._judged()
        for leftover, stray in judged:
            if stray is not None and leftover.spared is None:
                self._keys.discard(stray)
                reason = f"{stray.handle} is known to no ledger: disabled and scheduled for deletion"
                self._report(Report(self.keyset.name, "sweep", reason, self._observer.now(), level="warning"))
        return [leftover for leftover, _ in judged]

    def _judged(self) -> Sequence[tuple[Leftover, Stray | None]]:
        keys, name = self._keys, self.keyset.name
        if not isinstance(keys, Searchable):
            raise Refused(f"Key set {name}: this key store cannot be looked through. Nothing was changed.")
        # The store first: an intent is recorded before its key is made, so the ledger read later knows all of them.
        held, strays = keys.held(name), {stray.handle: stray for stray in keys.strays(name)}
        world = self._observer.observe()
        if world.faults:
            raise world.faults[0]
        if world.clock_fault:
            raise Refused(f"Key set {name}: {world.clock_fault} Nothing was changed.")
        explain(world.ring, self.keyset, world.observed())
        found: list[tuple[Leftover, Stray | None]] = []
        for each in held:
            if upkeep.known(world.ring, each.handle):
                continue
            stray = strays.get(each.handle)
            spared = upkeep.why_spared(
                world.ring, world.at, key_id=each.id, ledger_id=each.ledger_id, created_at=each.created_at
            )
            if not keys.traits.leaves_strays:
                spared = (
                    "no crash leaves a key in this store: it is a lost ledger's, or somebody put it there. Remove it by"
                    " hand when you are sure"
                )
            elif spared is None and stray is None:
                spared = "it does not have every tag of a key that rotator made"
            found.append((Leftover(each.handle, each.alg, each.created_at, spared), stray))
        return found
