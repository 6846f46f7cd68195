"""The promises of ``ports.AdoptingKeyStore`` as a suite; an adapter's tests subclass it and give it a ``store``."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import pytest

from rotator.errors import ConfigurationError, Refused, RotatorError
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS
from rotator.ports import KeyRef, Takeover
from tests.contracts.document_store import race
from tests.contracts.key_store import MESSAGE, intend, ref_to

if TYPE_CHECKING:
    from rotator.keys.algorithms import Algorithm
    from rotator.ports import AdoptingKeyStore, StoredKey

#: No thumbprint, and no name that a file or an alias could have.
KID = "Signing key/2019 №1"


def order(keyset: str, algorithm: Algorithm) -> Takeover:
    """An order for a private half that somebody brings along."""
    private = material.generate(algorithm, 2048)
    id_ = jwks.adopted_id(material.spki(private), algorithm)
    return Takeover(keyset, str(uuid.uuid4()), id_, algorithm, KID, private)


def ref(takeover: Takeover, key: StoredKey) -> KeyRef:
    """The reference that the ledger would hold for it."""
    return KeyRef(takeover.keyset, takeover.algorithm, takeover.id, takeover.kid, key.handle)


class AdoptionContract:
    """Every test uses a key set of its own, so that all of them may share one account or directory."""

    algorithms: ClassVar[tuple[str, ...]] = ("ES256", "EdDSA", "RS256")
    disables: ClassVar[bool] = True
    racers: ClassVar[int] = 4

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "alg" in metafunc.fixturenames:
            metafunc.parametrize("alg", self.algorithms)

    @pytest.fixture
    def store(self) -> AdoptingKeyStore:
        raise NotImplementedError("an adapter's tests say how it is built")

    @pytest.fixture
    def second(self, store: AdoptingKeyStore) -> AdoptingKeyStore:
        """Another worker's adapter for the same home."""
        return store

    def order(self, keyset: str, algorithm: Algorithm) -> Takeover:
        """An order that this store can take; override it where a private half stays where it is."""
        return order(keyset, algorithm)

    def unfit(self, keyset: str, algorithm: Algorithm) -> Takeover:
        """An order that this store cannot take."""
        return replace(order(keyset, algorithm), private=None, handle="elsewhere")

    @pytest.fixture
    def keyset(self) -> str:
        return f"adopted-{uuid.uuid4().hex[:16]}"

    @pytest.fixture
    def algorithm(self, alg: str) -> Algorithm:
        return ALGORITHMS[alg]

    @pytest.fixture
    def first(self) -> Algorithm:
        return ALGORITHMS[self.algorithms[0]]

    def test_an_adopted_key_signs_under_the_kid_it_had(
        self, store: AdoptingKeyStore, second: AdoptingKeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        taken = self.order(keyset, algorithm)
        key = store.adopt(taken)
        public = jwks.public_jwk(key.spki, algorithm)
        assert material.verify(public, algorithm, MESSAGE, second.sign(ref(taken, key), MESSAGE))

    def test_it_is_not_current_until_the_pointer_is_moved_and_then_it_is(
        self, store: AdoptingKeyStore, second: AdoptingKeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        taken = self.order(keyset, algorithm)
        key = store.adopt(taken)
        before = store.read_pointer(keyset, algorithm)
        assert before.id is None
        store.move_pointer(before, ref(taken, key))
        assert second.read_pointer(keyset, algorithm).id == taken.id
        assert second.adopt(taken) == key, "also when it signs already"
        assert second.read_pointer(keyset, algorithm).id == taken.id

    def test_to_adopt_it_again_makes_no_second_one(
        self, store: AdoptingKeyStore, second: AdoptingKeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        taken = self.order(keyset, algorithm)
        key = store.adopt(taken)
        assert second.adopt(replace(taken, ledger_id=str(uuid.uuid4()))) == key
        assert store.adopt(taken) == key

    def test_of_several_that_adopt_at_once_all_get_the_same_key(
        self, store: AdoptingKeyStore, keyset: str, first: Algorithm
    ) -> None:
        taken = self.order(keyset, first)
        store.adopt(self.order(keyset, first))
        assert race(self.racers, lambda _: store.adopt(taken)) == [store.adopt(taken)] * self.racers

    def test_the_store_then_holds_something_and_none_of_it_is_a_stray(
        self, store: AdoptingKeyStore, keyset: str, first: Algorithm
    ) -> None:
        store.check(keyset, [first])
        assert store.holds(keyset, [first]) is None
        store.adopt(self.order(keyset, first))
        assert store.holds(keyset, [first])
        assert list(store.strays(keyset)) == []
        store.check(keyset, [first])

    def test_its_life_ends_like_that_of_any_key(
        self, store: AdoptingKeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        taken = self.order(keyset, algorithm)
        old = ref(taken, store.adopt(taken))
        pointer = store.move_pointer(store.read_pointer(keyset, algorithm), old)
        intent = intend(keyset, algorithm)
        made = store.create(intent)
        store.move_pointer(store.fence(keyset, algorithm, pointer), ref_to(intent, made))
        store.disable(old)
        store.destroy(old)
        store.destroy(old)
        if self.disables:
            with pytest.raises(RotatorError):
                store.sign(old, MESSAGE)
        public = jwks.public_jwk(made.spki, algorithm)
        assert material.verify(public, algorithm, MESSAGE, store.sign(ref_to(intent, made), MESSAGE))

    def test_what_it_cannot_take_is_refused_and_nothing_is_made(
        self, store: AdoptingKeyStore, keyset: str, first: Algorithm
    ) -> None:
        with pytest.raises(ConfigurationError, match="Signing key"):
            store.adopt(self.unfit(keyset, first))
        with pytest.raises(ConfigurationError, match="no-such-key"):
            store.known("no-such-key", keyset)
        assert store.holds(keyset, [first]) is None

    def test_another_key_in_its_place_is_never_taken_for_it(
        self, store: AdoptingKeyStore, keyset: str, first: Algorithm
    ) -> None:
        taken = self.order(keyset, first)
        store.adopt(taken)
        with pytest.raises(Refused):
            store.adopt(replace(self.order(keyset, first), id=taken.id))

    def test_issuers_put_the_kid_into_tokens_under_which_it_was_adopted(
        self, store: AdoptingKeyStore, keyset: str, first: Algorithm
    ) -> None:
        taken = self.order(keyset, first)
        assert store.adopt(taken).kid in {None, taken.kid}
        # The public document was changed after an adoption that broke off.
        renamed = replace(taken, kid="another name")
        try:
            key = store.adopt(renamed)
        except Refused:
            return
        assert key.kid in {None, renamed.kid}

    def test_people_are_told_where_the_pointer_is(
        self, store: AdoptingKeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        said = store.locate_pointer(keyset, algorithm)
        assert keyset in said
        assert algorithm.alg in said

    def test_an_order_does_not_show_its_private_half(self, keyset: str, first: Algorithm) -> None:
        assert "rivate" not in repr(self.order(keyset, first))
