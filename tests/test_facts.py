"""What each step and each request changes in the ledger, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from rotator.errors import Refused
from rotator.keys import facts
from rotator.keys.blast_radius import BlastRadius, blast_radius
from rotator.keys.keyring import REMEMBERED, DocumentFacts, Key, Keyring, Retired, Served, Stage, Succession
from rotator.keys.plan import gate
from rotator.keys.policy import UNPROMISED
from tests.test_plan import (
    BOTH,
    CURRENT,
    DAY,
    GENEROUS,
    HOUR,
    JWKS,
    KEYSET,
    MINUTE,
    NEXT,
    NOW,
    POLICY,
    QUIET,
    US,
    VIEW,
    VIEWED,
    jwk_of,
    key,
    ring,
    with_policy,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from rotator.keys.policy import KeySet

GROWN = replace(POLICY, **GENEROUS)


def the_key(of: Keyring, key_id: str) -> Key:
    found = of.key(key_id)
    assert found
    return found


def changed(before: Keyring, after: Keyring) -> set[str]:
    """The ids of the keys that are not as they were."""
    return {
        key_id for key_id in {key.id for key in (*before.keys, *after.keys)} if before.key(key_id) != after.key(key_id)
    }


# -- making a key ------------------------------------------------------------------------------------------------


def test_an_intended_key_comes_with_its_first_attempt() -> None:
    of = facts.intended(QUIET, "ES256", "e", "nonce", NOW)
    assert of.keys == (*QUIET.keys, Key("e", "ES256", NOW, "nonce", NOW))
    assert the_key(of, "e").stage is Stage.PENDING
    assert of.attempts == (NOW,)


def test_another_attempt_takes_the_place_of_the_last_and_counts_too() -> None:
    of = facts.attempted(facts.intended(QUIET, "ES256", "e", "nonce", NOW), "e", "again", NOW + HOUR)
    assert the_key(of, "e") == Key("e", "ES256", NOW, "again", NOW + HOUR)
    assert of.attempts == (NOW, NOW + HOUR)


def test_attempts_of_the_day_before_are_forgotten() -> None:
    of = replace(QUIET, attempts=(NOW - DAY - US, NOW - DAY, NOW - DAY + US, NOW))
    assert facts.intended(of, "ES256", "e", "nonce", NOW).attempts == (NOW - DAY + US, NOW, NOW)


def test_a_key_that_was_made_has_its_kid_from_its_jwk() -> None:
    of = facts.created(ring(key("i", "intended")), "i", jwk_of("kid"), "arn", NOW)
    made = the_key(of, "i")
    assert (made.created_at, made.kid, made.jwk, made.handle) == (NOW, "kid", jwk_of("kid"), "arn")
    assert made.public


@pytest.mark.parametrize(
    "of",
    [
        QUIET,
        ring(key("c", "destroyed")),
        ring(key("c", "next", revoked_at=NOW)),
        ring(retired=(Retired("o", "c", "EdDSA", NOW),)),
        ring(dropped={"c": NOW}),
    ],
    ids=["in use", "destroyed", "revoked", "forgotten", "dropped by the operator"],
)
def test_no_kid_ever_comes_back(of: Keyring) -> None:
    of = replace(of, keys=(*of.keys, key("i", "intended")))
    with pytest.raises(Refused, match=r"the new EdDSA key has kid c, which was used before\. Nothing was published"):
        facts.created(of, "i", jwk_of("c"), "arn", NOW)


# -- founding ----------------------------------------------------------------------------------------------------


def test_all_keys_of_the_first_document_are_founding_keys() -> None:
    of = ring(key("a", "made"), key("e", "made", alg="ES256"), key("i", "intended"), founded_at=None, documents={})
    of = facts.founded(of, VIEWED, NOW)
    assert of.founded_at == NOW
    assert [key.founding for key in of.keys] == [True, True, False]
    header = POLICY.cache_control
    served = DocumentFacts(header, "application/jwk-set+json", (Served(header, POLICY.staleness),))
    assert of.documents == {"jwks": served, "view": served}


# -- headers -----------------------------------------------------------------------------------------------------


def test_headers_of_a_new_policy_are_remembered_beside_the_old() -> None:
    changed_policy = with_policy(cache_max_age=10 * MINUTE)
    header = changed_policy.policy.cache_control
    of = facts.served(QUIET, changed_policy, "jwks", header)
    known = of.documents["jwks"]
    assert (known.cache_control, known.content_type) == (header, KEYSET.content_type)
    assert known.served == (Served(POLICY.cache_control, POLICY.staleness), Served(header, 70 * MINUTE))
    assert facts.served(of, changed_policy, "jwks", header) == of, "once is enough"


def test_headers_of_somebody_else_are_remembered_and_do_not_become_ours() -> None:
    of = facts.served(QUIET, KEYSET, "jwks", None, foreign=True)
    known = of.documents["jwks"]
    assert known.cache_control == POLICY.cache_control
    assert known.served[1:] == (Served(None, 2 * UNPROMISED, foreign=True),)


def test_headers_that_ended_before_are_remembered_anew() -> None:
    ended = Served("max-age=5", 5 * MINUTE, NOW)
    of = QUIET.with_document("jwks", replace(QUIET.documents["jwks"], served=(ended,)))
    of = facts.served(of, with_policy(cache_tiers=2), "jwks", "max-age=5", foreign=True)
    anew = Served("max-age=5", 2 * (timedelta(seconds=5) + UNPROMISED), foreign=True)
    assert of.documents["jwks"].served == (ended, anew)


def test_a_foreign_header_of_a_new_document_leaves_the_policys_in_force() -> None:
    of = facts.served(QUIET, VIEWED, "view", "no-cache", foreign=True)
    assert of.documents["view"] == DocumentFacts(
        POLICY.cache_control, KEYSET.content_type, (Served("no-cache", timedelta(0), foreign=True),)
    )


# -- seen in public ----------------------------------------------------------------------------------------------


def seen_at(of: Keyring, keyset: KeySet = KEYSET, document: str = "jwks", now: datetime = NOW) -> Keyring:
    (found,) = (found for found in keyset.documents if found.name == document)
    return facts.published(of, keyset, found, ["n"], now)


MADE = ring(CURRENT, key("n", "made"))
SHORT, LONG = "max-age=60, must-revalidate", "max-age=777600, must-revalidate"


def test_a_key_that_was_seen_is_next_and_its_gate_opens_one_prepublish_later() -> None:
    of = seen_at(MADE)
    found = the_key(of, "n")
    assert (found.stage, found.published_at, found.published) == (Stage.NEXT, NOW, {"jwks": NOW})
    assert found.ready == {"jwks": NOW + POLICY.prepublish}
    assert gate(KEYSET, found) == NOW + POLICY.prepublish
    assert changed(MADE, of) == {"n"}
    assert of.documents == MADE.documents


def test_a_key_must_be_seen_in_every_document_that_shows_it() -> None:
    of = seen_at(ring(CURRENT, key("n", "made"), keyset=VIEWED), VIEWED)
    assert (the_key(of, "n").stage, the_key(of, "n").published_at) == (Stage.PENDING, None)
    of = seen_at(of, VIEWED, "view", NOW + HOUR)
    found = the_key(of, "n")
    assert (found.stage, found.published_at) == (Stage.NEXT, NOW + HOUR)
    assert found.published == {"jwks": NOW, "view": NOW + HOUR}
    assert gate(VIEWED, found) == NOW + HOUR + POLICY.prepublish
    again = facts.published(of, VIEWED, VIEW, ["n"], NOW + DAY)
    assert the_key(again, "n").published_at == NOW + HOUR, "the first time counts"


def test_a_document_of_other_algorithms_need_not_show_it() -> None:
    narrow = replace(KEYSET, documents=(JWKS, replace(VIEW, algorithms=frozenset({"ES256"}))))
    assert the_key(seen_at(ring(key("n", "made"), keyset=narrow), narrow), "n").stage is Stage.NEXT


@pytest.mark.parametrize(
    ("served", "ready_after", "left"),
    [
        # A copy with a longer life than the policy's, replaced now: waited for, then for the verifiers.
        ([Served(LONG, 9 * DAY)], 10 * DAY + 2 * MINUTE, [Served(LONG, 9 * DAY, NOW + 9 * DAY)]),
        # One that was replaced before and is still about.
        ([Served(LONG, 9 * DAY, NOW + 4 * DAY)], 5 * DAY + 2 * MINUTE, [Served(LONG, 9 * DAY, NOW + 4 * DAY)]),
        # One that is gone by now.
        ([Served(LONG, 9 * DAY, NOW)], POLICY.prepublish, []),
        ([Served(LONG, 9 * DAY, NOW + US)], POLICY.prepublish, [Served(LONG, 9 * DAY, NOW + US)]),
        # One with a shorter life: the policy decides.
        ([Served(SHORT, MINUTE)], POLICY.prepublish, [Served(SHORT, MINUTE, NOW + MINUTE)]),
    ],
    ids=["replaced now", "replaced before", "gone", "all but gone", "short"],
)
def test_copies_that_lack_the_key_are_waited_for_as_long_as_they_may_be_served(
    served: list[Served], ready_after: timedelta, left: list[Served]
) -> None:
    own = MADE.documents["jwks"].served
    of = seen_at(MADE.with_document("jwks", replace(MADE.documents["jwks"], served=(*own, *served))))
    assert the_key(of, "n").ready == {"jwks": NOW + ready_after}
    assert of.documents["jwks"].served == (*own, *left)


def test_a_header_in_force_that_allows_more_than_the_policy_is_counted_with() -> None:
    # The policy has fewer tiers of caches today than when the header went out.
    of = MADE.with_document("jwks", DocumentFacts("ours", "", (Served("ours", 9 * DAY),)))
    of = seen_at(of)
    assert the_key(of, "n").ready == {"jwks": NOW + 10 * DAY + 2 * MINUTE}
    assert of.documents["jwks"].served == (Served("ours", 9 * DAY),), "it may still be served so"


def test_a_copy_is_waited_for_in_every_tier_of_caches_there_is_today() -> None:
    known = replace(MADE.documents["jwks"], served=(*MADE.documents["jwks"].served, Served(LONG, 9 * DAY)))
    of = seen_at(MADE.with_document("jwks", known), with_policy(cache_tiers=2))
    assert the_key(of, "n").ready == {"jwks": NOW + 19 * DAY + 2 * MINUTE}


@pytest.mark.parametrize(
    ("served", "lacking_for"),
    [([], POLICY.staleness), ([Served(LONG, 9 * DAY)], 9 * DAY), ([Served(LONG, 9 * DAY, NOW + 4 * DAY)], 4 * DAY)],
    ids=["ours alone", "a longer header until now", "a longer header until before"],
)
def test_a_verifier_cache_that_grows_is_waited_for_from_the_end_of_the_last_copy_that_lacks_the_key(
    served: list[Served], lacking_for: timedelta
) -> None:
    own = MADE.documents["jwks"].served
    of = seen_at(MADE.with_document("jwks", replace(MADE.documents["jwks"], served=(*own, *served))))
    found = the_key(of, "n")
    assert found.lacking == {"jwks": NOW + lacking_for}
    for cache in (HOUR, DAY, 5 * DAY):
        promised = NOW + lacking_for + max(cache, POLICY.verifier_cache) + 2 * MINUTE
        assert gate(with_policy(verifier_cache=cache), found) == promised


def test_no_gate_opens_before_that_of_the_policy() -> None:
    for served in ((), (Served(SHORT, MINUTE, NOW + MINUTE),)):
        of = seen_at(MADE.with_document("jwks", DocumentFacts("ours", "", served)))
        assert the_key(of, "n").ready == {"jwks": NOW + POLICY.prepublish}


def test_a_key_found_missing_loses_what_was_promised_of_that_document() -> None:
    of = seen_at(seen_at(ring(CURRENT, key("n", "made", founding=True), keyset=VIEWED), VIEWED), VIEWED, "view")
    after = facts.unpublished(of, "jwks", ["n"])
    lost = the_key(after, "n")
    assert (lost.stage, lost.published_at, lost.founding) == (Stage.PENDING, None, False)
    assert lost.published == {"view": NOW}
    assert lost.ready.keys() == lost.lacking.keys() == {"view"}
    assert changed(of, after) == {"n"}


def test_the_end_of_a_revoke_is_noted_per_document() -> None:
    of = ring(CURRENT, key("r", "previous", revoked_at=NOW, gone={"view": NOW}))
    of = of.with_document("jwks", replace(of.documents["jwks"], invalidate_due=True))
    assert facts.invalidated(of, "jwks").documents["jwks"].invalidate_due is False
    assert the_key(facts.gone(of, "r", "jwks", NOW), "r").gone == {"view": NOW, "jwks": NOW}


# -- signing -----------------------------------------------------------------------------------------------------


def test_a_promotion_is_recorded_with_what_it_promises() -> None:
    promoted = the_key(facts.promoting(QUIET, POLICY, "n", NOW, forced=False), "n")
    assert (promoted.promoting_at, promoted.forced, promoted.promoting) == (NOW, False, True)
    assert (promoted.signer_lag, promoted.token_lifetime, promoted.verifier_leeway) == (2 * HOUR, HOUR, 5 * MINUTE)
    assert the_key(facts.promoting(QUIET, POLICY, "n", NOW, forced=True), "n").forced


def test_with_the_pointer_moved_one_key_signs_and_the_other_did_until_now() -> None:
    requests = {"EdDSA": Succession(rotate_requested_at=NOW, forced_at=NOW), "ES256": Succession(forced_at=NOW)}
    of = replace(facts.promoting(QUIET, POLICY, "n", NOW, forced=False), successions=requests)
    after = facts.activated(of, GROWN, "n", "c", NOW + US)
    new, old = the_key(after, "n"), the_key(after, "c")
    assert (new.stage, new.activated_at) == (Stage.CURRENT, NOW + US)
    assert (old.stage, old.superseded_at) == (Stage.PREVIOUS, NOW + US)
    assert new.signer_lag == old.signer_lag == GROWN.signer_lag, "both promise what is in force now"
    assert after.successions == {"ES256": Succession(forced_at=NOW)}


def test_a_key_that_the_pointer_strayed_to_may_have_signed_until_it_moved() -> None:
    of = ring(key("e", "current", alg="ES256"), key("p", "previous"), CURRENT, NEXT, key("x", "next"))
    after = facts.activated(of, POLICY, "n", "x", NOW)
    assert (the_key(after, "x").stage, the_key(after, "x").superseded_at) == (Stage.PREVIOUS, NOW)
    assert the_key(after, "c").superseded_at == NOW
    assert changed(of, after) == {"x", "c", "n"}, "a key superseded before, or of another algorithm, is left alone"


def test_before_the_pointer_is_led_away_from_a_key_it_is_known_to_have_been_there() -> None:
    of = ring(CURRENT, NEXT, key("p", "previous"), key("w", "retired"), key("r", "previous", revoked_at=NOW))
    for found in ("n", "p"):
        after = facts.astray(of, found)
        assert changed(of, after) == {found}
        assert the_key(after, found).astray
        for led in (facts.superseded(after, POLICY, [found], NOW), facts.activated(after, POLICY, found, None, NOW)):
            assert not the_key(led, found).astray
    # Of all others nothing is kept, or enough is known.
    for other in ("c", "w", "r", "nobody", None):
        assert facts.astray(of, other) == of


def test_a_key_that_was_led_to_under_a_larger_policy_has_the_promises_of_the_keys_of_its_time() -> None:
    of = ring(replace(CURRENT, **GENEROUS), NEXT)
    strayed = the_key(facts.superseded(of, POLICY, ["n"], NOW), "n")
    assert {name: getattr(strayed, name) for name in GENEROUS} == GENEROUS
    # One whose turn it was remembers its own.
    heir = ring(replace(CURRENT, **GENEROUS), key("h", "current"))
    assert the_key(facts.superseded(heir, POLICY, ["h"], NOW), "h").signer_lag == POLICY.signer_lag


def test_a_key_that_the_pointer_strayed_to_and_is_promoted_later_is_current() -> None:
    of = facts.superseded(QUIET, POLICY, ["n"], NOW)
    after = facts.activated(of, POLICY, "n", None, NOW + HOUR)
    assert (the_key(after, "n").stage, the_key(after, "n").superseded_at) == (Stage.CURRENT, None)


def test_the_first_key_of_all_supersedes_nobody() -> None:
    after = facts.activated(ring(NEXT, key("m", "next")), POLICY, "n", None, NOW)
    assert changed(ring(NEXT, key("m", "next")), after) == {"n"}


def test_superseded_keys_promise_what_is_in_force_and_withdrawn_ones_nothing_new() -> None:
    of = ring(CURRENT, key("w", "retired"))
    after = facts.superseded(of, GROWN, ["c", "w"], NOW)
    assert the_key(after, "c").superseded_at == NOW
    assert the_key(after, "c").token_lifetime == GROWN.token_lifetime
    assert changed(of, after) == {"c"}


def test_promises_grow_and_never_shrink() -> None:
    grown = facts.extended(QUIET, GROWN, ["c"])
    assert {name: getattr(the_key(grown, "c"), name) for name in GENEROUS} == GENEROUS
    assert changed(QUIET, grown) == {"c"}
    assert facts.extended(grown, POLICY, ["c"]) == grown


def test_an_ended_succession_has_nobody_who_signs_and_no_requests() -> None:
    es256 = [key(name, "next", alg="ES256") for name in ("f", "g", "x")]
    signed = [key("e", "current", alg="ES256"), key("p", "previous", alg="ES256")]
    of = ring(CURRENT, *signed, replace(es256[0], promoting_at=NOW), *es256[1:])
    of = replace(of, successions={"ES256": Succession(NOW, NOW, NOW), "EdDSA": Succession(NOW)})
    after = facts.ended(of, POLICY, "ES256", "x", NOW)
    assert {key.id for key in after.keys if key.superseded_at == NOW} == {"e", "f", "x"}
    assert changed(of, after) == {"e", "f", "x"}
    assert after.successions == {"EdDSA": Succession(NOW)}
    assert changed(of, facts.ended(of, POLICY, "ES256", None, NOW)) == {"e", "f"}


# -- forgetting --------------------------------------------------------------------------------------------------


def test_a_key_that_leaves_the_ledger_is_remembered() -> None:
    of = ring(key("d", "destroyed", NOW), key("r", "destroyed", NOW, revoked_at=NOW), CURRENT)
    of = facts.forgotten(of, ["d", "r"])
    assert of.keys == (CURRENT,)
    assert of.retired == (Retired("d", "d", "EdDSA", NOW), Retired("r", "r", "EdDSA", NOW, revoked=True))
    assert of.remembers("d")
    assert "d" in of.spent_kids()


def test_of_a_thousand_retired_keys_the_oldest_are_forgotten_and_the_revoked_never() -> None:
    old = tuple(Retired(str(n), str(n), "EdDSA", NOW, revoked=n == 0) for n in range(REMEMBERED))
    of = facts.forgotten(ring(key("d", "destroyed"), retired=old), ["d"])
    assert [entry.id for entry in of.retired] == [str(n) for n in range(REMEMBERED)] + ["d"]
    of = facts.forgotten(replace(of, keys=(key("f", "destroyed"),)), ["f"])
    assert [entry.id for entry in of.retired] == ["0", *(str(n) for n in range(2, REMEMBERED)), "d", "f"]


# -- a person asks to rotate or to retire ------------------------------------------------------------------------


def test_a_rotation_may_be_asked_for_once_the_gate_is_open() -> None:
    opens = gate(KEYSET, NEXT)
    assert opens
    of = facts.rotate_requested(QUIET, KEYSET, "EdDSA", opens)
    assert of.succession("EdDSA").rotate_requested_at == opens
    with pytest.raises(Refused) as caught:
        facts.rotate_requested(QUIET, KEYSET, "EdDSA", opens - 90 * MINUTE)
    assert str(caught.value) == (
        "Key set acme, EdDSA: caches may lack the next key until 2026-03-01 13:07:00Z (in 1h30m). Nothing was changed."
        " If the current key is compromised, use 'rotator revoke'."
    )
    with pytest.raises(Refused, match=r"\(in 0s\)"):
        facts.rotate_requested(QUIET, KEYSET, "EdDSA", opens - US)


def test_the_next_key_whose_gate_opens_first_decides() -> None:
    of = replace(QUIET, keys=(CURRENT, key("late", "next", NOW), key("m", "made"), key("early", "next", NOW - 3 * DAY)))
    assert facts.rotate_requested(of, KEYSET, "EdDSA", NOW).successions


@pytest.mark.parametrize(
    ("of", "alg", "why"),
    [
        (QUIET, "ES256", "ES256: the configuration does not name this algorithm, so it does not rotate."),
        (ring(NEXT), "EdDSA", r"EdDSA: no key signs yet; the first promotion comes by itself"),
        (ring(CURRENT), "EdDSA", "no next key was seen in public yet. Run 'rotator tick', then try again."),
        (ring(CURRENT, key("m", "made")), "EdDSA", "no next key was seen in public yet."),
        (ring(CURRENT, key("p", "previous")), "EdDSA", "no next key was seen in public yet."),
    ],
)
def test_a_rotation_that_cannot_be_is_refused(of: Keyring, alg: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        facts.rotate_requested(of, KEYSET, alg, NOW + 9 * DAY)


def test_a_succession_may_be_ended_when_the_configuration_does_not_name_it() -> None:
    of = ring(CURRENT, key("e", "current", alg="ES256"))
    assert facts.retire_requested(of, KEYSET, "ES256", NOW).succession("ES256").retire_requested_at == NOW
    with pytest.raises(Refused, match=r"EdDSA: the configuration still names it\. Take it out of 'algorithms'"):
        facts.retire_requested(of, KEYSET, "EdDSA", NOW)
    with pytest.raises(Refused, match="ES256: the configuration still names it"):
        facts.retire_requested(of, BOTH, "ES256", NOW)
    with pytest.raises(Refused, match=r"RS256: there is no key of this algorithm\. Nothing to retire"):
        facts.retire_requested(of, KEYSET, "RS256", NOW)
    with pytest.raises(Refused, match="Nothing to retire"):
        facts.retire_requested(ring(key("e", "destroyed", alg="ES256")), KEYSET, "ES256", NOW)


def test_a_foreign_key_is_dropped_and_one_of_ours_is_not() -> None:
    assert facts.dropped(QUIET, KEYSET, "theirs", NOW).dropped == {"theirs": NOW}
    with pytest.raises(Refused, match=r"c is one of its own keys\. Use 'rotator revoke' for those"):
        facts.dropped(QUIET, KEYSET, "c", NOW)


# -- a person revokes --------------------------------------------------------------------------------------------


def revoked(of: Keyring, kid: str, keyset: KeySet = KEYSET, now: datetime = NOW) -> Keyring:
    return facts.revoked(of, keyset, kid, "leaked", now)


def test_revoking_the_signing_key_promotes_the_next_ready_or_not() -> None:
    of = ring(CURRENT, key("n", "next", NOW))
    after = revoked(of, "c")
    bad, heir = the_key(after, "c"), the_key(after, "n")
    assert (bad.stage, bad.revoked_at, bad.revoke_reason, bad.fence_due) == (Stage.REVOKED, NOW, "leaked", False)
    assert (heir.promoting_at, heir.forced, heir.token_lifetime) == (NOW, True, POLICY.token_lifetime)
    assert after.documents["jwks"].invalidate_due
    assert after.successions == {}
    assert "c" in after.spent_kids()


def test_revoking_the_signing_key_with_nobody_in_public_lets_the_first_one_seen_sign() -> None:
    for waiting in ([], [key("m", "made")], [key("i", "intended")]):
        after = revoked(ring(CURRENT, *waiting), "c")
        assert after.succession("EdDSA").forced_at == NOW
        assert after.promoting("EdDSA") is None


def test_revoking_the_signing_key_in_the_middle_of_a_promotion_hastens_it() -> None:
    of = ring(CURRENT, key("first", "next", NOW - 9 * DAY), key("n", "next", promoting_at=NOW - HOUR))
    after = revoked(of, "c")
    assert (the_key(after, "n").promoting_at, the_key(after, "n").forced) == (NOW - HOUR, True)
    assert the_key(after, "first").promoting_at is None
    assert not the_key(after, "c").fence_due


def test_revoking_the_key_that_is_being_promoted_asks_for_a_fence() -> None:
    of = ring(CURRENT, key("n", "next", promoting_at=NOW - HOUR), key("m", "next"))
    after = revoked(of, "n")
    assert the_key(after, "n").fence_due
    assert not the_key(after, "n").promoting
    assert changed(of, after) == {"n"}, "the current key goes on signing"


def test_revoking_the_heir_before_it_took_over_hastens_the_one_after_it() -> None:
    of = revoked(ring(CURRENT, NEXT, key("m", "next", NOW)), "c")
    assert of.promoting("EdDSA") == the_key(of, "n")
    of = revoked(of, "n", now=NOW + HOUR)
    assert the_key(of, "n").fence_due
    assert of.promoting("EdDSA") == the_key(of, "m")
    assert (the_key(of, "m").promoting_at, the_key(of, "m").forced) == (NOW + HOUR, True)
    of = revoked(of, "m", now=NOW + DAY)
    assert of.promoting("EdDSA") is None
    assert of.succession("EdDSA").forced_at == NOW + DAY, "the next one that is seen signs at once"


@pytest.mark.parametrize("stage", ["made", "next", "previous", "stopped"])
def test_revoking_a_key_that_does_not_sign_leaves_the_others_alone(stage: str) -> None:
    of = ring(CURRENT, NEXT, key("x", stage))
    after = revoked(of, "x")
    assert changed(of, after) == {"x"}
    assert after.successions == {}
    assert after.documents["jwks"].invalidate_due


def test_only_documents_that_showed_the_key_are_invalidated() -> None:
    es256 = replace(VIEW, algorithms=frozenset({"ES256"}))
    keyset = replace(KEYSET, documents=(JWKS, es256))
    after = revoked(ring(CURRENT, NEXT, keyset=keyset), "c", keyset)
    assert {name: known.invalidate_due for name, known in after.documents.items()} == {"jwks": True, "view": False}
    before_founding = revoked(ring(key("m", "made"), founded_at=None, documents={}), "m")
    assert before_founding.documents == {}


def test_a_second_revoke_of_the_same_key_changes_nothing() -> None:
    once = revoked(QUIET, "c")
    assert facts.revoked(once, KEYSET, "c", "again", NOW + HOUR) == once


@pytest.mark.parametrize(
    ("kid", "why"),
    [
        ("who", "kid 'who' is unknown. Nothing was changed. Public keys: c (current), n (next)."),
        ("", "kid '' is unknown."),
        ("w", "kid 'w' is retired already. Nothing was changed. Public keys: c (current), n (next)."),
        ("x" * 10_000, "is unknown."),
    ],
    ids=["unknown", "empty", "retired", "long"],
)
def test_what_is_not_public_cannot_be_revoked(kid: str, why: str) -> None:
    of = ring(CURRENT, NEXT, key("w", "retired"))
    with pytest.raises(Refused) as caught:
        revoked(of, kid)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 300
    with pytest.raises(Refused, match="Public keys: none"):
        revoked(ring(), "who")


def test_the_successor_is_the_key_that_was_seen_for_longest() -> None:
    assert facts.successor(QUIET, "EdDSA") is NEXT
    assert facts.successor(QUIET, "ES256") is None
    for nobody in (key("m", "made"), key("i", "intended"), key("r", "next", revoked_at=NOW), key("p", "previous")):
        assert facts.successor(ring(CURRENT, nobody), "EdDSA") is None
    old = key("z", "next", NOW - 9 * DAY)
    assert facts.successor(ring(NEXT, old), "EdDSA") is old
    assert facts.successor(ring(old, replace(old, id="y")), "EdDSA") == replace(old, id="y"), "then by id"


# -- what a revoke costs -----------------------------------------------------------------------------------------

TRUSTED = (
    "A verifier may trust it until 2026-03-02 13:05:00Z: caches for 1h5m, then its own for 1d; sooner where the CDN is"
    " invalidated."
)

LAGGING = (
    "An issuer that does not read the pointer again may sign with it until 2026-03-01 {}Z: make every issuer read it"
    " now."
)


def cost(keys: Iterable[Key], kid: str, **changes: Any) -> BlastRadius:
    radius = blast_radius(ring(*keys, **changes), KEYSET, kid, NOW)
    assert (radius.kid, radius.alg) == (kid, "EdDSA")
    assert all(sentence.endswith(".") for sentence in radius.sentences)
    return radius


def test_the_cost_of_the_signing_key_with_an_heir_that_all_know() -> None:
    radius = cost([CURRENT, key("n", "next", NOW - 2 * DAY)], "c")
    assert (radius.stage, radius.signed_from) == (Stage.CURRENT, NOW - DAY)
    assert radius.tokens_until == NOW + 3 * HOUR + 5 * MINUTE
    assert radius.trusted_until == NOW + 25 * HOUR + 5 * MINUTE
    assert (radius.heir, radius.early_until) == ("n", None)
    tokens, lag, trusted, succession = radius.sentences
    assert tokens == (
        "Every token it signed since 2026-02-28 12:00:00Z is rejected from now on (the last would end by 2026-03-01"
        " 15:05:00Z): their holders must log in again."
    )
    assert lag == LAGGING.format("14:00:00")
    assert trusted == TRUSTED
    assert succession == "n takes over at once; every verifier knows it already."


def test_the_cost_of_the_signing_key_with_an_heir_before_its_gate() -> None:
    young = key("n", "next", NOW - HOUR)
    radius = cost([CURRENT, young], "c")
    assert (radius.heir, radius.early_until) == ("n", gate(KEYSET, young))
    assert radius.sentences[3:] == (
        "n takes over at once, before its gate: verifiers may reject it until 2026-03-02 12:07:00Z.",
    )
    at_the_gate = key("n", "next", NOW - POLICY.prepublish)
    assert cost([CURRENT, at_the_gate], "c").early_until is None


def test_the_cost_of_the_signing_key_without_an_heir() -> None:
    radius = cost([CURRENT, key("m", "made")], "c")
    assert (radius.heir, radius.early_until) == (None, None)
    assert radius.sentences[3:] == ("No next key is in public: nothing signs until a new key is made and seen.",)


def test_the_cost_of_the_signing_key_where_no_other_can_be_made_today() -> None:
    spent = tuple(NOW - n * MINUTE for n in range(20))
    assert cost([CURRENT], "c", attempts=spent[1:]).sentences[4:] == ()
    (never,) = cost([CURRENT], "c", attempts=spent).sentences[4:]
    assert never == (
        "None can be made before 2026-03-02 11:41:00Z: too many were made within a day. Raise"
        " policy.max_creations_per_day first."
    )
    assert cost([CURRENT, key("m", "made")], "c", attempts=spent).sentences[4:] == (), "one is on its way"


def test_the_cost_of_a_key_that_somebody_led_issuers_to() -> None:
    keys = [CURRENT, NEXT, key("p", "previous", NOW - 9 * DAY)]
    for kid in ("n", "p"):
        plain = facts_cost(keys, kid)
        led = facts_cost(keys, kid, pointed=kid)
        assert led.tokens_until == NOW + 3 * HOUR + 5 * MINUTE
        assert plain.tokens_until is None or plain.tokens_until < led.tokens_until
        blind = facts_cost(keys, kid, blind=True)
        assert blind.tokens_until == led.tokens_until
        assert blind.sentences[0] == "The EdDSA pointer cannot be read: it is counted as if it named this key."


def facts_cost(keys: Iterable[Key], kid: str, **seen: Any) -> BlastRadius:
    return blast_radius(ring(*keys), KEYSET, kid, NOW, **seen)


def test_a_key_that_is_being_promoted_is_the_heir() -> None:
    assert cost([CURRENT, key("a", "next", NOW - 9 * DAY), key("n", "next", promoting_at=NOW)], "c").heir == "n"


@pytest.mark.parametrize("stage", ["made", "next"])
def test_the_cost_of_a_key_that_never_signed(stage: str) -> None:
    radius = cost([CURRENT, NEXT, key("x", stage)], "x")
    assert (radius.signed_from, radius.tokens_until, radius.heir) == (None, None, None)
    assert radius.sentences == ("It never signed: no token is affected.", TRUSTED)


def test_the_cost_of_a_previous_key_whose_tokens_live() -> None:
    radius = cost([CURRENT, NEXT, key("p", "previous", NOW - HOUR)], "p")
    assert radius.stage is Stage.PREVIOUS
    assert radius.tokens_until == NOW + 2 * HOUR + 5 * MINUTE, "an issuer may not have read the pointer since"
    assert radius.sentences[1:] == (LAGGING.format("13:00:00"), TRUSTED)
    assert "must log in again" in radius.sentences[0]
    later = cost([CURRENT, NEXT, key("p", "previous", NOW - 2 * HOUR)], "p")
    assert later.tokens_until == NOW + HOUR + 5 * MINUTE
    assert later.sentences[1:] == (TRUSTED,)


def test_the_cost_of_a_previous_key_whose_tokens_have_ended() -> None:
    ended = POLICY.signer_lag + POLICY.token_lifetime + POLICY.verifier_leeway
    radius = cost([CURRENT, NEXT, key("p", "previous", NOW - ended)], "p")
    assert radius.tokens_until == NOW
    assert radius.sentences == ("Every token it signed has ended: no live token is affected.", TRUSTED)
    alive = cost([CURRENT, NEXT, key("p", "previous", NOW - ended + US)], "p")
    assert "must log in again" in alive.sentences[0]


def test_the_cost_counts_on_the_largest_promises() -> None:
    radius = cost([replace(CURRENT, **GENEROUS), NEXT], "c")
    assert radius.tokens_until == NOW + 17 * HOUR + 7 * MINUTE


def test_the_cost_of_a_key_that_the_pointer_strayed_to_once() -> None:
    strayed = key("x", "next", NOW - 9 * DAY, superseded_at=NOW - HOUR)
    radius = cost([CURRENT, NEXT, strayed], "x")
    assert (radius.stage, radius.signed_from) == (Stage.PREVIOUS, NOW - 9 * DAY)
    # It was about to be led away from there, and nobody came to say when it was.
    astray = cost([CURRENT, NEXT, key("x", "next", NOW - 9 * DAY, astray=True)], "x")
    assert (astray.signed_from, astray.tokens_until) == (NOW - 9 * DAY, NOW + 3 * HOUR + 5 * MINUTE)
    unseen = key("x", "made", superseded_at=NOW - HOUR)
    assert "since an unknown time is rejected" in cost([CURRENT, NEXT, unseen], "x").sentences[0]


def test_the_cost_of_a_key_that_is_revoked_already() -> None:
    revoked = key("c", "current", revoked_at=NOW - HOUR, revoke_reason="stolen")
    radius = cost([revoked, NEXT], "c")
    assert (radius.stage, radius.heir) == (Stage.REVOKED, None)
    assert radius.sentences[0] == "It was revoked at 2026-03-01 11:00:00Z: stolen."
    assert radius.tokens_until == NOW + 3 * HOUR + 5 * MINUTE, "the pointer may still name it"
    superseded = replace(revoked, superseded_at=NOW - HOUR)
    assert cost([superseded, NEXT], "c").tokens_until == NOW + 2 * HOUR + 5 * MINUTE
    # Nobody wrote down that the pointer ever named it: it was stopped before it could.
    fenced = key("n", "next", promoting_at=NOW - HOUR, revoked_at=NOW - HOUR, disabled_at=NOW - HOUR)
    assert cost([CURRENT, fenced], "n").tokens_until == NOW + 2 * HOUR + 5 * MINUTE


def test_the_cost_of_a_key_that_is_gone_everywhere_does_not_grow_with_time() -> None:
    facts_of: dict[str, Any] = {"revoked_at": NOW - 9 * DAY, "superseded_at": NOW - 9 * DAY, "revoke_reason": "stolen"}
    gone = key("c", "current", NOW - 20 * DAY, gone={"jwks": NOW - 2 * DAY}, **facts_of)
    radius = cost([gone, NEXT], "c")
    assert radius.trusted_until == NOW - 2 * DAY + 25 * HOUR + 5 * MINUTE
    assert radius.sentences[1:] == (
        "Every token it signed has ended: no live token is affected.",
        "No verifier trusts it any more: the last copy of it ended at 2026-02-28 13:05:00Z.",
    )
    assert cost([replace(gone, gone={}), NEXT], "c").trusted_until == NOW + 25 * HOUR + 5 * MINUTE


def test_the_cost_counts_with_headers_that_let_caches_keep_copies_for_longer() -> None:
    long = DocumentFacts("ours", "", (Served("ours", HOUR), Served(LONG, 9 * DAY)))
    radius = cost([CURRENT, NEXT], "c", documents={"jwks": long})
    assert radius.trusted_until == NOW + 10 * DAY
    assert "caches for 9d, then its own for 1d" in radius.sentences[2]


def test_what_is_not_public_has_no_cost() -> None:
    with pytest.raises(Refused, match="kid 'who' is unknown"):
        cost([CURRENT], "who")
