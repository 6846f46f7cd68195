"""The ledger as a value and as JSON: what goes in comes out, and nothing damaged comes in."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.errors import Refused
from rotator.keys.keyring import (
    HISTORY,
    DocumentFacts,
    Event,
    Key,
    Keyring,
    Retired,
    Served,
    Stage,
    Succession,
    Trouble,
    from_json,
    to_json,
)
from rotator.keys.ledger_json import FORMAT, time_of

if TYPE_CHECKING:
    from collections.abc import Iterator

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)

#: A refusal may quote a name or the start of a value; a ledger never ends up in a log line.
SHORT = 400

# -- any keyring -------------------------------------------------------------------------------------------------

MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - see timezones
SPANS = st.timedeltas(timedelta(0), timedelta(days=4000))
DOCUMENTS = st.sampled_from(["jwks", "view"])
ALGORITHMS = st.sampled_from(["EdDSA", "ES256"])
TEXTS = st.text(max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def _keys(draw: st.DrawFn, number: int, moments: st.SearchStrategy[datetime]) -> Key:
    maybe = st.none() | moments
    created = draw(maybe)
    kid = f"kid-{number}" if created else None
    seen = draw(st.dictionaries(DOCUMENTS, moments, max_size=2))
    key: Key = draw(
        st.builds(
            Key,
            id=st.just(f"id-{number}"),
            alg=ALGORITHMS,
            intended_at=moments,
            attempt=TEXTS,
            attempted_at=moments,
            created_at=st.just(created),
            kid=st.just(kid),
            jwk=st.dictionaries(TEXTS, JSON, max_size=2).map(lambda extra: {**extra, "kty": "OKP", "kid": kid})
            if created
            else st.none(),
            handle=st.none() | TEXTS,
            founding=st.booleans(),
            adopted=st.booleans(),
            published=st.just(seen),
            ready=st.fixed_dictionaries(dict.fromkeys(seen, moments)),
            lacking=st.dictionaries(st.sampled_from(sorted(seen)), moments) if seen else st.just({}),
            published_at=maybe,
            promoting_at=maybe,
            forced=st.booleans(),
            activated_at=maybe,
            superseded_at=maybe,
            astray=st.booleans(),
            disabled_at=maybe,
            withdrawn_at=maybe,
            destroyed_at=maybe,
            revoked_at=maybe,
            revoke_reason=st.none() | TEXTS,
            fence_due=st.booleans(),
            gone=st.dictionaries(DOCUMENTS, moments, max_size=2),
            signer_lag=SPANS,
            token_lifetime=SPANS,
            verifier_leeway=SPANS,
            clock_skew=SPANS,
        )
    )
    return key


@st.composite
def keyrings(draw: st.DrawFn, moments: st.SearchStrategy[datetime] = MOMENTS) -> Keyring:
    """Any keyring that may be stored, sensible or not: every fact present or absent, in any combination."""
    maybe = st.none() | moments
    keys: list[Key] = []
    for number in range(draw(st.integers(0, 4))):
        key = draw(_keys(number, moments))
        if any(other.alg == key.alg and Stage.CURRENT is key.stage is other.stage for other in keys):
            key = replace(key, superseded_at=key.activated_at)
        keys.append(key)
    served = st.builds(Served, cache_control=st.none() | TEXTS, staleness=SPANS, until=maybe)
    ring: Keyring = draw(
        st.builds(
            Keyring,
            keyset=st.just("acme"),
            ledger_id=TEXTS,
            created_at=moments,
            revision=st.integers(0, 2**63),
            writer=TEXTS,
            founded_at=maybe,
            keys=st.just(tuple(keys)),
            documents=st.dictionaries(
                DOCUMENTS,
                st.builds(
                    DocumentFacts,
                    cache_control=TEXTS,
                    content_type=TEXTS,
                    served=st.lists(served, max_size=3).map(tuple),
                    invalidate_due=st.booleans(),
                ),
            ),
            successions=st.dictionaries(
                ALGORITHMS,
                st.builds(Succession, rotate_requested_at=maybe, retire_requested_at=maybe, forced_at=maybe),
            ),
            retired=st.lists(
                st.builds(Retired, id=TEXTS, kid=TEXTS, alg=ALGORITHMS, at=moments, revoked=st.booleans()), max_size=2
            ).map(tuple),
            dropped=st.dictionaries(TEXTS, moments, max_size=2),
            attempts=st.lists(moments, max_size=12).map(tuple),
            swept_at=maybe,
            trouble=st.none() | st.builds(Trouble, at=moments, message=TEXTS),
            history=st.lists(
                st.builds(Event, at=moments, step=TEXTS, reason=TEXTS, kid=st.none() | TEXTS), max_size=2
            ).map(tuple),
        )
    )
    return ring


# -- a ledger in which every fact is present ---------------------------------------------------------------------


def _at(hours: int) -> datetime:
    return T0 + hours * HOUR


FULL_KEY = Key(
    id="intent-1",
    alg="EdDSA",
    intended_at=_at(1),
    attempt="nonce",
    attempted_at=_at(2),
    created_at=_at(3),
    kid="kid-1",
    jwk={"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "kid-1"},
    handle="arn:1",
    founding=True,
    adopted=True,
    published={"jwks": _at(4)},
    ready={"jwks": _at(5)},
    lacking={"jwks": _at(4)},
    published_at=_at(6),
    promoting_at=_at(7),
    forced=True,
    activated_at=_at(8),
    superseded_at=_at(9),
    astray=True,
    disabled_at=_at(10),
    withdrawn_at=_at(11),
    destroyed_at=_at(12),
    revoked_at=_at(13),
    revoke_reason="leaked",
    fence_due=True,
    gone={"jwks": _at(14)},
    signer_lag=timedelta(hours=2),
    token_lifetime=timedelta(hours=1),
    verifier_leeway=timedelta(minutes=5),
    clock_skew=timedelta(minutes=1),
)
FULL = Keyring(
    keyset="acme",
    ledger_id="ledger",
    created_at=_at(0),
    revision=7,
    writer="nonce",
    founded_at=_at(3),
    keys=(FULL_KEY, Key("intent-2", "ES256", _at(20), "nonce-2", _at(20))),
    documents={
        "jwks": DocumentFacts(
            "max-age=300",
            "application/jwk-set+json",
            (Served("max-age=300", HOUR), Served(None, 24 * HOUR, _at(30))),
            least_revision=6,
            invalidate_due=True,
        )
    },
    successions={"EdDSA": Succession(_at(15), _at(16), _at(17))},
    retired=(Retired("intent-0", "kid-0", "EdDSA", _at(18), revoked=True),),
    dropped={"theirs": _at(19)},
    attempts=(_at(1), _at(20)),
    swept_at=_at(21),
    trouble=Trouble(_at(22), "S3 did not answer"),
    history=(Event(_at(3), "create", "it was intended", "kid-1"), Event(_at(20), "intend", "none stands by")),
)
LEDGER = to_json(FULL)


def read(body: bytes) -> Keyring:
    return from_json(body, "acme")


def refusal(body: bytes, keyset: str = "acme") -> str:
    """The message with which ``body`` is refused; it quotes little of it."""
    with pytest.raises(Refused) as caught:
        from_json(body, keyset)
    message = str(caught.value)
    assert message.startswith(f"Key set {keyset}: ")
    assert "Nothing was changed." in message
    assert len(message) < SHORT
    return message


def read_or_refused(body: bytes) -> Keyring | None:
    try:
        return read(body)
    except Refused:
        refusal(body)
        return None


def edited(*path: Any, to: Any) -> bytes:
    """The full ledger with one value replaced."""
    return _put(json.loads(LEDGER), path, to)


def _put(document: Any, path: tuple[Any, ...], value: Any) -> bytes:
    if not path:
        return json.dumps(value).encode()
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return json.dumps(document).encode()


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _paths(item, (*path, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _paths(item, (*path, number))


# -- there and back ----------------------------------------------------------------------------------------------


def test_the_full_ledger_has_every_fact() -> None:
    for thing in (FULL, FULL_KEY, FULL.documents["jwks"], FULL.successions["EdDSA"], FULL.retired[0], FULL.history[0]):
        assert [spec.name for spec in fields(thing) if not getattr(thing, spec.name)] == []


def test_the_full_ledger_survives_its_json() -> None:
    assert read(LEDGER) == FULL


@given(keyrings())
@pytest.mark.no_cover
def test_any_ledger_survives_its_json(ring: Keyring) -> None:
    body = to_json(ring)
    assert read(body) == ring
    assert to_json(read(body)) == body


def test_the_json_is_sorted_so_that_a_person_can_compare_revisions() -> None:
    ring = Keyring("acme", "ledger", T0, keys=(Key("intent-1", "EdDSA", T0, "nonce", T0),))
    assert to_json(ring) == (
        b'{\n "created_at": "2026-01-01T00:00:00.000000Z",\n "format": 1,\n "keys": [\n  {\n   "alg": "EdDSA",\n'
        b'   "attempt": "nonce",\n   "attempted_at": "2026-01-01T00:00:00.000000Z",\n   "clock_skew": 0.0,\n'
        b'   "id": "intent-1",\n'
        b'   "intended_at": "2026-01-01T00:00:00.000000Z",\n   "signer_lag": 0.0,\n   "token_lifetime": 0.0,\n'
        b'   "verifier_leeway": 0.0\n  }\n ],\n "keyset": "acme",\n "ledger_id": "ledger",\n "revision": 0,\n'
        b' "writer": ""\n}\n'
    )


def test_a_document_once_served_without_cache_control_is_not_one_served_with_an_empty_one() -> None:
    for header in (None, ""):
        served = (Served(header, HOUR),)
        ring = replace(FULL, documents={"jwks": DocumentFacts("max-age=300", "application/json", served)})
        assert read(to_json(ring)).documents["jwks"].served == served


def test_a_time_in_another_zone_is_the_same_time() -> None:
    assert time_of("2026-01-01T02:00:00+02:00") == T0
    assert time_of("2026-01-01T02:00:00+02:00").tzinfo is UTC
    elsewhere = replace(FULL, swept_at=datetime.fromisoformat("2026-01-01T01:00:00+01:00"))
    assert read(to_json(elsewhere)).swept_at == T0


def test_microseconds_are_kept() -> None:
    moment = T0 + timedelta(microseconds=1)
    ring = replace(FULL, swept_at=moment, keys=(replace(FULL_KEY, signer_lag=timedelta(microseconds=1)),))
    again = read(to_json(ring))
    assert again.swept_at == moment
    assert again.keys[0].signer_lag == timedelta(microseconds=1)


# -- damage ------------------------------------------------------------------------------------------------------


def test_a_time_that_no_gate_can_be_added_to_is_damage() -> None:
    late = LEDGER.replace(b'"swept_at": "2', b'"swept_at": "9')
    assert "the ledger is damaged at \"no time of ours: '9026-" in refusal(late)


def test_a_half_written_ledger_is_refused_wherever_it_ends() -> None:
    for end in range(len(LEDGER.rstrip())):
        assert "not readable JSON (half-written?)" in refusal(LEDGER[:end])


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * 1_000_000, id="deep lists"),
        pytest.param(b'{"a":' * 1_000_000, id="deep objects"),
        pytest.param(LEDGER.replace(b'"swept_at"', b'"format": 1, "swept_at"'), id="a member twice"),
        pytest.param(LEDGER.replace(b'"kid": "kid-1"', b'"kid": "kid-1", "kid": "kid-2"'), id="a kid twice"),
        pytest.param(LEDGER.replace(b"7200.0", b"NaN"), id="NaN"),
        pytest.param(LEDGER.replace(b"7200.0", b"Infinity"), id="Infinity"),
        pytest.param(LEDGER.replace(b"7200.0", b"-Infinity"), id="-Infinity"),
        pytest.param(LEDGER.replace(b'"revision": 7', b'"revision": ' + b"7" * 1_000_000), id="an endless number"),
        pytest.param(LEDGER.replace(b"kid-1", b"\xff\xfe"), id="not UTF-8"),
        pytest.param(LEDGER + LEDGER, id="two ledgers"),
        pytest.param(LEDGER.replace(b"nonce", b"\x00"), id="control characters"),
        pytest.param(b"\x00" * 1_000_000, id="zeros of a torn file"),
        pytest.param(b"<html>" * 100_000, id="another file"),
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    assert body != LEDGER
    assert "not readable JSON (half-written?)" in refusal(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(body: bytes) -> None:
    refusal(body)


@given(JSON)
def test_any_json_is_refused(document: Any) -> None:
    refusal(json.dumps(document).encode())


@pytest.mark.parametrize("document", [[], "acme", None, 1, {}, {"format": "1"}, {"format": True}, {"format": 1.0}])
def test_json_without_a_format_is_not_a_ledger(document: Any) -> None:
    assert "this is not a ledger: it names no format" in refusal(json.dumps(document).encode())


def test_a_newer_format_asks_for_an_upgrade() -> None:
    message = refusal(edited("format", to=FORMAT + 1))
    assert "the ledger has format 2, this rotator knows up to 1" in message
    assert message.endswith("Upgrade rotator.")


@pytest.mark.parametrize(
    "other", ["acme2", None, 7, ["acme"], "a" * 1_000_000, "\ud800"], ids=lambda name: ascii(name)[:9]
)
def test_the_ledger_of_another_key_set_is_refused(other: Any) -> None:
    assert "belongs to key set " in refusal(edited("keyset", to=other))


def test_asked_for_another_key_set_the_ledger_is_refused() -> None:
    assert "belongs to key set 'acme'" in refusal(LEDGER, "umbrella")


#: What no member but a flag or a name can be.
ODD: tuple[Any, ...] = (None, [[]], [None], {"a": None}, -1, 1e308, 10**30, "x", "\ud800", "9" * 1_000_000, True, 1.5)


def test_a_wrong_value_anywhere_is_refused_or_harmless_and_never_an_accident() -> None:
    paths = list(_paths(json.loads(LEDGER)))
    assert len(paths) > 80
    for path in paths:
        for odd in ODD:
            read_or_refused(edited(*path, to=odd))


def test_a_member_set_to_null_is_refused_everywhere_outside_a_jwk() -> None:
    for path in _paths(json.loads(LEDGER)):
        if path[2:3] != ("jwk",) or len(path) == 3:
            refusal(edited(*path, to=None))


@given(st.sampled_from(list(_paths(json.loads(LEDGER)))), JSON)
def test_any_value_anywhere_is_refused_or_harmless(path: tuple[Any, ...], value: Any) -> None:
    ring = read_or_refused(edited(*path, to=value))
    assert ring is None or read(to_json(ring)) == ring


@pytest.mark.parametrize(
    "path",
    [
        (),
        ("keys", 0),
        ("documents", "jwks"),
        ("documents", "jwks", "served", 0),
        ("successions", "EdDSA"),
        ("retired", 0),
        ("trouble",),
        ("history", 0),
    ],
    ids=str,
)
def test_an_unknown_member_is_refused_so_that_no_fact_is_lost_unseen(path: tuple[Any, ...]) -> None:
    name = "surprise" * 1000
    assert "unknown member surprise" in refusal(edited(*path, name, to=1))


@pytest.mark.parametrize(
    "path",
    [
        ("ledger_id",),
        ("created_at",),
        ("keys", 0, "id"),
        ("keys", 0, "alg"),
        ("keys", 0, "intended_at"),
        ("keys", 0, "attempt"),
        ("keys", 0, "attempted_at"),
        ("documents", "jwks", "content_type"),
        ("documents", "jwks", "cache_control"),
        ("documents", "jwks", "served", 0, "staleness"),
        ("retired", 0, "kid"),
        ("trouble", "message"),
        ("history", 0, "reason"),
    ],
    ids=str,
)
def test_a_missing_member_is_refused(path: tuple[Any, ...]) -> None:
    document = inner = json.loads(LEDGER)
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    assert "the ledger is damaged at " in refusal(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("path", "value", "spot"),
    [
        (("created_at",), "2026-01-01T00:00:00", "no time zone"),
        (("created_at",), "yesterday", "Invalid isoformat"),
        (("created_at",), "0001-01-01T00:00:00+23:59", "date value out of range"),
        (("created_at",), 1767225600, "not a time: 1767225600"),
        (("writer",), 5, "not a text: 5"),
        (("keys", 0, "founding"), 1, "not true or false: 1"),
        (("keys", 0, "adopted"), 1, "not true or false: 1"),
        (("keys", 0, "signer_lag"), -0.1, "not a duration: -0.1"),
        (("keys", 0, "signer_lag"), True, "not a duration: True"),
        (("keys", 0, "signer_lag"), "2h", "not a duration: "),
        (("keys", 0, "signer_lag"), 10**30, "int too large"),
        (("keys", 0, "published"), ["jwks"], "has no attribute"),
        (("keys", 0, "jwk"), [], "not an object"),
        (("revision",), -1, "not a count: -1"),
        (("revision",), 7.0, "not a count: 7.0"),
        (("revision",), True, "not a count: True"),
        (("keys",), 5, "not a list"),
    ],
    ids=repr,
)
def test_a_damaged_value_is_named(path: tuple[Any, ...], value: Any, spot: str) -> None:
    assert spot in refusal(edited(*path, to=value))


def test_a_number_too_large_for_a_float_is_no_duration() -> None:
    assert "damaged at" in refusal(LEDGER.replace(b"7200.0", b"1e999"))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"kid": None}, "damaged at key intent-1"),
        ({"jwk": None}, "damaged at key intent-1"),
        ({"created_at": None}, "damaged at key intent-1"),
        ({"jwk": {"kty": "OKP", "kid": "kid-2"}}, "damaged at the JWK of key intent-1"),
        ({"jwk": {"kty": "OKP"}}, "damaged at the JWK of key intent-1"),
        ({"jwk": {"kty": "OKP", "kid": ["kid-1"]}}, "damaged at the JWK of key intent-1"),
        ({"id": "intent-2"}, "names one key twice"),
    ],
)
def test_facts_that_contradict_each_other_are_refused(changes: dict[str, Any], what: str) -> None:
    ring = replace(FULL, keys=(replace(FULL_KEY, **changes), FULL.keys[1]))
    assert what in refusal(to_json(ring))


def test_one_kid_at_two_keys_is_refused() -> None:
    ring = replace(FULL, keys=(FULL_KEY, replace(FULL_KEY, id="intent-3")))
    assert "names one key twice" in refusal(to_json(ring))


def test_two_current_keys_of_one_algorithm_are_refused_and_of_two_are_not() -> None:
    one = Key("1", "EdDSA", T0, "", T0, created_at=T0, kid="a", jwk={"kid": "a"}, activated_at=T0)
    two = replace(one, id="2", kid="b", jwk={"kid": "b"})
    ring = Keyring("acme", "ledger", T0, keys=(one, two))
    assert "names two current keys for EdDSA" in refusal(to_json(ring))
    both = replace(ring, keys=(one, replace(two, alg="ES256")))
    assert read(to_json(both)) == both


def test_a_byte_order_mark_is_read_over() -> None:
    assert read(b"\xef\xbb\xbf" + LEDGER) == FULL


# -- stages ------------------------------------------------------------------------------------------------------

#: Later facts outweigh earlier ones, whatever the earlier ones say.
OUTWEIGHS = (
    ("revoked_at", Stage.REVOKED),
    ("withdrawn_at", Stage.RETIRED),
    ("superseded_at", Stage.PREVIOUS),
    ("activated_at", Stage.CURRENT),
    ("published_at", Stage.NEXT),
)
COMBINATIONS = [
    frozenset(name for name, there in zip((name for name, _ in OUTWEIGHS), flags, strict=True) if there)
    for flags in product((False, True), repeat=len(OUTWEIGHS))
]


def _key(facts: frozenset[str]) -> Key:
    there: dict[str, Any] = dict.fromkeys(facts, T0)
    return replace(FULL.keys[1], created_at=T0, kid="k", jwk={"kid": "k"}, **there)


@pytest.mark.parametrize("facts", COMBINATIONS, ids=lambda facts: "+".join(sorted(facts)) or "none")
def test_the_stage_of_every_combination_of_facts(facts: frozenset[str]) -> None:
    key = _key(facts)
    assert key.stage is next((stage for name, stage in OUTWEIGHS if name in facts), Stage.PENDING)
    assert key.public is (key.stage not in (Stage.RETIRED, Stage.REVOKED))
    assert key.exposed is bool(facts & {"activated_at", "superseded_at"})
    assert key.standby is (key.stage in (Stage.PENDING, Stage.NEXT))
    assert key.promoting is False
    assert replace(key, promoting_at=T0).promoting is key.standby
    assert replace(key, created_at=None, kid=None, jwk=None).public is False


def test_the_usual_life() -> None:
    ring, stages = FULL, []
    for fact in ("created_at", "published_at", "activated_at", "superseded_at", "withdrawn_at"):
        ring = ring.with_key("intent-2", **{fact: T0})
        stages.append(str(ring.keys[1].stage))
    assert stages == ["pending", "next", "current", "previous", "retired"]


def test_other_facts_make_no_stage() -> None:
    other: dict[str, Any] = {
        "created_at": T0,
        "promoting_at": T0,
        "disabled_at": T0,
        "destroyed_at": T0,
        "fence_due": True,
    }
    assert replace(FULL.keys[1], **other).stage is Stage.PENDING


def test_a_key_is_named_by_its_kid_or_its_intent() -> None:
    assert FULL_KEY.name == "kid-1"
    assert FULL.keys[1].name == "(intent intent-2)"


# -- questions ---------------------------------------------------------------------------------------------------


def test_keys_are_found_by_id_by_kid_and_by_algorithm() -> None:
    one, two = FULL.keys
    assert FULL.key("intent-1") is one
    assert FULL.key("intent-9") is None
    assert FULL.by_kid("kid-1") is one
    assert FULL.by_kid("kid-9") is None
    assert FULL.of("ES256") == (two,)
    assert FULL.of("RS256") == ()


def test_current_and_promoting_are_asked_per_algorithm() -> None:
    signing = replace(FULL.keys[1], id="s", activated_at=T0)
    moving = replace(FULL.keys[1], id="m", promoting_at=T0)
    ring = replace(FULL, keys=(FULL_KEY, moving, signing))
    assert ring.current("ES256") is signing
    assert ring.promoting("ES256") is moving
    assert ring.current("EdDSA") is None
    assert ring.promoting("EdDSA") is None


def test_an_algorithm_lasts_until_its_last_key_is_destroyed() -> None:
    assert FULL.algorithms() == ("ES256",)
    assert replace(FULL, keys=(replace(FULL_KEY, destroyed_at=None), *FULL.keys[1:])).algorithms() == ("EdDSA", "ES256")


def test_spent_kids_are_those_that_must_never_come_back() -> None:
    assert FULL.spent_kids() == {"kid-0", "kid-1", "theirs"}
    trusted = replace(FULL_KEY, revoked_at=None, withdrawn_at=None)
    assert replace(FULL, keys=(trusted,)).spent_kids() == {"kid-0", "theirs"}


def test_kids_are_ours_for_ever() -> None:
    assert FULL.kids() == {"kid-0", "kid-1"}


def test_ids_are_remembered_after_their_keys_left() -> None:
    assert [FULL.remembers(key_id) for key_id in ("intent-0", "intent-1", "intent-9")] == [True, True, False]


def test_the_newest_fact_is_the_latest_of_all() -> None:
    late = T0 + timedelta(days=365)
    bare = Keyring("acme", "ledger", T0, keys=(Key("1", "EdDSA", T0, "", T0),))
    assert bare.newest_fact() == T0
    for ring in (replace(bare, created_at=late), replace(bare, founded_at=late), replace(bare, swept_at=late)):
        assert ring.newest_fact() == late
    for spec in fields(Key):
        if spec.name.endswith("_at"):
            assert bare.with_key("1", **{spec.name: late}).newest_fact() == late, spec.name
    assert bare.with_key("1", published={"jwks": late}).newest_fact() == late
    assert bare.with_key("1", ready={"jwks": late}).newest_fact() == T0, "a promise is no fact of the past"


# -- changes -----------------------------------------------------------------------------------------------------


def test_a_change_makes_a_new_keyring_and_leaves_the_old_one() -> None:
    before = to_json(FULL)
    changed = FULL.with_key("intent-2", attempt="again")
    assert [key.attempt for key in changed.keys] == ["nonce", "again"]
    assert FULL.with_keys(("intent-9",), lambda key: replace(key, attempt="never")) == FULL
    assert FULL.with_document("view", DocumentFacts("", "")).documents.keys() == {"jwks", "view"}
    assert to_json(FULL) == before


def test_a_succession_without_requests_leaves_the_ledger() -> None:
    ring = FULL.with_succession("ES256", forced_at=T0)
    assert ring.succession("ES256").forced_at == T0
    assert ring.successions.keys() == {"EdDSA", "ES256"}
    assert ring.with_succession("ES256", forced_at=None).successions.keys() == {"EdDSA"}
    assert FULL.succession("RS256") == Succession()


def test_history_keeps_the_newest_lines() -> None:
    ring = FULL
    for number in range(HISTORY + 5):
        ring = ring.with_event(Event(T0, "step", f"line {number}"))
    assert [event.reason for event in ring.history] == [f"line {number}" for number in range(5, HISTORY + 5)]
