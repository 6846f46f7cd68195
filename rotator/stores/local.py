"""Private keys as PEM files that issuers on this machine read, for ``file:///…``.

``root/acme/ES256/<intent id>.pem`` is a key (PKCS#8, RFC 5958; encrypted when there is a passphrase), and
``root/acme/ES256/pointer.json`` says which of them signs: an issuer reads ``key`` there and opens the file so named
beside it; ``kid`` and ``alg`` are what its tokens must carry. Where these are null, no key signs. An empty
``<intent id>.pem.destroyed`` remembers for a year that there was a key.

Directories are 0700 and files 0600; anything looser is refused.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shlex
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

from rotator import files
from rotator.errors import AccessDenied, ConfigurationError, Conflict, Refused
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS
from rotator.ports import Held, KeyRef, Pointer, StoredKey, Traits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from rotator.keys.algorithms import Algorithm
    from rotator.ports import Intent, Stray, Takeover

_KEYSET = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")

_POINTER = "pointer.json"
_KEY, _DISABLED, _DESTROYED = ".pem", ".pem.disabled", ".pem.destroyed"

#: Seconds. No worker stalls that long and goes on.
_REMEMBERED = 366 * 86_400

#: OpenSSL takes no others.
_PASSPHRASE_BYTES = range(1, 1024)


@dataclass(frozen=True, slots=True)
class _Named:
    """What ``pointer.json`` says; no file says the same as one full of nulls."""

    id: str | None = None
    kid: str | None = None
    token: str = ""


class LocalKeys:
    """Private keys under one directory, each made once and never overwritten, whatever crashes or races.

    A key is named after its intent, so a crash leaves none that cannot be found.
    """

    traits = Traits()

    def __init__(self, root: Path, passphrase: bytes | None = None) -> None:
        if passphrase is not None and len(passphrase) not in _PASSPHRASE_BYTES:
            raise ConfigurationError(
                f"The passphrase for {root} has {len(passphrase)} bytes: use 1 to {_PASSPHRASE_BYTES[-1]}."
            )
        self._root = root.absolute()
        self._passphrase = passphrase

    def check(self, keyset: str, algorithms: Sequence[Algorithm]) -> None:
        """See :meth:`rotator.ports.KeyStore.check`."""
        for algorithm in algorithms:
            directory = self._directory(keyset, algorithm)
            with files.translated("check", directory):
                made = self._refuse_loose(directory)
                nearest = next(each for each in (directory, *directory.parents) if each.exists())
                if not os.access(nearest, os.W_OK | os.X_OK):
                    raise AccessDenied(
                        f"{nearest} cannot be written by uid {os.geteuid()}: let that user write there (chown or "
                        "chmod), mount it writable, or mend the URI."
                    )
                for file in _files(directory) if made else ():
                    _refuse_loose_file(file, file.lstat())
                _read_pointer(directory, algorithm)

    def holds(self, keyset: str, algorithms: Sequence[Algorithm]) -> str | None:
        """See :meth:`rotator.ports.KeyStore.holds`."""
        del algorithms  # Keys of an algorithm that is no longer configured count, too.
        home = self._root / _checked(keyset, _KEYSET, "a key set")
        with files.translated("look into", home):
            try:
                directories = sorted(each for each in home.iterdir() if each.is_dir())
            except FileNotFoundError:
                return None
            return next((str(file) for directory in directories for file in _files(directory)), None)

    def read_pointer(self, keyset: str, algorithm: Algorithm) -> Pointer:
        """See :meth:`rotator.ports.KeyStore.read_pointer`."""
        directory = self._directory(keyset, algorithm)
        with files.translated("read the pointer in", directory):
            self._refuse_loose(directory)
            named = _read_pointer(directory, algorithm)
            return Pointer(named.id, named.token)

    def create(self, intent: Intent) -> StoredKey:
        """See :meth:`rotator.ports.KeyStore.create`.

        Raises:
            Refused: the key was made and destroyed since it was ordered.
        """

        def bring() -> PrivateKeyTypes:
            destroyed = self._directory(intent.keyset, intent.algorithm) / f"{intent.id}{_DESTROYED}"
            if destroyed.exists():
                raise Refused(
                    f"The key of intent {intent.id} was destroyed, and no second one is made. Where the ledger was"
                    f" brought back from before that, remove {destroyed}."
                )
            return material.generate(intent.algorithm, intent.rsa_bits)

        return self._kept(intent, bring)

    def known(self, name: str, keyset: str) -> StoredKey:
        """None: files take over private halves alone."""
        raise ConfigurationError(
            f"{name} is not in {self._root}: give the private half itself to adopt it for {keyset}."
        )

    def adopt(self, takeover: Takeover) -> StoredKey:
        """See :meth:`rotator.ports.AdoptingKeyStore.adopt`. The file it came from stays as it is."""
        private = takeover.private
        if private is None:
            raise ConfigurationError(f"{takeover.kid} cannot be kept in {self._root}: give its private half.")
        stored = self._kept(takeover, lambda: private)
        if stored.spki != material.spki(private):
            raise Refused(f"{self._directory(takeover.keyset, takeover.algorithm) / stored.handle} holds another key.")
        return stored

    def locate_pointer(self, keyset: str, algorithm: Algorithm) -> str:
        """See :meth:`rotator.ports.AdoptingKeyStore.locate_pointer`."""
        return str(self._directory(keyset, algorithm) / _POINTER)

    def _kept(self, order: Intent | Takeover, bring: Callable[[], PrivateKeyTypes]) -> StoredKey:
        """The key of ``order.id``: the one that is there, or what ``bring`` returns; durable."""
        directory = self._directory(order.keyset, order.algorithm)
        file = directory / f"{_checked(order.id, _ID, 'an intent')}{_KEY}"
        with files.translated("create", file), self._locked(directory):
            private = self._existing(file, order.algorithm)
            if private is None:
                private = bring()
                try:
                    with files.half_written(file, material.private_pem(private, self._passphrase)) as half:
                        os.link(half, file)
                except FileExistsError:
                    # A worker on another host, whose lock does not reach here, was faster: a link never overwrites.
                    private = self._load(file, order.algorithm)
            # Also for a key that was there: who made it may have crashed before this line.
            files.sync(directory)
            return StoredKey(file.name, material.spki(private))

    def sign(self, ref: KeyRef, message: bytes) -> bytes:
        """See :meth:`rotator.ports.KeyStore.sign`."""
        return material.sign(self.private_key(ref), ref.algorithm, message)

    def named(self, keyset: str, algorithm: Algorithm) -> KeyRef | None:
        """The key that issuers are led to; ``None``: none is named.

        Raises:
            Refused: the pointer is torn.
        """
        directory = self._directory(keyset, algorithm)
        with files.translated("read the pointer in", directory):
            self._refuse_loose(directory)
            found = _read_pointer(directory, algorithm)
        if found.id is None or found.kid is None:
            return None
        return KeyRef(keyset, algorithm, found.id, found.kid, f"{found.id}{_KEY}")

    def private_key(self, ref: KeyRef) -> PrivateKeyTypes:
        """The private half of ``ref``, for who signs with it in memory; one read of its file.

        Raises:
            Refused: it was disabled, or the file holds another key.
            ConfigurationError: the file is missing, loose, or cannot be read.
        """
        file = self._file(ref)
        with files.translated("sign with", file):
            self._refuse_loose(file.parent)
            try:
                private = self._load(file, ref.algorithm)
            except FileNotFoundError:
                if _disabled(file).exists():
                    raise Refused(f"Cannot sign with {file}: the key was disabled, and never signs again.") from None
                raise ConfigurationError(
                    f"Cannot sign with {file}: it is missing. Restore it, or revoke key {ref.kid}."
                ) from None
        spki = material.spki(private)
        # The kid of a key that was made elsewhere need not follow from it; its id does.
        names = {jwks.kid_of(spki, ref.algorithm, form) for form in get_args(jwks.KidFormat)}
        if ref.kid not in names and ref.id != jwks.adopted_id(spki, ref.algorithm):
            raise Refused(f"Cannot sign with {file}: it holds another key than {ref.kid}. Restore it, or revoke that.")
        return private

    def move_pointer(self, pointer: Pointer, ref: KeyRef) -> Pointer:
        """See :meth:`rotator.ports.KeyStore.move_pointer`."""
        file = self._file(ref)

        def named(_: _Named) -> _Named:
            try:
                _refuse_loose_file(file, file.lstat())
            except FileNotFoundError:
                raise Refused(
                    f"The pointer was not moved: {file} is missing. Restore it, or revoke key {ref.kid}."
                ) from None
            return _Named(ref.id, ref.kid)

        return self._swap(ref.keyset, ref.algorithm, pointer, named)

    def clear_pointer(self, keyset: str, algorithm: Algorithm, pointer: Pointer) -> Pointer:
        """See :meth:`rotator.ports.KeyStore.clear_pointer`."""
        return self._swap(keyset, algorithm, pointer, lambda _: _Named())

    def fence(self, keyset: str, algorithm: Algorithm, pointer: Pointer) -> Pointer:
        """See :meth:`rotator.ports.KeyStore.fence`."""
        return self._swap(keyset, algorithm, pointer, lambda named: named)

    def disable(self, ref: KeyRef) -> None:
        """See :meth:`rotator.ports.KeyStore.disable`."""
        self._end(ref, "disable", lambda file: file.rename(_disabled(file)))

    def destroy(self, ref: KeyRef) -> None:
        """See :meth:`rotator.ports.KeyStore.destroy`. A worker that stalled makes no second key of this name."""

        def erase(file: Path) -> None:
            destroyed = file.with_suffix(_DESTROYED)
            try:
                destroyed.touch(0o600)
                # A crash must not undo this and keep what follows.
                files.sync(file.parent)
            finally:
                # On a full disk, too: the next tick writes down that it is gone.
                for each in (file, _disabled(file)):
                    each.unlink(missing_ok=True)
            for old in file.parent.glob(f"*{_DESTROYED}"):
                if destroyed.stat().st_mtime - old.stat().st_mtime > _REMEMBERED:
                    old.unlink()

        self._end(ref, "destroy", erase)

    def held(self, keyset: str) -> Sequence[Held]:
        """See :meth:`rotator.ports.Searchable.held`. One for each key file, disabled or not; its age is the file's."""
        home = self._root / _checked(keyset, _KEYSET, "a key set")
        found: dict[tuple[str, str], Held] = {}
        with files.translated("look into", home):
            for alg in ALGORITHMS if home.is_dir() else ():
                if not self._refuse_loose(home / alg):
                    continue
                for file in sorted(each for each in _files(home / alg) if each.name != _POINTER):
                    id_ = file.name.removesuffix(_DISABLED).removesuffix(_KEY)
                    made_at = datetime.fromtimestamp(file.stat().st_mtime, UTC)
                    if _ID.fullmatch(id_):
                        found.setdefault((alg, id_), Held(f"{id_}{_KEY}", id_, alg, created_at=made_at))
        return tuple(found.values())

    def public_half(self, keyset: str, held: Held) -> tuple[bytes | None, datetime | None]:
        """See :meth:`rotator.ports.Searchable.public_half`. The file is read, and decrypted where it is encrypted."""
        row = ALGORITHMS[held.alg or ""]
        file = self._directory(keyset, row) / f"{_checked(held.id, _ID, 'an intent')}{_KEY}"
        with files.translated("read", file):
            private = self._existing(file, row)
        return (material.spki(private) if private else None), held.created_at

    def kid_in_tokens(self, keyset: str, algorithm: Algorithm) -> str | None:
        """See :meth:`rotator.ports.Searchable.kid_in_tokens`."""
        ref = self.named(keyset, algorithm)
        return ref.kid if ref else None

    def strays(self, keyset: str) -> Sequence[Stray]:
        """None: every key here is named after an intent that a ledger recorded before."""
        del keyset
        return ()

    def discard(self, stray: Stray) -> None:
        """Nothing to do: there are no strays here."""

    def _directory(self, keyset: str, algorithm: Algorithm) -> Path:
        return self._root / _checked(keyset, _KEYSET, "a key set") / algorithm.alg

    def _file(self, ref: KeyRef) -> Path:
        name = f"{_checked(ref.id, _ID, 'an intent')}{_KEY}"
        if ref.handle != name:
            raise ConfigurationError(f"Key {ref.kid} is not a file's: its handle should be {name!r}. Mend the URI.")
        return self._directory(ref.keyset, ref.algorithm) / name

    def _refuse_loose(self, directory: Path) -> bool:
        """Whether ``directory`` is there; refuses it, and what is above it, where others can get at it."""
        for each in (self._root, directory.parent, directory):
            try:
                # The root alone may be a link: an operator chose it.
                found = each.stat() if each == self._root else each.lstat()
            except FileNotFoundError:
                return False
            if not stat.S_ISDIR(found.st_mode):
                raise ConfigurationError(f"{each} must be a directory, and no link: mend it, or the URI.")
            hint = ", or name a directory below it, which is then made as it should be" if each == self._root else ""
            _refuse_others(each, found, 0o700, hint)
        return True

    def _existing(self, file: Path, algorithm: Algorithm) -> PrivateKeyTypes | None:
        # A disabled key is still the key of its intent: there is never a second one.
        for each in (file, _disabled(file)):
            with suppress(FileNotFoundError):
                return self._load(each, algorithm)
        return None

    def _load(self, file: Path, algorithm: Algorithm) -> PrivateKeyTypes:
        """The private key in ``file``; refuses one that ``algorithm`` cannot sign with."""
        try:
            private = material.load_private_pem(_read(file), self._passphrase)
            jwks.public_members(material.spki(private), algorithm)
        except ConfigurationError as exc:
            raise ConfigurationError(f"{file}: {exc}") from None
        return private

    @contextmanager
    def _locked(self, directory: Path) -> Iterator[None]:
        """Be the only writer in ``directory``, which is made where it is missing; a crash lets go."""
        if not self._refuse_loose(directory):
            files.make(directory)
            self._refuse_loose(directory)
        with _alone_in(directory):
            yield

    def _swap(
        self, keyset: str, algorithm: Algorithm, pointer: Pointer, becomes: Callable[[_Named], _Named]
    ) -> Pointer:
        directory = self._directory(keyset, algorithm)
        file = directory / _POINTER
        with files.translated("write", file), self._locked(directory):
            found = _read_pointer(directory, algorithm)
            if found.token != pointer.token:
                raise Conflict(f"{file} was moved or fenced by somebody else meanwhile.")
            named = replace(becomes(found), token=secrets.token_hex(16))
            with files.half_written(file, _serialized(named, algorithm)) as half:
                half.replace(file)
            files.sync(directory)
            return Pointer(named.id, named.token)

    def _end(self, ref: KeyRef, deed: str, effect: Callable[[Path], object]) -> None:
        file = self._file(ref)
        with files.translated(deed, file):
            # Loose modes are no reason to let a key live.
            if file.parent.is_dir():
                with _alone_in(file.parent):
                    with suppress(FileNotFoundError):
                        effect(file)
                    files.sync(file.parent)


def _checked(name: str, pattern: re.Pattern[str], what: str) -> str:
    if not pattern.fullmatch(name):
        raise ConfigurationError(f"{name!r} cannot name {what}: it must match {pattern.pattern}.")
    return name


def _disabled(file: Path) -> Path:
    return file.with_suffix(_DISABLED)


def _files(directory: Path) -> list[Path]:
    """Every key and pointer in ``directory``."""
    names = (_POINTER, _KEY, _DISABLED)
    return sorted(file for file in directory.iterdir() if file.name.endswith(names))


def _read_pointer(directory: Path, algorithm: Algorithm) -> _Named:
    file = directory / _POINTER
    try:
        found = json.loads(_read(file))
    except FileNotFoundError:
        return _Named()
    except (ValueError, RecursionError):
        found = None
    named = _named(found, algorithm) if isinstance(found, dict) else None
    if named is None:
        raise Refused(
            f"{file} is torn, or was written by somebody else: issuers may follow it to a wrong key. "
            "Move it away; the next tick writes it anew."
        )
    return named


def _named(found: dict[str, Any], algorithm: Algorithm) -> _Named | None:
    """What ``found`` says, if we may have written it; members of a later release are let be."""
    named = _Named(**{name: found[name] for name in ("id", "kid", "token") if isinstance(found.get(name), str)})
    whole = json.loads(_serialized(named, algorithm)).items() <= found.items()
    ours = named.id is None if named.kid is None else _ID.fullmatch(named.id or "")
    return named if whole and ours and named.token else None


def _serialized(named: _Named, algorithm: Algorithm) -> bytes:
    key = None if named.id is None else f"{named.id}{_KEY}"
    body = {"id": named.id, "kid": named.kid, "alg": algorithm.alg, "key": key, "token": named.token}
    return (json.dumps(body, indent=1) + "\n").encode("ascii")


def _read(file: Path) -> bytes:
    """The bytes of ``file``; refuses links, devices, and what others can read or write."""
    try:
        # Without O_NONBLOCK a pipe put here would keep us waiting.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            _refuse_loose_file(file, file.lstat())
        raise
    with os.fdopen(descriptor, "rb") as stream:
        _refuse_loose_file(file, os.fstat(descriptor))
        return stream.read()


def _refuse_loose_file(file: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ConfigurationError(f"{file} must be a regular file, and no link: put the file itself there.")
    _refuse_others(file, found, 0o600)


def _refuse_others(path: Path, found: os.stat_result, wanted: int, hint: str = "") -> None:
    mode, quoted = stat.S_IMODE(found.st_mode), shlex.quote(str(path))
    if found.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{path} belongs to uid {found.st_uid}, and rotator runs as uid {os.geteuid()}: "
            f"run `chown {os.geteuid()} {quoted}`{hint}."
        )
    if mode & 0o077:
        raise ConfigurationError(
            f"{path} has mode {mode:04o}, which lets others at private keys: run `chmod {wanted:o} {quoted}`{hint}."
        )


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    with files.alone_in(directory, 0o600, os.O_NOFOLLOW):
        # Whoever left a half-written file is dead, or it would hold the lock; it may hold a private key.
        for half in directory.glob(files.half_name("*")):
            half.unlink(missing_ok=True)
        yield
