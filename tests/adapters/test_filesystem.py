from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import socket
import stat
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from rotator import files
from rotator.documents import filesystem
from rotator.documents.filesystem import FilesystemDocuments
from rotator.errors import AccessDenied, ConfigurationError, Conflict, StoreError
from rotator.ports import Headers
from tests.contracts.document_store import JWKS, PLAIN, DocumentStoreContract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rotator.ports import DocumentStore

PATH = "acme/jwks.json"

_SYSTEM_CALLS = ("open", "mkdir", "chmod", "fchmod", "fsync", "link", "rename", "replace", "unlink")


def started(act: Callable[[], object]) -> int:
    """The id of a process that does ``act``."""
    with warnings.catch_warnings():
        # Other tests may have left idle threads; the child runs nothing but this.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        except Conflict:
            code = 7
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    """How the process ``child`` ended: 0 well, 7 with a Conflict, 1 with anything else."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dies_before(call: int, act: Callable[[], object]) -> bool:
    """Whether a process that does ``act`` came to its system call number ``call``, and died there."""

    def doomed() -> None:
        left = itertools.count(call - 1, -1)

        def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
            def called(*args: Any, **kwargs: Any) -> Any:
                if next(left) == 0:
                    os._exit(9)
                return real(*args, **kwargs)

            return called

        for name in _SYSTEM_CALLS:
            setattr(os, name, deadly(getattr(os, name)))
        act()

    code = ended(started(doomed))
    assert code in {0, 9}
    return code == 9


def failing(number: int) -> Callable[..., Any]:
    def called(*args: object, **kwargs: object) -> Any:
        raise OSError(number, os.strerror(number))

    return called


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "documents"


@pytest.fixture
def documents(root: Path) -> FilesystemDocuments:
    return FilesystemDocuments(root)


class TestFilesystemDocuments(DocumentStoreContract):
    @pytest.fixture
    def store(self, root: Path) -> DocumentStore:
        return FilesystemDocuments(root)

    @pytest.fixture
    def second(self, root: Path) -> DocumentStore:
        return FilesystemDocuments(root)


class TestPrivateFilesystemDocuments(TestFilesystemDocuments):
    @pytest.fixture
    def store(self, root: Path) -> DocumentStore:
        return FilesystemDocuments(root, private=True)


@pytest.mark.parametrize(("private", "file_mode", "directory_mode"), [(False, 0o644, 0o755), (True, 0o600, 0o700)])
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_do_not_depend_on_the_umask(
    root: Path, *, private: bool, file_mode: int, directory_mode: int, umask: int
) -> None:
    before = os.umask(umask)
    try:
        documents = FilesystemDocuments(root, private=private)
        documents.replace(PATH, b"two", JWKS, documents.create(PATH, b"one", JWKS))
    finally:
        os.umask(before)
    assert {mode(path) for path in (root, root / "acme")} == {directory_mode}
    written = {root / "acme" / name for name in ("jwks.json", ".jwks.json.headers.json")}
    assert {mode(file) for file in written} == {file_mode}
    assert set((root / "acme").iterdir()) == written | {root / "acme/.lock"}


def test_a_web_server_finds_the_very_bytes_where_the_uri_says(documents: FilesystemDocuments, root: Path) -> None:
    documents.create(".well-known/openid-configuration", b"{}", JWKS)
    assert (root / ".well-known/openid-configuration").read_bytes() == b"{}"
    assert documents.locate(".well-known/openid-configuration") == f"file://{root}/.well-known/openid-configuration"


@pytest.mark.parametrize("path", [".lock", "acme/.lock", "acme/.jwks.json.headers.json", "a//b", "a/", "a\0b", "a\\b"])
def test_names_that_could_be_taken_for_ours_are_refused(documents: FilesystemDocuments, path: str) -> None:
    with pytest.raises(ConfigurationError, match="no path of a document"):
        documents.create(path, b"", PLAIN)


@pytest.mark.parametrize(
    "sidecar", [None, b"", b"{", b"[]", b"null", b"{}", b'{"content_type": 1, "cache_control": null}', b"\xff"]
)
def test_a_document_without_readable_headers_is_still_read_and_replaced(
    documents: FilesystemDocuments, root: Path, sidecar: bytes | None
) -> None:
    documents.create("acme/other.json", b"", PLAIN)
    (root / PATH).write_bytes(b"put here by a person")
    if sidecar is not None:
        (root / "acme/.jwks.json.headers.json").write_bytes(sidecar)
    found = documents.read(PATH)
    assert found.date is None
    assert found.document is not None
    assert (found.document.body, found.document.headers) == (b"put here by a person", None)
    documents.replace(PATH, b"ours", JWKS, found.document.version)


def test_a_change_of_headers_alone_makes_an_older_reading_stale(documents: FilesystemDocuments) -> None:
    stale = documents.create(PATH, b"same", JWKS)
    documents.replace(PATH, b"same", PLAIN, stale)
    with pytest.raises(Conflict):
        documents.replace(PATH, b"same", JWKS, stale)


def test_a_replace_makes_no_directory(documents: FilesystemDocuments, root: Path) -> None:
    with pytest.raises(Conflict, match="gone"):
        documents.replace(PATH, b"", PLAIN, "version")
    assert not root.exists()


def test_a_crash_anywhere_in_a_replace_leaves_a_whole_document_and_the_next_writer_goes_on(tmp_path: Path) -> None:
    for call in itertools.count(1):
        root = tmp_path / str(call)
        documents = FilesystemDocuments(root)
        version = documents.create(PATH, b"old", PLAIN)
        died = dies_before(call, lambda: documents.replace(PATH, b"new", JWKS, version))  # noqa: B023 - called at once
        found = documents.read(PATH).document
        assert found is not None
        assert (found.body, found.headers) in [(b"old", PLAIN), (b"old", JWKS), (b"new", JWKS)]
        assert (found.version == version) == (found.headers == PLAIN)
        documents.replace(PATH, b"next", JWKS, found.version)
        assert names(root / "acme") == [".jwks.json.headers.json", ".lock", "jwks.json"]
        if not died:
            break
    assert call > 8


def test_a_crash_anywhere_in_a_create_leaves_the_whole_document_or_none(tmp_path: Path) -> None:
    for call in itertools.count(1):
        documents = FilesystemDocuments(tmp_path / str(call))
        died = dies_before(call, lambda: documents.create(PATH, b"new", JWKS))  # noqa: B023 - called at once
        found = documents.read(PATH).document
        if found is None:
            documents.create(PATH, b"next", JWKS)
        else:
            assert (found.body, found.headers) == (b"new", JWKS)
            documents.replace(PATH, b"next", JWKS, found.version)
        assert len(names(tmp_path / str(call) / "acme")) == 3
        if not died:
            break
    assert call > 10


def test_everything_is_on_disk_before_it_is_renamed_and_the_rename_before_it_is_reported(
    documents: FilesystemDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = documents.create(PATH, b"one", JWKS)
    calls: list[str] = []

    def noted(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            calls.append(real.__name__)
            return real(*args)

        return called

    for real in (os.fsync, os.replace):
        monkeypatch.setattr(os, real.__name__, noted(real))
    documents.replace(PATH, b"two", JWKS, version)
    # The headers are in place before the document goes there, also after a power cut.
    assert calls == ["fsync", "replace", "fsync", "fsync", "replace", "fsync"]


@pytest.mark.parametrize(
    ("number", "error", "advice"),
    [
        (errno.ENOSPC, StoreError, "the disk is full"),
        (errno.EDQUOT, StoreError, "the disk is full"),
        (errno.EIO, StoreError, "next tick"),
        (errno.EACCES, AccessDenied, "chown or chmod"),
        (errno.EROFS, ConfigurationError, "read-only"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_the_system_refuses_leaves_the_old_document_and_says_what_to_do(
    documents: FilesystemDocuments,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    error: type[Exception],
    advice: str,
    call: str,
) -> None:
    version = documents.create(PATH, b"old", JWKS)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(number))
        with pytest.raises(error, match=advice) as raised:
            documents.replace(PATH, b"new", JWKS, version)
    assert type(raised.value) is error
    assert str(root / PATH) in str(raised.value)
    found = documents.read(PATH).document
    assert found is not None
    assert (found.body, found.version) == (b"old", version)
    assert not list(root.rglob("*.tmp"))


def test_a_document_that_may_not_be_read_is_never_reported_missing(
    documents: FilesystemDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = documents.create(PATH, b"old", JWKS)
    monkeypatch.setattr(files, "read", failing(errno.EACCES))
    for attempt in (
        lambda: documents.read(PATH),
        lambda: documents.create(PATH, b"", JWKS),
        lambda: documents.replace(PATH, b"", JWKS, version),
    ):
        with pytest.raises(AccessDenied, match="closed to uid"):
            attempt()


def test_a_directory_in_place_of_the_document_or_a_file_in_place_of_its_directory_is_for_a_person(
    documents: FilesystemDocuments, root: Path
) -> None:
    documents.create("acme/jwks.json/inner", b"", PLAIN)
    for path in (PATH, "acme/jwks.json/inner/deeper"):
        for attempt in (
            documents.read,
            lambda path: documents.create(path, b"", PLAIN),
            lambda path: documents.replace(path, b"", PLAIN, "version"),
        ):
            with pytest.raises(ConfigurationError, match="Mend that path"):
                attempt(path)


@pytest.mark.parametrize("name", ["jwks.json", ".jwks.json.headers.json"])
def test_a_pipe_in_place_of_a_document_or_of_its_headers_keeps_nobody_waiting(
    documents: FilesystemDocuments, root: Path, name: str
) -> None:
    version = documents.create(PATH, b"old", JWKS)
    (root / "acme" / name).unlink()
    os.mkfifo(root / "acme" / name)
    for attempt in (
        lambda: documents.read(PATH),
        lambda: documents.create(PATH, b"new", JWKS),
        lambda: documents.replace(PATH, b"new", JWKS, version),
    ):
        with pytest.raises(ConfigurationError, match=f"{re.escape(name)} must be a regular file"):
            attempt()


def test_a_pipe_in_place_of_the_lock_keeps_nobody_waiting(documents: FilesystemDocuments, root: Path) -> None:
    documents.create(PATH, b"old", JWKS)
    (root / "acme/.lock").unlink()
    os.mkfifo(root / "acme/.lock")
    assert documents.read(PATH).document


def test_a_socket_in_place_of_a_document_is_for_a_person(
    documents: FilesystemDocuments, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "acme").mkdir(parents=True)
    monkeypatch.chdir(root / "acme")  # a whole path may be too long for a socket
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind("jwks.json")
        with pytest.raises(ConfigurationError, match="Mend that path"):
            documents.read(PATH)


def test_a_link_to_a_document_is_followed(documents: FilesystemDocuments, root: Path) -> None:
    documents.create("elsewhere/jwks.json", b"linked", JWKS)
    (root / "acme").mkdir()
    (root / PATH).symlink_to(root / "elsewhere/jwks.json")
    found = documents.read(PATH).document
    assert found
    assert found.body == b"linked"


def test_a_stalled_writer_is_waited_for_only_so_long(
    documents: FilesystemDocuments, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = documents.create(PATH, b"old", JWKS)
    monkeypatch.setattr(files, "_TRIES", 3)
    with (root / "acme/.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for attempt in (lambda: documents.read(PATH), lambda: documents.replace(PATH, b"new", JWKS, version)):
            with pytest.raises(StoreError, match="stalled"):
                attempt()
    documents.replace(PATH, b"new", JWKS, version)


def test_of_processes_that_race_exactly_one_wins(documents: FilesystemDocuments) -> None:
    version = documents.create(PATH, b"old", JWKS)

    def by(number: int) -> Callable[[], object]:
        return lambda: documents.replace(PATH, b"by %d" % number, JWKS, version)

    codes = [ended(child) for child in [started(by(number)) for number in range(6)]]
    assert sorted(codes) == [0, 7, 7, 7, 7, 7]
    found = documents.read(PATH).document
    assert found is not None
    assert found.body == b"by %d" % codes.index(0)


def test_a_reader_never_sees_one_documents_body_with_another_ones_headers(documents: FilesystemDocuments) -> None:
    looks = [(b"a" * 50_000, JWKS), (b"b" * 10, PLAIN), (b"", Headers("text/plain", "no-store"))]
    version = documents.create(PATH, *looks[0])
    done = threading.Event()
    seen = []

    def watch() -> None:
        while not done.is_set():
            found = documents.read(PATH).document
            seen.append(found and (found.body, found.headers))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(1, 60):
        version = documents.replace(PATH, *looks[number % 3], version)
    done.set()
    watcher.join()
    assert seen
    assert all(look in looks for look in seen)


def test_the_probe_refuses_a_file_system_whose_locks_do_not_hold_and_leaves_nothing(
    documents: FilesystemDocuments, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(ConfigurationError, match="a second lock was let through"):
        documents.probe(PATH)
    assert names(root / "acme") == [".lock"]


def test_the_probe_refuses_a_file_system_that_does_not_show_what_was_written(
    documents: FilesystemDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "_load", lambda _: None)
    with pytest.raises(ConfigurationError, match="a second create was let through"):
        documents.probe(PATH)
