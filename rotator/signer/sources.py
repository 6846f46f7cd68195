"""Where a signer finds the key to sign with: what rotator's pointer names, read as any issuer reads it.

Nothing here imports boto3 or ``cryptography`` before it is used, and files need no AWS.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rotator.errors import ConfigurationError, Refused, StoreError
from rotator.keys import jwks, material

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from rotator.keys.algorithms import Algorithm
    from rotator.ports import DocumentStore, KeyRef
    from rotator.stores.local import LocalKeys
    from rotator.uris import Location

    Clients = Callable[[str], Any]

#: Larger RSA keys take milliseconds to sign: too long for an event loop.
_QUICK_BITS = 2048

_PROOF = b"rotator.signer proof"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A way to sign with one key."""

    sign: Callable[[bytes], bytes]
    """The JWS signature of a message."""
    slow: bool
    """Whether signing takes long enough to be kept off an event loop: it asks KMS, or the key is large."""


@dataclass(frozen=True, slots=True)
class Named:
    """What the pointer names, and how to come by a way to sign with it."""

    kid: str
    identity: str
    """Equal for the same key: it is not loaded again."""
    load: Callable[[], Loaded]


class Source(Protocol):
    """One algorithm of one key set, where issuers find it."""

    @property
    def where(self) -> str:
        """The pointer, for people."""
        ...

    @property
    def alg(self) -> str:
        """The ``alg`` of its keys."""
        ...

    def read(self) -> Named | None:
        """What the pointer names now; ``None``: it says that there is no key.

        Raises:
            RotatorError: it could not be read, or says something that rotator does not write.
        """
        ...


class SecretsManagerSource:
    """The version of a secret that holds AWSCURRENT: pointer and private JWK in one GetSecretValue.

    IAM: ``secretsmanager:GetSecretValue`` on the secret, and ``kms:Decrypt`` on a key of yours that encrypts it.
    """

    def __init__(self, client: Callable[[], Any], prefix: str, keyset: str, algorithm: Algorithm) -> None:
        self._client = client
        self._name = f"{prefix}/{keyset}/{algorithm.alg}"
        self._algorithm = algorithm

    @property
    def where(self) -> str:
        """The secret."""
        return f"secret {self._name}"

    @property
    def alg(self) -> str:
        """See :class:`Source`."""
        return self._algorithm.alg

    def read(self) -> Named | None:
        """See :class:`Source`."""
        from rotator.aws import translated

        client = self._client()
        with translated("secretsmanager:GetSecretValue", self.where):
            try:
                answer = client.get_secret_value(SecretId=self._name, VersionStage="AWSCURRENT")
            except client.exceptions.ResourceNotFoundException as exc:
                raise StoreError(
                    f"Secrets Manager knows no {self.where} with a current value, in this account and region. "
                    "Mend the URI, or let rotator make it (rotator status)."
                ) from exc
        jwk = _json_object(answer.get("SecretString"))
        if jwk.get("rotator") == "placeholder":
            return None
        kid, alg = jwk.get("kid"), jwk.get("alg")
        if not isinstance(kid, str) or alg != self.alg:
            raise Refused(
                f"The current value of {self.where} is not a private JWK with a kid and alg {self.alg}: rotator did "
                "not write it. See `rotator status`."
            )
        return Named(kid, kid, partial(self._load, jwk))

    def _load(self, jwk: Mapping[str, Any]) -> Loaded:
        return loaded(material.load_private_jwk(dict(jwk)), self._algorithm, jwk, self.where)


class KmsSource:
    """``pointer.json`` beside the ledger, and kms:Sign with the very key ARN that it names.

    IAM: ``s3:GetObject`` on the pointer, ``kms:Sign`` on the keys of the key set.
    """

    def __init__(self, client: Callable[[], Any], pointers: DocumentStore, keyset: str, algorithm: Algorithm) -> None:
        self._client = client
        self._pointers = pointers
        self._keyset = keyset
        self._algorithm = algorithm

    @property
    def where(self) -> str:
        """The pointer."""
        from rotator.stores import kms

        return kms.pointer_uri(self._pointers, self._keyset, self._algorithm)

    @property
    def alg(self) -> str:
        """See :class:`Source`."""
        return self._algorithm.alg

    def read(self) -> Named | None:
        """See :class:`Source`."""
        from rotator.stores import kms

        ref = kms.named(self._pointers, self._keyset, self._algorithm)
        return None if ref is None else Named(ref.kid, f"{ref.kid} {ref.handle}", partial(self._load, ref))

    def _load(self, ref: KeyRef) -> Loaded:
        from rotator.stores import kms

        def sign(message: bytes) -> bytes:
            return kms.signed(self._client(), ref, message)

        return Loaded(sign, slow=True)


class FileSource:
    """``pointer.json`` in the directory of the algorithm, and the key file that it names, read by its owner."""

    def __init__(self, keys: LocalKeys, keyset: str, algorithm: Algorithm, where: str) -> None:
        self._keys = keys
        self._keyset = keyset
        self._algorithm = algorithm
        self._where = where
        self._seen = False

    @property
    def where(self) -> str:
        """The pointer."""
        return self._where

    @property
    def alg(self) -> str:
        """See :class:`Source`."""
        return self._algorithm.alg

    def read(self) -> Named | None:
        """See :class:`Source`."""
        ref = self._keys.named(self._keyset, self._algorithm)
        # Where no key signs any more, rotator leaves a pointer that says so. None at all: the volume went away.
        there = Path(self._where).exists()
        if self._seen and not there:
            raise StoreError(f"{self.where} was there and is gone: is the directory mounted?")
        self._seen = self._seen or there
        return None if ref is None else Named(ref.kid, f"{ref.kid} {ref.handle}", partial(self._load, ref))

    def _load(self, ref: KeyRef) -> Loaded:
        private = self._keys.private_key(ref)
        public = jwks.public_members(material.spki(private), self._algorithm)
        return loaded(private, self._algorithm, public, self.where)


def loaded(private: PrivateKeyTypes, algorithm: Algorithm, public: Mapping[str, Any], where: str) -> Loaded:
    """A way to sign with ``private``, proven: what it signs verifies under ``public``.

    Raises:
        ConfigurationError: it does not; a damaged RSA key would give itself away with its first signature.
    """
    sign = material.signing(private, algorithm)
    members = {"alg": algorithm.alg} | {name: public.get(name) for name in algorithm.public_members}
    if not material.verify(members, algorithm, _PROOF, sign(_PROOF)):
        raise ConfigurationError(f"The private key behind {where} is damaged: what it signs does not verify.")
    return Loaded(sign, slow=getattr(private, "key_size", 0) > _QUICK_BITS)


def source(  # noqa: PLR0913 - what a store needs, by name
    keys: Location,
    keyset: str,
    algorithm: Algorithm,
    *,
    clients: Clients,
    pointers: DocumentStore | None,
    passphrase: bytes | None = None,
) -> Source:
    """The source behind a URI of private keys; nothing is read yet.

    ``clients`` gives the boto3 client of a service, ``pointers`` the document store that the pointers
    of KMS keys are in.

    Raises:
        ConfigurationError: the passphrase cannot be one, or the document store is missing.
    """
    if keys.scheme == "secretsmanager":
        return SecretsManagerSource(partial(clients, "secretsmanager"), keys.path, keyset, algorithm)
    if keys.scheme == "kms":
        if pointers is None:
            raise ConfigurationError("Keys in KMS have their pointer beside the ledger: say where that is.")
        return KmsSource(partial(clients, "kms"), pointers, keyset, algorithm)
    from rotator.stores.local import LocalKeys

    where = f"{keys.path.rstrip('/')}/{keyset}/{algorithm.alg}/pointer.json"
    return FileSource(LocalKeys(Path(keys.path), passphrase), keyset, algorithm, where)


def documents(at: Location, clients: Clients) -> DocumentStore:
    """The document store behind a URI of ledgers, to read pointers from."""
    if at.scheme == "s3":
        from rotator.documents.s3 import S3Documents

        return S3Documents(partial(clients, "s3"), at.bucket, at.path)
    from rotator.documents.filesystem import FilesystemDocuments

    return FilesystemDocuments(Path(at.path), private=True)


def _json_object(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        # Its error would carry the whole value.
        found = None
    return found if isinstance(found, dict) else {}
