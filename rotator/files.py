"""What every file adapter shares: durable, atomic, locked files, and OSErrors as ours.

A ``mode`` that is optional is set whatever the umask; without it a file or directory is for its owner alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from rotator.errors import AccessDenied, ConfigurationError, RotatorError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

#: The file in a directory whose flock makes one writer, or several readers, of all that is in it.
LOCK = ".lock"

#: What a path that cannot be one, or something else in its place, is answered with.
_MISPLACED = {
    *(errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.ENXIO, errno.ENOTSUP, errno.ENOLCK),
}

#: How often a lock is tried, and the seconds between: it is held for a few fsyncs, or while one key is generated,
#: so who holds it longer is stalled.
_TRIES, _PAUSE = 500, 0.02


def alone_in(directory: Path, mode: int, flags: int = 0) -> AbstractContextManager[None]:
    """Be the only writer in ``directory``; a crash lets go.

    ``mode``, less the umask, is given to a lock that is not there yet; ``flags`` are further ones to open it with.

    Raises:
        StoreError: whoever holds the lock is stalled.
    """
    return _locked(directory, fcntl.LOCK_EX, os.O_RDWR | os.O_CREAT | flags, mode)


@contextmanager
def held_still(directory: Path) -> Iterator[None]:
    """Keep writers out of ``directory`` while several of its files are read; without a lock there are none.

    Raises:
        StoreError: whoever writes there is stalled.
    """
    with ExitStack() as stack:
        with suppress(FileNotFoundError):
            stack.enter_context(_locked(directory, fcntl.LOCK_SH, os.O_RDONLY))
        yield


@contextmanager
def _locked(directory: Path, kind: int, flags: int, mode: int = 0) -> Iterator[None]:
    # A pipe put here keeps nobody waiting for who writes into it.
    lock = os.open(directory / LOCK, flags | os.O_NONBLOCK, mode)
    try:
        _wait_for(lock, kind, directory)
        yield
    finally:
        os.close(lock)


def _wait_for(lock: int, kind: int, directory: Path) -> None:
    for _ in range(_TRIES):
        try:
            return fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE)
    raise StoreError(
        f"{directory / LOCK} has been held by another process for {_TRIES * _PAUSE:.0f} s: it is stalled. "
        "The next tick tries again; `fuser` on that file names the process."
    )


def read(file: Path, most: int = -1) -> bytes:
    """The first ``most`` bytes of ``file``, or all of them; a link is followed.

    Raises:
        ConfigurationError: it is no regular file.
    """
    # Without O_NONBLOCK a pipe put here would keep us waiting.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigurationError(f"{file} must be a regular file, or a link to one. Mend that path, or the URI.")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read(most)
    finally:
        os.close(descriptor)


def make(directory: Path, mode: int | None = None) -> None:
    """Make ``directory`` and what is missing above it, durably; one that is there is left as it is."""
    if directory.is_dir():
        return
    make(directory.parent, mode)
    # Another worker may have made it meanwhile; then it also sets the mode.
    with suppress(FileExistsError):
        directory.mkdir(0o700 if mode is None else mode)
        # Only where asked: a chmod takes away what is inherited, such as the setgid bit of a Kubernetes volume.
        if mode is not None:
            directory.chmod(mode)
    sync(directory.parent)


@contextmanager
def half_written(file: Path, content: bytes, mode: int | None = None) -> Iterator[Path]:
    """A new file beside ``file`` that holds ``content`` durably, to be linked or renamed; gone afterwards.

    Raises:
        FileExistsError: a crash left one, or another writer is at it.
    """
    half = file.with_name(half_name(file.name))
    try:
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            if mode is not None:
                os.fchmod(descriptor, mode)
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        yield half
    finally:
        with suppress(OSError):
            half.unlink()


def half_name(name: str) -> str:
    """What the file that is to be ``name`` is called while half-written; for ``*`` the pattern of all such names."""
    # One for each name, so that whoever writes next finds what a crash left; hidden, as no document and no key is.
    return f".{name}.tmp"


def sync(directory: Path) -> None:
    """Make durable what was made, linked, renamed and unlinked in ``directory``."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def translated(deed: str, path: Path) -> Iterator[None]:
    """Raise what the operating system refuses inside as ours, with the path and what to do.

    Raises:
        AccessDenied: a path is closed to this user.
        ConfigurationError: the file system is read-only or has no locks or links, or a path cannot be one.
        StoreError: anything else, a full disk among it; the effect may have been applied.
    """
    try:
        yield
    except OSError as exc:
        raise _translation(exc, f"Cannot {deed} {path}", str(exc.filename or path)) from exc


def _translation(exc: OSError, failed: str, where: str) -> RotatorError:
    if exc.errno in {errno.EACCES, errno.EPERM}:
        return AccessDenied(
            f"{failed}: {where} is closed to uid {os.geteuid()}. Let that user at it, and through the directories"
            " above it (chown or chmod)."
        )
    if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreError(f"{failed}: the disk is full. Free some space; the next tick tries again.")
    if exc.errno == errno.EROFS:
        return ConfigurationError(f"{failed}: the file system is read-only. Mount it writable, or mend the URI.")
    if exc.errno in _MISPLACED:
        return ConfigurationError(f"{failed}: {exc.strerror} ({where}). Mend that path, or the URI.")
    return StoreError(f"{failed}: {exc.strerror} ({where}). The next tick tries again.")
