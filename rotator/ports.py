"""What the engine asks of the outside world, as promises. ``tests/contracts`` proves each adapter.

All times are UTC-aware. Every call may raise :class:`~rotator.errors.StoreError` (the effect may then have been
applied or not) or :class:`~rotator.errors.AccessDenied`; what else an operation raises is said beside it.
"Access denied" is never reported as "missing".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rotator.keys.plan import Traits as Traits  # noqa: PLC0414, TC001 - a word of this port, needed at run time by the stores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from rotator.keys.algorithms import Algorithm
    from rotator.keys.jwks import KidFormat

    Clock = Callable[[], datetime]
    Elapsed = Callable[[], timedelta]
    """Time gone by since some moment, told by something that nobody can set (CLOCK_BOOTTIME)."""


#: Bytes: no document of ours is larger, and of what somebody else put in its place no more is read into memory.
LARGEST = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Headers:
    """HTTP headers that belong to a public document: a changed header is a changed document."""

    content_type: str
    cache_control: str | None


@dataclass(frozen=True, slots=True)
class Document:
    """A stored document as read: bytes, an opaque version, and its headers."""

    body: bytes
    version: str
    headers: Headers | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """The answer to a read: the document (``None``: proven missing) and the store's own clock, if it has one."""

    document: Document | None
    date: datetime | None = None


class DocumentStore(Protocol):
    """Documents written whole, each with a version: the home of ledgers or of public documents."""

    def read(self, path: str) -> Reading:
        """The document at ``path`` as last written by anybody (read-after-write).

        Of one that is larger than :data:`LARGEST` no more than the first ``LARGEST + 1`` bytes: it is none of ours.
        """
        ...

    def create(self, path: str, body: bytes, headers: Headers) -> str:
        """Write a new document and return its version; durable once this returns.

        Raises:
            Conflict: a document is there already.
        """
        ...

    def replace(self, path: str, body: bytes, headers: Headers, version: str) -> str:
        """Replace the document that has ``version`` and return the new version; durable once this returns.

        Raises:
            Conflict: the document has another version, or is gone.
        """
        ...

    def probe(self, path: str) -> None:
        """Prove with a throw-away document beside ``path`` that create and replace do compare-and-swap.

        Raises:
            ConfigurationError: the store does not; it must not be used.
        """
        ...

    def locate(self, path: str) -> str:
        """Where ``path`` is, for people: a URI."""
        ...


@dataclass(frozen=True, slots=True)
class Intent:
    """An order for one key: the random ``id`` names it in the store, so that two workers cannot make two."""

    keyset: str
    ledger_id: str
    id: str
    """UUID; the request token, the tag and the alias suffix."""
    algorithm: Algorithm
    rsa_bits: int
    kid_format: KidFormat
    attempt: str
    """Nonce of the recorded attempt."""


@dataclass(frozen=True, slots=True)
class KeyRef:
    """Names one private key in a store. ``handle`` is what ``create`` returned: opaque to all but the store."""

    keyset: str
    algorithm: Algorithm
    id: str
    kid: str
    handle: str
    created_at: datetime | None = None
    """When it was made, where that is known: a store may not see a young key yet."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key that exists in the store: its handle (e.g. an ARN, never a secret) and its DER SPKI."""

    handle: str
    spki: bytes
    kid: str | None = None
    """The kid that its issuers put into tokens, where the store keeps one beside the key; ``None``: the pointer's."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """What issuers follow for one algorithm of one key set, as read.

    ``id`` is the intent id of the key it names; ``None``: it names no key (placeholder, or not there yet).
    ``token`` is opaque and changes whenever the pointer is written: the "compare" of its compare-and-swap.
    """

    id: str | None
    token: str
    date: datetime | None = None


@dataclass(frozen=True, slots=True)
class Stray:
    """A key in the store that carries our tags: enough to tell whether any ledger knows it."""

    handle: str
    ledger_id: str
    id: str
    attempt: str
    created_at: datetime


class KeyStore(Protocol):
    """Homes of private keys, and of the pointer that issuers follow."""

    @property
    def traits(self) -> Traits:
        """What this store can do; constant, read without I/O."""
        ...

    def check(self, keyset: str, algorithms: Sequence[Algorithm]) -> None:
        """Try, without changing anything, the permissions and resources that the other calls need.

        Raises:
            ConfigurationError: a resource is missing or unusable.
        """
        ...

    def holds(self, keyset: str, algorithms: Sequence[Algorithm]) -> str | None:
        """A name of something that already exists in the store for ``keyset``; ``None``: nothing does."""
        ...

    def read_pointer(self, keyset: str, algorithm: Algorithm) -> Pointer:
        """The pointer, strongly consistent.

        Raises:
            Refused: it names something that this store did not make.
        """
        ...

    def create(self, intent: Intent) -> StoredKey:
        """Get or create the key of ``intent.id``: the loser of a race returns the winner's key; durable.

        Issuers do not see the key as current. Without ``attempt_pause`` a repeated call is free of harm;
        with it, each recorded attempt may call once. A kid that is kept beside the key is the one of its first making,
        whatever ``intent`` says today.
        """
        ...

    def sign(self, ref: KeyRef, message: bytes) -> bytes:
        """The JWS signature of ``message`` through the path that issuers use; for the proof before promotion."""
        ...

    def move_pointer(self, pointer: Pointer, ref: KeyRef) -> Pointer:
        """Make the pointer name ``ref``, if it is still as in ``pointer``.

        Raises:
            Conflict: it was moved or fenced since it was read.
        """
        ...

    def clear_pointer(self, keyset: str, algorithm: Algorithm, pointer: Pointer) -> Pointer:
        """Make the pointer name no key, if it is still as in ``pointer``: issuers get a clear absence.

        Raises:
            Conflict: it was moved or fenced since it was read.
        """
        ...

    def fence(self, keyset: str, algorithm: Algorithm, pointer: Pointer) -> Pointer:
        """Leave the pointer on the key it names, but change its token, so that every move begun before fails.

        Raises:
            Conflict: it was moved or fenced since it was read.
        """
        ...

    def disable(self, ref: KeyRef) -> None:
        """Stop the private half from signing, as far as the store can; idempotent, also when it is gone.

        A young key that the store does not see yet is not taken for gone: StoreError.
        """
        ...

    def destroy(self, ref: KeyRef) -> None:
        """Remove the private half (or schedule that); idempotent, also when it is gone, but see :meth:`disable`."""
        ...

    def strays(self, keyset: str) -> Iterable[Stray]:
        """Every enabled or disabled key of ``keyset`` in the store that carries our tags and is not being deleted."""
        ...

    def discard(self, stray: Stray) -> None:
        """Disable a stray and schedule its deletion; idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Takeover:
    """An order to take over one key that was made elsewhere; ``id`` follows from the key (``jwks.adopted_id``)."""

    keyset: str
    ledger_id: str
    id: str
    algorithm: Algorithm
    kid: str
    """As it is published; it need not follow from the key."""
    private: PrivateKeyTypes | None = field(default=None, repr=False)
    """The private half; ``None``: the store's service has it already, under ``handle``."""
    handle: str = ""


class AdoptingKeyStore(KeyStore, Protocol):
    """A key store that also takes over keys which were made elsewhere."""

    def known(self, name: str, keyset: str) -> StoredKey:
        """The key that its owner calls ``name`` in the service behind this store, fit for ``keyset``. Reads only.

        Raises:
            Refused: it cannot sign, or belongs to another key set.
            ConfigurationError: there is none, or this store takes over private halves alone.
        """
        ...

    def adopt(self, takeover: Takeover) -> StoredKey:
        """Get or take in the key of ``takeover.id``, as if ``create`` had made it; durable, and free to repeat.

        Issuers do not see it as current, and it is never a stray.

        Raises:
            Refused: another key stands in its place.
            ConfigurationError: this store cannot take such a key.
        """
        ...

    def locate_pointer(self, keyset: str, algorithm: Algorithm) -> str:
        """What issuers read, for people; without I/O."""
        ...


@dataclass(frozen=True, slots=True)
class PastVersion:
    """What a document was once."""

    id: str
    """As the store names it; a person may give it back."""
    at: datetime
    """When it was written, by the store's clock."""


@runtime_checkable
class Versioned(Protocol):
    """A document store that remembers what its documents were."""

    def versions(self, path: str) -> Iterator[PastVersion]:
        """Every version of ``path`` that is left, newest first; also of a document that was deleted since."""
        ...

    def read_version(self, path: str, version: str) -> bytes:
        """The bytes that ``path`` had as ``version``, which is an id from :meth:`versions`.

        Raises:
            Refused: there is no such version (any more).
        """
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """A key in the store, whoever made it, as far as it can be told without reading it."""

    handle: str
    id: str
    """The intent id it is named after; empty: none."""
    alg: str | None = None
    ledger_id: str | None = None
    """The ledger it says it was made for; ``None``: it says none."""
    created_at: datetime | None = None
    unsigned: bool = False
    """It is proven that the pointer never named it."""


@runtime_checkable
class Searchable(Protocol):
    """A key store that can be looked through for all that it holds for a key set."""

    def held(self, keyset: str) -> Sequence[Held]:
        """Every key for ``keyset`` that is not destroyed, nor going to be; no private half is read."""
        ...

    def public_half(self, keyset: str, held: Held) -> tuple[bytes | None, datetime | None]:
        """The DER SPKI of a key that :meth:`held` told of, and when it was made, as far as the store tells.

        Raises:
            ConfigurationError: the private half cannot be read; the message names it.
        """
        ...

    def kid_in_tokens(self, keyset: str, algorithm: Algorithm) -> str | None:
        """The kid that issuers put into tokens, who follow the pointer; ``None``: it names no key."""
        ...


class Cdn(Protocol):
    """A cache in front of the public documents."""

    def invalidate(self, paths: Sequence[str], reference: str) -> None:
        """Ask that every copy of ``paths`` be dropped soon; calls with one ``reference`` count once."""
        ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer from a public URL: bytes and what its headers promise about age."""

    body: bytes
    cache_control: str | None = None
    age: timedelta = timedelta(0)
    content_type: str | None = None
    redirected: bool = False
    """Another address of the same host answered; some verifiers do not follow there."""


class Web(Protocol):
    """Fetches public URLs as a verifier would."""

    def fetch(self, url: str) -> Fetched | None:
        """The document behind ``url``; ``None``: 404 or 410.

        Raises:
            StoreError: no answer in time, a bad certificate, a redirect to another host, too large, or another status.
        """
        ...
