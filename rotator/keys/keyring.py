"""The ledger's content: keys, and the times at which things happened to them. Stages follow from facts.

A :class:`Keyring` is a value: every change makes a new one, and only a compare-and-swap makes it true. Facts that
*permit* (created, published, activated) are recorded after their effect, facts that *forbid or intend* (intended,
promoting, withdrawn, revoked, a person's request) before it: a crash can only make us wait longer, or repeat.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rotator.errors import Damaged
from rotator.keys.ledger_json import (
    ADVICE,
    count,
    decoded,
    encoded,
    flag,
    json_object,
    many,
    members,
    named,
    record,
    span,
    text,
    time_of,
    times,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from rotator.keys.jwks import Jwk

#: How many events the ledger keeps; the log keeps them all.
HISTORY = 20

#: How many kids of keys long gone are remembered, so that none ever comes back.
REMEMBERED = 1_000


class Stage(StrEnum):
    """Where a key stands; derived from facts, never stored."""

    PENDING = "pending"
    NEXT = "next"
    CURRENT = "current"
    PREVIOUS = "previous"
    RETIRED = "retired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Key:
    """One key: an intent id, and what happened to it when. ``None`` means "not yet"."""

    id: str
    alg: str
    intended_at: datetime
    attempt: str
    """Nonce of the newest recorded attempt to create it."""
    attempted_at: datetime
    created_at: datetime | None = None
    kid: str | None = None
    jwk: Jwk | None = None
    handle: str | None = None
    founding: bool = False
    """It stood in the first public document ever: no cache can hold an older one."""
    adopted: bool = False
    """It was made elsewhere: it may have signed before any time that stands here, and its kid is what it was."""
    published: Mapping[str, datetime] = field(default_factory=dict)
    """Document name → when the key was seen there."""
    ready: Mapping[str, datetime] = field(default_factory=dict)
    """Document name → the promise made then: not before this time may the key sign."""
    lacking: Mapping[str, datetime] = field(default_factory=dict)
    """Document name → until when a copy that lacks the key may still be served."""
    published_at: datetime | None = None
    """When it was seen in every document that must hold it."""
    promoting_at: datetime | None = None
    forced: bool = False
    """Promoted without its gate, because a person revoked the key that signed."""
    activated_at: datetime | None = None
    superseded_at: datetime | None = None
    """The last moment the pointer may have named it."""
    astray: bool = False
    """The pointer was found on it out of turn: until it is recorded when that ended, it may be signing."""
    disabled_at: datetime | None = None
    withdrawn_at: datetime | None = None
    destroyed_at: datetime | None = None
    revoked_at: datetime | None = None
    revoke_reason: str | None = None
    fence_due: bool = False
    """It was revoked in the middle of its promotion, or the ledger that knew of one was lost: a stalled worker may yet
    try to move the pointer to it."""
    gone: Mapping[str, datetime] = field(default_factory=dict)
    """Document name → when a revoked key was seen to be gone from every public URL."""
    signer_lag: timedelta = timedelta(0)
    token_lifetime: timedelta = timedelta(0)
    verifier_leeway: timedelta = timedelta(0)
    clock_skew: timedelta = timedelta(0)
    """The largest values in force while it signed."""

    @property
    def stage(self) -> Stage:
        """The stage that follows from the facts."""
        if self.revoked_at:
            return Stage.REVOKED
        if self.withdrawn_at:
            return Stage.RETIRED
        if self.superseded_at:
            return Stage.PREVIOUS
        if self.activated_at:
            return Stage.CURRENT
        return Stage.NEXT if self.published_at else Stage.PENDING

    @property
    def public(self) -> bool:
        """Whether its public half belongs into the public documents."""
        return self.jwk is not None and self.withdrawn_at is None and self.revoked_at is None

    @property
    def exposed(self) -> bool:
        """Whether an issuer may ever have signed with it."""
        return self.activated_at is not None or self.superseded_at is not None or self.astray

    @property
    def standby(self) -> bool:
        """Whether it waits for its turn: made or intended, never exposed, and meant to sign one day."""
        return not (self.activated_at or self.superseded_at or self.withdrawn_at or self.revoked_at)

    @property
    def promoting(self) -> bool:
        """Whether its promotion is under way: every worker rolls it forward."""
        return bool(self.promoting_at) and self.standby

    @property
    def name(self) -> str:
        """How to speak of it: its kid, or its intent id while it has none."""
        return self.kid or f"(intent {self.id})"


@dataclass(frozen=True, slots=True)
class Served:
    """Headers with which copies of a document were handed out, and until when such a copy may still be served."""

    cache_control: str | None
    staleness: timedelta
    until: datetime | None = None
    """``None``: the document may still be served with them."""
    foreign: bool = False
    """Somebody else sent them: a CDN, or whoever overwrote the document."""


@dataclass(frozen=True, slots=True)
class DocumentFacts:
    """What the ledger knows of one public document."""

    cache_control: str
    content_type: str
    served: tuple[Served, ...] = ()
    least_revision: int = 0
    """A revoke asks for a document of this revision at least: no write that began before it can then succeed."""
    invalidate_due: bool = False
    """A revoke changed it: the CDN must be told, again and again until it listens."""


@dataclass(frozen=True, slots=True)
class Succession:
    """A person's requests for one algorithm."""

    rotate_requested_at: datetime | None = None
    retire_requested_at: datetime | None = None
    forced_at: datetime | None = None
    """The signing key was revoked with no successor at hand: the next one need not wait for its gate."""


@dataclass(frozen=True, slots=True)
class Retired:
    """What is remembered of a key that left the ledger."""

    id: str
    kid: str
    alg: str
    at: datetime
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the short history."""

    at: datetime
    step: str
    reason: str
    kid: str | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """The last error a worker met with this key set; gone after the next tick that meets none."""

    at: datetime
    message: str


@dataclass(frozen=True, slots=True)
class Keyring:
    """The ledger of one key set."""

    keyset: str
    ledger_id: str
    created_at: datetime
    revision: int = 0
    writer: str = ""
    """Nonce of the write that made this revision: tells a worker its own write whose answer was lost."""
    founded_at: datetime | None = None
    """The first public document was about to be written: from now on every new key waits its full gate."""
    keys: tuple[Key, ...] = ()
    documents: Mapping[str, DocumentFacts] = field(default_factory=dict)
    successions: Mapping[str, Succession] = field(default_factory=dict)
    retired: tuple[Retired, ...] = ()
    dropped: Mapping[str, datetime] = field(default_factory=dict)
    """Kids of foreign keys that the operator said to drop."""
    attempts: tuple[datetime, ...] = ()
    """Recorded attempts to create a key, of the last day."""
    swept_at: datetime | None = None
    trouble: Trouble | None = None
    history: tuple[Event, ...] = ()

    def key(self, key_id: str) -> Key | None:
        """The key with intent id ``key_id``."""
        return next((key for key in self.keys if key.id == key_id), None)

    def by_kid(self, kid: str) -> Key | None:
        """The key with key ID ``kid``."""
        return next((key for key in self.keys if key.kid == kid), None)

    def of(self, alg: str) -> tuple[Key, ...]:
        """The keys of one succession, oldest first."""
        return tuple(key for key in self.keys if key.alg == alg)

    def current(self, alg: str) -> Key | None:
        """The key that signs."""
        return next((key for key in self.keys if key.alg == alg and key.stage is Stage.CURRENT), None)

    def promoting(self, alg: str) -> Key | None:
        """The key whose promotion is under way."""
        return next((key for key in self.keys if key.alg == alg and key.promoting), None)

    def succession(self, alg: str) -> Succession:
        """What a person asked of ``alg``."""
        return self.successions.get(alg, _NO_REQUESTS)

    def algorithms(self) -> tuple[str, ...]:
        """The algorithms that have a key that is not destroyed, oldest first."""
        return tuple(dict.fromkeys(key.alg for key in self.keys if key.destroyed_at is None))

    def newest_fact(self) -> datetime:
        """The latest time at which anything is recorded to have happened."""
        return max(self._facts())

    def _facts(self) -> Iterator[datetime]:
        yield self.created_at
        if self.founded_at:
            yield self.founded_at
        if self.swept_at:
            yield self.swept_at
        yield from self.attempts
        for succession in self.successions.values():
            for moment in (succession.rotate_requested_at, succession.retire_requested_at, succession.forced_at):
                if moment:
                    yield moment
        for key in self.keys:
            for moment in (
                key.intended_at,
                key.attempted_at,
                key.created_at,
                key.published_at,
                key.promoting_at,
                key.activated_at,
                key.superseded_at,
                key.disabled_at,
                key.withdrawn_at,
                key.destroyed_at,
                key.revoked_at,
            ):
                if moment:
                    yield moment
            yield from key.published.values()
            yield from key.gone.values()

    def remembers(self, key_id: str) -> bool:
        """Whether the ledger knows, or knew, a key with this intent id."""
        return self.key(key_id) is not None or any(gone.id == key_id for gone in self.retired)

    def kids(self) -> set[str]:
        """Every kid that is, or was, one of ours."""
        return {key.kid for key in self.keys if key.kid} | {gone.kid for gone in self.retired}

    def spent_kids(self) -> set[str]:
        """Kids that must never be published (again): retired, revoked, or dropped by the operator."""
        spent = {gone.kid for gone in self.retired}
        spent.update(self.dropped)
        spent.update(key.kid for key in self.keys if key.kid and not key.public)
        return spent

    # -- changes: each returns a new keyring ---------------------------------------------------------------------

    def with_key(self, key_id: str, **facts: Any) -> Keyring:
        """The keyring with ``facts`` set on one key."""
        return self.with_keys((key_id,), lambda key: replace(key, **facts))

    def with_keys(self, key_ids: Iterable[str], change: Callable[[Key], Key]) -> Keyring:
        """The keyring with ``change`` made to each of ``key_ids``."""
        chosen = set(key_ids)
        return replace(self, keys=tuple(change(key) if key.id in chosen else key for key in self.keys))

    def with_succession(self, alg: str, **requests: Any) -> Keyring:
        """The keyring with a person's ``requests`` for ``alg`` set or cleared."""
        succession = replace(self.succession(alg), **requests)
        others = {name: value for name, value in self.successions.items() if name != alg}
        return replace(self, successions=others if succession == _NO_REQUESTS else others | {alg: succession})

    def with_document(self, name: str, facts: DocumentFacts) -> Keyring:
        """The keyring with the facts of one document replaced."""
        return replace(self, documents={**self.documents, name: facts})

    def with_event(self, event: Event) -> Keyring:
        """The keyring with one more line of history; old lines fall off."""
        return replace(self, history=(*self.history, event)[-HISTORY:])


_NO_REQUESTS = Succession()


# -- the JSON form -----------------------------------------------------------------------------------------------


def to_json(ring: Keyring) -> bytes:
    """The ledger's bytes: sorted, indented JSON, so that a person can read and compare revisions."""
    return encoded(ring)


def from_json(body: bytes, keyset: str) -> Keyring:
    """The keyring in ``body``; one of an older format is upgraded, and written so with the next fact.

    Raises:
        Damaged: not a ledger, or half-written.
        Refused: of a newer format, or of another key set.
    """
    ring: Keyring = decoded(members(body, keyset), _DECODE, keyset)
    _check(ring)
    return ring


def _check(ring: Keyring) -> None:
    kids = [key.kid for key in ring.keys if key.kid]
    if len(set(kids)) < len(kids) or len({key.id for key in ring.keys}) < len(ring.keys):
        raise Damaged(f"Key set {ring.keyset}: the ledger names one key twice. {ADVICE}")
    for key in ring.keys:
        if (key.created_at is None) != (key.jwk is None) or (key.jwk is None) != (key.kid is None):
            raise Damaged(f"Key set {ring.keyset}: the ledger is damaged at key {key.id[:40]}. {ADVICE}")
        if key.published.keys() != key.ready.keys():
            raise Damaged(f"Key set {ring.keyset}: the ledger is damaged at the gates of key {key.id[:40]}. {ADVICE}")
        if key.jwk is not None and key.jwk.get("kid") != key.kid:
            raise Damaged(f"Key set {ring.keyset}: the ledger is damaged at the JWK of key {key.id[:40]}. {ADVICE}")
    for alg in ring.algorithms():
        if sum(key.stage is Stage.CURRENT for key in ring.of(alg)) > 1:
            raise Damaged(f"Key set {ring.keyset}: the ledger names two current keys for {alg}. {ADVICE}")


_KEY = record(
    Key,
    id=text,
    alg=text,
    intended_at=time_of,
    attempt=text,
    attempted_at=time_of,
    created_at=time_of,
    kid=text,
    jwk=json_object,
    handle=text,
    founding=flag,
    adopted=flag,
    published=times,
    ready=times,
    lacking=times,
    published_at=time_of,
    promoting_at=time_of,
    forced=flag,
    activated_at=time_of,
    superseded_at=time_of,
    astray=flag,
    disabled_at=time_of,
    withdrawn_at=time_of,
    destroyed_at=time_of,
    revoked_at=time_of,
    revoke_reason=text,
    fence_due=flag,
    gone=times,
    signer_lag=span,
    token_lifetime=span,
    verifier_leeway=span,
    clock_skew=span,
)
_SERVED = record(Served, cache_control=text, staleness=span, until=time_of, foreign=flag)


def _served(value: Any) -> Served:
    # A document that somebody served without the header is remembered without one.
    served: Served = _SERVED({"cache_control": "", **value})
    return served if "cache_control" in value else replace(served, cache_control=None)


_DECODE = record(
    Keyring,
    keyset=text,
    ledger_id=text,
    created_at=time_of,
    revision=count,
    writer=text,
    founded_at=time_of,
    keys=many(_KEY),
    documents=named(
        record(
            DocumentFacts,
            cache_control=text,
            content_type=text,
            served=many(_served),
            least_revision=count,
            invalidate_due=flag,
        )
    ),
    successions=named(record(Succession, rotate_requested_at=time_of, retire_requested_at=time_of, forced_at=time_of)),
    retired=many(record(Retired, id=text, kid=text, alg=text, at=time_of, revoked=flag)),
    dropped=times,
    attempts=many(time_of),
    swept_at=time_of,
    trouble=record(Trouble, at=time_of, message=text),
    history=many(record(Event, at=time_of, step=text, reason=text, kid=text)),
)
