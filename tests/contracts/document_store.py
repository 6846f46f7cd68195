"""The promises of ``ports.DocumentStore`` as a suite; an adapter's tests subclass it and give it a ``store``."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import TYPE_CHECKING, ClassVar, TypeVar

import pytest

from rotator.errors import ConfigurationError, Conflict
from rotator.ports import LARGEST, Document, Headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from rotator.ports import DocumentStore

T = TypeVar("T")

JWKS = Headers("application/jwk-set+json", "public, max-age=300, stale-while-revalidate=3600")
PLAIN = Headers("application/json", None)


def race(callers: int, call: Callable[[int], T]) -> list[T | Conflict]:
    """What ``call(0) … call(callers - 1)``, begun together, returned or lost to; anything else is raised."""
    together = Barrier(callers)

    def begin(number: int) -> T | Conflict:
        together.wait(30)
        try:
            return call(number)
        except Conflict as lost:
            return lost

    with ThreadPoolExecutor(callers) as threads:
        return list(threads.map(begin, range(callers)))


class DocumentStoreContract:
    """Every test uses paths of its own, so that all of them may share one bucket or directory."""

    #: How many writers race; 1 where the thing behind the adapter is an emulator that cannot keep two apart.
    racers: ClassVar[int] = 8

    @pytest.fixture
    def store(self) -> DocumentStore:
        raise NotImplementedError("an adapter's tests say how it is built")

    @pytest.fixture
    def second(self, store: DocumentStore) -> DocumentStore:
        """Another worker's adapter for the same home; override it where the adapter keeps anything in memory."""
        return store

    @pytest.fixture
    def path(self) -> str:
        return f"contract/{uuid.uuid4()}/jwks.json"

    @staticmethod
    def document(store: DocumentStore, path: str) -> Document:
        found = store.read(path).document
        assert found is not None
        return found

    def test_a_missing_document_reads_as_missing(self, store: DocumentStore, path: str) -> None:
        assert store.read(path).document is None

    def test_what_was_created_is_read_with_its_bytes_headers_and_version(
        self, store: DocumentStore, second: DocumentStore, path: str
    ) -> None:
        body = b'{"keys": []}\r\n\x00\xff'
        version = store.create(path, body, JWKS)
        assert self.document(second, path) == Document(body, version, JWKS)

    def test_a_document_may_be_empty_and_have_no_cache_control(self, store: DocumentStore, path: str) -> None:
        store.create(path, b"", PLAIN)
        found = self.document(store, path)
        assert (found.body, found.headers) == (b"", PLAIN)

    def test_of_a_document_larger_than_any_of_ours_no_more_is_read_and_it_can_be_replaced(
        self, store: DocumentStore, path: str
    ) -> None:
        for extra, read in ((0, LARGEST), (1, LARGEST + 1), (100_000, LARGEST + 1)):
            version = store.create(f"{path}{extra}", b"x" * (LARGEST + extra), JWKS)
            found = self.document(store, f"{path}{extra}")
            assert len(found.body) == read
            assert store.replace(f"{path}{extra}", b"small", JWKS, found.version) != version
            assert self.document(store, f"{path}{extra}").body == b"small"

    def test_a_second_create_conflicts_and_changes_nothing(self, store: DocumentStore, path: str) -> None:
        store.create(path, b"first", JWKS)
        before = self.document(store, path)
        with pytest.raises(Conflict):
            store.create(path, b"second", PLAIN)
        with pytest.raises(Conflict):
            store.create(path, b"first", JWKS)
        assert self.document(store, path) == before

    def test_a_replaced_document_is_read_by_everybody_at_once(
        self, store: DocumentStore, second: DocumentStore, path: str
    ) -> None:
        old = store.create(path, b"revision 1", JWKS)
        new = store.replace(path, b"revision 2", PLAIN, old)
        assert new != old
        assert self.document(second, path) == Document(b"revision 2", new, PLAIN)

    def test_a_read_version_is_good_for_a_replace(self, store: DocumentStore, path: str) -> None:
        store.create(path, b"revision 1", JWKS)
        for revision in range(2, 5):
            store.replace(path, b"revision %d" % revision, JWKS, self.document(store, path).version)
        assert self.document(store, path).body == b"revision 4"

    def test_a_replace_with_a_stale_version_conflicts_and_changes_nothing(
        self, store: DocumentStore, path: str
    ) -> None:
        stale = store.create(path, b"revision 1", JWKS)
        store.replace(path, b"revision 2", JWKS, stale)
        before = self.document(store, path)
        with pytest.raises(Conflict):
            store.replace(path, b"revision 3", PLAIN, stale)
        assert self.document(store, path) == before

    def test_a_replace_of_a_missing_document_conflicts_and_creates_nothing(
        self, store: DocumentStore, path: str
    ) -> None:
        elsewhere = store.create(path + ".other", b"body", JWKS)
        with pytest.raises(Conflict):
            store.replace(path, b"body", JWKS, elsewhere)
        assert store.read(path).document is None

    def test_headers_alone_can_be_changed(self, store: DocumentStore, path: str) -> None:
        old = store.create(path, b"same bytes", JWKS)
        longer = Headers(JWKS.content_type, "public, max-age=600")
        version = store.replace(path, b"same bytes", longer, old)
        assert self.document(store, path) == Document(b"same bytes", version, longer)

    def test_documents_side_by_side_do_not_disturb_one_another(self, store: DocumentStore, path: str) -> None:
        beside, below = path + ".view", path + ".d/deep/jwks.json"
        version = store.create(path, b"one", JWKS)
        store.create(beside, b"two", PLAIN)
        store.create(below, b"three", PLAIN)
        store.replace(path, b"four", JWKS, version)
        assert [self.document(store, each).body for each in (path, beside, below)] == [b"four", b"two", b"three"]

    def test_of_many_racing_creates_exactly_one_wins(self, store: DocumentStore, path: str) -> None:
        outcomes = race(self.racers, lambda number: store.create(path, b"by %d" % number, JWKS))
        winners = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, str)]
        assert len(winners) == 1
        found = self.document(store, path)
        assert (found.body, found.version) == (b"by %d" % winners[0], outcomes[winners[0]])

    def test_of_many_racing_replaces_exactly_one_wins(self, store: DocumentStore, path: str) -> None:
        version = store.create(path, b"before", JWKS)
        outcomes = race(self.racers, lambda number: store.replace(path, b"by %d" % number, JWKS, version))
        winners = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, str)]
        assert len(winners) == 1
        found = self.document(store, path)
        assert (found.body, found.version) == (b"by %d" % winners[0], outcomes[winners[0]])

    def test_the_probe_passes_again_and_again_and_leaves_the_document_alone(
        self, store: DocumentStore, path: str
    ) -> None:
        store.probe(path)
        assert store.read(path).document is None
        store.create(path, b"body", JWKS)
        before = self.document(store, path)
        store.probe(path)
        store.probe(path)
        assert self.document(store, path) == before

    @pytest.mark.parametrize("bad", ["../jwks.json", "a/../../jwks.json", "a/..", "/etc/jwks.json", ""])
    def test_a_path_that_leads_out_of_the_store_is_refused(self, store: DocumentStore, bad: str) -> None:
        for attempt in (
            lambda: store.read(bad),
            lambda: store.create(bad, b"body", JWKS),
            lambda: store.replace(bad, b"body", JWKS, "version"),
            lambda: store.probe(bad),
        ):
            with pytest.raises(ConfigurationError):
                attempt()

    def test_the_date_of_a_reading_is_in_utc(self, store: DocumentStore, path: str) -> None:
        store.create(path, b"body", JWKS)
        for reading in (store.read(path), store.read(path + ".missing")):
            assert reading.date is None or reading.date.utcoffset() == timedelta(0)

    def test_a_person_can_be_told_where_the_document_is(self, store: DocumentStore, path: str) -> None:
        scheme, _, rest = store.locate(path).partition("://")
        assert scheme
        assert path in rest
