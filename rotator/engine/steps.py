"""What each step does: its effects, in the order that a crash can repair, and then its fact.

Facts that permit are recorded after their effect, with the clock read then; facts that forbid or intend before it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from rotator.engine.observe import as_seen
from rotator.errors import AccessDenied, Refused, RotatorError, StoreError
from rotator.keys import discovery, facts, jwks, upkeep
from rotator.keys import plan as planning
from rotator.keys.algorithms import algorithm
from rotator.keys.keyring import Event, Key, Keyring
from rotator.keys.material import verify
from rotator.keys.publication import called, foreign, guard, holds, project
from rotator.ports import Document, Headers, Intent, KeyRef

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from rotator.engine.ledger import Ledger
    from rotator.engine.observe import Observer, World
    from rotator.keys.algorithms import Algorithm
    from rotator.keys.plan import Step
    from rotator.keys.policy import KeySet, PublicDocument
    from rotator.ports import Cdn, Clock, DocumentStore, KeyStore, StoredKey


@dataclass(frozen=True, slots=True)
class Report:
    """One line for log, metrics and terminal: a step that was done, or a warning beside it."""

    keyset: str
    step: str
    reason: str
    at: datetime
    seconds: float = 0.0
    alg: str | None = None
    kid: str | None = None
    document: str | None = None
    level: Literal["step", "warning"] = "step"


class Steps:
    """Does the steps of one key set."""

    def __init__(  # noqa: PLR0913 - the ports, each by name
        self,
        keyset: KeySet,
        *,
        ledger: Ledger,
        observer: Observer,
        public: DocumentStore,
        keys: KeyStore,
        cdn: Cdn | None,
        clock: Clock,
        report: Callable[[Report], None],
        nonce: Callable[[], str],
    ) -> None:
        self.keyset = keyset
        self._ledger, self._observer, self._public, self._keys, self._cdn = ledger, observer, public, keys, cdn
        self._clock, self._report, self._nonce = clock, report, nonce
        self._documents = {document.name: document for document in keyset.written}
        self._table: dict[type[Step], Callable[..., None]] = {
            planning.Intend: self._intend,
            planning.Attempt: self._attempt,
            planning.Create: self._create,
            planning.Found: self._found,
            planning.Serve: self._serve,
            planning.Publish: self._publish,
            planning.NotePublished: self._note_published,
            planning.Unpublish: self._unpublish,
            planning.CancelPromotion: self._cancel_promotion,
            planning.Promote: self._promote,
            planning.Activate: self._activate,
            planning.RepairPointer: self._repair_pointer,
            planning.ClearPointer: self._clear_pointer,
            planning.Supersede: self._supersede,
            planning.Fence: self._fence,
            planning.EndSuccession: self._end_succession,
            planning.Lapse: self._lapse,
            planning.Extend: self._extend,
            planning.Disable: self._disable,
            planning.Withdraw: self._withdraw,
            planning.Destroy: self._destroy,
            planning.Forget: self._forget,
            planning.Invalidate: self._invalidate,
            planning.NoteGone: self._note_gone,
            planning.Sweep: self._sweep,
        }

    def do(self, step: Step, world: World) -> None:
        """Do ``step``; ``world`` is then as the step left it.

        Raises:
            Conflict: somebody else was here; observe again.
            StoreError: an effect failed, or was applied and reported failed; the next tick repairs it.
            Refused: a guard would break; nothing was written.
        """
        self._table[type(step)](step, world)

    # -- record --------------------------------------------------------------------------------------------------

    def commit(self, world: World, ring: Keyring, step: Step | None = None) -> None:
        """Make ``ring`` true by compare-and-swap, with ``step`` in its history.

        Raises:
            Conflict: somebody else wrote the ledger since it was read.
        """
        if step is not None:
            key = ring.key(step.key) if step.key else None
            ring = ring.with_event(Event(self.now(world.ring), step.name, step.reason, key.kid if key else step.kid))
        world.ring, world.version = self._ledger.replace(ring, world.ring.revision, world.version)

    def now(self, ring: Keyring) -> datetime:
        """The clock for facts: never before a fact that is recorded already, nor off where the store knows better."""
        return max(self._observer.now(), ring.newest_fact())

    def _warn(self, step: str, reason: str, document: str | None = None) -> None:
        self._report(Report(self.keyset.name, step, reason, self._clock(), document=document, level="warning"))

    def _ref(self, key: Key) -> KeyRef:
        return KeyRef(self.keyset.name, algorithm(key.alg), key.id, key.kid or "", key.handle or "", key.created_at)

    def _key(self, world: World, step: Step) -> Key:
        # The step was planned from this very keyring.
        return next(key for key in world.ring.keys if key.id == step.key)

    # -- the steps: making a key ---------------------------------------------------------------------------------

    def _intend(self, step: Step, world: World) -> None:
        attempt = self._nonce()
        ring = facts.intended(world.ring, step.alg or "", self._nonce(), attempt, self.now(world.ring))
        self.commit(world, ring, step)
        world.attempts.add(attempt)

    def _attempt(self, step: Step, world: World) -> None:
        attempt = self._nonce()
        self.commit(world, facts.attempted(world.ring, step.key or "", attempt, self.now(world.ring)), step)
        world.attempts.add(attempt)

    def _create(self, step: Step, world: World) -> None:
        key, policy = self._key(world, step), self.keyset.policy
        row = algorithm(key.alg)
        stored = world.made.get(key.id)
        if stored is None:
            world.attempts.discard(key.attempt)
            stored = self._keys.create(
                Intent(self.keyset.name, world.ring.ledger_id, key.id, row, policy.rsa_bits, policy.kid, key.attempt)
            )
            # Where somebody else writes the ledger first, the next try records this key and makes no other.
            world.made[key.id] = stored
            world.attempts.add(key.attempt)
        jwk = self._public_half(stored, row)
        self.commit(world, facts.created(world.ring, key.id, jwk, stored.handle, self.now(world.ring)), step)
        world.entering |= {(document.name, key.id) for document in self.keyset.written}

    def _public_half(self, stored: StoredKey, row: Algorithm) -> jwks.Jwk:
        """What is published of ``stored``, under the kid that its issuers will put into tokens.

        Raises:
            Refused: that kid does not follow from the key.
        """
        if stored.kid is None:
            return jwks.public_jwk(stored.spki, row, self.keyset.policy.kid)
        # policy.kid may have changed since the key was made.
        for form in get_args(jwks.KidFormat):
            jwk = jwks.public_jwk(stored.spki, row, form)
            if jwk["kid"] == stored.kid:
                return jwk
        raise Refused(
            f"Key set {self.keyset.name}: the new {row.alg} key ({stored.handle}) is not taken: the kid kept beside it"
            " does not follow from the key. rotator did not write that: find out who writes into its key store, and put"
            " the value right, or remove it to have another key made."
        )

    # -- the steps: public documents -----------------------------------------------------------------------------

    def _found(self, step: Step, world: World) -> None:
        self.commit(world, facts.founded(world.ring, self.keyset, self.now(world.ring)), step)

    def _serve(self, step: planning.Serve, world: World) -> None:
        ring = facts.served(world.ring, self.keyset, step.document or "", step.cache_control, foreign=step.foreign)
        self.commit(world, ring, step)

    def _publish(self, step: Step, world: World) -> None:
        document = self._documents[step.document or ""]
        version, served = world.versions[document.name], world.ring.documents[document.name]
        body = self._body(document, world)
        headers = Headers(served.content_type, served.cache_control)
        try:
            if version is None:
                version = self._public.create(document.path, body, headers)
            else:
                version = self._public.replace(document.path, body, headers, version)
        except AccessDenied:
            raise
        except StoreError as exc:
            there = self._public.read(document.path).document
            if there is None or (there.body, there.headers) != (body, headers):
                raise exc from None
            version = there.version
        world.versions[document.name] = version
        world.entering = {pair for pair in world.entering if pair[0] != document.name}
        world.seen[document.name] = as_seen(Document(body, version, headers))
        world.read_back.discard(document.name)
        if self._cdn and not served.invalidate_due:
            try:
                self._cdn.invalidate([document.path], f"{world.ring.ledger_id}-{world.ring.revision}-{document.name}")
            except RotatorError as exc:
                # A courtesy: the gates count on ages alone.
                self._warn("invalidate", str(exc), document.name)

    def _body(self, document: PublicDocument, world: World) -> bytes:
        """What ``document`` is to hold.

        Raises:
            Refused: a guard would break.
        """
        seen = world.seen[document.name]
        keys = [] if document.discovery else project(world.ring, document, seen, self.keyset.policy.max_keys)
        if not document.discovery:
            guard(world.ring, self.keyset, document, keys, seen)
        for stranger in foreign(world.ring, seen):
            fate = (
                "kept beside ours until 'rotator drop'" if stranger in keys else "gave way: there is no room (max_keys)"
            )
            self._warn("foreign-keys", f"{called(stranger)} {fate}", document.name)
        for exposed in filter(jwks.is_private, seen.jwks.keys if seen.jwks else ()):
            # Once they are removed nothing else tells that they were public.
            fate = "was public with private members: whoever fetched it can sign. Revoke it, or tell its owner"
            self._warn("private-key", f"{called(exposed)} {fate}", document.name)
        ring = facts.reappeared(world.ring, document.name, seen.kids())
        if ring != world.ring or self._may_have_lost(document, world):
            # Whoever saw the key there, and stalls, must not record that once the document is put right.
            self.commit(world, ring)
        if document.discovery:
            # Planned only where there is one to write.
            return discovery.project(world.ring, document.discovery) or b""
        return jwks.serialize(keys, world.ring.revision, world.ring.ledger_id)

    def _may_have_lost(self, document: PublicDocument, world: World) -> bool:
        """Whether ``document`` may have held a waiting key that it lacks, and the ledger does not know yet."""
        seen = world.seen[document.name]
        return any(
            key.standby and key.jwk and not key.founding and document.shows(key.alg) and not holds(document, key, seen)
            for key in world.ring.keys
            if (document.name, key.id) not in world.entering
        )

    def _note_published(self, step: planning.NotePublished, world: World) -> None:
        document = self._documents[step.document or ""]
        wanted = [key for key in world.ring.keys if key.id in step.keys]
        # Where a revoke left nobody, whatever shows the key is better than nothing.
        hurry = any(key.forced or world.ring.succession(key.alg).forced_at for key in wanted)
        sets, fault = self._observer.look_in_public(document, world, newest=not hurry)
        found = [key.id for key in wanted if sets and all(holds(document, key, seen) for seen in sets)]
        if not found or len(found) < len(wanted):
            names = ", ".join(key.name for key in wanted if key.id not in found)
            world.unseen[document.name] = fault or f"{_places(document)} does not show {names} yet"
        if found:
            ring = facts.published(world.ring, self.keyset, document, found, self.now(world.ring))
            self.commit(world, ring, step)

    def _unpublish(self, step: planning.Unpublish, world: World) -> None:
        document = self._documents[step.document or ""]
        # What was read before the ledger may only be older than the ledger: look again before calling it drift.
        self._observer.read_again(document, world)
        seen = world.seen[document.name]
        lost = [key.id for key in world.ring.keys if key.id in step.keys and not holds(document, key, seen)]
        if lost:
            self.commit(world, facts.unpublished(world.ring, document.name, lost), step)

    def _invalidate(self, step: Step, world: World) -> None:
        document = self._documents[step.document or ""]
        if self._cdn:
            self._cdn.invalidate([document.path], f"{world.ring.ledger_id}-{world.ring.revision}-{document.name}")
        self.commit(world, facts.invalidated(world.ring, document.name), step)

    def _note_gone(self, step: Step, world: World) -> None:
        document = self._documents[step.document or ""]
        fault = self._observer.still_shown(document, step.kid or "", world)
        if fault:
            world.unseen[document.name] = fault
            world.failed.add(("note-gone", document.name))
        else:
            ring = facts.gone(world.ring, step.key or "", document.name, self.now(world.ring))
            self.commit(world, ring, step)

    # -- the steps: signing --------------------------------------------------------------------------------------

    def _promote(self, step: planning.Promote, world: World) -> None:
        ring = facts.promoting(world.ring, self.keyset.policy, step.key or "", self.now(world.ring), forced=step.forced)
        self.commit(world, ring, step)

    def _activate(self, step: Step, world: World) -> None:
        key = self._key(world, step)
        pointer = world.pointers[key.alg]
        strayed = pointer.id if pointer.id != key.id else None
        if strayed is not None or pointer.id is None:
            # A forced key waits for nobody: the person who revoked its predecessor was told what that costs.
            self._prove(key, [] if key.forced else self._as_published(key, world))
            self._note_astray(strayed, world)
            world.pointers[key.alg] = self._keys.move_pointer(pointer, self._ref(key))
        ring = facts.activated(world.ring, self.keyset.policy, key.id, strayed, self.now(world.ring))
        self.commit(world, ring, step)

    def _as_published(self, key: Key, world: World) -> list[jwks.Jwk | None]:
        """``key`` as verifiers get it, from every place."""
        copies: list[jwks.Jwk | None] = []
        for document in self.keyset.documents_of(key.alg):
            sets, fault = self._observer.look_in_public(document, world)
            if fault:
                raise StoreError(f"Key set {self.keyset.name}: {key.kid} is not promoted: {fault}.")
            copies += [seen.jwks.key(key.kid or "") if seen.jwks else None for seen in sets]
        return copies

    def _prove(self, key: Key, copies: Sequence[jwks.Jwk | None]) -> None:
        """Sign through the store that issuers use; verify with the ledger's public half and with ``copies``.

        Raises:
            StoreError: the store cannot sign with it, or a verifier would reject the signature.
        """
        row = algorithm(key.alg)
        message = f"rotator proof {self.keyset.name} {key.kid} {self._nonce()}".encode()
        signature = self._keys.sign(self._ref(key), message)
        for jwk in (key.jwk, *copies):
            if jwk is None or not verify(jwk, row, message, signature):
                raise StoreError(
                    f"Key set {self.keyset.name}: the pointer is not moved to {key.kid}: what it signs does not verify"
                    " with the published key. The old key goes on signing. Revoke this one to have another made."
                )

    def _repair_pointer(self, step: Step, world: World) -> None:
        key = self._key(world, step)
        pointer = world.pointers[key.alg]
        # A ledger restored from yesterday may call a key current that cannot sign any more: never lead issuers there.
        self._prove(key, [])
        self._note_astray(pointer.id, world)
        world.pointers[key.alg] = self._keys.move_pointer(pointer, self._ref(key))
        self._record_strayed(step, pointer.id, world)

    def _clear_pointer(self, step: Step, world: World) -> None:
        alg = step.alg or ""
        pointer = world.pointers[alg]
        self._note_astray(pointer.id, world)
        world.pointers[alg] = self._keys.clear_pointer(self.keyset.name, algorithm(alg), pointer)
        self._record_strayed(step, pointer.id, world)

    def _note_astray(self, key_id: str | None, world: World) -> None:
        ring = facts.astray(world.ring, key_id)
        if ring != world.ring:
            self.commit(world, ring)

    def _supersede(self, step: Step, world: World) -> None:
        self._record_strayed(step, step.key, world)

    def _record_strayed(self, step: Step, strayed: str | None, world: World) -> None:
        if strayed and world.ring.key(strayed):
            ring = facts.superseded(world.ring, self.keyset.policy, [strayed], self.now(world.ring))
            self.commit(world, ring, step)

    def _fence(self, step: Step, world: World) -> None:
        key = self._key(world, step)
        self._fence_pointer(key, world)
        self.commit(world, world.ring.with_key(key.id, fence_due=False), step)

    def _cancel_promotion(self, step: Step, world: World) -> None:
        key = self._key(world, step)
        self._fence_pointer(key, world)
        self.commit(world, world.ring.with_key(key.id, promoting_at=None), step)

    def _fence_pointer(self, key: Key, world: World) -> None:
        pointer = world.pointers[key.alg]
        # Where the pointer names the key already, the stalled move is over: there is nothing left to fence.
        if pointer.id != key.id:
            world.pointers[key.alg] = self._keys.fence(self.keyset.name, algorithm(key.alg), pointer)

    def _end_succession(self, step: Step, world: World) -> None:
        alg = step.alg or ""
        pointer = world.pointers[alg]
        if pointer.id is not None or world.ring.promoting(alg):
            self._note_astray(pointer.id, world)
            world.pointers[alg] = self._keys.clear_pointer(self.keyset.name, algorithm(alg), pointer)
        ring = facts.ended(world.ring, self.keyset.policy, alg, pointer.id, self.now(world.ring))
        self.commit(world, ring, step)

    def _lapse(self, step: Step, world: World) -> None:
        alg = step.alg or ""
        void = "retire_requested_at" if world.ring.succession(alg).retire_requested_at else "forced_at"
        self.commit(world, world.ring.with_succession(alg, **{void: None}), step)

    def _extend(self, step: planning.Extend, world: World) -> None:
        self.commit(world, facts.extended(world.ring, self.keyset.policy, step.keys), step)

    # -- the steps: leaving --------------------------------------------------------------------------------------

    def _disable(self, step: Step, world: World) -> None:
        key = self._key(world, step)
        self._keys.disable(self._ref(key))
        self.commit(world, world.ring.with_key(key.id, disabled_at=self.now(world.ring)), step)

    def _withdraw(self, step: Step, world: World) -> None:
        self.commit(world, world.ring.with_key(step.key or "", withdrawn_at=self.now(world.ring)), step)

    def _destroy(self, step: Step, world: World) -> None:
        key = self._key(world, step)
        self._keys.destroy(self._ref(key))
        now = self.now(world.ring)
        # What is destroyed is stopped, also where stopping it failed before.
        self.commit(world, world.ring.with_key(key.id, disabled_at=key.disabled_at or now, destroyed_at=now), step)

    def _forget(self, step: planning.Forget, world: World) -> None:
        self.commit(world, facts.forgotten(world.ring, step.keys), step)

    def _sweep(self, step: Step, world: World) -> None:
        now = self.now(world.ring)
        for stray in self._keys.strays(self.keyset.name):
            spared = upkeep.known(world.ring, stray.handle) or upkeep.why_spared(
                world.ring, now, key_id=stray.id, ledger_id=stray.ledger_id, created_at=stray.created_at
            )
            if not spared:
                self._keys.discard(stray)
                self._warn("sweep", f"{stray.handle} is known to no ledger: disabled and scheduled for deletion")
        self.commit(world, replace(world.ring, swept_at=now), step)


def _places(document: PublicDocument) -> str:
    return ", ".join(document.urls) or document.path
