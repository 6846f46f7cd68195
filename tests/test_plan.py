"""The plan as named stories: a keyring, a moment and an observation; then the step, or the wait, and why.

Each story starts from a ledger in which nothing is to be done and changes one thing. What depends on time is asked one
microsecond before its gate, and at it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.errors import Outdated, Refused
from rotator.keys import plan as planning
from rotator.keys.jwks import Jwk, PublicSet
from rotator.keys.keyring import DocumentFacts, Key, Keyring, Retired, Served, Stage, Succession
from rotator.keys.material import b64u
from rotator.keys.plan import PLAIN, Look, Observed, Plan, Step, Traits, Wait, gate, plan, stop_at, withdraw_at
from rotator.keys.policy import KeySet, Policy, PublicDocument
from rotator.keys.publication import Seen, project

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

US = timedelta(microseconds=1)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

#: The defaults: prepublish is 25h7m, stop 2h2m and retention 3h9m.
POLICY = Policy(algorithms=("EdDSA",))
JWKS = PublicDocument("jwks", "acme/jwks.json")
KEYSET = KeySet("acme", POLICY, (JWKS,))
KMS_LIKE = Traits(attempt_pause=5 * MINUTE, leaves_strays=True)

#: The stages of an ordinary life, with the fact that begins each.
LIFE = {
    "intended": "intended_at",
    "made": "created_at",
    "next": "published_at",
    "current": "activated_at",
    "previous": "superseded_at",
    "stopped": "disabled_at",
    "retired": "withdrawn_at",
    "destroyed": "destroyed_at",
}


# -- builders ----------------------------------------------------------------------------------------------------


def jwk_of(kid: str, alg: str = "EdDSA") -> Jwk:
    return {"kty": "OKP", "kid": kid, "alg": alg, "use": "sig", "crv": "Ed25519", "x": b64u(kid.encode())}


def key(name: str, stage: str, since: datetime = NOW - DAY, *, alg: str = "EdDSA", **facts: Any) -> Key:
    """A key (id and kid ``name``) that entered ``stage`` at ``since``, two days after the stage before."""
    reached = list(LIFE).index(stage)
    life: dict[str, Any] = {
        fact: since - (reached - number) * 2 * DAY for number, fact in enumerate(list(LIFE.values())[: reached + 1])
    }
    life |= {"attempt": f"attempt of {name}", "attempted_at": life["intended_at"]}
    if "created_at" in life:
        life |= {"kid": name, "jwk": jwk_of(name, alg), "handle": f"handle of {name}"}
    if seen := life.get("published_at"):
        life |= {"published": {"jwks": seen}, "ready": {"jwks": seen + POLICY.prepublish}}
    if "activated_at" in life:
        life |= {"promoting_at": life["activated_at"]}
    if not {"promoting_at", "superseded_at"}.isdisjoint(life | facts):
        life |= {lag: getattr(POLICY, lag) for lag in ("signer_lag", "token_lifetime", "verifier_leeway", "clock_skew")}
    return Key(**({"id": name, "alg": alg} | life | facts))


def ring(*keys: Key, keyset: KeySet = KEYSET, **facts: Any) -> Keyring:
    """A ledger in use, whose documents are served as the policy of ``keyset`` says."""
    born = NOW - 100 * DAY
    header = keyset.policy.cache_control
    served = DocumentFacts(header, keyset.content_type, (Served(header, keyset.policy.staleness),))
    documents = {document.name: served for document in keyset.documents}
    there: dict[str, Any] = {"created_at": born, "revision": 7, "founded_at": born, "documents": documents}
    return Keyring(**({"keyset": "acme", "ledger_id": "ledger", "keys": keys} | there | facts))


def seen(
    keys: Iterable[Jwk] | None,
    cache_control: str | None = POLICY.cache_control,
    content_type: str | None = KEYSET.content_type,
    revision: int | None = 7,
) -> Seen:
    """A document that exists and holds ``keys``; ``None``: it is no JWKS."""
    return Seen(True, None if keys is None else PublicSet(tuple(keys), revision), cache_control, content_type)


def world(of: Keyring, keyset: KeySet = KEYSET, **changes: Any) -> Observed:
    """The world as the ledger ``of`` wants it, but for ``changes``."""
    signing = {alg: of.current(alg) for alg in (*keyset.policy.algorithms, *of.algorithms())}
    documents = {}
    if of.founded_at:
        for document in keyset.documents:
            facts = of.documents.get(document.name) or DocumentFacts(keyset.policy.cache_control, keyset.content_type)
            documents[document.name] = seen(project(of, document, Seen()), facts.cache_control, facts.content_type)
    pointers = {alg: current.id if current else None for alg, current in signing.items()}
    there: dict[str, Any] = {"pointers": pointers, "documents": documents}
    return Observed(**(there | changes))


def ask(
    of: Keyring,
    observed: Observed | None = None,
    *,
    now: datetime = NOW,
    keyset: KeySet = KEYSET,
    traits: Traits = PLAIN,
) -> Plan:
    return plan(of, keyset, now, observed or world(of, keyset), traits)


def step_of(asked: Plan) -> tuple[str, str | None] | None:
    """The planned step: its name, and the key, document or algorithm it is about."""
    step = asked.step
    return (step.name, step.key or step.document or step.alg) if step else None


def the_step(asked: Plan, kind: type[Step]) -> Any:
    assert type(asked.step) is kind
    assert asked.step.reason
    return asked.step


def waits(asked: Plan, step: str) -> list[Wait]:
    return [wait for wait in asked.waits if wait.step == step]


def the_wait(asked: Plan, step: str) -> Wait:
    (wait,) = waits(asked, step)
    assert wait.reason
    return wait


def with_policy(**changes: Any) -> KeySet:
    return replace(KEYSET, policy=replace(POLICY, **changes))


CURRENT, NEXT = key("c", "current"), key("n", "next")
QUIET = ring(CURRENT, NEXT)
BOTH = with_policy(algorithms=("EdDSA", "ES256"))


# -- nothing to do -----------------------------------------------------------------------------------------------


def test_with_all_as_it_should_be_the_only_wait_is_for_the_next_rotation() -> None:
    asked = ask(QUIET)
    assert asked.step is None
    (wait,) = asked.waits
    assert CURRENT.activated_at
    assert (wait.step, wait.at, wait.alg, wait.kid) == ("promote", CURRENT.activated_at + 30 * DAY, "EdDSA", "n")
    assert wait.reason == "the current key signs for 30d"
    assert asked.due == wait.at


def test_what_waits_for_no_moment_is_never_due() -> None:
    assert Plan(None).due is None
    assert Plan(None, (Wait("promote", "the clock is off"),)).due is None
    early, late = Wait("promote", "", NOW), Wait("withdraw", "", NOW + DAY)
    assert Plan(None, (late, Wait("intend", ""), early)).due == NOW


# -- gates: just before and just after ---------------------------------------------------------------------------


def since(moment: datetime | None) -> datetime:
    assert moment is not None
    return moment


OLD_NEXT = key("n", "next", NOW - 9 * DAY)
PREVIOUS, STOPPED = key("p", "previous", NOW), key("p", "stopped", NOW + 2 * DAY)
GENEROUS: dict[str, Any] = {"signer_lag": 9 * HOUR, "token_lifetime": 8 * HOUR, "verifier_leeway": 7 * MINUTE}
VIEW = PublicDocument("view", "acme/view.json")
VIEWED = replace(KEYSET, documents=(JWKS, VIEW))
IN_BOTH: dict[str, Any] = {
    "published": {"jwks": NOW, "view": NOW + HOUR},
    "ready": dict.fromkeys(("jwks", "view"), NOW + POLICY.prepublish),
}

GATES = [
    pytest.param(
        ring(key("c", "current", NOW - 29 * DAY), key("n", "next")),
        KEYSET,
        NOW + DAY,
        ("promote", "n"),
        "the current key signs for 30d",
        id="promote: the lifetime of the current key is over",
    ),
    pytest.param(
        ring(key("c", "current", NOW - 40 * DAY), key("n", "next", NOW)),
        KEYSET,
        NOW + POLICY.prepublish,
        ("promote", "n"),
        "caches may lack it until then; the current key signs for 30d",
        id="promote: every cache holds the next key",
    ),
    pytest.param(
        ring(CURRENT, key("n", "next", NOW - HOUR), successions={"EdDSA": Succession(rotate_requested_at=NOW)}),
        KEYSET,
        NOW - HOUR + POLICY.prepublish,
        ("promote", "n"),
        "caches may lack it until then; a person asked to rotate",
        id="promote: a person asked, and the gate opens",
    ),
    pytest.param(
        ring(CURRENT, NEXT, successions={"EdDSA": Succession(rotate_requested_at=NOW - DAY + POLICY.prepublish)}),
        KEYSET,
        NOW - DAY + POLICY.prepublish,
        ("promote", "n"),
        "caches may lack it until then; a person asked to rotate",
        id="promote: a person asked for the very moment at which the gate opens",
    ),
    pytest.param(
        ring(CURRENT, OLD_NEXT, successions={"EdDSA": Succession(rotate_requested_at=NOW)}),
        KEYSET,
        NOW,
        ("promote", "n"),
        "a person asked to rotate",
        id="promote: a person asks, with the gate open for long",
    ),
    pytest.param(
        ring(key("n", "next", NOW)),
        KEYSET,
        NOW + POLICY.prepublish,
        ("promote", "n"),
        "caches may lack it until then; no key signs yet",
        id="promote: the first key of an added algorithm waits the whole gate",
    ),
    pytest.param(
        ring(key("n", "next", NOW, founding=True)),
        KEYSET,
        NOW,
        ("promote", "n"),
        "caches may lack it until then; no key signs yet",
        id="promote: a founding key signs as soon as it was seen",
    ),
    pytest.param(
        ring(key("c", "current", NOW - 40 * DAY), key("n", "next", NOW, ready={"jwks": NOW + 9 * DAY})),
        KEYSET,
        NOW + 9 * DAY,
        ("promote", "n"),
        "caches may lack it until then; the current key signs for 30d",
        id="promote: a promise longer than today's policy is kept",
    ),
    pytest.param(
        ring(key("c", "current", NOW - 40 * DAY), key("n", "next", NOW, ready={"jwks": NOW})),
        KEYSET,
        NOW + POLICY.prepublish,
        ("promote", "n"),
        "caches may lack it until then; the current key signs for 30d",
        id="promote: a policy longer than the promise is obeyed",
    ),
    pytest.param(
        ring(key("c", "current", NOW - 40 * DAY), key("n", "next", NOW, lacking={"jwks": NOW + 3 * DAY})),
        KEYSET,
        NOW + 4 * DAY + 2 * MINUTE,
        ("promote", "n"),
        "caches may lack it until then; the current key signs for 30d",
        id="promote: no verifier keeps a set that was fetched from the last copy without the key",
    ),
    pytest.param(
        ring(key("c", "current", NOW - 40 * DAY), key("n", "next", NOW + HOUR, **IN_BOTH), keyset=VIEWED),
        VIEWED,
        NOW + HOUR + POLICY.prepublish,
        ("promote", "n"),
        "caches may lack it until then; the current key signs for 30d",
        id="promote: the caches of the later of two documents hold it",
    ),
    pytest.param(
        ring(PREVIOUS, CURRENT, NEXT),
        KEYSET,
        NOW + 2 * HOUR + 2 * MINUTE,
        ("disable", "p"),
        "issuers may still sign with it",
        id="disable: no issuer signs with it",
    ),
    pytest.param(
        ring(replace(PREVIOUS, **GENEROUS), CURRENT, NEXT),
        KEYSET,
        NOW + 9 * HOUR + 2 * MINUTE,
        ("disable", "p"),
        "issuers may still sign with it",
        id="disable: a lag longer than today's policy is kept",
    ),
    pytest.param(
        ring(STOPPED, CURRENT, NEXT),
        KEYSET,
        since(STOPPED.superseded_at) + 3 * HOUR + 9 * MINUTE,
        ("withdraw", "p"),
        "tokens it signed may be alive",
        id="withdraw: every token has ended",
    ),
    pytest.param(
        ring(replace(STOPPED, **GENEROUS), CURRENT, NEXT),
        KEYSET,
        since(STOPPED.superseded_at) + 17 * HOUR + 11 * MINUTE,
        ("withdraw", "p"),
        "tokens it signed may be alive",
        id="withdraw: promises longer than today's policy are kept",
    ),
]


@pytest.mark.parametrize(("of", "keyset", "at", "step", "reason"), GATES)
def test_a_gate_opens_at_its_moment_and_not_a_microsecond_before(
    of: Keyring, keyset: KeySet, at: datetime, step: tuple[str, str], reason: str
) -> None:
    before = ask(of, now=at - US, keyset=keyset)
    assert before.step is None
    wait = the_wait(before, step[0])
    assert (wait.at, wait.reason) == (at, reason)
    assert before.due == at
    after = ask(of, now=at, keyset=keyset)
    assert step_of(after) == step
    assert waits(after, step[0]) == []


@pytest.mark.parametrize(("of", "keyset", "at", "step", "reason"), GATES)
def test_nothing_time_based_happens_while_the_clock_cannot_be_trusted(
    of: Keyring, keyset: KeySet, at: datetime, step: tuple[str, str], reason: str
) -> None:
    asked = ask(of, world(of, keyset, clock_fault="the clock is off"), now=at, keyset=keyset)
    assert asked.step is None
    wait = the_wait(asked, step[0])
    assert (wait.at, wait.reason) == (None, "the clock is off")


def test_the_moments_of_stopping_and_withdrawing_follow_the_larger_of_promise_and_policy() -> None:
    generous = replace(CURRENT, **GENEROUS)
    assert stop_at(POLICY, CURRENT, NOW) == NOW + 2 * HOUR + 2 * MINUTE
    assert stop_at(POLICY, generous, NOW) == NOW + 9 * HOUR + 2 * MINUTE
    assert withdraw_at(POLICY, CURRENT, NOW) == NOW + 3 * HOUR + 9 * MINUTE
    assert withdraw_at(POLICY, generous, NOW) == NOW + 17 * HOUR + 11 * MINUTE
    grown = replace(POLICY, **GENEROUS)
    assert stop_at(grown, CURRENT, NOW) == stop_at(POLICY, generous, NOW)
    assert withdraw_at(grown, CURRENT, NOW) == withdraw_at(POLICY, generous, NOW)


def test_a_gate_is_the_latest_of_promise_and_policy_over_all_documents() -> None:
    assert gate(KEYSET, key("n", "made")) is None
    assert gate(KEYSET, key("n", "next", NOW)) == NOW + POLICY.prepublish
    assert gate(VIEWED, key("n", "next", NOW)) is None, "it was not seen in the view"
    assert gate(VIEWED, key("n", "next", NOW, **IN_BOTH)) == NOW + HOUR + POLICY.prepublish
    assert gate(KEYSET, key("n", "made", founding=True)) is None
    assert gate(KEYSET, key("n", "next", NOW, founding=True)) == NOW
    assert gate(replace(KEYSET, documents=()), key("n", "next", NOW)) is None, "no verifier can ever know it"


def test_a_document_that_does_not_show_the_algorithm_is_not_waited_for() -> None:
    narrow = replace(KEYSET, documents=(JWKS, replace(VIEW, algorithms=frozenset({"ES256"}))))
    assert gate(narrow, key("n", "next", NOW)) == NOW + POLICY.prepublish


# -- refusals ----------------------------------------------------------------------------------------------------


def test_a_pointer_at_a_key_the_ledger_does_not_know_is_refused() -> None:
    with pytest.raises(
        Refused, match=r"acme: issuers follow a EdDSA key \(intent who\).*older than the world"
    ) as caught:
        ask(QUIET, world(QUIET, pointers={"EdDSA": "who"}))
    assert "Nothing was changed" in str(caught.value)
    assert "'Lost ledger'" in str(caught.value)


def test_a_pointer_at_a_key_retired_long_ago_is_repaired_and_not_refused() -> None:
    of = replace(QUIET, retired=(Retired("old", "old-kid", "EdDSA", NOW),))
    step = the_step(ask(of, world(of, pointers={"EdDSA": "old"})), planning.RepairPointer)
    assert step.reason == "the pointer names a key retired long ago (intent old) instead"


def test_a_document_made_from_a_later_revision_than_the_ledger_is_at_is_refused() -> None:
    jwks = project(QUIET, JWKS, Seen())
    for revision in (None, 0, 6, 7):
        assert ask(QUIET, world(QUIET, documents={"jwks": seen(jwks, revision=revision)})).step is None
    with pytest.raises(Refused, match=r"made from ledger revision 8, but the ledger is at 7.*older than the world"):
        ask(QUIET, world(QUIET, documents={"jwks": seen(jwks, revision=8)}))


def test_a_document_of_another_ledger_altogether_is_put_right() -> None:
    theirs = seen([jwk_of("theirs")], revision=8)
    assert step_of(ask(QUIET, world(QUIET, documents={"jwks": theirs}))) == ("unpublish", "jwks")
    of = ring(CURRENT, key("n", "made"))
    assert step_of(ask(of, world(of, documents={"jwks": theirs}))) == ("publish", "jwks")


def test_another_ledgers_document_is_left_alone_while_a_pointer_that_could_tell_is_unread() -> None:
    # It may be ours, and the ledger so old that every key has changed since.
    theirs = [jwk_of("theirs")]
    with pytest.raises(Outdated, match="made from ledger revision 8, but the ledger is at 7"):
        ask(QUIET, world(QUIET, pointers={}, documents={"jwks": seen(theirs, revision=8)}))
    for revision in (None, 7):
        stranger = seen(theirs, revision=revision)
        assert step_of(ask(QUIET, world(QUIET, pointers={}, documents={"jwks": stranger}))) == ("unpublish", "jwks")


def test_a_document_that_the_ledger_never_wrote_is_refused() -> None:
    empty = ring(founded_at=None, documents={})
    for there in (seen([]), seen(None), seen([jwk_of("theirs")])):
        with pytest.raises(Refused, match=r"never wrote stands at acme/jwks.json. Nothing was changed"):
            ask(empty, world(empty, documents={"jwks": there}))
    assert step_of(ask(empty)) == ("intend", "EdDSA")


# -- fence -------------------------------------------------------------------------------------------------------

FENCED = ring(CURRENT, NEXT, key("r", "next", revoked_at=NOW, gone={"jwks": NOW}, disabled_at=NOW, destroyed_at=NOW))
FENCED = FENCED.with_key("r", fence_due=True)


def test_a_key_revoked_in_the_middle_of_its_promotion_is_fenced_before_anything_else() -> None:
    asked = ask(FENCED, world(FENCED, pointers={"EdDSA": "r"}, documents={}))
    step = the_step(asked, planning.Fence)
    assert (step.key, step.kid, step.alg) == ("r", "r", "EdDSA")
    assert step.reason == "it was revoked while a worker may be promoting it"


def test_a_fence_that_failed_holds_up_nothing_else_of_the_emergency() -> None:
    asked = ask(FENCED, world(FENCED, pointers={"EdDSA": "r"}, failed=frozenset({("fence", "r")})))
    assert step_of(asked) == ("repair-pointer", "c")


# -- the pointer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stray", "naming"),
    [
        (key("x", "next"), "x (next)"),
        (key("x", "made"), "x (pending)"),
        (key("x", "previous"), "x (previous)"),
        (key("x", "destroyed"), "x (retired)"),
        (key("x", "current", revoked_at=NOW), "x (revoked)"),
        (key("x", "next", alg="ES256"), "x (next)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pointer_that_strayed_is_moved_back_to_the_current_key(stray: Key, naming: str) -> None:
    of = ring(CURRENT, NEXT, stray)
    step = the_step(ask(of, world(of, pointers={"EdDSA": "x"})), planning.RepairPointer)
    assert (step.key, step.kid, step.alg) == ("c", "c", "EdDSA")
    assert step.reason == f"the pointer names {naming} instead"


def test_a_pointer_that_was_led_away_unrecorded_supersedes_before_anything_leaves() -> None:
    of = ring(CURRENT, NEXT, key("p", "previous", NOW - 30 * DAY, astray=True))
    step = the_step(ask(of, world(of)), planning.Supersede)
    assert (step.key, step.kid, step.alg) == ("p", "p", "EdDSA")
    assert "whoever led it away did not come to say so" in step.reason
    assert step_of(ask(of, world(of, pointers={"EdDSA": "p"}))) == ("repair-pointer", "c")
    assert ask(of, world(of, pointers={})).step is None


def test_a_pointer_that_was_led_away_from_the_heir_of_a_revoked_key_is_moved_to_it_again() -> None:
    of = ring(key("c", "current", revoked_at=NOW), key("n", "next", promoting_at=NOW, forced=True, astray=True))
    assert step_of(ask(of, world(of, pointers={"EdDSA": "c"}))) == ("activate", "n")


def test_a_pointer_that_names_a_key_before_it_was_made_tells_of_an_old_ledger() -> None:
    of = ring(CURRENT, key("x", "intended"))
    with pytest.raises(Refused, match=r"\(intent x\) that the ledger has yet to make: .* 'rotator recover'"):
        ask(of, world(of, pointers={"EdDSA": "x"}))


def test_a_pointer_that_names_no_key_is_moved_back_to_the_current_key() -> None:
    step = the_step(ask(QUIET, world(QUIET, pointers={"EdDSA": None})), planning.RepairPointer)
    assert step.reason == "the pointer names no key instead"


def test_a_pointer_where_no_key_may_sign_is_cleared() -> None:
    for stray in (key("x", "made"), key("x", "next"), key("x", "current", revoked_at=NOW)):
        of = ring(stray, NEXT)
        step = the_step(ask(of, world(of, pointers={"EdDSA": "x"})), planning.ClearPointer)
        assert step.alg == "EdDSA"
        assert step.reason == f"x ({stray.stage}) must not sign, and no other key may yet"


def test_a_pointer_that_was_not_read_is_left_alone() -> None:
    asked = ask(QUIET, world(QUIET, pointers={}))
    assert asked.step is None


PROMOTING = ring(CURRENT, key("n", "next", NOW - 9 * DAY, promoting_at=NOW))


def test_a_pointer_that_moved_ahead_of_the_ledger_is_caught_up_with() -> None:
    step = the_step(ask(PROMOTING, world(PROMOTING, pointers={"EdDSA": "n"})), planning.Activate)
    assert (step.key, step.kid, step.reason) == ("n", "n", "the pointer already names it")


def test_a_pointer_that_could_not_be_put_right_holds_up_nothing_else() -> None:
    old = key("o", "retired")
    strayed = ring(CURRENT, NEXT, key("m", "made"), old)
    repair = world(strayed, pointers={"EdDSA": "n"}, failed=frozenset({("repair-pointer", "c")}))
    assert step_of(ask(strayed, repair)) == ("note-published", "jwks")
    nobody = ring(NEXT, key("m", "made"), old)
    clear = world(nobody, pointers={"EdDSA": "n"}, failed=frozenset({("clear-pointer", "EdDSA")}))
    assert step_of(ask(nobody, clear)) == ("note-published", "jwks")
    moved = world(PROMOTING, pointers={"EdDSA": "n"}, failed=frozenset({("activate", "n")}))
    assert ask(PROMOTING, moved).step is None


def test_a_pointer_that_strayed_in_the_middle_of_a_promotion_is_moved_back_first() -> None:
    of = replace(PROMOTING, keys=(*PROMOTING.keys, key("x", "previous")))
    assert step_of(ask(of, world(of, pointers={"EdDSA": "x"}))) == ("repair-pointer", "c")


def revoked_current(heir: Key) -> Keyring:
    return ring(key("r", "current", revoked_at=NOW, gone={"jwks": NOW}, disabled_at=NOW, destroyed_at=NOW), heir)


def test_a_forced_heir_takes_the_pointer_over_from_a_revoked_key() -> None:
    of = revoked_current(key("n", "next", promoting_at=NOW, forced=True))
    assert step_of(ask(of, world(of, pointers={"EdDSA": "r"}))) == ("activate", "n")


def test_the_pointer_is_cleared_while_the_forced_heir_is_in_no_document() -> None:
    of = revoked_current(key("n", "made", promoting_at=NOW, forced=True))
    assert step_of(ask(of, world(of, pointers={"EdDSA": "r"}))) == ("clear-pointer", "EdDSA")


def test_the_pointer_is_cleared_when_the_forced_heir_could_not_take_over() -> None:
    of = revoked_current(key("n", "next", promoting_at=NOW, forced=True))
    failed = world(of, pointers={"EdDSA": "r"}, failed=frozenset({("activate", "n")}))
    assert step_of(ask(of, failed)) == ("clear-pointer", "EdDSA")
    assert ask(of, replace(failed, pointers={"EdDSA": None})).step is None


# -- the end of a succession -------------------------------------------------------------------------------------

ENDED = ring(
    CURRENT,
    NEXT,
    key("e", "current", alg="ES256"),
    key("f", "next", alg="ES256"),
    successions={"ES256": Succession(retire_requested_at=NOW)},
)


def test_a_succession_ends_when_a_person_asked_and_the_configuration_does_not_name_it() -> None:
    step = the_step(ask(ENDED), planning.EndSuccession)
    assert (step.alg, step.reason) == ("ES256", "a person ended it at 2026-03-01 12:00Z")


def test_a_succession_that_the_configuration_names_again_goes_on_and_says_so() -> None:
    asked = ask(ENDED, keyset=BOTH, now=NOW + DAY - US)
    assert asked.step is None
    wait = the_wait(asked, "end-succession")
    assert (wait.alg, wait.at) == ("ES256", NOW + DAY)
    assert "names it again" in wait.reason


def test_a_request_to_end_lapses_once_the_configuration_has_named_the_algorithm_for_a_day() -> None:
    step = the_step(ask(ENDED, keyset=BOTH, now=NOW + DAY), planning.Lapse)
    assert step.alg == "ES256"
    off = world(ENDED, BOTH, clock_fault="the clock is off")
    assert ask(ENDED, off, keyset=BOTH, now=NOW + DAY).step is None


def test_an_emergency_of_an_algorithm_that_left_lapses_after_a_day_once_no_key_of_it_is_left() -> None:
    of = replace(QUIET, successions={"ES256": Succession(forced_at=NOW - DAY)})
    assert the_step(ask(of), planning.Lapse).alg == "ES256"
    assert the_wait(ask(of, now=NOW - US), "lapse").at == NOW
    assert the_wait(ask(of, world(of, clock_fault="the clock is off")), "lapse").reason == "the clock is off"
    left = replace(of, keys=(*of.keys, key("s", "next", alg="ES256")))
    assert not waits(ask(left), "lapse"), "the next key of it may yet sign"
    assert not waits(ask(of, keyset=BOTH), "lapse")


def test_a_request_to_rotate_is_no_request_to_end() -> None:
    of = replace(QUIET, successions={"EdDSA": Succession(rotate_requested_at=NOW)})
    assert [wait.step for wait in ask(of).waits] == ["promote"]


def test_a_succession_whose_pointer_was_not_read_does_not_end() -> None:
    assert ask(ENDED, world(ENDED, pointers={"EdDSA": "c"})).step is None


def test_an_algorithm_taken_out_of_the_configuration_stays_as_it_is() -> None:
    of = replace(ENDED, successions={})
    for now in (NOW, NOW + 29 * DAY - US):
        assert ask(of, now=now).step is None
    late = ask(of, now=NOW + 400 * DAY)
    assert step_of(late) == ("promote", "n"), "only the other algorithm rotates"


# -- documents that were restored --------------------------------------------------------------------------------


def test_a_next_key_missing_from_a_document_loses_its_clock() -> None:
    step = the_step(ask(QUIET, world(QUIET, documents={"jwks": seen([jwk_of("c")])})), planning.Unpublish)
    assert (step.document, step.keys, step.alg) == ("jwks", ("n",), "EdDSA")
    assert step.reason == ("acme/jwks.json was found without n: caches may hold that copy, the clock starts again")


@pytest.mark.parametrize("there", [Seen(), seen(None), seen([])], ids=["deleted", "no JWKS", "empty"])
def test_a_document_that_is_gone_or_broken_takes_the_clock_of_every_waiting_key(there: Seen) -> None:
    of = ring(CURRENT, NEXT, key("m", "next"), key("i", "intended"))
    step = the_step(ask(of, world(of, documents={"jwks": there})), planning.Unpublish)
    assert step.keys == ("n", "m")
    assert "without n, m:" in step.reason


def test_a_key_that_was_never_seen_there_has_no_clock_to_lose() -> None:
    of = ring(CURRENT, key("n", "made"))
    assert step_of(ask(of, world(of, documents={"jwks": seen([jwk_of("c")])}))) == ("publish", "jwks")


def test_a_key_that_signs_keeps_its_facts_when_a_document_lacks_it() -> None:
    asked = ask(QUIET, world(QUIET, documents={"jwks": seen([jwk_of("n")])}))
    assert step_of(asked) == ("publish", "jwks")


def test_a_founding_key_missing_from_the_first_document_is_no_founding_key() -> None:
    of = ring(key("n", "made", founding=True))
    step = the_step(ask(of, world(of, documents={"jwks": seen([])})), planning.Unpublish)
    assert step.keys == ("n",)


def test_a_document_that_does_not_show_the_algorithm_any_more_takes_no_clock() -> None:
    narrow = replace(KEYSET, documents=(replace(JWKS, algorithms=frozenset({"ES256"})),))
    assert ask(QUIET, world(QUIET, narrow), keyset=narrow).step is None


def test_a_founding_key_waits_for_the_first_document() -> None:
    of = ring(key("n", "made", founding=True))
    assert step_of(ask(of, world(of, documents={"jwks": Seen()}))) == ("publish", "jwks")


def test_a_promotion_whose_key_left_the_documents_is_cancelled() -> None:
    of = ring(CURRENT, key("n", "made", promoting_at=NOW))
    step = the_step(ask(of), planning.CancelPromotion)
    assert (step.key, step.kid, step.alg, step.reason) == ("n", "n", "EdDSA", "its key is no longer seen in public")


def test_a_promotion_whose_gate_moved_away_is_cancelled_and_one_whose_gate_was_open_is_not() -> None:
    step = the_step(ask(PROMOTING, keyset=with_policy(verifier_cache=10 * DAY)), planning.CancelPromotion)
    assert (step.key, step.reason) == ("n", "the policy grew and closed its gate")
    assert step_of(ask(PROMOTING, keyset=with_policy(verifier_cache=7 * DAY))) == ("activate", "n")
    # Another worker's clock may be a little behind the one that saw the gate open: that closes nothing.
    opened = ring(CURRENT, key("n", "next", NOW - POLICY.prepublish, promoting_at=NOW))
    assert step_of(ask(opened, now=NOW - MINUTE)) == ("activate", "n")


def test_a_promotion_is_cancelled_when_a_document_without_its_key_is_added() -> None:
    asked = ask(PROMOTING, world(PROMOTING, VIEWED), keyset=VIEWED)
    assert the_step(asked, planning.CancelPromotion).reason == "its key is no longer seen in public"


def test_a_promotion_that_the_pointer_followed_already_is_not_cancelled() -> None:
    there = world(PROMOTING, pointers={"EdDSA": "n"})
    assert step_of(ask(PROMOTING, there, keyset=with_policy(verifier_cache=10 * DAY))) == ("activate", "n")


def test_a_forced_promotion_is_never_cancelled() -> None:
    of = ring(key("n", "made", promoting_at=NOW, forced=True))
    assert step_of(ask(of)) == ("note-published", "jwks")


# -- headers -----------------------------------------------------------------------------------------------------


def test_a_policy_with_other_headers_is_recorded_before_a_copy_goes_out_with_them() -> None:
    changed = with_policy(cache_max_age=7 * MINUTE)
    step = the_step(ask(QUIET, keyset=changed), planning.Serve)
    assert (step.document, step.cache_control, step.foreign) == ("jwks", changed.policy.cache_control, False)
    assert step.reason == "the policy's headers changed"


def test_another_content_type_is_a_change_of_headers() -> None:
    step = the_step(ask(QUIET, keyset=replace(KEYSET, content_type="application/json")), planning.Serve)
    assert (step.cache_control, step.foreign) == (POLICY.cache_control, False)


def test_a_document_added_to_the_configuration_gets_its_headers_first() -> None:
    step = the_step(ask(QUIET, keyset=VIEWED), planning.Serve)
    assert (step.document, step.foreign) == ("view", False)


@pytest.mark.parametrize("header", ["max-age=864000", None])
def test_headers_that_somebody_else_sent_are_remembered(header: str | None) -> None:
    jwks = project(QUIET, JWKS, Seen())
    step = the_step(ask(QUIET, world(QUIET, documents={"jwks": seen(jwks, header)})), planning.Serve)
    assert (step.document, step.cache_control, step.foreign) == ("jwks", header, True)
    assert step.reason == f"somebody served acme/jwks.json with Cache-Control {header!r}"


def test_headers_of_somebody_else_are_remembered_once_and_then_replaced() -> None:
    jwks, facts = project(QUIET, JWKS, Seen()), QUIET.documents["jwks"]
    there = world(QUIET, documents={"jwks": seen(jwks, "no-cache")})
    known = replace(facts, served=(*facts.served, Served("no-cache", timedelta(0))))
    step = the_step(ask(QUIET.with_document("jwks", known), there), planning.Publish)
    assert "served with Cache-Control 'no-cache', the policy says 'public, max-age=300" in step.reason
    closed = replace(facts, served=(*facts.served, Served("no-cache", timedelta(0), NOW)))
    assert the_step(ask(QUIET.with_document("jwks", closed), there), planning.Serve).foreign is True


@pytest.mark.parametrize("header", ["max-age=864000", None])
def test_headers_that_a_cdn_puts_in_the_place_of_ours_are_remembered(header: str | None) -> None:
    step = the_step(ask(QUIET, world(QUIET, overridden={"jwks": header})), planning.Serve)
    assert (step.document, step.cache_control, step.foreign) == ("jwks", header, True)
    assert step.reason == f"the CDN serves acme/jwks.json with Cache-Control {header!r}"


def test_headers_of_a_cdn_are_remembered_until_they_ended_and_then_anew() -> None:
    there, facts = world(QUIET, overridden={"jwks": "max-age=864000"}), QUIET.documents["jwks"]
    for ended, step in ((None, None), (NOW + 20 * DAY, ("serve", "jwks"))):
        known = replace(facts, served=(*facts.served, Served("max-age=864000", 20 * DAY, ended)))
        assert step_of(ask(QUIET.with_document("jwks", known), there)) == step


def test_what_somebody_wrote_to_the_origin_is_remembered_before_what_a_cdn_makes_of_it() -> None:
    there = {"jwks": seen(project(QUIET, JWKS, Seen()), "no-cache")}
    asked = ask(QUIET, world(QUIET, documents=there, overridden={"jwks": "max-age=864000"}))
    assert the_step(asked, planning.Serve).cache_control == "no-cache"


# -- founding ----------------------------------------------------------------------------------------------------


def test_the_first_document_waits_until_every_algorithm_has_a_key() -> None:
    one = ring(key("n", "made"), founded_at=None, documents={})
    assert step_of(ask(one, keyset=BOTH)) == ("intend", "ES256")
    intended = replace(one, keys=(*one.keys, key("e", "intended", alg="ES256")))
    assert step_of(ask(intended, keyset=BOTH)) == ("create", "e")
    made = replace(one, keys=(*one.keys, key("e", "made", alg="ES256")))
    step = the_step(ask(made, keyset=BOTH), planning.Found)
    assert step.reason == "every algorithm has its first key: EdDSA, ES256"


def test_before_the_founding_nothing_is_published() -> None:
    of = ring(key("r", "made", revoked_at=NOW, disabled_at=NOW), founded_at=None, documents={})
    assert step_of(ask(of)) == ("note-gone", "r")


# -- publishing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        (Seen(), "acme/jwks.json: it is missing"),
        (seen(None), "acme/jwks.json: what stands there is not a JWKS"),
        (seen([jwk_of("p")]), "acme/jwks.json: it lacks c"),
        (seen([jwk_of("c"), jwk_of("p"), jwk_of("old")]), "acme/jwks.json: it still shows old"),
        (seen([jwk_of("c"), jwk_of("old")]), "acme/jwks.json: it lacks p and it still shows old"),
        (seen([jwk_of("c"), jwk_of("p") | {"x": "BB"}]), "acme/jwks.json: a key in it has other members than"),
    ],
)
def test_a_document_that_differs_from_the_ledger_is_written(there: Seen, reason: str) -> None:
    of = ring(CURRENT, key("p", "previous"), key("i", "intended"), retired=(Retired("o", "old", "EdDSA", NOW),))
    step = the_step(ask(of, world(of, documents={"jwks": there})), planning.Publish)
    assert step.document == "jwks"
    assert step.reason.startswith(reason)


def test_another_order_alone_is_no_reason_to_write() -> None:
    there = seen(reversed(project(QUIET, JWKS, Seen())))
    assert ask(QUIET, world(QUIET, documents={"jwks": there})).step is None


def test_foreign_keys_alone_are_no_reason_to_write() -> None:
    there = seen([*project(QUIET, JWKS, Seen()), jwk_of("theirs"), {"kty": "nonsense"}])
    assert ask(QUIET, world(QUIET, documents={"jwks": there})).step is None


def test_a_new_key_goes_into_every_document_that_shows_its_algorithm() -> None:
    of = ring(CURRENT, key("n", "made"), key("e", "made", alg="ES256"), keyset=VIEWED)
    narrow = replace(VIEWED, documents=(JWKS, replace(VIEW, algorithms=frozenset({"ES256"}))))
    there = world(of, narrow, documents={"jwks": seen(project(of, JWKS, Seen())), "view": seen([])})
    step = the_step(ask(of, there, keyset=narrow), planning.Publish)
    assert (step.document, step.reason) == ("view", "acme/view.json: it lacks e")


def test_a_document_that_could_not_be_written_holds_up_no_other_and_no_end_of_a_revoke_is_looked_for_in_it() -> None:
    of = ring(key("c", "current", **IN_BOTH), key("n", "next", **IN_BOTH), REVOKED, keyset=VIEWED)
    for document in VIEWED.documents:
        of = of.with_document(document.name, replace(of.documents[document.name], invalidate_due=True))
    old = seen([*project(of, JWKS, Seen()), jwk_of("r")])
    there = world(of, VIEWED, documents={"jwks": old, "view": old})
    assert step_of(ask(of, there, keyset=VIEWED)) == ("publish", "jwks")
    there = replace(there, failed=frozenset({("publish", "jwks")}))
    assert step_of(ask(of, there, keyset=VIEWED)) == ("publish", "view")
    there = replace(there, documents={**there.documents, "view": seen(project(of, VIEW, Seen()))})
    assert step_of(ask(of, there, keyset=VIEWED)) == ("invalidate", "view")
    of = of.with_document("view", replace(of.documents["view"], invalidate_due=False))
    assert step_of(ask(of, there, keyset=VIEWED)) == ("note-gone", "r")
    of = of.with_key("r", gone={"view": NOW})
    assert ask(of, there, keyset=VIEWED).step is None


# -- promotions under way ----------------------------------------------------------------------------------------


def test_a_promotion_under_way_is_rolled_forward_by_every_worker() -> None:
    step = the_step(ask(PROMOTING), planning.Activate)
    assert (step.key, step.kid, step.alg, step.reason) == ("n", "n", "EdDSA", "its promotion is under way")


def test_a_promotion_goes_on_while_the_clock_is_off() -> None:
    assert step_of(ask(PROMOTING, world(PROMOTING, clock_fault="the clock is off"))) == ("activate", "n")


def test_a_promotion_whose_pointer_was_not_read_does_not_go_on() -> None:
    assert ask(PROMOTING, world(PROMOTING, pointers={})).step is None


def test_a_promotion_that_failed_in_this_tick_does_not_hold_up_the_rest() -> None:
    assert ask(PROMOTING, world(PROMOTING, failed=frozenset({("activate", "n")}))).step is None


def test_no_second_key_is_promoted_while_one_is() -> None:
    of = replace(PROMOTING, keys=(*PROMOTING.keys, key("m", "next", NOW - 90 * DAY)))
    asked = ask(of, world(of, failed=frozenset({("activate", "n")})), now=NOW + 90 * DAY)
    assert asked.step is None
    assert waits(asked, "promote") == []


# -- stopping ----------------------------------------------------------------------------------------------------


def test_nothing_is_stopped_unless_the_pointer_was_read_and_is_right() -> None:
    of = ring(CURRENT, NEXT, key("p", "previous", NOW - DAY))
    assert step_of(ask(of)) == ("disable", "p")
    assert ask(of, world(of, pointers={})).step is None
    assert step_of(ask(of, world(of, pointers={"EdDSA": "p"}))) == ("repair-pointer", "c")


def test_a_revoked_key_is_stopped_at_once_whatever_clock_and_pointer_say() -> None:
    of = ring(CURRENT, NEXT, key("r", "next", revoked_at=NOW, gone={"jwks": NOW}))
    step = the_step(ask(of, world(of, pointers={}, clock_fault="the clock is off")), planning.Disable)
    assert (step.key, step.kid, step.alg, step.reason) == ("r", "r", "EdDSA", "it is revoked")


def test_a_revoked_key_that_could_not_be_stopped_holds_up_nothing() -> None:
    of = ring(CURRENT, NEXT, key("r", "next", revoked_at=NOW, gone={"jwks": NOW}, destroyed_at=NOW))
    assert ask(of, world(of, failed=frozenset({("disable", "r")}))).step is None


def test_a_key_that_could_not_be_stopped_holds_up_no_other() -> None:
    of = ring(CURRENT, NEXT, key("p", "previous", NOW - DAY), key("q", "previous", NOW - DAY))
    assert step_of(ask(of, world(of, failed=frozenset({("disable", "p")})))) == ("disable", "q")


def test_a_key_that_was_never_made_has_nothing_to_stop() -> None:
    of = ring(CURRENT, NEXT, key("i", "intended", superseded_at=NOW - 9 * DAY, withdrawn_at=NOW, destroyed_at=NOW))
    assert ask(of).step is None


# -- after a revoke ----------------------------------------------------------------------------------------------

REVOKED = key("r", "previous", revoked_at=NOW, disabled_at=NOW)
AFTER_REVOKE = ring(CURRENT, NEXT, REVOKED)


def test_the_cdn_is_told_of_a_revoke_until_it_listens() -> None:
    of = AFTER_REVOKE.with_document("jwks", replace(AFTER_REVOKE.documents["jwks"], invalidate_due=True))
    step = the_step(ask(of), planning.Invalidate)
    assert (step.document, step.reason) == ("jwks", "a revoked key may stand in the CDN's copies")
    assert step_of(ask(of, world(of, failed=frozenset({("invalidate", "jwks")})))) == ("note-gone", "r")
    assert step_of(ask(AFTER_REVOKE)) == ("note-gone", "r")


def test_a_revoked_key_is_looked_for_in_every_document_that_showed_it() -> None:
    es256 = replace(VIEW, name="es256", path="acme/es256.json", algorithms=frozenset({"ES256"}))
    keyset = replace(KEYSET, documents=(JWKS, VIEW, es256))
    of = ring(key("c", "current", **IN_BOTH), key("n", "next", **IN_BOTH), REVOKED, keyset=keyset)
    for document in ("jwks", "view"):
        step = the_step(ask(of, keyset=keyset), planning.NoteGone)
        assert (step.document, step.key, step.kid, step.alg) == (document, "r", "r", "EdDSA")
        assert step.reason == f"whether acme/{document}.json still shows it decides when the revoke ends"
        of = of.with_keys(("r",), lambda key, name=document: replace(key, gone={**key.gone, name: NOW}))  # type: ignore[misc]
    assert step_of(ask(of, keyset=keyset)) == ("destroy", "r")


def test_a_revoked_key_that_is_still_served_is_waited_for() -> None:
    still = world(
        AFTER_REVOKE, failed=frozenset({("note-gone", "jwks")}), unseen={"jwks": "https://cdn.example still serves it"}
    )
    asked = ask(AFTER_REVOKE, still)
    assert asked.step is None
    wait = the_wait(asked, "note-gone")
    assert (wait.reason, wait.kid, wait.at) == ("https://cdn.example still serves it", "r", None)


def test_a_key_revoked_before_it_was_made_was_never_in_public() -> None:
    of = ring(CURRENT, NEXT, key("i", "intended", revoked_at=NOW, withdrawn_at=NOW, destroyed_at=NOW))
    assert ask(of).step is None


# -- making a key ------------------------------------------------------------------------------------------------


def test_an_intended_key_is_made_at_once_where_making_is_idempotent() -> None:
    step = the_step(ask(ring(CURRENT, key("i", "intended"))), planning.Create)
    assert (step.key, step.alg, step.reason) == ("i", "EdDSA", "it was intended and is not made yet")


#: As many creations as a day may hold by default, an hour apart.
CREATIONS = tuple(NOW - number * HOUR for number in range(9, -1, -1))

#: An attempt of somebody else, and a store in which two at once could make two keys.
FOREIGN_ATTEMPT = ring(CURRENT, key("i", "intended", NOW), swept_at=NOW)


def test_the_own_attempt_is_spent_at_once() -> None:
    own = world(FOREIGN_ATTEMPT, attempts=frozenset({"attempt of i"}))
    assert step_of(ask(FOREIGN_ATTEMPT, own, traits=KMS_LIKE)) == ("create", "i")


def test_the_attempt_of_somebody_else_is_given_its_time() -> None:
    at = NOW + 5 * MINUTE
    before = ask(FOREIGN_ATTEMPT, now=at - US, traits=KMS_LIKE)
    assert before.step is None
    wait = the_wait(before, "attempt")
    assert (wait.at, wait.alg, wait.reason) == (at, "EdDSA", "another attempt to create it may be under way")
    step = the_step(ask(FOREIGN_ATTEMPT, now=at, traits=KMS_LIKE), planning.Attempt)
    assert (step.key, step.reason) == ("i", "the last attempt to create it did not end")


def test_another_attempt_counts_as_a_creation() -> None:
    of = replace(FOREIGN_ATTEMPT, attempts=CREATIONS)
    at = CREATIONS[0] + DAY
    asked = ask(of, now=at - US, traits=KMS_LIKE)
    assert step_of(asked) == ("sweep", None)
    wait = the_wait(asked, "intend")
    assert (wait.at, wait.alg) == (at, "EdDSA")
    assert step_of(ask(of, now=at, traits=KMS_LIKE)) == ("attempt", "i")


def test_every_intended_key_is_made_one_after_the_other() -> None:
    of = ring(CURRENT, key("i", "intended"), key("j", "intended"))
    findings = list(planning._create(planning.View(of, KEYSET, NOW, world(of), PLAIN)))
    assert [(type(finding), finding.key) for finding in findings if isinstance(finding, Step)] == [
        (planning.Create, "i"),
        (planning.Create, "j"),
    ]


def test_a_key_that_was_made_or_given_up_is_not_made_again() -> None:
    given_up = key("i", "intended", withdrawn_at=NOW, destroyed_at=NOW)
    for of in (QUIET, ring(CURRENT, NEXT, given_up)):
        assert ask(of).step is None


# -- seen in public ----------------------------------------------------------------------------------------------

FRESH = ring(CURRENT, key("n", "made"), key("m", "made"))


def test_new_keys_in_a_document_are_looked_for_where_verifiers_look() -> None:
    step = the_step(ask(FRESH), planning.NotePublished)
    assert (step.document, step.keys, step.alg, step.kid) == ("jwks", ("n", "m"), "EdDSA", "n")
    assert step.reason == "acme/jwks.json holds n, m"


def test_a_key_is_noted_per_document_that_shows_it() -> None:
    narrow = replace(VIEWED, documents=(JWKS, replace(VIEW, algorithms=frozenset({"ES256"}))))
    of = ring(CURRENT, NEXT, key("e", "next", alg="ES256"), keyset=narrow)
    step = the_step(ask(of, keyset=narrow), planning.NotePublished)
    assert (step.document, step.keys) == ("view", ("e",))
    there = world(of, narrow)
    misplaced = {**there.documents, "view": seen([jwk_of("e", "ES256"), jwk_of("n")])}
    there = replace(there, documents=misplaced, failed=frozenset({("publish", "view")}))
    assert the_step(ask(of, there, keyset=narrow), planning.NotePublished).keys == ("e",), "n does not belong there"


def test_a_key_is_noted_when_the_last_document_that_lacked_it_left_the_configuration() -> None:
    waiting = key("n", "next", published_at=None)
    of = ring(CURRENT, waiting, keyset=VIEWED)
    asked = ask(of, world(of, VIEWED, unseen={"view": "404"}), keyset=VIEWED)
    assert (asked.step, [wait.reason for wait in waits(asked, "note-published")]) == (None, ["404"])
    step = the_step(ask(of), planning.NotePublished)
    assert (step.document, step.keys) == ("jwks", ("n",))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"clock_fault": "the clock is off"}, "the clock is off"),
        ({"unseen": {"jwks": "https://cdn.example answers 404"}}, "https://cdn.example answers 404"),
        ({"unseen": {"jwks": "no"}, "clock_fault": "the clock is off"}, "the clock is off"),
    ],
)
def test_no_clock_starts_while_a_key_is_not_seen_or_the_clock_is_off(changes: dict[str, Any], reason: str) -> None:
    asked = ask(FRESH, world(FRESH, **changes))
    assert asked.step is None
    assert [(wait.kid, wait.reason, wait.at) for wait in waits(asked, "note-published")] == [
        ("n", reason, None),
        ("m", reason, None),
    ]


def test_trouble_with_one_document_does_not_stop_the_clock_of_another() -> None:
    of = ring(CURRENT, key("n", "made"), keyset=VIEWED)
    asked = ask(of, world(of, VIEWED, unseen={"jwks": "404"}), keyset=VIEWED)
    assert the_step(asked, planning.NotePublished).document == "view"


# -- promotion ---------------------------------------------------------------------------------------------------

OVERDUE = ring(key("c", "current", NOW - 31 * DAY), OLD_NEXT)


def test_of_two_next_keys_the_one_whose_gate_opened_first_is_promoted() -> None:
    of = replace(OVERDUE, keys=(*OVERDUE.keys, key("m", "next", NOW - 10 * DAY), key("a", "next", NOW - 10 * DAY)))
    assert step_of(ask(of)) == ("promote", "a")


def test_without_a_next_key_in_public_the_current_one_goes_on_signing() -> None:
    for waiting in (key("n", "made"), key("n", "intended")):
        of = replace(OVERDUE, keys=(OVERDUE.keys[0], waiting))
        asked = ask(of, world(of, unseen={"jwks": "404"}), now=NOW + 300 * DAY)
        assert "promote" not in (step_of(asked) or ())
        assert waits(asked, "promote") == []


def test_a_promotion_is_forced_only_when_a_revoke_left_nobody() -> None:
    assert the_step(ask(OVERDUE), planning.Promote).forced is False
    of = ring(key("n", "next", NOW - HOUR), successions={"EdDSA": Succession(forced_at=NOW - 2 * HOUR)})
    assert the_step(ask(of), planning.Promote).forced is True


def test_after_a_revoke_that_left_nobody_no_clock_holds_up_the_first_key_that_is_seen() -> None:
    asked = {"EdDSA": Succession(forced_at=NOW)}
    for now in (NOW, NOW - DAY):
        of = ring(key("n", "next", NOW), successions=asked)
        assert step_of(ask(of, world(of, clock_fault="the clock is off"), now=now)) == ("promote", "n")
        of = ring(key("n", "made"), successions=asked)
        assert step_of(ask(of, world(of, clock_fault="the clock is off"), now=now)) == ("note-published", "jwks")
        # The heir was lost from the document before the pointer moved to it.
        of = ring(key("n", "made", forced=True, promoting_at=NOW))
        assert step_of(ask(of, world(of, clock_fault="the clock is off"), now=now)) == ("note-published", "jwks")


def test_after_a_revoke_that_left_nobody_a_key_that_nobody_saw_is_not_promoted() -> None:
    of = ring(key("n", "made"), successions={"EdDSA": Succession(forced_at=NOW)})
    asked = ask(of, world(of, unseen={"jwks": "404"}))
    assert asked.step is None
    assert waits(asked, "promote") == []


def test_a_gate_alone_does_not_make_a_key_seen() -> None:
    # A view was added: the key is ready in it, but it was taken back from being seen everywhere.
    odd = replace(key("n", "next", NOW - 9 * DAY), published_at=None)
    of = ring(odd, successions={"EdDSA": Succession(forced_at=NOW)})
    assert waits(ask(of), "promote") == []


def test_an_algorithm_out_of_the_configuration_does_not_rotate_but_a_revoke_is_still_served() -> None:
    old = (key("e", "current", NOW - 90 * DAY, alg="ES256"), key("f", "next", NOW - 9 * DAY, alg="ES256"))
    of = ring(CURRENT, NEXT, *old)
    assert ask(of).step is None
    assert [wait.alg for wait in waits(ask(of), "promote")] == ["EdDSA"]
    forced = ring(CURRENT, NEXT, old[1], successions={"ES256": Succession(forced_at=NOW)})
    assert step_of(ask(forced)) == ("promote", "f")


# -- promises that grow ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["signer_lag", "token_lifetime", "verifier_leeway", "clock_skew"])
def test_a_policy_that_grows_while_keys_sign_is_remembered(what: str) -> None:
    grown = with_policy(**{what: getattr(POLICY, what) + US})
    revoked = key("x", "current", revoked_at=NOW, gone={"jwks": NOW}, destroyed_at=NOW)
    of = ring(CURRENT, NEXT, key("p", "previous", NOW), key("d", "stopped", NOW), revoked)
    not_stopped = world(of, failed=frozenset({("disable", "x")}))
    step = the_step(ask(of, not_stopped, keyset=grown), planning.Extend)
    assert (step.keys, step.alg) == (("c", "p"), "EdDSA")
    assert step.reason == "signer_lag, token_lifetime, leeway or clock_skew grew"


def test_a_policy_that_shrinks_changes_no_promise() -> None:
    small = with_policy(signer_lag=MINUTE, token_lifetime=MINUTE, verifier_leeway=MINUTE)
    assert ask(QUIET, keyset=small).step is None


def test_a_key_being_promoted_promises_with_those_that_sign() -> None:
    of = PROMOTING.with_key("n", **dict.fromkeys(GENEROUS, timedelta(0)))
    step = the_step(ask(of, world(of, failed=frozenset({("activate", "n")}))), planning.Extend)
    assert step.keys == ("n",)


# -- leaving -----------------------------------------------------------------------------------------------------


def test_a_key_leaves_only_after_its_private_half_was_stopped() -> None:
    of = ring(CURRENT, NEXT, key("p", "previous", NOW - 90 * DAY))
    asked = ask(of, world(of, clock_fault="the clock is off"))
    assert waits(asked, "withdraw") == []
    assert [wait.kid for wait in waits(asked, "disable")] == ["p"]


def test_a_key_does_not_leave_while_the_pointer_was_not_read() -> None:
    of = ring(CURRENT, NEXT, key("p", "stopped"))
    assert step_of(ask(of)) == ("withdraw", "p")
    asked = ask(of, world(of, pointers={}))
    assert asked.step is None
    assert the_wait(asked, "withdraw").reason == "the pointer is moving"


def test_a_waiting_key_of_an_ended_algorithm_leaves_without_having_signed() -> None:
    waiting = key("f", "next", alg="ES256")
    of = ring(CURRENT, NEXT, waiting)
    step = the_step(ask(of), planning.Withdraw)
    assert (step.key, step.kid, step.alg) == ("f", "f", "ES256")
    assert step.reason == "its algorithm ended before it signed"
    assert ask(of, world(of, pointers={"EdDSA": "c"})).step is None, "the pointer of ES256 was not read"
    assert ask(of, keyset=BOTH).step is None, "the configuration names ES256"
    signs = ring(CURRENT, NEXT, waiting, key("e", "current", alg="ES256"))
    assert ask(signs).step is None, "ES256 signs, and an emergency would need it"


def test_after_a_revoke_the_waiting_key_of_an_ended_algorithm_is_needed() -> None:
    of = ring(CURRENT, NEXT, key("f", "made", alg="ES256"), successions={"ES256": Succession(forced_at=NOW)})
    assert ask(of, world(of, unseen={"jwks": "404"})).step is None


def test_a_withdrawn_key_is_destroyed_once_no_document_holds_it() -> None:
    of = ring(CURRENT, NEXT, key("o", "retired"))
    step = the_step(ask(of), planning.Destroy)
    assert (step.key, step.kid, step.alg, step.reason) == ("o", "o", "EdDSA", "its public half is gone")
    assert ask(of, world(of, pointers={})).step is None, "the pointer was not read"
    there = seen([*project(of, JWKS, Seen()), jwk_of("o")])
    assert step_of(ask(of, world(of, documents={"jwks": there}))) == ("publish", "jwks")


def test_a_withdrawn_key_is_not_destroyed_while_one_of_two_documents_holds_it() -> None:
    of = ring(key("c", "current", **IN_BOTH), key("n", "next", **IN_BOTH), key("o", "retired"), keyset=VIEWED)
    view = planning.View(of, VIEWED, NOW, world(of, VIEWED), PLAIN)
    assert [step.key for step in planning._destroy(view) if isinstance(step, Step)] == ["o"]
    documents = {**view.observed.documents, "view": seen([jwk_of("o")])}
    view = planning.View(of, VIEWED, NOW, replace(view.observed, documents=documents), PLAIN)
    assert list(planning._destroy(view)) == []


def test_a_revoked_key_is_destroyed_only_after_every_url_was_seen_without_it() -> None:
    still = world(AFTER_REVOKE, failed=frozenset({("note-gone", "jwks")}), unseen={"jwks": "still there"})
    assert ask(AFTER_REVOKE, still).step is None
    gone = AFTER_REVOKE.with_key("r", gone={"jwks": NOW})
    assert step_of(ask(gone)) == ("destroy", "r")
    in_part = ring(key("c", "current", **IN_BOTH), key("n", "next", **IN_BOTH), *gone.keys[2:], keyset=VIEWED)
    still = world(in_part, VIEWED, failed=frozenset({("note-gone", "view")}), unseen={"view": "still there"})
    assert ask(in_part, still, keyset=VIEWED).step is None


def test_keys_long_destroyed_leave_the_ledger_and_two_stay_in_sight() -> None:
    old = [key(name, "destroyed", NOW - days * DAY) for name, days in (("y", 1), ("x", 2), ("w", 3), ("v", 4))]
    of = ring(*old, CURRENT, NEXT)
    step = the_step(ask(of), planning.Forget)
    assert (step.keys, step.alg, step.reason) == (("v", "w"), "EdDSA", "2 destroyed keys stay in sight")
    assert ask(ring(*old[:2], CURRENT, NEXT)).step is None


# -- a next key stands by ----------------------------------------------------------------------------------------


def test_a_next_key_is_intended_when_none_stands_by() -> None:
    step = the_step(ask(ring(CURRENT)), planning.Intend)
    assert (step.alg, step.reason) == ("EdDSA", "no next key stands by")
    step = the_step(ask(ring()), planning.Intend)
    assert (step.alg, step.reason) == ("EdDSA", "no key signs yet")


def test_a_full_document_waits_with_the_next_key() -> None:
    tight = with_policy(max_keys=3)
    previous = [key(name, "previous", NOW - HOUR) for name in ("p", "q")]
    asked = ask(ring(CURRENT, *previous), keyset=tight)
    assert asked.step is None
    wait = the_wait(asked, "intend")
    assert (wait.at, wait.alg, wait.reason) == (None, "EdDSA", "3 keys are public and max_keys is 3")
    assert step_of(ask(ring(CURRENT, previous[0]), keyset=tight)) == ("intend", "EdDSA")


def test_keys_of_somebody_else_take_their_place_in_the_document() -> None:
    of, tight = ring(CURRENT), with_policy(max_keys=3)
    there = seen([jwk_of("c"), jwk_of("theirs"), {"kty": "RSA"}])
    asked = ask(of, world(of, documents={"jwks": there}), keyset=tight)
    assert asked.step is None
    assert the_wait(asked, "intend").reason == "3 keys are public, 2 of them not ours and max_keys is 3"
    there = seen([jwk_of("c"), jwk_of("theirs")])
    assert step_of(ask(of, world(of, documents={"jwks": there}), keyset=tight)) == ("intend", "EdDSA")


def test_a_key_intended_for_another_algorithm_takes_its_place_in_the_document() -> None:
    of = ring(CURRENT, key("i", "intended", NOW, alg="ES256"), swept_at=NOW)
    asked = ask(of, keyset=with_policy(max_keys=2), traits=KMS_LIKE)
    assert the_wait(asked, "intend").reason == "2 keys are public and max_keys is 2"


@pytest.mark.parametrize(
    ("keyset", "attempts", "cap"),
    [(KEYSET, CREATIONS, 10), (with_policy(max_creations_per_day=2), CREATIONS[-2:], 2)],
    ids=["by default", "as the policy says"],
)
def test_creations_are_capped_until_the_first_of_them_is_a_day_old(
    keyset: KeySet, attempts: tuple[datetime, ...], cap: int
) -> None:
    of, at = ring(CURRENT, attempts=attempts), attempts[0] + DAY
    before = ask(of, now=at - US, keyset=keyset)
    assert before.step is None
    wait = the_wait(before, "intend")
    assert (wait.at, wait.alg) == (at, "EdDSA")
    assert wait.reason == f"{cap} creations are recorded within a day (max_creations_per_day)"
    assert step_of(ask(of, now=at, keyset=keyset)) == ("intend", "EdDSA")
    assert step_of(ask(replace(of, attempts=attempts[1:]), keyset=keyset)) == ("intend", "EdDSA")


def test_where_a_revoke_left_no_key_that_signs_as_many_creations_are_kept_in_reserve() -> None:
    of = ring(successions={"EdDSA": Succession(forced_at=NOW)}, attempts=CREATIONS)
    assert step_of(ask(of)) == ("intend", "EdDSA")
    spent = tuple(sorted((*CREATIONS, *(at + MINUTE for at in CREATIONS))))
    wait = the_wait(ask(replace(of, attempts=spent)), "intend")
    assert wait.reason == "20 creations are recorded within a day (max_creations_per_day)"
    assert wait.at == spent[0] + DAY


def test_creations_beyond_a_lowered_cap_are_waited_for_until_enough_of_them_are_a_day_old() -> None:
    of = ring(CURRENT, attempts=tuple(NOW - hours * HOUR for hours in (25, 3, 2, 1)))
    lowered = with_policy(max_creations_per_day=2)
    at = NOW + 22 * HOUR
    assert the_wait(ask(of, keyset=lowered), "intend").at == at
    assert the_wait(ask(of, now=at - US, keyset=lowered), "intend").at == at
    assert step_of(ask(of, now=at, keyset=lowered)) == ("intend", "EdDSA")


# -- strays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("swept", [None, NOW], ids=["never swept", "swept before"])
def test_a_store_that_can_leave_keys_behind_is_looked_through_now_and_then(swept: datetime | None) -> None:
    of = replace(QUIET, created_at=NOW, swept_at=swept)
    at = NOW + 6 * HOUR
    before = ask(of, now=at - US, traits=KMS_LIKE)
    assert before.step is None
    assert the_wait(before, "sweep").at == at
    step = the_step(ask(of, now=at, traits=KMS_LIKE), planning.Sweep)
    assert step.reason == "a crash may have left keys in the key store that no ledger knows"
    assert ask(of, world(of, clock_fault="the clock is off"), now=at, traits=KMS_LIKE).step is None
    assert ask(of, now=at, traits=PLAIN).step is None


# -- the order of rules ------------------------------------------------------------------------------------------


def test_after_a_revoke_signing_is_settled_before_the_documents_and_those_before_the_rest() -> None:
    of = ring(
        key("r", "current", revoked_at=NOW),
        key("n", "next", promoting_at=NOW, forced=True),
        successions={},
    )
    of = of.with_document("jwks", replace(of.documents["jwks"], invalidate_due=True))
    there = world(of, pointers={"EdDSA": "r"}, documents={"jwks": seen([jwk_of("r"), jwk_of("n")])})
    assert step_of(ask(of, there)) == ("activate", "n")
    of = of.with_key("n", activated_at=NOW)
    there = replace(there, pointers={"EdDSA": "n"})
    assert step_of(ask(of, there)) == ("publish", "jwks")
    there = replace(there, documents={"jwks": seen([jwk_of("n")])})
    assert step_of(ask(of, there)) == ("disable", "r")
    of = of.with_key("r", disabled_at=NOW)
    assert step_of(ask(of, there)) == ("invalidate", "jwks")
    of = of.with_document("jwks", replace(of.documents["jwks"], invalidate_due=False))
    assert step_of(ask(of, there)) == ("note-gone", "r")
    of = of.with_key("r", gone={"jwks": NOW})
    assert step_of(ask(of, there)) == ("destroy", "r")
    of = of.with_key("r", destroyed_at=NOW)
    assert step_of(ask(of, there)) == ("intend", "EdDSA")


def test_every_step_is_named_as_it_is_logged() -> None:
    names = {kind(reason="").name for kind in all_kinds(Step) - {Look}}
    assert names == {
        "activate",
        "attempt",
        "cancel-promotion",
        "clear-pointer",
        "create",
        "destroy",
        "disable",
        "end-succession",
        "extend",
        "fence",
        "forget",
        "found",
        "intend",
        "invalidate",
        "lapse",
        "note-gone",
        "note-published",
        "promote",
        "publish",
        "repair-pointer",
        "serve",
        "supersede",
        "sweep",
        "unpublish",
        "withdraw",
    }


def all_kinds(kind: type[Step]) -> set[type[Step]]:
    """Every step there is (a decorated class leaves its undecorated twin behind)."""
    return {found for found in vars(planning).values() if isinstance(found, type) and issubclass(found, kind)} - {kind}


# -- any world ---------------------------------------------------------------------------------------------------

POLICIES = st.builds(
    Policy,
    algorithms=st.sampled_from([("EdDSA",), ("ES256",), ("EdDSA", "ES256"), ("RS256",)]),
    max_keys=st.integers(1, 10),
    signer_lag=st.sampled_from([timedelta(0), 2 * HOUR, 9 * DAY]),
)
LAYOUTS = st.sampled_from([(), (JWKS,), (JWKS, VIEW), (JWKS, replace(VIEW, algorithms=frozenset({"ES256"})))])
ALGS = st.sampled_from(["EdDSA", "ES256"])

#: What can happen to a key beside an ordinary life, and what can be missing from it.
TWISTS: dict[str, dict[str, Any]] = {
    "revoked": {"revoked_at": NOW - HOUR},
    "gone": {"gone": {"jwks": NOW, "view": NOW}},
    "promoting": {"promoting_at": NOW - HOUR},
    "forced": {"forced": True},
    "founding": {"founding": True},
    "fenced": {"fence_due": True},
    "seen nowhere": {"published": {}, "ready": {}, "published_at": None},
    "seen in part": {"published_at": None},
    "seen everywhere": {
        "published": dict.fromkeys(("jwks", "view"), NOW - 9 * DAY),
        "ready": dict.fromkeys(("jwks", "view"), NOW - 7 * DAY),
    },
    "strayed to": {"superseded_at": NOW - 9 * DAY},
    "stopped": {"disabled_at": NOW - HOUR},
    "given up": {"withdrawn_at": NOW - HOUR},
    "promised nothing": dict.fromkeys(GENEROUS, timedelta(0)),
    "promised much": GENEROUS,
}


NAMES = "vwxyz"
TWISTED = st.sets(st.sampled_from(sorted(TWISTS)), max_size=3)
LIVES = st.lists(st.tuples(st.sampled_from(list(LIFE)), st.integers(-1, 1000), ALGS, TWISTED), max_size=len(NAMES))
REQUESTED = st.sampled_from([None, None, NOW - HOUR])
SUCCESSIONS = st.dictionaries(ALGS, st.builds(Succession, REQUESTED, REQUESTED, REQUESTED))
ATTEMPTS = st.lists(st.integers(0, 40), max_size=30).map(lambda hours: tuple(NOW - hour * HOUR for hour in hours))
FOUNDED = st.sampled_from((*(NOW - 100 * DAY,) * 7, None))
POINTED: tuple[str | None, ...] = ("unknown", None, "old", *NAMES, *NAMES)
POINTERS = st.dictionaries(ALGS, st.sampled_from(POINTED), max_size=1)
SHOWN = st.lists(st.sampled_from([*NAMES, "old", "theirs"]), max_size=4, unique=True).map(
    lambda kids: [jwk_of(kid) for kid in kids]
)
ODD_DOCUMENTS = st.dictionaries(
    st.sampled_from(["jwks", "view"]),
    st.just(Seen())
    | st.just(seen(None))
    | st.builds(seen, SHOWN, st.sampled_from([POLICY.cache_control, None, "max-age=5"])),
    max_size=1,
)
EMERGENCY = st.sets(
    st.sampled_from(
        [(step, name) for step in ("fence", "activate", "repair-pointer", "disable") for name in NAMES]
        + [(step, name) for step in ("publish", "note-gone", "invalidate") for name in ("jwks", "view")]
    ),
    max_size=4,
).map(frozenset)
CLOCK_FAULTS = st.none() | st.just("the clock is off")
FLAG = st.booleans()


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Keyring, KeySet, Observed, Traits]:
    """Any ledger of up to five keys, each somewhere in its life and with any twists, and any observation beside it."""
    keyset = KeySet("acme", draw(POLICIES), draw(LAYOUTS))
    keys: list[Key] = []
    for name, (stage, hours, alg, twists) in zip(NAMES, draw(LIVES), strict=False):
        facts: dict[str, Any] = {}
        for twist in sorted(twists):
            facts |= TWISTS[twist]
        one = key(name, stage, NOW - hours * HOUR, alg=alg, **facts)
        if any(other.alg == one.alg and Stage.CURRENT is one.stage is other.stage for other in keys):
            one = replace(one, superseded_at=one.activated_at)
        keys.append(one)
    of = ring(
        *keys,
        keyset=keyset,
        founded_at=draw(FOUNDED),
        successions=draw(SUCCESSIONS),
        retired=(Retired("old", "old", "EdDSA", NOW),),
        attempts=draw(ATTEMPTS),
        **({} if draw(FLAG) else {"documents": {}}),
    )
    right, ids = world(of, keyset), {key.id for key in keys}
    strayed = {alg: name if name in ids or name in (None, "unknown") else "old" for alg, name in draw(POINTERS).items()}
    unread = draw(st.none() | ALGS)
    observed = Observed(
        {alg: name for alg, name in {**right.pointers, **strayed}.items() if alg != unread},
        {**right.documents, **draw(ODD_DOCUMENTS)},
        clock_fault=draw(CLOCK_FAULTS),
        attempts=frozenset(key.attempt for key in keys) if draw(FLAG) else frozenset(),
    )
    dark = draw(st.frozensets(st.sampled_from(["jwks", "view"])))
    documents = {name: there for name, there in observed.documents.items() if name not in dark}
    observed = replace(observed, unread=dark, documents=documents)
    if draw(FLAG):
        observed = replace(observed, unseen={"jwks": "404", "view": "404"}, failed=draw(EMERGENCY))
    return of, keyset, observed, draw(st.sampled_from([PLAIN, KMS_LIKE]))


def pointer_is_right(of: Keyring, pointers: Mapping[str, str | None], alg: str) -> bool:
    signing = next((key.id for key in of.keys if key.alg == alg and key.stage is Stage.CURRENT), None)
    return alg in pointers and pointers[alg] == signing


@given(worlds())
def test_in_any_world_the_plan_is_safe_pure_and_gives_its_reason(
    given_world: tuple[Keyring, KeySet, Observed, Traits],
) -> None:
    of, keyset, observed, traits = given_world
    before = copy.deepcopy(given_world)
    asked, refusal = plan_or_refusal(given_world)
    assert plan_or_refusal(given_world) == (asked, refusal)
    assert given_world == before
    if asked is None:
        assert "Nothing was changed" in refusal
        return
    # Not only the first step must be safe, but whatever any rule would do if those before it had nothing to say.
    view = planning.View(of, keyset, NOW, observed, traits)
    findings = [finding for rule in planning.RULES for finding in rule(view)]
    assert asked.step == next((finding for finding in findings if isinstance(finding, Step)), None)
    for finding in findings:
        assert finding.reason
        if isinstance(finding, Wait):
            assert finding.at is None or finding.at > NOW
        else:
            check_step(finding, of, keyset, observed)


def plan_or_refusal(given_world: tuple[Keyring, KeySet, Observed, Traits]) -> tuple[Plan | None, str]:
    of, keyset, observed, traits = given_world
    try:
        return plan(of, keyset, NOW, observed, traits), ""
    except Refused as exc:
        return None, str(exc)


def check_step(step: Step, of: Keyring, keyset: KeySet, observed: Observed) -> None:
    key = of.key(step.key or "")
    assert (key is None) is (step.key is None)
    assert step.kid == (key.kid if key else step.kid)
    if isinstance(step, planning.Withdraw | planning.Destroy):
        assert pointer_is_right(of, observed.pointers, step.alg or "")
        assert key
        assert key.stage is not Stage.CURRENT
        assert not (isinstance(step, planning.Withdraw) and key.superseded_at and observed.clock_fault)
    if isinstance(step, planning.Disable):
        assert key
        assert key.revoked_at or (pointer_is_right(of, observed.pointers, key.alg) and not observed.clock_fault)
    nobody_may_sign = {alg for alg, succession in of.successions.items() if succession.forced_at}
    if isinstance(step, planning.NotePublished | planning.Promote | planning.Sweep):
        assert not observed.clock_fault or any(key.forced or key.alg in nobody_may_sign for key in of.keys)
    assert step.document not in observed.unread
    if isinstance(step, planning.Promote | planning.Destroy):
        assert observed.unread.isdisjoint(document.name for document in keyset.documents_of(step.alg or ""))
    if isinstance(step, planning.Found):
        assert not observed.unread
    if isinstance(step, planning.Promote):
        assert key
        assert key.standby
        assert step.forced or since(gate(keyset, key)) <= NOW
    if isinstance(step, planning.Activate):
        assert key
        assert key.promoting
    if isinstance(step, planning.Intend):
        assert sum(key.public for key in of.keys) < keyset.policy.max_keys
        emergency = step.alg in nobody_may_sign
        assert sum(NOW - at < DAY for at in of.attempts) < planning.creations(keyset.policy, emergency=emergency)
