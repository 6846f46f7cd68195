"""Documents as plain files that any web server can serve, for ``file:///…``.

``root/acme/jwks.json`` is the document, ``root/acme/.jwks.json.headers.json`` its headers, ``root/acme/.lock`` the
lock that makes a replace a compare-and-swap. A web server does not read the headers beside the document: give it
the same ``Cache-Control``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

from rotator import files
from rotator.errors import ConfigurationError, Conflict
from rotator.ports import LARGEST, Document, Headers, Reading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
        with files.translated("read", file), files.held_still(file.parent):
            return Reading(_load(file))

    def create(self, path: str, body: bytes, headers: Headers) -> str:
        """See :meth:`rotator.ports.DocumentStore.create`."""
        file = self._file(path)
        with files.translated("create", file):
            files.make(file.parent, self._directory_mode)
            with files.alone_in(file.parent, self._file_mode):
                if _load(file) is not None:
                    raise Conflict(f"Cannot create {file}: it is there already.")
                return self._write(file, body, headers)

    def replace(self, path: str, body: bytes, headers: Headers, version: str) -> str:
        """See :meth:`rotator.ports.DocumentStore.replace`."""
        file = self._file(path)
        with files.translated("replace", file):
            if not file.parent.exists():
                raise Conflict(f"Cannot replace {file}: it is gone.")
            with files.alone_in(file.parent, self._file_mode):
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
            with (
                files.translated("lock", file),
                files.alone_in(file.parent, self._file_mode),
                (file.parent / files.LOCK).open("rb+") as second,
            ):
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

    def _write(self, file: Path, body: bytes, headers: Headers) -> str:
        # Headers first: after a crash in between the old document is whole, and its changed version is a Conflict
        # to whoever read it before. The other way round a new document would carry the promises of the old.
        described = json.dumps({"content_type": headers.content_type, "cache_control": headers.cache_control})
        self._put(_sidecar(file), described.encode())
        # Without this a power cut may keep the second rename alone.
        files.sync(file.parent)
        self._put(file, body)
        files.sync(file.parent)
        return _version(body, headers)

    def _put(self, file: Path, content: bytes) -> None:
        # We hold the lock, so whoever left one half-written is dead.
        file.with_name(files.half_name(file.name)).unlink(missing_ok=True)
        with files.half_written(file, content, self._file_mode) as half:
            half.replace(file)


def _load(file: Path) -> Document | None:
    # The document first: whoever sees it without a lock finds its headers, which were there before it.
    try:
        body = files.read(file, LARGEST + 1)
    except FileNotFoundError:
        return None
    headers = _headers(file)
    return Document(body, _version(body, headers), headers)


def _headers(file: Path) -> Headers | None:
    """The headers beside ``file``; ``None`` where there are none, or none that we wrote."""
    try:
        described = json.loads(files.read(_sidecar(file), LARGEST))
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


def _must_lose(loss: type[Exception], call: Callable[[], object], what: str, file: Path) -> None:
    try:
        call()
    except loss:
        return
    raise ConfigurationError(
        f"{file.parent} cannot be used: {what} was let through there, so two workers could overwrite each other. "
        "Use a local file system, or one whose locks hold (flock)."
    )
