"""Taking over a key set that stood before: look and prove first, then write, in an order that any crash can repair.

1. Private halves into the key store. Their names follow from the keys: to repeat it makes no second one.
2. The public document, byte for byte as it was given, where none stands yet. One that stands is not touched.
3. The pointers, each only from "no key" to the key that signs already, after it signed through the path of issuers.
4. The ledger, last, by create-if-absent. Before it no tick does anything; after it every tick finds all else in place.

A crash after any of them leaves a key set that nobody rotates yet; whoever adopts again finds what is done and goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rotator.engine.ledger import Ledger, random_nonce
from rotator.engine.observe import Observer, as_seen
from rotator.errors import AccessDenied, Conflict, Refused, StoreError
from rotator.keys import adoption, material
from rotator.keys.adoption import Shown, Taken
from rotator.keys.algorithms import algorithm
from rotator.keys.publication import called
from rotator.ports import Headers, KeyRef, Takeover

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from rotator.keys.halves import Half
    from rotator.keys.jwks import Jwk
    from rotator.keys.keyring import Keyring
    from rotator.keys.policy import KeySet, PublicDocument
    from rotator.ports import AdoptingKeyStore, Clock, DocumentStore, Elapsed, Web


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an adoption would write, and why it may: every private half in it was proven against its published key."""

    taken: tuple[Taken, ...]
    foreign: tuple[Jwk, ...]
    source: str
    """Where the public document was found."""
    body: bytes
    standing: bool
    """Whether it stands at its configured place already; else it is written there as it is."""
    shown: tuple[Shown, ...]
    lost_members: tuple[str, ...] = ()


class Adoption:
    """Takes over one key set. Safe to repeat, and to run beside ticks: they do nothing until it is done."""

    def __init__(  # noqa: PLR0913 - the ports, each by name
        self,
        keyset: KeySet,
        *,
        ledger: DocumentStore,
        public: DocumentStore,
        keys: AdoptingKeyStore,
        clock: Clock,
        web: Web,
        elapsed: Elapsed,
        nonce: Callable[[], str] = random_nonce,
    ) -> None:
        self.keyset = keyset
        self._public, self._keys, self._web, self._nonce, self._clock = public, keys, web, nonce, clock
        self._ledger = Ledger(keyset.name, ledger, nonce)
        self.ledger_place = ledger.locate(self._ledger.path)
        self._observer = Observer(
            keyset, ledger=self._ledger, public=public, keys=keys, clock=clock, web=web, elapsed=elapsed
        )
        self._document: PublicDocument = min(keyset.documents, key=lambda each: each.algorithms is not None)
        self.document_place = public.locate(self._document.path)

    def pointer_place(self, alg: str) -> str:
        """What issuers of ``alg`` read, for people."""
        return self._keys.locate_pointer(self.keyset.name, algorithm(alg))

    # -- look and prove: nothing is written --------------------------------------------------------------------------

    def done(self, halves: Sequence[Half]) -> Keyring | None:
        """The ledger, if just this adoption was done before; ``None``: there is none yet.

        Raises:
            Refused: there is a ledger, and it is another's.
        """
        ring = self._ledger.find()
        if ring is None:
            return None
        mine = [key for key in ring.keys if key.adopted]
        known = {key.id for key in mine}
        here = {name for half in halves for name in adoption.ids_of(half)}
        same = all(known & set(adoption.ids_of(half)) for half in halves) and known <= here
        if not same or not any(event.step == adoption.STEP for event in ring.history):
            raise Refused(
                f"Key set {self.keyset.name} has a ledger already ({self.ledger_place}): only a key set"
                " without one can be adopted. Nothing was changed."
            )
        return ring

    def known(self, name: str) -> Half:
        """The key that the service behind the key store has under ``name``, as a private half that stays there."""
        from rotator.keys.halves import Half

        stored = self._keys.known(name, self.keyset.name)
        return Half(name, stored.spki, handle=stored.handle)

    def propose(self, halves: Sequence[Half], signing: Collection[str], given: bytes | None = None) -> Proposal:
        """What would be written, after everything that can be checked without writing was checked and proven.

        ``given`` is the public document where none stands at its configured place yet.

        Raises:
            Refused: it would be unsafe; the message names every reason.
            StoreError: something could not be read: what is not seen is not adopted.
        """
        clock_faults: list[str] = []
        documents = {each.name: self._read(each, clock_faults) for each in self.keyset.documents}
        standing = documents[self._document.name]
        fetched = {url: self._fetched(url) for url in (self._document.urls if standing or given is None else ())}
        source, body = self._source(standing and standing[0], given, fetched)
        keys = adoption.published_keys(body, source, self.keyset.policy.max_keys)
        self._agree(source, keys, given, fetched)
        taken = adoption.taken(keys, halves, signing, self.keyset.policy)
        self._views_agree(documents, taken)
        shown = tuple(self._shown(each, documents, fetched, keys) for each in self.keyset.documents)
        self._no_document_hides(taken, shown)
        self._discovery_keeps_its_members(taken, shown, clock_faults)
        algorithms = dict.fromkeys((*(each.algorithm.alg for each in taken), *self.keyset.policy.algorithms))
        self._keys.check(self.keyset.name, [algorithm(alg) for alg in algorithms])
        self._pointers_are_free(list(algorithms), taken, clock_faults)
        if clock_faults:
            raise Refused(f"{clock_faults[0]} Nothing was changed.")
        for each in taken:
            self._prove(each, self._sign_as_brought)
        ours = {each.kid for each in taken}
        return Proposal(
            taken,
            tuple(jwk for jwk in keys if jwk.get("kid") not in ours),
            source,
            body,
            standing is not None,
            shown,
            adoption.lost_members(body),
        )

    def _read(self, document: PublicDocument, clock_faults: list[str]) -> tuple[bytes, Headers | None] | None:
        asked = self._observer.elapsed()
        reading = self._public.read(document.path)
        self._observer.compare_clocks(asked, reading.date, clock_faults)
        return (reading.document.body, reading.document.headers) if reading.document else None

    def _fetched(self, url: str) -> tuple[bytes, str | None]:
        fetched = self._web.fetch(url)
        if fetched is None:
            raise Refused(
                f"{url} answers 404, so verifiers have no document to go on with. Nothing was changed. Mend the URL, or"
                " give the document with --jwks."
            )
        return fetched.body, fetched.cache_control

    def _source(
        self, standing: bytes | None, given: bytes | None, fetched: Mapping[str, tuple[bytes, str | None]]
    ) -> tuple[str, bytes]:
        if standing is not None:
            return self.document_place, standing
        if given is not None:
            return "The document given with --jwks", given
        if fetched:
            return next((url, body) for url, (body, _) in fetched.items())
        raise Refused(
            f"There is no public document at {self.document_place}, and no public_url to fetch it"
            " from. Nothing was changed. Mend 'path' or stores.public, give the document with --jwks, or, for a new key"
            " set, run 'rotator init'."
        )

    def _agree(
        self,
        source: str,
        keys: Sequence[Jwk],
        given: bytes | None,
        fetched: Mapping[str, tuple[bytes, str | None]],
    ) -> None:
        """Refuse where verifiers are served other keys than those that would be taken over."""
        copies = {url: body for url, (body, _) in fetched.items()}
        if given is not None:
            copies["The document given with --jwks"] = given
        for where, body in copies.items():
            theirs = adoption.published_keys(body, where, self.keyset.policy.max_keys)
            if how := adoption.disagreement(keys, theirs):
                raise Refused(
                    f"{where} and {source} are not the same: the former {how}. Nothing was changed. Make them the same,"
                    " wait until caches have followed, and adopt again."
                )

    def _views_agree(
        self, documents: Mapping[str, tuple[bytes, Headers | None] | None], taken: Sequence[Taken]
    ) -> None:
        for document in self.keyset.documents:
            found = documents[document.name]
            if document is self._document or found is None:
                continue
            where = self._public.locate(document.path)
            theirs = {
                jwk.get("kid"): jwk for jwk in adoption.published_keys(found[0], where, self.keyset.policy.max_keys)
            }
            for each in taken:
                if theirs.get(each.kid, each.jwk) != each.jwk:
                    raise Refused(f"{where} shows {each.kid} with other members. Nothing was changed. Mend it first.")

    def _no_document_hides(self, taken: Sequence[Taken], shown: Sequence[Shown]) -> None:
        """Refuse where the next tick would take a key out of a document, because of what the document is to show."""
        for one in shown:
            for each in taken:
                if each.kid in one.kids and not one.document.shows(each.algorithm.alg):
                    raise Refused(
                        f"{self._public.locate(one.document.path)} holds {each.kid}, but the configuration does not let"
                        f" it show {each.algorithm.alg}: it would leave. Nothing was changed. Add that to 'shows'."
                    )

    def _discovery_keeps_its_members(
        self, taken: Sequence[Taken], shown: Sequence[Shown], clock_faults: list[str]
    ) -> None:
        """Refuse where a discovery document stands that would lose a member to rotator's."""
        document = self.keyset.discovery
        found = self._read(document, clock_faults) if document else None
        if document is None or document.discovery is None or found is None:
            return
        ring = adoption.adopted(self.keyset, "", [(each, "") for each in taken], shown, self._clock())
        if lost := adoption.lost_discovery(found[0], document.discovery, ring):
            raise Refused(
                f"{self._public.locate(document.path)} would lose or change {', '.join(lost)}. Nothing was changed. Say"
                " them in the 'discovery' of this key set, or leave that out: then this document is never touched."
            )

    def _pointers_are_free(self, algorithms: Sequence[str], taken: Sequence[Taken], clock_faults: list[str]) -> None:
        """Refuse where issuers follow a pointer to another key already."""
        signing = {each.algorithm.alg: each.id for each in taken if each.signs}
        for alg in algorithms:
            asked = self._observer.elapsed()
            where = self.pointer_place(alg)
            try:
                pointer = self._keys.read_pointer(self.keyset.name, algorithm(alg))
            except Refused as exc:
                raise Refused(
                    f"{where} is taken: it holds what rotator did not write, and issuers may read it as it is. Nothing"
                    f" was changed. Choose another stores.keys for this key set. ({exc})"
                ) from None
            self._observer.compare_clocks(asked, pointer.date, clock_faults)
            if pointer.id not in {None, signing.get(alg)}:
                raise Refused(
                    f"{where} names another key already (intent {pointer.id}): rotator keeps this key set, or kept it."
                    " Nothing was changed. If its ledger was lost, see 'Lost ledger' in the README."
                )

    def _prove(self, each: Taken, sign: Callable[[Taken, bytes], bytes]) -> None:
        """Sign with the private half, verify with the published JWK.

        Raises:
            Refused: it does not verify.
        """
        message = f"rotator proof {self.keyset.name} {each.kid} {self._nonce()}".encode()
        if not material.verify(each.jwk, each.algorithm, message, sign(each, message)):
            raise Refused(
                f"What {each.half.origin} signs does not verify with the published {called(each.jwk)}"
                f" ({each.algorithm.alg}): its members are damaged, or not base64url as RFC 7515 section 2 wants it."
                " Leave its private half out and it stays published as a foreign key. Nothing was changed."
            )

    def _sign_as_brought(self, each: Taken, message: bytes) -> bytes:
        if each.half.private is None:
            return self._keys.sign(self._ref(each, each.half.handle), message)
        try:
            return material.sign(each.half.private, each.algorithm, message)
        except ValueError:
            # OpenSSL found its numbers wrong; its words could quote them.
            return b""

    def _shown(
        self,
        document: PublicDocument,
        documents: Mapping[str, tuple[bytes, Headers | None] | None],
        fetched: Mapping[str, tuple[bytes, str | None]],
        keys: Sequence[Jwk],
    ) -> Shown:
        found = documents[document.name]
        if document is not self._document:
            if found is None:
                return Shown(document, frozenset(), ())
            keys = adoption.published_keys(found[0], document.path, self.keyset.policy.max_keys)
        controls: list[str | None] = (
            [] if document is not self._document else [control for _, control in fetched.values()]
        )
        if found is not None:
            controls.append(found[1].cache_control if found[1] else None)
        elif not fetched:
            # Nobody knows with which headers it was handed out.
            controls.append(None)
        kids = frozenset(kid for jwk in keys if isinstance(kid := jwk.get("kid"), str))
        return Shown(document, kids, tuple(dict.fromkeys(controls)))

    # -- write ---------------------------------------------------------------------------------------------------------

    def adopt(self, proposal: Proposal) -> Keyring:
        """Do what ``proposal`` says; the ledger as it is from then on.

        Raises:
            Conflict: somebody else was here; adopt again.
            Refused: the key store does not keep what it was given, or the document changed meanwhile.
            StoreError: an effect failed, or was applied and reported failed; adopt again.
        """
        self._ledger.probe()
        for document in self.keyset.documents:
            self._public.probe(document.path)
        ledger_id = self._nonce()
        kept = [(each, self._take(each, ledger_id)) for each in proposal.taken]
        self._publish(proposal)
        for each, handle in kept:
            if each.signs:
                self._point(each, handle)
        self._still_stands(proposal)
        now: datetime = self._clock()
        return self._ledger.begin(adoption.adopted(self.keyset, ledger_id, kept, proposal.shown, now))

    def _take(self, each: Taken, ledger_id: str) -> str:
        half = each.half
        order = Takeover(
            self.keyset.name, ledger_id, each.id, each.algorithm, each.kid, half.private, handle=half.handle
        )
        return self._keys.adopt(order).handle

    def _publish(self, proposal: Proposal) -> None:
        if proposal.standing:
            return
        headers = Headers(self.keyset.content_type, self.keyset.policy.cache_control)
        try:
            self._public.create(self._document.path, proposal.body, headers)
        except AccessDenied:
            raise
        except StoreError as exc:
            there = self._public.read(self._document.path).document
            if there is None or there.body != proposal.body:
                raise exc from None

    def _point(self, each: Taken, handle: str) -> None:
        ref = self._ref(each, handle)
        pointer = self._keys.read_pointer(self.keyset.name, each.algorithm)
        # One that names this key already may carry the kid it had when an adoption broke off: it is written again.
        if pointer.id not in {None, each.id}:
            raise Conflict(f"Another key was made current meanwhile (intent {pointer.id}). Adopt again.")
        self._prove(each, lambda _, message: self._keys.sign(ref, message))
        self._keys.move_pointer(pointer, ref)

    def _still_stands(self, proposal: Proposal) -> None:
        there = self._public.read(self._document.path).document
        seen = as_seen(there)
        if seen.jwks is None or adoption.disagreement(
            adoption.published_keys(proposal.body, "", 1_000_000), seen.jwks.keys
        ):
            raise Conflict("The public document was changed by somebody else meanwhile. Adopt again.")

    def _ref(self, each: Taken, handle: str) -> KeyRef:
        return KeyRef(self.keyset.name, each.algorithm, each.id, each.kid, handle)
