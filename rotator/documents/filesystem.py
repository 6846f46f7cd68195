"""Documents as plain files that any web server can serve, for ``file:///…``.

``root/acme/jwks.json`` is the document, ``root/acme/.jwks.json.headers.json`` its headers, ``root/acme/.lock`` the
lock that makes a replace a compare-and-swap. A web server does not read the headers beside the document: give it
the same ``Cache-Control``.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rotator.errors import AccessDenied, ConfigurationError, Conflict, RotatorError, StoreError
from rotator.ports import Document, Headers, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_LOCK = ".lock"

#: How often a lock is tried, and the seconds between: it is held for a few fsyncs, so who holds it longer is stalled.
_TRIES, _PAUSE = 500, 0.02

_PROBE = Headers("application/json", None)


class FilesystemDocuments:
    """Documents under one directory, each replaced whole or not at all, whatever crashes or races.

    Files are readable by everybody (0644, directories 0755), so that a web server can serve them;
    with ``private`` by their owner alone (0600 and 0700).
    """

    def __init__(self, root: Path, *, private: bool = False) -> None:
        self._root = root.absolute()
        self._file_mode, self._directory_mode = (0o600, 0o700) if private else (0o644, 0o755)

    def read(self, path: str) -> Reading:
        """See :meth:`rotator.ports.DocumentStore.read`."""
        file = self._file(path)
        with _translated("read", file), _held_still(file.parent):
            return Reading(_load(file))

    def create(self, path: str, body: bytes, headers: Headers) -> str:
        """See :meth:`rotator.ports.DocumentStore.create`."""
        file = self._file(path)
        with _translated("create", file):
            self._make(file.parent)
            with self._locked(file.parent):
                if _load(file) is not None:
                    raise Conflict(f"Cannot create {file}: it is there already.")
                return self._write(file, body, headers)

    def replace(self, path: str, body: bytes, headers: Headers, version: str) -> str:
        """See :meth:`rotator.ports.DocumentStore.replace`."""
        file = self._file(path)
        with _translated("replace", file):
            if not file.parent.exists():
                raise Conflict(f"Cannot replace {file}: it is gone.")
            with self._locked(file.parent):
                found = _load(file)
                if found is None or found.version != version:
                    happened = "is gone" if found is None else "was changed by somebody else"
                    raise Conflict(f"Cannot replace {file}: it {happened}.")
                return self._write(file, body, headers)

    def probe(self, path: str) -> None:
        """See :meth:`rotator.ports.DocumentStore.probe`."""
        name = f"{path}.probe-{uuid.uuid4().hex}"
        file = self._file(name)
        try:
            stale = self.create(name, b"1", _PROBE)
            _must_lose(Conflict, lambda: self.create(name, b"2", _PROBE), "a second create", file)
            self.replace(name, b"3", _PROBE, stale)
            _must_lose(Conflict, lambda: self.replace(name, b"4", _PROBE, stale), "a stale replace", file)
            with _translated("lock", file), self._locked(file.parent), _opened(file.parent / _LOCK) as second:
                at_once = fcntl.LOCK_EX | fcntl.LOCK_NB
                _must_lose(BlockingIOError, lambda: fcntl.flock(second, at_once), "a second lock", file)
        finally:
            for leftover in (file, _sidecar(file)):
                with suppress(OSError):
                    leftover.unlink()

    def locate(self, path: str) -> str:
        """See :meth:`rotator.ports.DocumentStore.locate`."""
        return self._file(path).as_uri()

    def _file(self, path: str) -> Path:
        *directories, name = path.split("/")
        # Hidden directories are fine (.well-known); a hidden file could be the lock or the headers of another.
        inside = all(part not in {"", ".", ".."} for part in directories) and not name.startswith(".")
        if not name or not inside or "\0" in path or "\\" in path:
            raise ConfigurationError(
                f"{path!r} is no path of a document: give one like 'acme/jwks.json', relative, without '..' "
                "and with a name that does not begin with a dot."
            )
        return self._root.joinpath(*directories, name)

    def _make(self, directory: Path) -> None:
        """Make ``directory`` and what is missing above it, durably and whatever the umask."""
        if directory.is_dir():
            return
        self._make(directory.parent)
        # Another worker may have made it meanwhile; then it also sets the mode.
        with suppress(FileExistsError):
            directory.mkdir(self._directory_mode)
            directory.chmod(self._directory_mode)
        _sync(directory.parent)

    @contextmanager
    def _locked(self, directory: Path) -> Iterator[None]:
        """Be the only writer in ``directory``; a crash lets go."""
        with _opened(directory / _LOCK, os.O_RDWR | os.O_CREAT, self._file_mode) as lock:
            _wait_for(lock, fcntl.LOCK_EX, directory)
            yield

    def _write(self, file: Path, body: bytes, headers: Headers) -> str:
        # Headers first: after a crash in between the old document is whole, and its changed version is a Conflict
        # to whoever read it before. The other way round a new document would carry the promises of the old.
        described = json.dumps({"content_type": headers.content_type, "cache_control": headers.cache_control})
        self._put(_sidecar(file), described.encode())
        self._put(file, body)
        _sync(file.parent)
        return _version(body, headers)

    def _put(self, file: Path, content: bytes) -> None:
        # One name for the half-written file, under the lock: what a crash leaves is replaced by the next write.
        half = file.with_name(f".{file.name}.tmp")
        half.unlink(missing_ok=True)
        try:
            with _opened(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._file_mode) as descriptor:
                os.fchmod(descriptor, self._file_mode)
                with open(descriptor, "wb", closefd=False) as stream:
                    stream.write(content)
                os.fsync(descriptor)
            half.replace(file)
        except OSError:
            with suppress(OSError):
                half.unlink()
            raise


def _load(file: Path) -> Document | None:
    # The document first: whoever sees it without a lock finds its headers, which were there before it.
    try:
        body = file.read_bytes()
    except FileNotFoundError:
        return None
    headers = _headers(file)
    return Document(body, _version(body, headers), headers)


def _headers(file: Path) -> Headers | None:
    """The headers beside ``file``; ``None`` where there are none, or none that we wrote."""
    try:
        described = json.loads(_sidecar(file).read_bytes())
        content_type, cache_control = described["content_type"], described["cache_control"]
    except (FileNotFoundError, ValueError, LookupError, TypeError, RecursionError):
        return None
    if not isinstance(content_type, str) or not isinstance(cache_control, str | None):
        return None
    return Headers(content_type, cache_control)


def _version(body: bytes, headers: Headers | None) -> str:
    described = json.dumps(headers and [headers.content_type, headers.cache_control])
    # JSON holds no raw newline, so no two documents look alike.
    return hashlib.sha256(described.encode() + b"\n" + body).hexdigest()


def _sidecar(file: Path) -> Path:
    return file.with_name(f".{file.name}.headers.json")


@contextmanager
def _held_still(directory: Path) -> Iterator[None]:
    """Keep writers out of ``directory`` while a document and its headers are read; without a lock there are none."""
    try:
        lock = os.open(directory / _LOCK, os.O_RDONLY)
    except FileNotFoundError:
        yield
        return
    try:
        _wait_for(lock, fcntl.LOCK_SH, directory)
        yield
    finally:
        os.close(lock)


@contextmanager
def _opened(file: Path, flags: int = os.O_RDWR, mode: int = 0o600) -> Iterator[int]:
    descriptor = os.open(file, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _wait_for(lock: int, kind: int, directory: Path) -> None:
    for _ in range(_TRIES):
        try:
            return fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE)
    raise StoreError(
        f"{directory / _LOCK} has been held by another process for {_TRIES * _PAUSE:.0f} s: it is stalled. "
        "The next tick tries again; `fuser` on that file names the process."
    )


def _sync(directory: Path) -> None:
    with _opened(directory, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)


def _must_lose(loss: type[Exception], call: Callable[[], object], what: str, file: Path) -> None:
    try:
        call()
    except loss:
        return
    raise ConfigurationError(
        f"{file.parent} cannot be used: {what} was let through there, so two workers could overwrite each other. "
        "Use a local file system, or one whose locks hold (flock)."
    )


@contextmanager
def _translated(deed: str, file: Path) -> Iterator[None]:
    """Raise what the operating system refuses inside as ours, with the path and what to do."""
    try:
        yield
    except OSError as exc:
        where = exc.filename or file
        raise _translation(exc, f"Cannot {deed} {file}", f"{where}") from exc


def _translation(exc: OSError, failed: str, where: str) -> RotatorError:
    if exc.errno in {errno.EACCES, errno.EPERM}:
        return AccessDenied(f"{failed}: {where} is closed to uid {os.geteuid()}. Give it to that user (chown).")
    if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreError(f"{failed}: the disk is full. Free some space; the next tick tries again.")
    if exc.errno == errno.EROFS:
        return ConfigurationError(f"{failed}: the file system is read-only. Mount it writable, or mend the URI.")
    if exc.errno in {errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTSUP, errno.ENOLCK}:
        return ConfigurationError(f"{failed}: {exc.strerror} ({where}). Mend that path, or the URI.")
    return StoreError(f"{failed}: {exc.strerror} ({where}). The next tick tries again.")
