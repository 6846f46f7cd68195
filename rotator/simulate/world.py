"""The truth of a simulated world: stores, clocks, every copy that was ever public, and the checker.

Engines act on it through :class:`~rotator.simulate.ports.Ports`; each call to a port is one *effect*. The checker does
not sample caches: it keeps every copy of a public document that anybody could have fetched and asks, at each change,
whether *any* cache that obeys the policy could reject a token. A world that breaks says so at once.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

from rotator.keys import jwks
from rotator.keys.keyring import Keyring, Stage, from_json
from rotator.keys.policy import staleness_of
from rotator.ports import Fetched, Headers, Pointer, Traits
from rotator.simulate.mint import Mint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rotator.keys.policy import KeySet, Policy, PublicDocument

START = datetime(2026, 1, 1, tzinfo=UTC)

_DAY = timedelta(days=1)

#: Copies that were replaced longer ago than this (and their own staleness) are forgotten.
_FORGOTTEN = timedelta(days=60)

#: Lines of the story that are kept, to be told when the world breaks.
_STORY = 400


class Killed(BaseException):
    """The worker's process is gone: nothing after this line of its runs."""


class Violation(Exception):
    """A token could be rejected because of a rotation, or another invariant broke."""


@dataclass(slots=True)
class Copy:
    """One version of a public document as verifiers may get it, and from when until when they could fetch it."""

    body: bytes
    keys: Mapping[str, jwks.Jwk]
    """kid → public JWK."""
    cache_control: str | None
    staleness: timedelta
    since: datetime
    until: datetime | None = None
    outsider: bool = False
    """Somebody else wrote it."""
    excused: frozenset[str] = frozenset()
    """Kids that an outsider left out of it although tokens of them were alive: what that breaks is theirs."""


@dataclass(slots=True)
class Promise:
    """Until when issuers may sign with a key that the pointer named, and until when its tokens live."""

    signed_until: datetime
    """Under the policies in force when they read the pointer, as far as it does not name the key any more."""
    tokens_until: datetime
    """The end of every token signed before the policy last changed, leeway included."""


@dataclass(slots=True)
class Life:
    """What became of one key, by true time: for the picture, and for who may be rejected."""

    number: int
    alg: str
    made: datetime
    public: datetime | None = None
    signs: datetime | None = None
    stopped: datetime | None = None
    left: datetime | None = None
    revoked: datetime | None = None


@dataclass
class World:
    """One key set's world. ``truth`` is the policy that caches, issuers and tokens really obey."""

    keyset: KeySet
    traits: Traits = field(default_factory=Traits)
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    mint: Mint = field(default_factory=Mint)

    def __post_init__(self) -> None:
        self.now = START
        self.truth = self.keyset.policy
        self.changed_at = START
        self.ledger_path = f"{self.keyset.name}/ledger.json"
        self.calls: Counter[str] = Counter()
        self.story: deque[str] = deque(maxlen=_STORY)
        self.counter = count(1)
        # Documents, and what the world sees of them.
        self.documents: dict[str, tuple[bytes, str, Headers]] = {}
        self.copies: dict[str, list[Copy]] = {}
        self.coming: dict[str, list[tuple[datetime, Copy]]] = {}
        self.edge_lag = timedelta(0)
        self.frozen_until = START
        self.edge_headers: str | None = None
        self.unreachable: set[str] = set()
        self.invalidations: list[str] = []
        self.withdrawn: set[str] = set()
        # Keys and pointers.
        self.private: dict[str, Any] = {}
        self.handles: dict[str, str] = {}
        self.kids: dict[str, str] = {}
        self.lives: dict[str, Life] = {}
        self.disabled: set[str] = set()
        self.destroyed: set[str] = set()
        self.discarded: set[str] = set()
        self.broken: set[str] = set()
        self.proved: set[tuple[str, str]] = set()
        """Who saw which key sign well: what breaks after that, nobody could know."""
        self.creations: list[tuple[str, str, datetime]] = []
        self.spent: set[str] = set()
        self.strays_staged = 0
        self.pointers: dict[str, Pointer] = {}
        self.pointed: list[tuple[str | None, datetime]] = []
        self.named_until: dict[str, datetime | None] = {}
        self.promises: dict[str, Promise] = {}
        # What a person or an outsider did: the exceptions to the promise.
        self.by_hand: set[str] = set()
        self.led_by_hand: dict[str, datetime] = {}
        self.theirs: set[str] = set()
        """Keys to which somebody led issuers before any worker could see it."""
        self.revoked: dict[str, datetime] = {}
        self.emergencies: set[str] = set()
        """Algorithms whose signing key was revoked: the next key may sign before its gate."""
        self.early: dict[str, datetime] = {}
        """kid → until when verifiers may reject it, because a revoke made it sign before its gate."""
        self.amnesia = False
        self.looked: dict[str, datetime] = {}
        self.asked: dict[str, datetime] = {}
        """When each worker last read a pointer."""
        self.shown_at_origin: dict[str, Copy] = {}
        self.ticked = START
        """When the last tick that ended well began."""
        self._ring: tuple[bytes, Keyring] | None = None

    # -- what is -------------------------------------------------------------------------------------------------

    @property
    def ring(self) -> Keyring:
        """The ledger as it stands; where it is lost, as it last stood."""
        if self._ring and self.ledger_path not in self.documents:
            return self._ring[1]
        body = self.documents[self.ledger_path][0]
        if self._ring is None or self._ring[0] is not body:
            self._ring = (body, from_json(body, self.keyset.name))
        return self._ring[1]

    def nonce(self) -> str:
        """A nonce that the seed decides."""
        return f"{next(self.counter):08x}"

    def tell(self, who: str, what: str) -> None:
        """Add a line to the story of this world."""
        self.story.append(f"{self.now:%Y-%m-%d %H:%M:%S} {who:<9} {what}")

    def called(self, key_id: str | None) -> str:
        """How the story speaks of a key: its number, which the seed decides (its kid is random)."""
        life = self.lives.get(self.kids.get(key_id or "", ""))
        return f"key {life.number}" if life else "no key" if key_id is None else "a key not made yet"

    # -- documents -----------------------------------------------------------------------------------------------

    def document(self, path: str) -> PublicDocument | None:
        """The public document at ``path``; ``None``: it is the ledger, or a throw-away."""
        return next((document for document in self.keyset.documents if document.path == path), None)

    def written(self, path: str, body: bytes, headers: Headers, excused: frozenset[str] | None = None) -> str:
        """Somebody wrote a document: its new version. A public one becomes what caches may fetch.

        ``excused`` is given where that is an outsider.
        """
        version = f"v{next(self.counter)}"
        self.documents[path] = (body, version, headers)
        document = self.document(path)
        if document:
            parsed = jwks.parse(body)
            # What strict readers refuse holds no key for them.
            shown_keys = parsed.keys if parsed and not parsed.fault else ()
            keys = {kid: key for key in shown_keys if isinstance(kid := key.get("kid"), str)}
            shown = headers.cache_control
            staleness = staleness_of(shown, self.truth.cache_tiers)
            coming = self.coming.setdefault(document.name, [])
            # What is read back at the origin is seen at once; a public URL may follow later.
            at = max(self.now + self.edge_lag, self.frozen_until) if document.urls else self.now
            copy = Copy(body, keys, shown, staleness, at, None, excused is not None, excused or frozenset())
            coming.append((max(at, coming[-1][0]) if coming else at, copy))
            self.shown_at_origin[path] = copy
            self.settle(document.name)
        return version

    def settle(self, name: str) -> list[Copy]:
        """The copies of a document that verifiers could fetch so far; the last is the one they get now."""
        copies, coming = self.copies.setdefault(name, []), self.coming.get(name, [])
        due = [entry for entry in coming if entry[0] <= self.now]
        if due:
            del coming[: len(due)]
            # Of several that became visible at once, nobody could fetch any but the last.
            at, copy = due[-1]
            copy.since = at
            if copies:
                copies[-1].until = at
                for kid in copies[-1].keys.keys() - copy.keys.keys():
                    if life := self.lives.get(kid):
                        life.left = at
            copies.append(copy)
            for kid in copy.keys:
                life = self.lives.get(kid)
                if life:
                    life.public, life.left = life.public or at, None
        return copies

    def shown(self, name: str) -> Copy | None:
        """What the public URL of a document serves now."""
        copies = self.settle(name)
        return copies[-1] if copies else None

    def views(self, name: str) -> list[Copy]:
        """Every copy that a verifier which obeys the policy may still hold."""
        copies = self.settle(name)
        while copies and copies[0].until and copies[0].until + copies[0].staleness + _FORGOTTEN < self.now:
            copies.pop(0)
        cache = self.truth.verifier_cache
        return [copy for copy in copies if copy.until is None or copy.until + copy.staleness + cache > self.now]

    def fetch(self, worker: str, document: PublicDocument, url: str) -> Fetched | None:
        """What ``worker`` gets from a public URL."""
        copy = self.shown(document.name)
        if copy is None:
            return None
        self.met(copy)
        return Fetched(copy.body, self.edge_headers or copy.cache_control)

    def override_headers(self, cache_control: str | None) -> None:
        """The CDN sends ``cache_control`` from now on, whatever the origin says; ``None``: it is mended.

        Caches take it at its word once a worker met it: before that it is a policy that nobody could know of.
        """
        self.edge_headers = cache_control
        for document in self.keyset.documents:
            copy, stored = self.shown(document.name), self.documents.get(document.path)
            if copy and stored and cache_control is None:
                # Whoever fetches it from now on gets the origin's header; who has it keeps it as he got it.
                copy.until = self.now
                own = stored[2].cache_control
                mended = replace(
                    copy,
                    cache_control=own,
                    staleness=staleness_of(own, self.truth.cache_tiers),
                    since=self.now,
                    until=None,
                )
                self.copies[document.name].append(mended)

    def met(self, copy: Copy, header: str | None = None) -> None:
        """A worker met the header of the CDN."""
        if header := header or self.edge_headers:
            copy.cache_control = header
            copy.staleness = max(copy.staleness, staleness_of(header, self.truth.cache_tiers))

    def restore(self, body: bytes, headers: Headers | None = None, path: str | None = None) -> None:
        """Somebody's deployment overwrites a public document; what that breaks by itself is theirs."""
        path = path or self.keyset.documents[0].path
        parsed = jwks.parse(body)
        present = parsed.kids() if parsed and not parsed.fault else set()
        signing = {self.kids[key_id] for key_id in self.named_until if key_id in self.kids and self.alive(key_id)}
        # Whom somebody led issuers away from comes back to sign with the next tick.
        signing |= {key.kid for key in self.ring.keys if key.stage is Stage.CURRENT and key.kid}
        excused = frozenset(signing - present)
        before = self.shown_at_origin.get(path)
        if before and before.outsider and self.ticked < before.since:
            # Two outsiders between two ticks: what the first one wrote, no worker could ever know.
            for copy in self.copies[document.name] if (document := self.document(path)) else ():
                if copy.body is before.body:
                    copy.excused |= self.lives.keys()
            before.excused |= self.lives.keys()
        self.written(path, body, headers or self.documents[path][2], excused)

    def stopped(self, handle: str | None) -> bool:
        """Whether a private half cannot sign any more: Secrets Manager and files keep what was handed out."""
        return handle in self.destroyed or (self.traits.leaves_strays and handle in self.disabled)

    def was_stopped(self, handle: str | None) -> bool:
        """Whether the key store was told to stop a private half, whatever it makes of that."""
        return handle in self.disabled or handle in self.destroyed

    # -- keys and pointers ---------------------------------------------------------------------------------------

    def made(self, key_id: str, handle: str, alg: str, kid: str, private: Any) -> None:
        """A private key came to be."""
        self.handles[key_id], self.private[handle], self.kids[key_id] = handle, private, kid
        self.lives[kid] = Life(len(self.lives) + 1, alg, self.now)

    def stray(self, key_id: str, handle: str) -> None:
        """A crash of long ago left a key that no ledger knows."""
        self.creations.append((key_id, "lost-attempt", self.now))
        self.handles[key_id] = handle
        self.strays_staged += 1

    def point(self, alg: str, key_id: str | None) -> Pointer:
        """The pointer of ``alg`` names ``key_id`` from now on."""
        before = self.pointers.get(alg)
        if before and before.id and before.id != key_id:
            self.named_until[before.id] = self.now
            promise = self.promises[before.id]
            promise.signed_until = max(promise.signed_until, self.now + self.truth.signer_lag)
            if life := self.lives.get(self.kids.get(before.id, "")):
                life.stopped = self.now
        if key_id:
            self.named_until[key_id] = None
            self.promises.setdefault(key_id, Promise(self.now, self.now))
            if life := self.lives.get(self.kids.get(key_id, "")):
                life.signs, life.stopped = life.signs or self.now, None
        self.pointed.append((key_id, self.now))
        self.pointers[alg] = Pointer(key_id, f"t{next(self.counter)}")
        return self.pointers[alg]

    def move_pointer_by_hand(self, alg: str, key_id: str) -> None:
        """A person moves the pointer past every gate; what that breaks by itself is theirs."""
        self.by_hand.add(key_id)
        if (before := self.pointers.get(alg)) and before.id and before.id != key_id:
            self.by_hand.add(before.id)
            if self.led_by_hand.get(before.id, START) > self.ticked:
                self.theirs.add(before.id)
        self.led_by_hand[key_id] = self.now
        self.point(alg, key_id)

    def obey(self, truth: Policy) -> None:
        """Caches, issuers and tokens obey ``truth`` from now on; what was read or signed before keeps its promise."""
        old, self.truth, before, self.changed_at = self.truth, truth, self.changed_at, self.now
        longer = max(truth.verifier_cache - old.verifier_cache, timedelta(0))
        self.early = {kid: until + longer for kid, until in self.early.items()}
        for key_id, promise in self.promises.items():
            if self.named_until.get(key_id) is None:
                promise.signed_until = max(promise.signed_until, self.now + old.signer_lag)
            if promise.signed_until > before:
                end = min(self.now, promise.signed_until) + old.token_lifetime + old.verifier_leeway
                promise.tokens_until = max(promise.tokens_until, end)

    def signed_until(self, key_id: str) -> datetime | None:
        """Until when issuers may sign with a key that the pointer named; ``None``: it still does."""
        return None if self.named_until.get(key_id) is None else self.promises[key_id].signed_until

    def alive(self, key_id: str) -> bool:
        """Whether a token that the key signed may be alive, for any verifier."""
        until, end = self.signed_until(key_id), self.promises[key_id].tokens_until
        if until is None:
            return True
        if until > self.changed_at:
            end = max(end, until + self.truth.token_lifetime + self.truth.verifier_leeway)
        return self.now < end + 2 * self.truth.clock_skew

    # -- the checker ---------------------------------------------------------------------------------------------

    def check_moved(self, worker: str, alg: str, key_id: str | None) -> None:
        """What must hold when a worker is about to move the pointer."""
        if key_id is None:
            return
        kid = self.kids.get(key_id, "")
        # Until a tick has fenced it, a stalled promotion may still end; an old ledger may have forgotten the revoke.
        if kid in self.revoked and self.revoked[kid] < self.ticked and not self.amnesia:
            raise Violation(f"the pointer of {alg} is moved to {self.called(key_id)}, which is revoked")
        if kid in self.revoked:
            # What it signs until it is fenced is rejected: that is what the revoke announced.
            return
        if (handle := self.handles.get(key_id, "")) in self.broken and (worker, handle) not in self.proved:
            raise Violation(f"{self.called(key_id)} signs, but what it signs does not verify with its public half")
        there = (self.pointers.get(alg) or Pointer(None, "")).id or ""
        if key_id not in self.named_until or self.amnesia or not there:
            self._check_known(worker, alg, key_id, kid)
        # Where the pointer names nothing, because a worker stalls in the end of an algorithm, nothing is undone.
        if key_id not in self.named_until or there in {key_id, ""}:
            return
        if self.amnesia and not self.ring.remembers(there):
            raise Violation(f"a ledger older than the world leads issuers of {alg} back to {self.called(key_id)}")
        if not (self.amnesia or {key_id, there} & self.by_hand or self.kids.get(there) in self.revoked):
            raise Violation(f"the pointer of {alg} goes back to {self.called(key_id)}: a promotion was undone")

    def _check_known(self, worker: str, alg: str, key_id: str, kid: str) -> None:
        """Invariant 1: whoever signs from now on is known to every cache, unless a revoke forced and announced it."""
        key = self.ring.key(key_id)
        if key and key.forced and alg in self.emergencies:
            self._check_forced(alg, key_id, kid)
            return
        if kid not in self.revoked:
            # A stalled promotion of a revoked key that ends after all ends no emergency.
            self.emergencies.discard(alg)
        for document in self.keyset.documents_of(alg):
            for copy in self.views(document.name):
                if copy.outsider and copy.since >= self.looked.get(worker, START):
                    # Between a worker's look and its move an outsider may always slip in.
                    copy.excused |= {kid}
                if kid not in copy.keys and kid not in copy.excused:
                    age = f"since {copy.since:%Y-%m-%d %H:%M:%S}"
                    until = f" until {copy.until:%Y-%m-%d %H:%M:%S}" if copy.until else ""
                    raise Violation(
                        f"{self.called(key_id)} signs at {self.now:%Y-%m-%d %H:%M:%S}, but a cache may hold a copy"
                        f" without it, which was public {age}{until}"
                    )

    def _check_forced(self, alg: str, key_id: str, kid: str) -> None:
        """Whoever signs because a revoke left no other was seen in public once; what that costs is noted."""
        lacking: list[Copy] = []
        for document in self.keyset.documents_of(alg):
            if not any(kid in copy.keys for copy in self.settle(document.name)):
                raise Violation(f"{self.called(key_id)} signs, and was never public in {document.path}")
            lacking += [copy for copy in self.views(document.name) if kid not in copy.keys]
        ends = [(copy.until or self.now) + copy.staleness + self.truth.verifier_cache for copy in lacking]
        self.early[kid] = max(ends, default=self.now)
        for copy in lacking:
            # What somebody else put there may stay for as long as the document store is away.
            if copy.outsider:
                copy.excused |= {kid}
        # The next key waits for its gate again.
        self.emergencies.discard(alg)

    def check_written(self, document: PublicDocument, body: bytes) -> None:
        """Invariants 2, 3, 5, 7 and 8, for a public document that a worker is about to write."""
        parsed = jwks.parse(body)
        if parsed is None:
            raise Violation(f"{document.path} would be no JWKS")
        kids = parsed.kids()
        if any(jwks.is_private(key) for key in parsed.keys):
            raise Violation("a private member would be public")
        there = self._shown_now(document)
        for key_id in self.named_until:
            kid = self.kids.get(key_id)
            if (
                kid is None
                or kid in self.revoked
                or kid in kids
                or key_id in self.theirs
                or not document.shows(self.lives[kid].alg)
            ):
                continue
            # An old ledger cannot put back what an outsider took away before.
            if self.alive(key_id) and (kid in there or self.ring.by_kid(kid)):
                raise Violation(
                    f"{self.called(key_id)} leaves at {self.now:%Y-%m-%d %H:%M:%S}, but tokens it signed may be alive"
                )
        stored = self.documents.get(document.path)
        before = jwks.parse(stored[0]) if stored else None
        most = max(self.keyset.policy.max_keys, len(before.keys) if before else 0)
        if len(parsed.keys) != len(kids) or len(kids) > most:
            raise Violation(f"{len(parsed.keys)} keys with {len(kids)} kids in the document, at most {most} may be")
        # A worker that stalls may still show a key that was revoked meanwhile, until a tick has met the revoke.
        revoked = {kid for kid, at in self.revoked.items() if at < self.ticked}
        if back := (kids & (self.withdrawn | revoked)) - there:
            raise Violation(
                f"{', '.join(f'key {self.lives[kid].number}' for kid in sorted(back))} had left, and comes back"
            )
        for kid in (before.kids() if before else set()) & kids & self.lives.keys():
            was = before.key(kid) if before else None
            if was != parsed.key(kid) and self.lives[kid].signs and was == self._made_as(kid):
                raise Violation(f"a member of key {self.lives[kid].number} changes while it is public")
        self.withdrawn |= ((before.kids() if before else set()) & self.lives.keys()) - kids - self._standing_by()

    def _shown_now(self, document: PublicDocument) -> set[str]:
        stored = self.documents.get(document.path)
        parsed = jwks.parse(stored[0]) if stored else None
        return parsed.kids() if parsed else set()

    def _made_as(self, kid: str) -> jwks.Jwk | None:
        key = self.ring.by_kid(kid)
        return key.jwk if key else None

    def _standing_by(self) -> set[str]:
        return {key.kid for key in self.ring.keys if key.kid and key.public}

    def check_disabled(self, worker: str, key_id: str, name: str) -> None:
        """No private half stops while issuers may sign with it."""
        if key_id in self.led_by_hand and self.led_by_hand[key_id] >= self.asked.get(worker, START):
            # Between a worker's look at the pointer and what follows from it an outsider may always slip in.
            self.theirs.add(key_id)
        if self.kids.get(key_id) in self.revoked or key_id not in self.named_until or key_id in self.theirs:
            return
        until = self.signed_until(key_id)
        if until is None or self.now < until:
            raise Violation(f"{name} is disabled while issuers may sign with it")

    def check(self) -> None:
        """What must hold between any two ticks."""
        ring = self.ring
        seen: set[str] = set()
        for key in ring.keys:
            if key.kid in seen:
                raise Violation("one kid twice")
            if key.kid:
                seen.add(key.kid)
            if self.stopped(key.handle) and key.stage is Stage.CURRENT and not self.amnesia:
                raise Violation(f"the current key {self.called(key.id)} cannot sign")
        if len(self.creations) - self.strays_staged > self.calls["keys.create"]:
            raise Violation("more keys than attempts")

    def lost_keys(self) -> list[str]:
        """Intent ids of keys that were made and that no ledger remembers."""
        ring = self.ring
        handles = {key.handle for key in ring.keys}
        return [
            key_id
            for key_id, handle in self.handles.items()
            if handle not in self.discarded and handle not in handles and not ring.remembers(key_id)
        ]

    # -- effects -------------------------------------------------------------------------------------------------

    def effect(self, worker: str, name: str, apply: Callable[[], Any]) -> Any:
        """Do one effect of ``worker``; worlds with faults decide here what becomes of it."""
        del worker
        self.calls[name] += 1
        self.now += timedelta(milliseconds=20)
        return apply()

    def store_date(self) -> datetime | None:
        """The stores' own clock."""
        return None
