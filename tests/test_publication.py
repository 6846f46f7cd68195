"""What stands in a public document, why it is written, and what is never written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from rotator.errors import Refused
from rotator.keys import jwks, material
from rotator.keys.algorithms import PRIVATE_MEMBERS, algorithm
from rotator.keys.keyring import DocumentFacts, Retired, Stage
from rotator.keys.policy import PublicDocument
from rotator.keys.publication import Seen, _faults, difference, foreign, guard, newer, ours, project
from tests.test_plan import CURRENT, DAY, JWKS, KEYSET, NEXT, NOW, QUIET, jwk_of, key, ring, seen, with_policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rotator.keys.jwks import Jwk
    from rotator.keys.keyring import Key, Keyring
    from rotator.keys.policy import KeySet

RIGHT = [jwk_of("c"), jwk_of("n")]
THEIRS = jwk_of("theirs", "RS256")


def kids(keys: Sequence[Jwk]) -> list[Any]:
    return [jwk.get("kid") for jwk in keys]


# -- our keys ----------------------------------------------------------------------------------------------------


def test_a_document_shows_every_key_that_is_made_and_neither_withdrawn_nor_revoked() -> None:
    of = ring(
        key("i", "intended"),
        key("m", "made"),
        NEXT,
        CURRENT,
        key("p", "previous"),
        key("s", "stopped"),
        key("w", "retired"),
        key("d", "destroyed"),
        key("r", "next", revoked_at=NOW),
    )
    assert set(kids(ours(of, JWKS))) == {"m", "n", "c", "p", "s"}


def test_the_signing_keys_stand_first_and_the_others_by_age() -> None:
    of = ring(
        key("young", "made", NOW),
        key("old", "previous", NOW - 9 * DAY),
        key("e", "current", NOW - DAY, alg="ES256"),
        key("c", "current", NOW - 2 * DAY),
        key("b", "made", NOW - DAY),
        key("a", "made", NOW - DAY),
    )
    in_order = ["c", "e", "old", "a", "b", "young"]
    assert kids(ours(of, JWKS)) == in_order
    assert kids(ours(replace(of, keys=of.keys[::-1]), JWKS)) == in_order


def test_a_view_shows_its_algorithms_alone() -> None:
    of = ring(CURRENT, key("e", "current", alg="ES256"))
    view = PublicDocument("view", "acme/view.json", algorithms=frozenset({"ES256"}))
    assert kids(ours(of, view)) == ["e"]
    assert kids(project(of, view, seen([jwk_of("c"), THEIRS]))) == ["e", "theirs"]


# -- keys of somebody else ---------------------------------------------------------------------------------------


def test_keys_that_somebody_else_put_there_stand_beside_ours() -> None:
    nameless = {"kty": "RSA", "n": "AQ", "e": "AQAB"}
    assert project(QUIET, JWKS, seen([THEIRS, *RIGHT, nameless])) == [*RIGHT, THEIRS, nameless]
    assert foreign(QUIET, seen(RIGHT)) == []
    assert foreign(QUIET, seen(None)) == []
    assert foreign(QUIET, Seen()) == []


def test_a_key_that_is_ours_or_was_is_never_taken_for_a_foreign_one() -> None:
    of = ring(
        CURRENT, key("w", "retired"), key("r", "next", revoked_at=NOW), retired=(Retired("o", "old", "EdDSA", NOW),)
    )
    of = replace(of, dropped={"dropped": NOW})
    there = seen([jwk_of(kid) for kid in ("c", "w", "r", "old", "dropped", "theirs")])
    assert kids(foreign(of, there)) == ["theirs"]


@pytest.mark.parametrize("member", sorted(PRIVATE_MEMBERS))
def test_private_members_of_foreign_keys_are_stripped(member: str) -> None:
    leaked = THEIRS | {member: "c2VjcmV0"}
    assert foreign(QUIET, seen([leaked])) == [THEIRS]
    assert difference(QUIET, JWKS, seen([*RIGHT, leaked])) == "it shows private members of theirs"


def test_symmetric_keys_of_somebody_else_are_left_out() -> None:
    leaked = {"kty": "oct", "k": "c2VjcmV0", "kid": "theirs"}
    assert foreign(QUIET, seen([leaked])) == []
    why = "it still shows theirs and it shows private members of theirs"
    assert difference(QUIET, JWKS, seen([*RIGHT, leaked])) == why


#: Three keys of somebody else where verifiers take three in all.
STRANGERS = [jwk_of(f"theirs-{n}") for n in range(3)]


def test_strangers_beyond_what_verifiers_take_give_way_to_a_missing_key_that_may_have_signed() -> None:
    assert project(QUIET, JWKS, seen(STRANGERS), 3) == [*RIGHT, STRANGERS[0]]
    assert project(QUIET, JWKS, seen([jwk_of("n"), *STRANGERS]), 2) == RIGHT
    assert project(QUIET, JWKS, seen(STRANGERS), 1) == RIGHT, "none of ours gives way"
    of = ring(CURRENT, key("p", "previous"))
    assert project(of, JWKS, seen([jwk_of("c"), *STRANGERS]), 3) == [jwk_of("c"), jwk_of("p"), STRANGERS[0]]
    there = seen([*RIGHT, STRANGERS[0]])
    assert difference(QUIET, JWKS, there, 3) is None, "written once, it stays so"


def test_nobody_gives_way_where_there_is_room_or_to_a_key_that_never_signed() -> None:
    assert project(QUIET, JWKS, seen(STRANGERS), 5) == [*RIGHT, *STRANGERS]
    assert project(QUIET, JWKS, seen(STRANGERS)) == [*RIGHT, *STRANGERS]
    for of in (
        ring(CURRENT, key("m", "made")),
        ring(CURRENT, key("r", "previous", revoked_at=NOW)),
        ring(CURRENT, key("w", "retired")),
    ):
        assert kids(project(of, JWKS, seen([jwk_of("c"), *STRANGERS]), 3))[-3:] == kids(STRANGERS)
    narrow = replace(JWKS, algorithms=frozenset({"EdDSA"}))
    of = ring(CURRENT, key("e", "current", alg="ES256"))
    assert project(of, narrow, seen([jwk_of("c"), *STRANGERS]), 3) == [jwk_of("c"), *STRANGERS]


# -- documents of a later ledger ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kid", "revision", "later"),
    [
        *[("c", 8, True), ("w", 8, True), ("old", 8, True)],
        *[("c", 7, False), ("c", 0, False), ("c", None, False), ("theirs", 8, False), ("dropped", 8, False)],
    ],
)
def test_a_document_with_a_key_of_ours_and_a_later_revision_comes_from_a_later_ledger(
    kid: str, revision: int | None, later: bool
) -> None:
    of = ring(CURRENT, key("w", "retired"), retired=(Retired("o", "old", "EdDSA", NOW),), dropped={"dropped": NOW})
    assert newer(of, seen([THEIRS, jwk_of(kid)], revision=revision)) is later


def test_a_document_says_whose_ledger_it_was_made_from_whatever_keys_it_holds() -> None:
    for revision, later in ((8, True), (7, False)):
        there = Seen(exists=True, jwks=jwks.parse(jwks.serialize([THEIRS], revision, QUIET.ledger_id)))
        assert newer(QUIET, there) is later, "every key may have changed since, and no pointer tells"
        empty = Seen(exists=True, jwks=jwks.parse(jwks.serialize([], revision, QUIET.ledger_id)))
        assert newer(QUIET, empty) is later
    assert not newer(QUIET, Seen(exists=True, jwks=jwks.parse(jwks.serialize([THEIRS], 8, "another"))))
    assert newer(QUIET, Seen(exists=True, jwks=jwks.parse(jwks.serialize(RIGHT, 8, "another")))), (
        "a key of ours is in it"
    )
    assert jwks.parse(b'{"keys": [], "rotator_ledger": 7}') == jwks.PublicSet((), None)


def test_what_is_no_set_comes_from_no_ledger() -> None:
    assert not newer(QUIET, Seen())
    assert not newer(QUIET, seen(None))


# -- differences -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "why"),
    [
        (seen(RIGHT), None),
        (seen(RIGHT[::-1]), None),
        (seen([*RIGHT[::-1], THEIRS]), None),
        (seen([dict(reversed(jwk.items())) for jwk in reversed(RIGHT)]), None),
        (Seen(), "it is missing"),
        (seen(None), "what stands there is not a JWKS"),
        (seen([]), "it lacks c, n"),
        (seen([THEIRS]), "it lacks c, n"),
        (seen([jwk_of("c")]), "it lacks n"),
        (seen([*RIGHT, jwk_of("old")]), "it still shows old"),
        (seen([jwk_of("old"), jwk_of("c"), jwk_of("gone")]), "it lacks n and it still shows gone, old"),
        (seen([jwk_of("c"), jwk_of("n") | {"use": "enc"}]), "a key in it has other members than the ledger's"),
        (seen([*RIGHT, jwk_of("c")]), "a key in it has other members than the ledger's"),
    ],
)
def test_why_a_document_is_written(there: Seen, why: str | None) -> None:
    of = replace(QUIET, retired=(Retired("1", "old", "EdDSA", NOW), Retired("2", "gone", "EdDSA", NOW)))
    assert difference(of, JWKS, there) == why


@pytest.mark.parametrize("header", ["no-cache", None])
def test_other_headers_are_a_reason_to_write(header: str | None) -> None:
    assert difference(QUIET, JWKS, seen(RIGHT, header)) == (
        f"it is served with Cache-Control {header!r}, the policy says"
        " 'public, max-age=300, stale-while-revalidate=3600, stale-if-error=3600'"
    )


def test_another_content_type_is_a_reason_to_write() -> None:
    assert difference(QUIET, JWKS, seen(RIGHT, content_type="text/html"))


def test_headers_are_compared_with_those_in_the_ledger_and_with_none_where_it_knows_none() -> None:
    known = QUIET.with_document("jwks", DocumentFacts("no-cache", "text/plain"))
    assert difference(known, JWKS, seen(RIGHT, "no-cache", "text/plain")) is None
    assert difference(replace(QUIET, documents={}), JWKS, seen(RIGHT, "anything")) is None


def test_a_view_without_keys_is_not_begun_and_an_empty_one_is_left() -> None:
    view = PublicDocument("view", "acme/view.json", algorithms=frozenset({"RS256"}))
    assert difference(QUIET, view, Seen()) is None
    assert difference(QUIET, view, seen([])) is None
    assert difference(QUIET, JWKS, Seen()) == "it is missing"


MADE = st.sampled_from([*RIGHT, THEIRS, jwk_of("old"), jwk_of("n") | {"x": "BB"}, {"kty": "oct", "k": "AA"}])


@given(st.lists(MADE, max_size=6))
def test_what_is_written_once_needs_no_second_write(keys: list[Jwk]) -> None:
    of = replace(QUIET, retired=(Retired("1", "old", "EdDSA", NOW),))
    written = seen(project(of, JWKS, seen(keys)))
    assert difference(of, JWKS, written) is None
    assert project(of, JWKS, written) == list(written.jwks.keys if written.jwks else ())


# -- the guard: each fault alone ---------------------------------------------------------------------------------


def refused(of: Keyring, keys: Sequence[Jwk], there: Seen, keyset: KeySet = KEYSET) -> str:
    """The only fault for which ``keys`` are not written."""
    (fault,) = _faults(of, keyset, JWKS, keys, there)
    with pytest.raises(Refused) as caught:
        guard(of, keyset, JWKS, keys, there)
    assert str(caught.value) == (
        f"Key set acme: refused to write acme/jwks.json: {fault}. Nothing was written;"
        " run 'rotator plan' and compare the ledger with the document."
    )
    return fault


def written(of: Keyring, keys: Sequence[Jwk], there: Seen, keyset: KeySet = KEYSET) -> bool:
    guard(of, keyset, JWKS, keys, there)
    return True


def test_a_right_set_is_written_over_whatever_stands_there() -> None:
    for there in (Seen(), seen(None), seen([]), seen(RIGHT), seen([THEIRS]), seen([jwk_of("n")])):
        assert written(QUIET, project(QUIET, JWKS, there), there)


@pytest.mark.parametrize("member", sorted(PRIVATE_MEMBERS))
def test_a_private_member_is_never_written(member: str) -> None:
    fault = refused(QUIET, [RIGHT[0] | {member: "c2VjcmV0"}, RIGHT[1]], Seen())
    assert fault == "it would hold a private or symmetric key"
    revoked = ring(key("c", "current", revoked_at=NOW), NEXT)
    assert refused(revoked, [RIGHT[1] | {member: "c2VjcmV0"}], seen(RIGHT)) == fault, "a revoke is no excuse"


def test_a_symmetric_key_is_never_written() -> None:
    assert refused(QUIET, [*RIGHT, {"kty": "oct"}], Seen()) == "it would hold a private or symmetric key"


def test_one_kid_is_never_written_twice() -> None:
    assert refused(QUIET, [*RIGHT, jwk_of("n") | {"x": "BB"}], Seen()) == "two keys would have one kid"
    nameless = {"kty": "RSA", "n": "AQ", "e": "AQAB"}
    assert written(QUIET, [*RIGHT, nameless, nameless], Seen())


def test_ours_go_before_strangers_where_readers_of_no_more_than_max_keys_may_miss_them() -> None:
    strangers = [THEIRS | {"kid": kid} for kid in ("one", "two")]
    there = seen([*strangers, *RIGHT])
    why = "it holds 4 keys, and readers of no more than 3 may miss ours: these go first"
    assert difference(QUIET, JWKS, there, 3) == why
    keys = project(QUIET, JWKS, there, 3)
    assert keys == [*RIGHT, *strangers]
    assert written(QUIET, keys, there, with_policy(max_keys=3))
    assert difference(QUIET, JWKS, seen(keys), 3) is None
    assert difference(QUIET, JWKS, there, 4) is None, "every reader finds all of them"


TIGHT = with_policy(max_keys=2)
FRESH = ring(CURRENT, key("m", "made"))
WITH_FRESH = [jwk_of("c"), jwk_of("m")]


def test_a_new_key_is_not_added_where_verifiers_take_no_more() -> None:
    assert written(FRESH, WITH_FRESH, seen([jwk_of("c")]), TIGHT)
    for there in (seen([jwk_of("c"), THEIRS]), seen([]), seen(None), Seen()):
        assert refused(FRESH, [*WITH_FRESH, THEIRS], there, TIGHT) == "it would hold 3 keys; max_keys is 2"


def test_a_document_larger_than_we_would_read_ourselves_is_refused() -> None:
    large = [*RIGHT, THEIRS | {"n": "A" * 1_000_000}]
    assert refused(QUIET, large, seen(RIGHT)).startswith("it would have 1000")


def test_a_document_that_is_too_long_already_may_become_shorter_or_stay() -> None:
    there = seen([jwk_of("c"), THEIRS, jwk_of("old")])
    assert written(FRESH, [*WITH_FRESH, THEIRS], there, TIGHT)
    assert refused(FRESH, [*WITH_FRESH, THEIRS, jwk_of("other")], there, TIGHT).startswith("it would hold 4 keys")


@pytest.mark.parametrize(
    ("missing", "fault"),
    [
        (key("m", "made"), "key m (pending) would be missing"),
        (key("m", "next"), "key m (next) would be missing"),
        (key("m", "previous"), "key m (previous) would be missing"),
        (key("m", "current", alg="ES256"), "key m (current) would be missing"),
    ],
    ids=lambda value: value.stage if not isinstance(value, str) else "",
)
def test_no_key_of_ours_is_left_out(missing: Key, fault: str) -> None:
    assert refused(ring(CURRENT, NEXT, missing), RIGHT, Seen()) == fault


def test_a_key_of_another_algorithm_may_be_missing_from_a_view() -> None:
    view = replace(JWKS, algorithms=frozenset({"ES256"}))
    of = ring(CURRENT, key("e", "current", alg="ES256"))
    guard(of, KEYSET, view, [jwk_of("e", "ES256")], Seen())


def test_an_empty_set_is_written_only_after_a_revoke() -> None:
    assert refused(ring(key("i", "intended")), [], Seen()) == "it would be empty"
    assert refused(ring(key("w", "retired")), [], seen([jwk_of("w")])) == "it would be empty"
    revoked = ring(key("r", "current", revoked_at=NOW))
    assert written(revoked, [], seen([jwk_of("r")]))
    assert written(replace(revoked, keys=(*revoked.keys, key("w", "retired"))), [], seen([jwk_of("r")]))


def test_a_view_is_empty_once_its_algorithms_ended() -> None:
    view = replace(JWKS, algorithms=frozenset({"ES256"}))
    guard(ring(CURRENT, key("w", "retired", alg="ES256")), KEYSET, view, [], seen([jwk_of("w", "ES256")]))


def test_a_key_that_signs_does_not_leave() -> None:
    odd = key("c", "current", withdrawn_at=NOW)
    fault = refused(ring(odd, NEXT), [jwk_of("n")], seen(RIGHT))
    assert fault == "key c would leave while it signs"
    for harmless in (replace(odd, superseded_at=NOW), replace(odd, revoked_at=NOW), replace(odd, activated_at=None)):
        assert written(ring(harmless, NEXT), [jwk_of("n")], seen(RIGHT))
    assert written(ring(odd, NEXT), [jwk_of("n")], seen([jwk_of("n")])), "it left long ago"


def test_a_key_keeps_the_members_that_its_kid_was_made_from() -> None:
    der = material.spki(ed25519.Ed25519PrivateKey.generate())
    jwk = jwks.public_jwk(der, algorithm("EdDSA"))
    true = key("c", "current", kid=jwk["kid"], jwk=jwk)
    swapped = replace(true, jwk=jwk | {"x": "BB"})
    there = seen([jwk])
    fault = refused(ring(swapped), [swapped.jwk or {}], there)
    assert fault == f"key {jwk['kid']} would get other members than its kid was made from"
    assert written(ring(true), [jwk], there)
    assert written(ring(true), [jwk], seen([jwk | {"x": "BB"}])), "it is put right"
    more = replace(true, jwk=jwk | {"use": "sig", "x5t": "AA"})
    assert written(ring(more), [more.jwk or {}], there), "the key itself is the same"


@pytest.mark.parametrize("odd", [{"kty": None}, {"kty": "RSA"}, {"kty": ["OKP"]}, {"x": 5}, {"crv": None}], ids=str)
def test_a_key_in_the_document_that_names_nothing_is_replaced(odd: dict[str, Any]) -> None:
    jwk = jwks.public_jwk(material.spki(ed25519.Ed25519PrivateKey.generate()), algorithm("EdDSA"))
    of = ring(key("c", "current", kid=jwk["kid"], jwk=jwk))
    assert written(of, [jwk], seen([jwk | odd]))
    without = {name: value for name, value in jwk.items() if name not in odd}
    assert written(of, [jwk], seen([without]))


@pytest.mark.parametrize("odd", [{"x": "BB"}, {"kty": None}], ids=str)
def test_a_kid_that_is_no_thumbprint_says_nothing_about_the_members(odd: dict[str, Any]) -> None:
    assert written(QUIET, RIGHT, seen([RIGHT[0], RIGHT[1] | odd]))


def test_a_signing_key_that_no_cache_can_know_does_not_replace_a_whole_set() -> None:
    unseen = key("c", "current", published={})
    assert unseen.stage is Stage.CURRENT
    past = key("w", "retired")
    there = seen([jwk_of("w"), THEIRS])
    fault = refused(ring(unseen, past), [jwk_of("c")], there)
    assert fault == "it would share no key with the one it replaces (a hard swap to c)"
    assert written(ring(unseen, past), [jwk_of("c"), THEIRS], there), "one key is shared"
    assert written(ring(replace(unseen, forced=True), past), [jwk_of("c")], there), "a revoke was announced"
    assert written(ring(CURRENT, past), [jwk_of("c")], there), "it was seen in public before"
    for nothing in ([], [THEIRS]):
        assert written(ring(unseen, past), [jwk_of("c")], seen(nothing)), "what had none of ours is filled again"


def test_a_revoke_is_blocked_by_no_other_guard() -> None:
    heir = key("n", "current", NOW, published={}, forced=True)
    of = ring(key("r", "current", revoked_at=NOW), heir)
    for there in (Seen(), seen(None), seen([]), seen([jwk_of("r")]), seen([jwk_of("r"), THEIRS])):
        keys = project(of, JWKS, there)
        assert "r" not in kids(keys)
        assert written(of, keys, there, with_policy(max_keys=2))
