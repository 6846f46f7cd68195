"""The promises of ``ports.KeyStore`` as a suite; an adapter's tests subclass it and give it a ``store``."""

from __future__ import annotations

import re
import traceback
import uuid
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

import pytest

from rotator.errors import Conflict, RotatorError
from rotator.keys import jwks, material
from rotator.keys.algorithms import ALGORITHMS
from rotator.ports import Intent, KeyRef, Pointer, StoredKey
from tests.contracts.document_store import race

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rotator.keys.algorithms import Algorithm
    from rotator.ports import KeyStore

MESSAGE = b"eyJhbGciOiJub25lIn0.eyJpc3MiOiJwcm9vZiJ9"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PRIVATE = re.compile(r"PRIVATE KEY|['\"](d|p|q|dp|dq|qi|oth|k|priv)\\*['\"]\s*:")


def intend(keyset: str, algorithm: Algorithm) -> Intent:
    """An order for a key that nobody ordered before."""
    return Intent(
        keyset=keyset,
        ledger_id="0a5c3c2e-6f0f-4a53-9d0c-6f3f4f5a1b2c",
        id=str(uuid.uuid4()),
        algorithm=algorithm,
        rsa_bits=2048,
        kid_format="thumbprint",
        attempt=str(uuid.uuid4()),
    )


def again(intent: Intent) -> Intent:
    """The same order in another recorded attempt, as a second worker would make it."""
    return replace(intent, attempt=str(uuid.uuid4()))


def ref_to(intent: Intent, key: StoredKey) -> KeyRef:
    """The reference that the ledger would hold for ``key``."""
    kid = jwks.kid_of(key.spki, intent.algorithm, intent.kid_format)
    return KeyRef(intent.keyset, intent.algorithm, intent.id, kid, key.handle)


class KeyStoreContract:
    """Every test uses a key set of its own, so that all of them may share one account or directory."""

    #: The algorithms that the adapter is proven with.
    algorithms: ClassVar[tuple[str, ...]] = ("ES256", "EdDSA", "RS256")
    #: Whether the store can stop a private half from signing.
    disables: ClassVar[bool] = True
    #: Whether a token never comes back: ``False`` where it is a version id that the pointer may return to.
    tokens_are_new: ClassVar[bool] = True
    #: How many workers race; 1 where the thing behind the adapter is an emulator that cannot keep two apart.
    racers: ClassVar[int] = 4

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "alg" in metafunc.fixturenames:
            metafunc.parametrize("alg", self.algorithms)

    @pytest.fixture
    def store(self) -> KeyStore:
        raise NotImplementedError("an adapter's tests say how it is built")

    @pytest.fixture
    def second(self, store: KeyStore) -> KeyStore:
        """Another worker's adapter for the same home; override it where the adapter keeps anything in memory."""
        return store

    def private_texts(self, store: KeyStore, ref: KeyRef) -> Sequence[str]:
        """Pieces of the private half of ``ref``, as far as a test can get at them: no message may hold one."""
        return ()

    def ghost(self, ref: KeyRef) -> KeyRef:
        """A reference like ``ref`` to a key that never existed."""
        never = str(uuid.uuid4())
        handle, ids = _UUID.subn(never, ref.handle)
        assert ids, "handles of this store hold no UUID: override ghost()"
        return replace(ref, id=never, kid="never", handle=handle)

    @pytest.fixture
    def keyset(self) -> str:
        return f"contract-{uuid.uuid4().hex[:16]}"

    @pytest.fixture
    def algorithm(self, alg: str) -> Algorithm:
        return ALGORITHMS[alg]

    @pytest.fixture
    def first(self) -> Algorithm:
        """One algorithm, for promises that do not depend on which."""
        return ALGORITHMS[self.algorithms[0]]

    @staticmethod
    def make(store: KeyStore, keyset: str, algorithm: Algorithm) -> KeyRef:
        intent = intend(keyset, algorithm)
        return ref_to(intent, store.create(intent))

    def make_current(self, store: KeyStore, keyset: str, algorithm: Algorithm) -> tuple[KeyRef, Pointer]:
        ref = self.make(store, keyset, algorithm)
        return ref, store.move_pointer(store.read_pointer(keyset, algorithm), ref)

    # A fresh key set

    def test_the_pointer_of_a_fresh_key_set_names_no_key(
        self, store: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        assert store.read_pointer(keyset, algorithm).id is None

    def test_a_fresh_key_set_passes_the_check_and_holds_nothing_even_after_it(
        self, store: KeyStore, keyset: str
    ) -> None:
        algorithms = [ALGORITHMS[alg] for alg in self.algorithms]
        store.check(keyset, algorithms)
        assert store.holds(keyset, algorithms) is None

    # Creating

    def test_a_key_set_with_one_key_passes_the_check_and_names_what_it_holds(
        self, store: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        self.make(store, keyset, algorithm)
        algorithms = [ALGORITHMS[alg] for alg in self.algorithms]
        store.check(keyset, algorithms)
        assert store.holds(keyset, algorithms)
        assert store.holds(f"{keyset}-b", algorithms) is None

    def test_one_intent_makes_one_key_however_often_it_is_asked_for(
        self, store: KeyStore, second: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        intent = intend(keyset, algorithm)
        key = store.create(intent)
        assert second.create(again(intent)) == key
        assert store.create(again(intent)) == key

    def test_workers_that_race_for_one_intent_get_the_same_key(
        self, store: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        intent = intend(keyset, algorithm)
        raced = race(self.racers, lambda _: store.create(again(intent)))
        key = store.create(again(intent))
        assert raced == [key] * self.racers
        if store.traits.leaves_strays:
            assert [(stray.handle, stray.id) for stray in store.strays(keyset)] == [(key.handle, intent.id)]

    def test_a_kid_that_is_kept_beside_a_key_is_that_of_its_first_making(
        self, store: KeyStore, second: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        intent = intend(keyset, algorithm)
        key = store.create(intent)
        assert key.kid in {None, ref_to(intent, key).kid}
        # The worker that made it died; the next has another policy.kid.
        assert second.create(replace(again(intent), kid_format="spki-sha256")) == key
        assert material.verify(
            jwks.public_jwk(key.spki, algorithm), algorithm, MESSAGE, second.sign(ref_to(intent, key), MESSAGE)
        )

    def test_two_intents_make_two_keys(self, store: KeyStore, keyset: str, first: Algorithm) -> None:
        one, other = self.make(store, keyset, first), self.make(store, keyset, first)
        assert one.handle != other.handle
        assert one.kid != other.kid

    def test_a_created_key_is_not_yet_what_issuers_follow(
        self, store: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        self.make(store, keyset, algorithm)
        assert store.read_pointer(keyset, algorithm).id is None
        current, pointer = self.make_current(store, keyset, algorithm)
        self.make(store, keyset, algorithm)
        assert store.read_pointer(keyset, algorithm).id == current.id == pointer.id

    # Signing

    def test_a_signature_verifies_under_the_public_key_before_and_after_the_key_is_current(
        self, store: KeyStore, second: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        intent = intend(keyset, algorithm)
        key = store.create(intent)
        ref, public = ref_to(intent, key), jwks.public_jwk(key.spki, algorithm)
        assert material.verify(public, algorithm, MESSAGE, second.sign(ref, MESSAGE))
        store.move_pointer(store.read_pointer(keyset, algorithm), ref)
        signature = second.sign(ref, MESSAGE)
        assert material.verify(public, algorithm, MESSAGE, signature)
        assert not material.verify(public, algorithm, MESSAGE + b"!", signature)

    def test_two_keys_sign_each_with_its_own_private_half(
        self, store: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        intents = [intend(keyset, algorithm), intend(keyset, algorithm)]
        keys = [store.create(intent) for intent in intents]
        for intent, key, stranger in zip(intents, keys, reversed(keys), strict=True):
            signature = store.sign(ref_to(intent, key), MESSAGE)
            assert material.verify(jwks.public_jwk(key.spki, algorithm), algorithm, MESSAGE, signature)
            assert not material.verify(jwks.public_jwk(stranger.spki, algorithm), algorithm, MESSAGE, signature)

    # The pointer

    def test_the_pointer_names_the_key_it_was_moved_to(
        self, store: KeyStore, second: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        for _ in range(2):
            before = store.read_pointer(keyset, algorithm)
            ref = self.make(store, keyset, algorithm)
            moved = store.move_pointer(before, ref)
            assert moved.id == ref.id
            assert moved.token != before.token
            assert self.same(second.read_pointer(keyset, algorithm), moved)

    def test_reading_the_pointer_does_not_change_it(self, store: KeyStore, keyset: str, first: Algorithm) -> None:
        _, pointer = self.make_current(store, keyset, first)
        assert self.same(store.read_pointer(keyset, first), pointer)
        assert self.same(store.read_pointer(keyset, first), pointer)

    def test_what_a_move_returns_is_good_for_the_next_move(
        self, store: KeyStore, keyset: str, first: Algorithm
    ) -> None:
        _, pointer = self.make_current(store, keyset, first)
        ref = self.make(store, keyset, first)
        assert store.move_pointer(pointer, ref).id == ref.id

    def test_each_algorithm_has_a_pointer_of_its_own(self, store: KeyStore, keyset: str) -> None:
        rows = [ALGORITHMS[alg] for alg in self.algorithms]
        refs = [self.make_current(store, keyset, row)[0] for row in rows]
        assert [store.read_pointer(keyset, row).id for row in rows] == [ref.id for ref in refs]

    def test_a_move_that_began_before_another_move_conflicts_and_changes_nothing(
        self, store: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        _, stale = self.make_current(store, keyset, algorithm)
        winner, loser = self.make(store, keyset, algorithm), self.make(store, keyset, algorithm)
        moved = store.move_pointer(stale, winner)
        with pytest.raises(Conflict):
            store.move_pointer(stale, loser)
        assert self.same(store.read_pointer(keyset, algorithm), moved)

    def test_a_first_move_that_began_before_another_conflicts(
        self, store: KeyStore, keyset: str, first: Algorithm
    ) -> None:
        winner, loser = self.make(store, keyset, first), self.make(store, keyset, first)
        keyless = store.read_pointer(keyset, first)
        store.move_pointer(keyless, winner)
        with pytest.raises(Conflict):
            store.move_pointer(keyless, loser)
        assert store.read_pointer(keyset, first).id == winner.id

    def test_a_move_that_began_before_a_fence_conflicts_and_changes_nothing(
        self, store: KeyStore, second: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        current, stale = self.make_current(store, keyset, algorithm)
        stalled = self.make(store, keyset, algorithm)
        fenced = second.fence(keyset, algorithm, stale)
        with pytest.raises(Conflict):
            store.move_pointer(stale, stalled)
        assert fenced.id == current.id
        assert self.same(store.read_pointer(keyset, algorithm), fenced)

    def test_a_fence_keeps_the_key_and_changes_the_token_and_the_key_still_signs(
        self, store: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        intent = intend(keyset, algorithm)
        key = store.create(intent)
        ref = ref_to(intent, key)
        before = store.move_pointer(store.read_pointer(keyset, algorithm), ref)
        once = store.fence(keyset, algorithm, before)
        twice = store.fence(keyset, algorithm, once)
        assert {once.id, twice.id} == {ref.id}
        assert len({before.token, once.token, twice.token}) == 3
        public = jwks.public_jwk(key.spki, algorithm)
        assert material.verify(public, algorithm, MESSAGE, store.sign(ref, MESSAGE))

    def test_after_a_fence_the_pointer_moves_on(self, store: KeyStore, keyset: str, algorithm: Algorithm) -> None:
        _, pointer = self.make_current(store, keyset, algorithm)
        ref = self.make(store, keyset, algorithm)
        moved = store.move_pointer(store.fence(keyset, algorithm, pointer), ref)
        assert self.same(store.read_pointer(keyset, algorithm), moved)
        assert moved.id == ref.id

    def test_a_fence_that_began_before_a_move_or_a_fence_conflicts(
        self, store: KeyStore, keyset: str, first: Algorithm
    ) -> None:
        _, stale = self.make_current(store, keyset, first)
        fenced = store.fence(keyset, first, stale)
        with pytest.raises(Conflict):
            store.fence(keyset, first, stale)
        moved = store.move_pointer(fenced, self.make(store, keyset, first))
        with pytest.raises(Conflict):
            store.fence(keyset, first, fenced)
        assert self.same(store.read_pointer(keyset, first), moved)

    def test_a_cleared_pointer_names_no_key_and_can_be_moved_again(
        self, store: KeyStore, second: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        _, pointer = self.make_current(store, keyset, algorithm)
        cleared = store.clear_pointer(keyset, algorithm, pointer)
        assert cleared.id is None
        assert cleared.token != pointer.token
        assert self.same(second.read_pointer(keyset, algorithm), cleared)
        ref = self.make(store, keyset, algorithm)
        assert store.move_pointer(cleared, ref).id == ref.id

    def test_a_clear_that_began_before_a_move_or_a_fence_conflicts_and_changes_nothing(
        self, store: KeyStore, keyset: str, first: Algorithm
    ) -> None:
        _, stale = self.make_current(store, keyset, first)
        fenced = store.fence(keyset, first, stale)
        with pytest.raises(Conflict):
            store.clear_pointer(keyset, first, stale)
        moved = store.move_pointer(fenced, self.make(store, keyset, first))
        with pytest.raises(Conflict):
            store.clear_pointer(keyset, first, fenced)
        assert self.same(store.read_pointer(keyset, first), moved)

    def test_a_move_that_began_before_a_clear_conflicts(self, store: KeyStore, keyset: str, first: Algorithm) -> None:
        _, stale = self.make_current(store, keyset, first)
        store.clear_pointer(keyset, first, stale)
        with pytest.raises(Conflict):
            store.move_pointer(stale, self.make(store, keyset, first))
        assert store.read_pointer(keyset, first).id is None

    def test_a_stale_token_does_not_become_good_again_when_the_pointer_returns(
        self, store: KeyStore, keyset: str, first: Algorithm
    ) -> None:
        if not self.tokens_are_new:
            pytest.skip("the token of this store is a version id, which the pointer may return to")
        ref, stale = self.make_current(store, keyset, first)
        away = store.move_pointer(stale, self.make(store, keyset, first))
        back = store.move_pointer(away, ref)
        assert len({stale.token, away.token, back.token}) == 3
        with pytest.raises(Conflict):
            store.move_pointer(stale, self.make(store, keyset, first))

    def test_of_many_racing_moves_exactly_one_wins(self, store: KeyStore, keyset: str, first: Algorithm) -> None:
        refs = [self.make(store, keyset, first) for _ in range(self.racers)]
        pointer = store.read_pointer(keyset, first)
        outcomes = race(self.racers, lambda number: store.move_pointer(pointer, refs[number]))
        winners = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Pointer)]
        assert len(winners) == 1
        assert store.read_pointer(keyset, first).id == refs[winners[0]].id

    def test_the_date_of_a_pointer_is_in_utc(self, store: KeyStore, keyset: str, first: Algorithm) -> None:
        _, moved = self.make_current(store, keyset, first)
        for pointer in (moved, store.read_pointer(keyset, first), store.read_pointer(f"{keyset}-b", first)):
            assert pointer.date is None or pointer.date.utcoffset() == timedelta(0)

    # The end of a key

    def test_a_disabled_key_signs_no_more_and_disabling_it_again_is_harmless(
        self, store: KeyStore, second: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        ref = self.make(store, keyset, algorithm)
        store.disable(ref)
        store.disable(ref)
        if self.disables:
            with pytest.raises(RotatorError):
                second.sign(ref, MESSAGE)

    def test_a_destroyed_key_signs_no_more_and_destroying_it_again_is_harmless(
        self, store: KeyStore, second: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        disabled, enabled = self.make(store, keyset, algorithm), self.make(store, keyset, algorithm)
        store.disable(disabled)
        for ref in (disabled, enabled):
            store.destroy(ref)
            store.destroy(ref)
            store.disable(ref)
            if self.disables:
                with pytest.raises(RotatorError):
                    second.sign(ref, MESSAGE)

    def test_a_create_that_stalled_until_its_key_was_destroyed_leaves_no_key_that_nobody_finds(
        self, store: KeyStore, second: KeyStore, keyset: str, first: Algorithm
    ) -> None:
        intent = intend(keyset, first)
        key = store.create(intent)
        store.disable(ref_to(intent, key))
        store.destroy(ref_to(intent, key))
        late: StoredKey | None = None
        with suppress(RotatorError):
            late = second.create(again(intent))
        strays = {stray.handle for stray in store.strays(keyset)}
        assert late is None or late == key or late.handle in strays

    def test_the_end_of_one_key_leaves_the_others_and_the_pointer_alone(
        self, store: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        intent = intend(keyset, algorithm)
        key = store.create(intent)
        ref = ref_to(intent, key)
        pointer = store.move_pointer(store.read_pointer(keyset, algorithm), ref)
        doomed = self.make(store, keyset, algorithm)
        store.disable(doomed)
        store.destroy(doomed)
        assert self.same(store.read_pointer(keyset, algorithm), pointer)
        public = jwks.public_jwk(key.spki, algorithm)
        assert material.verify(public, algorithm, MESSAGE, store.sign(ref, MESSAGE))

    def test_a_key_that_never_existed_can_be_disabled_and_destroyed(
        self, store: KeyStore, keyset: str, first: Algorithm
    ) -> None:
        ref = self.make(store, keyset, first)
        for ghost in (self.ghost(ref), replace(self.ghost(ref), keyset=f"{keyset}-b")):
            store.disable(ghost)
            store.destroy(ghost)
            with pytest.raises(RotatorError):
                store.sign(ghost, MESSAGE)
        assert store.sign(ref, MESSAGE)

    # Strays

    def test_every_key_that_a_crash_may_have_left_is_listed_until_it_is_discarded(
        self, store: KeyStore, keyset: str, first: Algorithm
    ) -> None:
        if not store.traits.leaves_strays:
            pytest.skip("this store leaves no strays")
        intents = [intend(keyset, first), intend(keyset, first)]
        keys = [store.create(intent) for intent in intents]
        strays = {stray.id: stray for stray in store.strays(keyset)}
        assert {id_: (stray.handle, stray.ledger_id, stray.attempt) for id_, stray in strays.items()} == {
            intent.id: (key.handle, intent.ledger_id, intent.attempt) for intent, key in zip(intents, keys, strict=True)
        }
        assert all(stray.created_at.utcoffset() == timedelta(0) for stray in strays.values())
        store.disable(ref_to(intents[1], keys[1]))
        assert len(list(store.strays(keyset))) == 2
        store.discard(strays[intents[0].id])
        store.discard(strays[intents[0].id])
        assert [stray.id for stray in store.strays(keyset)] == [intents[1].id]
        with pytest.raises(RotatorError):
            store.sign(ref_to(intents[0], keys[0]), MESSAGE)
        assert list(store.strays(f"{keyset}-b")) == []

    # Secrets

    def test_nothing_returned_or_raised_shows_a_private_half(
        self, store: KeyStore, keyset: str, algorithm: Algorithm
    ) -> None:
        intent = intend(keyset, algorithm)
        key = store.create(intent)
        ref = ref_to(intent, key)
        private = self.private_texts(store, ref)
        keyless = store.read_pointer(keyset, algorithm)
        moved = store.move_pointer(keyless, ref)
        fenced = store.fence(keyset, algorithm, moved)
        shown: list[object] = [store, key, ref, keyless, moved, fenced, store.holds(keyset, [algorithm])]
        shown += store.strays(keyset)
        shown += [
            self.error_of(lambda: store.move_pointer(moved, ref)),
            self.error_of(lambda: store.sign(self.ghost(ref), MESSAGE)),
        ]
        store.disable(ref)
        if self.disables:
            shown.append(self.error_of(lambda: store.sign(ref, MESSAGE)))
        store.destroy(ref)
        for each in shown:
            texts = [repr(each), str(each)]
            if isinstance(each, BaseException):
                texts += traceback.format_exception(each)
            for text in texts:
                assert not _PRIVATE.search(text)
                assert not any(piece in text for piece in private)

    @staticmethod
    def same(one: Pointer, other: Pointer) -> bool:
        """Whether two readings are of one pointer; their dates may differ."""
        return (one.id, one.token) == (other.id, other.token)

    @staticmethod
    def error_of(call: Callable[[], object]) -> RotatorError:
        with pytest.raises(RotatorError) as raised:
            call()
        return raised.value
