"""For Python issuers: sign with the key that is current, and never longer than rotator counts on.

    from rotator.signer import Signer

    signer = Signer.open("secretsmanager://acme/jwt#acme/ES256", signer_lag=timedelta(hours=2))
    token = signer.sign({"iss": "https://id.acme.example", "sub": "u1", "exp": datetime.now(UTC) + timedelta(hours=1)})

It takes the place of a request for the current key and of what follows it: ``jwt.encode(claims, key, algorithm,
headers)`` of PyJWT, ``jwt.encode(header, claims, key)`` of joserfc and Authlib become ``signer.sign(claims, headers)``.

* ``kid`` and ``alg`` are those of the key that the pointer names; the pointer is read again in the background.
* Without an answer the signer goes on until ``signer_lag`` after the last successful read *began*; then every call
  raises :class:`~rotator.errors.Stale` until a read succeeds. ``retention`` is reckoned with that.
* A key in memory is loaded once and proven before its first token, and signing asks nobody. With keys in KMS each
  token is one kms:Sign.
* Threads share a signer, event loops ``await signer.asign(…)``, and forked workers may inherit one.

Importing this needs nothing that only the daemon needs; boto3 is imported for the first AWS source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from rotator.errors import ConfigurationError, KeyStopped, NoCurrentKey
from rotator.keys.algorithms import algorithm
from rotator.keys.policy import LONGEST, KeySet, Policy, text
from rotator.signer import compact
from rotator.signer.follower import Clock, Follower, Key
from rotator.signer.sources import documents, source
from rotator.uris import DOCUMENT_URIS, KEY_URIS, locate

if TYPE_CHECKING:
    from types import TracebackType

    import boto3

    from rotator.signer.sources import Source

__all__ = ["Clock", "Signer", "Status"]

Claims: TypeAlias = Mapping[str, Any]
Headers: TypeAlias = Mapping[str, Any]

#: The pointer is read this often within ``signer_lag``, and at least this often: a revoke should not wait for long.
_READS_PER_LAG, _AT_LEAST_EVERY = 4, timedelta(minutes=5)

#: Reading takes time of its own: with less than this there would be none left to sign in.
_SHORTEST_LAG = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Status:
    """How a signer stands, for health checks and metrics; holds no key."""

    kid: str | None
    """``None``: the pointer names no key."""
    alg: str
    read_at: datetime
    """When the last successful read of the pointer began."""
    signs_until: datetime
    """When it stops, if no further read succeeds."""
    fault: str | None
    """Why the last read failed; ``None``: it succeeded."""


class Signer:
    """Signs with the key that is current, for at most ``signer_lag`` after it last read which one that is.

    Use it in a ``with`` statement, or :meth:`close` it, to end its thread early; a process that ends need not.
    """

    def __init__(  # noqa: PLR0913 - settings, by name
        self,
        source: Source,
        *,
        signer_lag: timedelta,
        token_lifetime: timedelta | None = None,
        refresh_every: timedelta | None = None,
        background: bool = True,
        clock: Clock = Clock(),  # noqa: B008 - a tuple of functions
    ) -> None:
        """Read ``source`` and load its key; :meth:`open` makes the source from a URI and says what may be raised."""
        if signer_lag < _SHORTEST_LAG:
            raise ConfigurationError(
                f"signer_lag is {text(signer_lag)}: reading takes time, so {text(_SHORTEST_LAG)} is the least."
            )
        if signer_lag > LONGEST:
            raise ConfigurationError(f"signer_lag is {text(signer_lag)}: more than ten years is no policy.")
        every = min(signer_lag / _READS_PER_LAG, _AT_LEAST_EVERY) if refresh_every is None else refresh_every
        if not timedelta(0) < every <= signer_lag / 2:
            raise ConfigurationError(
                f"refresh_every is {text(every)}: use more than nothing and at most half of signer_lag"
                f" ({text(signer_lag)}), so that one failed read is not the end."
            )
        if token_lifetime is not None and token_lifetime <= timedelta(0):
            raise ConfigurationError(f"token_lifetime is {text(token_lifetime)}: no token ends before it begins.")
        self._alg = source.alg
        self._longest = None if token_lifetime is None else token_lifetime.total_seconds()
        self._elapsed, self._wall = clock
        self._follower = Follower(
            source, signer_lag.total_seconds(), every.total_seconds(), clock, background=background
        )
        self.refresh()
        self._follower.start()

    @classmethod
    def open(  # noqa: PLR0913 - settings, by name
        cls,
        uri: str,
        *,
        signer_lag: timedelta,
        token_lifetime: timedelta | None = None,
        ledger: str | None = None,
        passphrase: bytes | None = None,
        session: boto3.Session | None = None,
        refresh_every: timedelta | None = None,
        background: bool = True,
        clock: Clock = Clock(),  # noqa: B008 - a tuple of functions
    ) -> Self:
        """A signer that has read the pointer and holds its key, so that the first token costs no more than the next.

        Args:
            uri: ``stores.keys`` of rotator's configuration, ``#``, key set, ``/``, algorithm:
                ``secretsmanager://acme/jwt#acme/ES256``, ``kms://acme/jwt#acme/ES256``, ``file:///keys#acme/ES256``.
            signer_lag: as in rotator's policy, or less; never more.
            token_lifetime: as in rotator's policy; claims that end later, or never, are then refused.
            ledger: ``stores.ledger``, where the pointer is; with keys in KMS.
            passphrase: of the key files.
            session: a boto3 session; by default the SDK finds region, credentials and endpoints.
            refresh_every: how often the pointer is read; by default four times in ``signer_lag``, and every 5 minutes.
            background: whether a thread reads. Without it, as in a Lambda, calls that sign do when it is time.
            clock: what tells the time.

        Raises:
            ConfigurationError: an argument is wrong, or the key cannot be used.
            NoCurrentKey: no key was promoted yet.
            StoreError: the pointer cannot be read; as AccessDenied, a permission is missing.
            Refused: somebody else than rotator wrote what the pointer says.
        """
        place, _, name = uri.partition("#")
        keyset, slash, alg = name.partition("/")
        try:
            keys = locate(place, KEY_URIS)
            if not keyset or not slash:
                raise ValueError("name the key set and the algorithm behind it, as in #acme/ES256.")  # noqa: TRY301 - told as the others
            at = None if ledger is None else locate(ledger, DOCUMENT_URIS)
            if at is None and keys.scheme == "kms":
                raise ValueError("with keys in KMS give the ledger's, too: the pointer is beside it.")  # noqa: TRY301
        except ValueError as exc:
            raise ConfigurationError(f"The URI of a signer: {exc}") from None

        def clients(service: str) -> Any:
            from rotator import aws

            return aws.client(service, session=session)

        found = source(
            keys,
            # Refuses what is no name of a key set.
            KeySet(keyset, Policy()).name,
            algorithm(alg),
            clients=clients,
            pointers=documents(at, clients) if at else None,
            passphrase=passphrase,
        )
        try:
            return cls(
                found,
                signer_lag=signer_lag,
                token_lifetime=token_lifetime,
                refresh_every=refresh_every,
                background=background,
                clock=clock,
            )
        except NoCurrentKey:
            if keys.scheme == "file" and not Path(keys.path).exists():
                raise NoCurrentKey(
                    f"There is no directory {keys.path}: mend the URI of the signer, mount it, or let rotator make it"
                    " with the first key (rotator tick)."
                ) from None
            raise

    @classmethod
    async def aopen(cls, uri: str, **options: Any) -> Self:
        """As :meth:`open`, off the event loop."""
        return await asyncio.to_thread(partial(cls.open, uri, **options))

    # Signing

    def sign(self, payload: Claims | bytes, headers: Headers | None = None) -> str:
        """The compact JWT of claims (RFC 7519), or the compact JWS of any other bytes (RFC 7515 section 7.1).

        ``headers`` come beside ``alg``, ``kid`` and, with claims, ``typ: JWT``; a ``typ`` among them goes first, and
        ``None`` leaves it out. Nothing is added to claims; an aware datetime among them becomes a NumericDate.

        Raises:
            Stale: the pointer was not read for ``signer_lag``.
            NoCurrentKey: the pointer names no key.
            Refused: the claims end later than ``token_lifetime`` allows, or the signer is closed.
            StoreError: KMS did not sign; as KeyStopped, it never will with this key, and the pointer names no other.
            TypeError: claims or headers are not JSON.
            ValueError: a header contradicts the key, or a claim is not what RFC 7519 says.
        """
        return self._signed(self._follower.fresh() or self._follower.key(), payload, headers)

    async def asign(self, payload: Claims | bytes, headers: Headers | None = None) -> str:
        """As :meth:`sign`, for event loops: what waits for AWS, or takes milliseconds, is done in a thread."""
        key = self._follower.fresh()
        if key is None or key.loaded.slow:
            return await asyncio.to_thread(self.sign, payload, headers)
        return self._signed(key, payload, headers)

    def _signed(self, key: Key, payload: Claims | bytes, headers: Headers | None) -> str:
        if isinstance(payload, bytes):
            typ, encoded = None, compact.b64u(payload)
        elif isinstance(payload, Mapping):
            if self._longest is not None:
                compact.refuse_long_lived(payload, self._longest, self._wall())
            typ, encoded = "JWT", compact.encoded_claims(payload)
        else:
            raise TypeError(f"A {type(payload).__name__} cannot be signed: give claims (a mapping) or bytes.")
        try:
            return self._token(key, typ, encoded, headers)
        except KeyStopped:
            successor = self._follower.successor(key)
            if successor is None:
                raise
            return self._token(successor, typ, encoded, headers)

    def _token(self, key: Key, typ: str | None, encoded: bytes, headers: Headers | None) -> str:
        if headers:
            message = compact.protected(self._alg, key.kid, typ, headers) + encoded
        else:
            message = (key.jwt if typ else key.jws) + encoded
        return (message + b"." + compact.b64u(key.loaded.sign(message))).decode("ascii")

    # Which key that is

    def refresh(self) -> None:
        """Read the pointer now, as after a revoke: no call that begins after this signs with what it named before.

        Raises:
            RotatorError: as :meth:`open`; the key it has stays in use until ``signer_lag`` is over.
        """
        self._follower.refuse_closed()
        self._follower.read()
        if self._follower.known.key is None:
            raise self._follower.no_key()

    async def arefresh(self) -> None:
        """As :meth:`refresh`, off the event loop."""
        await asyncio.to_thread(self.refresh)

    def status(self) -> Status:
        """How the signer stands; asks nobody.

        Raises:
            Refused: it is closed.
        """
        self._follower.refuse_closed()
        known, wall, fault = self._follower.known, self._wall(), self._follower.fault
        left = min(known.stale - self._elapsed(), known.wall_stale - wall)
        return Status(
            kid=known.key.kid if known.key else None,
            alg=self._alg,
            read_at=datetime.fromtimestamp(known.wall_began, UTC),
            signs_until=datetime.fromtimestamp(wall + left, UTC),
            fault=str(fault) if fault else None,
        )

    # The end

    def close(self) -> None:
        """Forget the key and end the thread; calls that sign are refused from now on."""
        self._follower.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        key = self._follower.known.key
        return f"<Signer of {self._follower.source.where}: {key.kid if key else 'no key'}>"

    def __reduce__(self) -> str:
        raise TypeError("A signer holds a private key, so it is not copied: open one in each process.")
