"""A probe for monitors: what verifiers get, held against the ledger, and a signature made the way issuers make theirs.

Changes nothing. Where a tick repairs, this tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from rotator.errors import RotatorError, StoreError
from rotator.keys import jwks
from rotator.keys.algorithms import algorithm
from rotator.keys.material import verify
from rotator.keys.plan import plan
from rotator.keys.policy import text
from rotator.keys.verification import Copy, Fault, faults
from rotator.ports import KeyRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from rotator.engine.observe import Observer, World
    from rotator.keys.keyring import Key
    from rotator.keys.policy import KeySet, PublicDocument
    from rotator.ports import KeyStore, Web

#: How long, beside two ticks, a step may be due before somebody should look why nobody does it.
PATIENCE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at, and everything that is wrong with it."""

    at: datetime
    copies: tuple[Copy, ...]
    signed: tuple[str, ...]
    """kids of the keys whose signatures verified with every copy."""
    faults: tuple[Fault, ...]

    @property
    def severe(self) -> bool:
        """Whether tokens are rejected, or soon will be."""
        return any(fault.severe for fault in self.faults)


class Probe:
    """Looks at one key set from where its verifiers and its issuers stand."""

    def __init__(
        self, keyset: KeySet, *, observer: Observer, keys: KeyStore, web: Web, nonce: Callable[[], str]
    ) -> None:
        self.keyset = keyset
        self._observer, self._keys, self._web, self._nonce = observer, keys, web, nonce

    def verify(self) -> Verification:
        """Fetch every document from every URL, and sign with every current key.

        Raises:
            Refused: there is no ledger to hold it against, or it is damaged.
        """
        # The ledger last: what is fetched after it was read may be newer, and no fault.
        answers = [(document, url, *self._fetched(url)) for document in self.keyset.written for url in document.urls]
        world = self._observer.observe()
        found = [Fault("unreadable", str(exc), self.keyset.name) for exc in world.faults]
        copies: dict[str, list[Copy]] = {document.name: [] for document in self.keyset.written}
        stored = [(each, each.path, *_stored(each, world)) for each in self.keyset.written if not each.urls]
        for document, where, copy, fault in (*answers, *stored):
            if copy is not None:
                copies[document.name].append(copy)
                found += faults(world.ring, self.keyset, document, copy)
            elif fault:
                found.append(Fault("unreachable", fault, where))
            elif any(key.exposed and key.public and document.shows(key.alg) for key in world.ring.keys):
                found.append(Fault("missing", "it is missing", where))
        signed = []
        for alg in dict.fromkeys((*self.keyset.policy.algorithms, *world.ring.algorithms())):
            here = [*self._of_pointer(alg, world)]
            key = world.ring.current(alg)
            if key is not None:
                shown = [copy for document in self.keyset.documents_of(alg) for copy in copies[document.name]]
                here += self._of_signature(key, shown)
                signed += [key.name] if not here and all(_shown_in(copy, key) for copy in shown) else []
            found += here
        found += self._of_ledger(world)
        everything = tuple(copy for each in copies.values() for copy in each)
        return Verification(world.at, everything, tuple(signed), tuple(found))

    def _fetched(self, url: str) -> tuple[Copy | None, str | None]:
        """What stands at ``url``, or why nobody can tell; neither: nothing stands there."""
        try:
            answer = self._web.fetch(url)
        except StoreError as exc:
            return None, str(exc).removeprefix(url).strip().rstrip(".")
        if answer is None:
            return None, None
        headers = answer.cache_control, answer.age, answer.content_type
        return Copy(url, answer.body, *headers, redirected=answer.redirected), None

    def _of_pointer(self, alg: str, world: World) -> Iterator[Fault]:
        current, pointer = world.ring.current(alg), world.pointers.get(alg)
        if current is None and alg in self.keyset.policy.algorithms:
            yield Fault("no-current-key", f"no {alg} key signs", self.keyset.name)
        named = {key.id for key in (current, world.ring.promoting(alg)) if key}
        if pointer and pointer.id not in named and (named or pointer.id):
            yield Fault(
                "pointer", f"issuers of {alg} follow another key than the ledger's current one", self.keyset.name
            )

    def _of_signature(self, key: Key, shown: list[Copy]) -> Iterator[Fault]:
        row = algorithm(key.alg)
        message = f"rotator verify {self.keyset.name} {key.kid} {self._nonce()}".encode()
        try:
            signature = self._keys.sign(KeyRef(self.keyset.name, row, key.id, key.name, key.handle or ""), message)
        except RotatorError as exc:
            yield Fault("cannot-sign", str(exc), key.name)
            return
        for copy in shown:
            jwk = _shown_in(copy, key)
            # A key that is missing there is told of already.
            if jwk and not verify(jwk, row, message, signature):
                yield Fault("signature", f"what {key.name} signs does not verify with the key shown there", copy.where)

    def _of_ledger(self, world: World) -> Iterator[Fault]:
        ring, name = world.ring, self.keyset.name
        if ring.trouble:
            says = f"the last tick failed at {ring.trouble.at:%Y-%m-%d %H:%M:%S}Z: {ring.trouble.message}"
            yield Fault("trouble", says, name, severe=False)
        if world.clock_fault:
            yield Fault("clock", world.clock_fault, name, severe=False)
        patience = 2 * self.keyset.policy.interval + PATIENCE
        then = world.at - patience
        if ring.newest_fact() > then:
            # Somebody is at work.
            return
        step = plan(ring, self.keyset, then, world.observed(), self._keys.traits).step
        if step is not None:
            yield Fault(
                "overdue",
                f"{step.name} is due for more than {text(patience)} ({step.reason}), and not done: "
                + ("ticks fail" if ring.trouble else "see that the daemon, CronJob or Lambda runs"),
                name,
            )


def _shown_in(copy: Copy, key: Key) -> jwks.Jwk | None:
    found = jwks.parse(copy.body)
    return found.key(key.name) if found else None


def _stored(document: PublicDocument, world: World) -> tuple[Copy | None, str | None]:
    """What the origin holds of a document that has no URL."""
    seen = world.seen.get(document.name)
    if seen is None:
        return None, "the origin could not be read"
    if not seen.exists:
        return None, None
    return Copy(document.path, seen.body, seen.cache_control, content_type=seen.content_type, public=False), None
