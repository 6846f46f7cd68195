"""The promises of ``ports.Versioned`` and ``ports.Searchable``; an adapter's tests subclass them beside the others."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from rotator.errors import Refused
from rotator.keys import jwks
from rotator.keys.algorithms import ALGORITHMS
from rotator.ports import Searchable, Versioned
from tests.contracts.document_store import PLAIN
from tests.contracts.key_store import intend, ref_to

if TYPE_CHECKING:
    from rotator.keys.algorithms import Algorithm
    from rotator.ports import KeyRef, KeyStore, Pointer


class VersionedContract:
    """Promises of a document store that remembers; ``store`` is on a home that keeps versions."""

    @pytest.fixture
    def store(self) -> Any:
        raise NotImplementedError("an adapter's tests say how it is built")

    @pytest.fixture
    def path(self) -> str:
        return f"contract/{uuid.uuid4()}/ledger.json"

    def test_every_version_is_told_of_newest_first_and_can_be_read(self, store: Any, path: str) -> None:
        version = store.create(path, b"1", PLAIN)
        version = store.replace(path, b"2", PLAIN, version)
        store.replace(path, b"3", PLAIN, version)
        store.create(f"{path}.probe-1", b"another", PLAIN)
        past = list(store.versions(path))
        assert [store.read_version(path, each.id) for each in past] == [b"3", b"2", b"1"]
        assert all(abs(each.at - datetime.now(UTC)) < timedelta(minutes=5) for each in past)
        assert all(each.at.utcoffset() == timedelta(0) for each in past)

    def test_it_is_asked_for_by_its_kind(self, store: Any) -> None:
        assert isinstance(store, Versioned)

    def test_of_what_never_was_there_are_no_versions(self, store: Any, path: str) -> None:
        assert list(store.versions(path)) == []

    def test_an_unknown_version_is_refused(self, store: Any, path: str) -> None:
        store.create(path, b"1", PLAIN)
        for odd in (str(uuid.uuid4()), "no version", "0"):
            with pytest.raises(Refused, match="has no version"):
                store.read_version(path, odd)


class SearchableContract:
    """Promises of a key store that can be looked through."""

    algorithms: ClassVar[tuple[str, ...]] = ("ES256", "EdDSA", "RS256")

    #: Whether the public half of a disabled key can still be read.
    tells_of_disabled: ClassVar[bool] = True

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "alg" in metafunc.fixturenames:
            metafunc.parametrize("alg", self.algorithms)

    @pytest.fixture
    def store(self) -> Any:
        raise NotImplementedError("an adapter's tests say how it is built")

    @pytest.fixture
    def keyset(self) -> str:
        return f"contract-{uuid.uuid4().hex[:16]}"

    @pytest.fixture
    def algorithm(self, alg: str) -> Algorithm:
        return ALGORITHMS[alg]

    @pytest.fixture
    def first(self) -> Algorithm:
        return ALGORITHMS[self.algorithms[0]]

    @staticmethod
    def make(store: KeyStore, keyset: str, algorithm: Algorithm) -> KeyRef:
        order = intend(keyset, algorithm)
        return ref_to(order, store.create(order))

    def make_current(self, store: KeyStore, keyset: str, algorithm: Algorithm) -> tuple[KeyRef, Pointer]:
        ref = self.make(store, keyset, algorithm)
        return ref, store.move_pointer(store.read_pointer(keyset, algorithm), ref)

    def test_every_key_is_found_with_its_public_half(self, store: Any, keyset: str, algorithm: Algorithm) -> None:
        orders = [intend(keyset, algorithm), intend(keyset, algorithm)]
        made = {order.id: store.create(order) for order in orders}
        held = {each.id: each for each in store.held(keyset)}
        assert {id_: (each.handle, each.alg) for id_, each in held.items()} == {
            id_: (key.handle, algorithm.alg) for id_, key in made.items()
        }
        for id_, each in held.items():
            spki, made_at = store.public_half(keyset, each)
            assert spki == made[id_].spki
            assert made_at is None or abs(made_at - datetime.now(UTC)) < timedelta(minutes=5)
            assert each.ledger_id in {None, orders[0].ledger_id}
        assert list(store.held(f"{keyset}-b")) == []

    def test_it_is_asked_for_by_its_kind(self, store: Any) -> None:
        assert isinstance(store, Searchable)

    def test_what_is_found_names_the_key_for_every_other_call(
        self, store: Any, keyset: str, algorithm: Algorithm
    ) -> None:
        current, _ = self.make_current(store, keyset, algorithm)
        (held,) = store.held(keyset)
        assert (held.id, held.handle) == (current.id, current.handle)
        assert store.read_pointer(keyset, algorithm).id == held.id

    def test_the_kid_that_tokens_carry_is_told(self, store: Any, keyset: str, algorithm: Algorithm) -> None:
        assert store.kid_in_tokens(keyset, algorithm) is None
        old, pointer = self.make_current(store, keyset, algorithm)
        assert store.kid_in_tokens(keyset, algorithm) == old.kid
        waiting = self.make(store, keyset, algorithm)
        assert store.kid_in_tokens(keyset, algorithm) == old.kid
        pointer = store.move_pointer(store.fence(keyset, algorithm, pointer), waiting)
        assert store.kid_in_tokens(keyset, algorithm) == waiting.kid
        store.clear_pointer(keyset, algorithm, pointer)
        assert store.kid_in_tokens(keyset, algorithm) is None

    def test_a_key_that_the_pointer_named_is_never_called_unsigned(
        self, store: Any, keyset: str, first: Algorithm
    ) -> None:
        current, pointer = self.make_current(store, keyset, first)
        waiting = self.make(store, keyset, first)
        assert not any(held.unsigned for held in store.held(keyset))
        store.clear_pointer(keyset, first, pointer)
        assert not any(held.unsigned for held in store.held(keyset))
        store.disable(current)
        assert {held.id for held in store.held(keyset) if held.unsigned} <= {waiting.id}

    def test_a_disabled_key_is_found_and_a_destroyed_one_is_not(
        self, store: Any, keyset: str, first: Algorithm
    ) -> None:
        ref = self.make(store, keyset, first)
        store.disable(ref)
        (held,) = store.held(keyset)
        spki, _ = store.public_half(keyset, held)
        if self.tells_of_disabled:
            assert spki is not None
            assert jwks.kid_of(spki, ALGORITHMS[ref.algorithm.alg], "thumbprint") == ref.kid
        store.destroy(ref)
        assert list(store.held(keyset)) == []
