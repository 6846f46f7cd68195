"""The ledger of one key set: read, and replaced only by compare-and-swap."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from rotator.errors import AccessDenied, Refused, StoreError
from rotator.keys.keyring import Keyring, from_json, to_json
from rotator.ports import Headers

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from rotator.ports import DocumentStore

HEADERS = Headers("application/json", "no-store")


def random_nonce() -> str:
    """A name that nobody else comes upon."""
    return str(uuid.uuid4())


class Ledger:
    """The one truth about a key set, in a document store."""

    def __init__(self, keyset: str, store: DocumentStore, nonce: Callable[[], str]) -> None:
        self.keyset, self.path = keyset, f"{keyset}/ledger.json"
        self._store, self._nonce = store, nonce
        self._last: tuple[bytes, Keyring] | None = None

    def find(self) -> Keyring | None:
        """The keyring, if there is a ledger.

        Raises:
            Refused: there is one, but it is damaged or not ours.
        """
        document = self._store.read(self.path).document
        return self._parsed(document.body) if document else None

    def read(self) -> tuple[Keyring, str, datetime | None]:
        """The keyring, its version, and the store's clock.

        Raises:
            Refused: there is no ledger, or it is damaged.
        """
        reading = self._store.read(self.path)
        if reading.document is None:
            raise Refused(
                f"Key set {self.keyset}: there is no ledger at {self._store.locate(self.path)}. Nothing was changed."
                " For a new key set run 'rotator init', for one that stands already 'rotator adopt'; if it was lost,"
                f" run 'rotator recover {self.keyset}' (README, 'Lost ledger'), and not init."
            )
        return self._parsed(reading.document.body), reading.document.version, reading.date

    def _parsed(self, body: bytes) -> Keyring:
        # An idle tick meets the bytes of the tick before: they are not parsed again.
        if self._last and self._last[0] == body:
            return self._last[1]
        try:
            ring = from_json(body, self.keyset)
        except Refused as exc:
            raise type(exc)(f"{exc} It is at {self._store.locate(self.path)}.") from None
        self._last = (body, ring)
        return ring

    def create(self, created_at: datetime) -> None:
        """Write an empty ledger.

        Raises:
            Conflict: there is one already.
        """
        ring = Keyring(keyset=self.keyset, ledger_id=self._nonce(), created_at=created_at, writer=self._nonce())
        self._store.create(self.path, to_json(ring), HEADERS)

    def begin(self, ring: Keyring) -> Keyring:
        """Write ``ring`` as the first ledger; recognises its own write whose answer was lost.

        Raises:
            Conflict: there is one already.
        """
        ring = replace(ring, writer=self._nonce())
        try:
            self._store.create(self.path, to_json(ring), HEADERS)
        except AccessDenied:
            raise
        except StoreError as exc:
            found = self.find()
            if found is None or found.writer != ring.writer:
                raise exc from None
        return ring

    def probe(self) -> None:
        """Prove that the store compares and swaps; see ``DocumentStore.probe``."""
        self._store.probe(self.path)

    def recover(self, ring: Keyring, version: str | None) -> Keyring:
        """Put ``ring``, revision and all, in the place of what has ``version`` (``None``: of nothing).

        Raises:
            Conflict: something else stands there by now.
        """
        ring = replace(ring, writer=self._nonce())
        try:
            if version is None:
                self._store.create(self.path, to_json(ring), HEADERS)
            else:
                self._store.replace(self.path, to_json(ring), HEADERS, version)
        except AccessDenied:
            raise
        except StoreError as exc:
            document = self._store.read(self.path).document
            if document is None or document.body != to_json(ring):
                raise exc from None
        return ring

    def replace(self, ring: Keyring, revision: int, version: str) -> tuple[Keyring, str]:
        """Make ``ring`` the successor of ``revision``; recognises its own write whose answer was lost.

        Raises:
            Conflict: somebody else wrote the ledger since ``version`` was read.
        """
        ring = replace(ring, revision=revision + 1, writer=self._nonce())
        try:
            return ring, self._store.replace(self.path, to_json(ring), HEADERS, version)
        except AccessDenied:
            raise
        except StoreError as exc:
            # Applied but reported failed is as likely as failed: the nonce tells.
            document = self._store.read(self.path).document
            if document is None or from_json(document.body, self.keyset).writer != ring.writer:
                raise exc from None
            return ring, document.version
