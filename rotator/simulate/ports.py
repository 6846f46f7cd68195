"""All ports of one worker, over the one simulated world."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rotator.errors import Conflict, StoreError
from rotator.keys import jwks, material
from rotator.ports import Document, Fetched, Headers, Intent, KeyRef, Pointer, Reading, StoredKey, Stray, Traits
from rotator.simulate.world import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rotator.keys.algorithms import Algorithm
    from rotator.simulate.world import World

_NOWHERE = Pointer(None, "absent")


class Ports:
    """Ledger store, public store, key store, CDN and web of ``worker``; every call is an effect of the world."""

    def __init__(self, world: World, worker: str) -> None:
        self.world, self.worker = world, worker

    def _do(self, name: str, apply: Callable[[], Any]) -> Any:
        return self.world.effect(self.worker, name, apply)

    # -- DocumentStore

    def read(self, path: str) -> Reading:
        """See ``DocumentStore.read``."""

        def apply() -> Reading:
            stored = self.world.documents.get(path)
            # A public URL may be a cache: what stands at the origin is known by reading it there.
            if path != self.world.ledger_path:
                self.world.looked[self.worker] = self.world.now
            return Reading(Document(*stored) if stored else None, self.world.store_date())

        return self._do(f"read {path}", apply)  # type: ignore[no-any-return]

    def create(self, path_or_intent: Any, body: bytes = b"", headers: Headers | None = None) -> Any:
        """See ``DocumentStore.create`` and ``KeyStore.create``."""
        if isinstance(path_or_intent, Intent):
            return self._create_key(path_or_intent)
        path: str = path_or_intent

        def apply() -> str:
            if path in self.world.documents:
                raise Conflict(f"{path} exists")
            return self._write(path, body, headers)

        return self._do(f"create {path}", apply)

    def replace(self, path: str, body: bytes, headers: Headers, version: str) -> str:
        """See ``DocumentStore.replace``."""

        def apply() -> str:
            stored = self.world.documents.get(path)
            if stored is None or stored[1] != version:
                raise Conflict(f"{path} changed")
            return self._write(path, body, headers)

        return self._do(f"replace {path}", apply)  # type: ignore[no-any-return]

    def _write(self, path: str, body: bytes, headers: Headers | None) -> str:
        document = self.world.document(path)
        if document:
            self.world.check_written(document, body)
        return self.world.written(path, body, headers or Headers("", None))

    def probe(self, path: str) -> None:
        """See ``DocumentStore.probe``."""
        self._do("probe", lambda: None)

    def locate(self, path: str) -> str:
        """See ``DocumentStore.locate``."""
        return f"memory:{path}"

    # -- Web

    def fetch(self, url: str) -> Fetched | None:
        """See ``Web.fetch``."""

        def apply() -> Fetched | None:
            world = self.world
            if url in world.unreachable:
                raise StoreError(f"{url} does not answer")
            document = next(document for document in world.keyset.documents if url in document.urls)
            return world.fetch(self.worker, document, url)

        return self._do("fetch", apply)  # type: ignore[no-any-return]

    # -- Cdn

    def invalidate(self, paths: Sequence[str], reference: str) -> None:
        """See ``Cdn.invalidate``."""
        self._do("invalidate", lambda: self.world.invalidations.append(reference))

    # -- KeyStore

    @property
    def traits(self) -> Traits:
        """See ``KeyStore.traits``."""
        return self.world.traits

    def check(self, keyset: str, algorithms: Sequence[Algorithm]) -> None:
        """See ``KeyStore.check``."""
        self._do("check", lambda: None)

    def holds(self, keyset: str, algorithms: Sequence[Algorithm]) -> str | None:
        """See ``KeyStore.holds``."""
        return next(iter(self.world.handles.values()), None)

    def read_pointer(self, keyset: str, algorithm: Algorithm) -> Pointer:
        """See ``KeyStore.read_pointer``."""

        def apply() -> Pointer:
            pointer = self.world.pointers.get(algorithm.alg, _NOWHERE)
            self.world.asked[self.worker] = self.world.now
            return replace(pointer, date=self.world.store_date())

        return self._do(f"read pointer {algorithm.alg}", apply)  # type: ignore[no-any-return]

    def _create_key(self, intent: Intent) -> StoredKey:
        world = self.world

        def apply() -> StoredKey:
            if world.traits.leaves_strays and intent.attempt in world.spent:
                raise Violation("one recorded attempt made two creations")
            world.spent.add(intent.attempt)
            if intent.id not in world.handles:
                handle = f"key-{next(world.counter)}"
                world.creations.append((intent.id, intent.attempt, world.now))
                private = world.mint.make(intent.algorithm)
                kid = jwks.kid_of(material.spki(private), intent.algorithm, intent.kid_format)
                world.made(intent.id, handle, intent.algorithm.alg, kid, private)
            handle = world.handles[intent.id]
            return StoredKey(handle, material.spki(world.private[handle]), world.kids[intent.id])

        return self._do("keys.create", apply)  # type: ignore[no-any-return]

    def sign(self, ref: KeyRef, message: bytes) -> bytes:
        """See ``KeyStore.sign``."""

        def apply() -> bytes:
            world = self.world
            if world.stopped(ref.handle):
                raise StoreError(f"{ref.handle} is disabled")
            if ref.handle in world.broken:
                return bytes(64)
            world.proved.add((self.worker, ref.handle))
            return material.sign(world.private[ref.handle], ref.algorithm, message)

        return self._do("keys.sign", apply)  # type: ignore[no-any-return]

    def _swap(self, name: str, alg: str, pointer: Pointer, key_id: str | None, *, moves: bool = False) -> Pointer:
        def apply() -> Pointer:
            there = self.world.pointers.get(alg, _NOWHERE)
            if there.token != pointer.token:
                raise Conflict("the pointer moved")
            if moves:
                self.world.check_moved(self.worker, alg, key_id)
            return self.world.point(alg, key_id)

        return self._do(name, apply)  # type: ignore[no-any-return]

    def move_pointer(self, pointer: Pointer, ref: KeyRef) -> Pointer:
        """See ``KeyStore.move_pointer``."""
        return self._swap("move pointer", ref.algorithm.alg, pointer, ref.id, moves=True)

    def clear_pointer(self, keyset: str, algorithm: Algorithm, pointer: Pointer) -> Pointer:
        """See ``KeyStore.clear_pointer``."""
        return self._swap("clear pointer", algorithm.alg, pointer, None)

    def fence(self, keyset: str, algorithm: Algorithm, pointer: Pointer) -> Pointer:
        """See ``KeyStore.fence``."""
        return self._swap("fence", algorithm.alg, pointer, pointer.id)

    def disable(self, ref: KeyRef) -> None:
        """See ``KeyStore.disable``."""

        def apply() -> None:
            self.world.check_disabled(self.worker, ref.id, self.world.called(ref.id))
            self.world.disabled.add(ref.handle)

        self._do("disable", apply)

    def destroy(self, ref: KeyRef) -> None:
        """See ``KeyStore.destroy``."""

        def apply() -> None:
            self.world.check_disabled(self.worker, ref.id, self.world.called(ref.id))
            self.world.destroyed.add(ref.handle)

        self._do("destroy", apply)

    def strays(self, keyset: str) -> Iterator[Stray]:
        """See ``KeyStore.strays``."""
        known = self._do("strays", lambda: list(self.world.creations))
        for key_id, attempt, at in known:
            handle = self.world.handles[key_id]
            if handle not in self.world.destroyed and handle not in self.world.discarded:
                yield Stray(handle, self.world.ring.ledger_id, key_id, attempt, at)

    def discard(self, stray: Stray) -> None:
        """See ``KeyStore.discard``."""
        self._do("discard", lambda: self.world.discarded.add(stray.handle))
