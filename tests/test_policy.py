"""The policy: defaults that are safe, inequalities just inside and just outside, headers and durations."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.errors import ConfigurationError
from rotator.keys.algorithms import ALGORITHMS, algorithm
from rotator.keys.policy import (
    UNPROMISED,
    KeySet,
    Policy,
    PublicDocument,
    max_age_of,
    parse_duration,
    staleness_of,
    text,
)

US, SECOND, MINUTE, HOUR, DAY = (
    timedelta(microseconds=1),
    timedelta(seconds=1),
    timedelta(minutes=1),
    timedelta(hours=1),
    timedelta(days=1),
)
DEFAULT = Policy()
DURATIONS = [spec.name for spec in fields(Policy) if isinstance(spec.default, timedelta)]


def changed(**values: Any) -> Policy:
    return replace(DEFAULT, **values)


def the_fault(policy: Policy) -> str:
    (fault,) = policy.faults()
    return fault


# -- defaults ----------------------------------------------------------------------------------------------------


def test_the_defaults_are_safe_and_give_the_documented_numbers() -> None:
    assert DEFAULT.faults() == []
    assert DEFAULT.staleness == HOUR + 5 * MINUTE
    assert DEFAULT.prepublish == 25 * HOUR + 7 * MINUTE
    assert DEFAULT.retention == 3 * HOUR + 9 * MINUTE
    assert DEFAULT.creations_per_day == 10
    assert DAY == UNPROMISED
    assert (DEFAULT.algorithms, DEFAULT.rsa_bits, DEFAULT.kid, DEFAULT.max_keys) == (("RS256",), 2048, "thumbprint", 10)
    assert {name: text(getattr(DEFAULT, name)) for name in DURATIONS} == {
        "lifetime": "30d",
        "token_lifetime": "1h",
        "signer_lag": "2h",
        "cache_max_age": "5m",
        "cache_stale": "1h",
        "verifier_cache": "1d",
        "verifier_leeway": "5m",
        "clock_skew": "1m",
        "interval": "1m",
    }


def test_the_proof_says_each_inequality_with_its_numbers() -> None:
    overlap, room = DEFAULT.inequalities()
    assert (overlap.name, overlap.holds) == ("lifetime > prepublish + 2 × interval", True)
    assert overlap.sentence == (
        "A key signs for 30d; its successor needs 1d1h7m in public and two ticks of 1m, 1d1h9m in all, before it can"
        " take over."
    )
    assert (room.name, room.holds) == ("algorithms × (2 + ⌈retention ÷ lifetime⌉) ≤ max_keys", True)
    assert room.sentence == "1 algorithm(s) × (2 + ⌈3h9m ÷ 30d⌉) = 3 keys at once; max_keys is 10."


def test_every_tier_of_caches_adds_its_staleness() -> None:
    assert changed(cache_tiers=3).staleness == 3 * DEFAULT.staleness
    assert changed(cache_tiers=3).prepublish == DEFAULT.prepublish + 2 * DEFAULT.staleness


def test_every_duration_has_its_place_in_the_deadlines() -> None:
    def grown(name: str) -> tuple[timedelta, timedelta]:
        policy = changed(**{name: getattr(DEFAULT, name) + SECOND})
        return policy.prepublish - DEFAULT.prepublish, policy.retention - DEFAULT.retention

    zero = timedelta(0)
    assert {name: grown(name) for name in DURATIONS} == {
        "lifetime": (zero, zero),
        "token_lifetime": (zero, SECOND),
        "signer_lag": (zero, SECOND),
        "cache_max_age": (SECOND, zero),
        "cache_stale": (SECOND, zero),
        "verifier_cache": (SECOND, zero),
        "verifier_leeway": (zero, SECOND),
        "clock_skew": (2 * SECOND, 4 * SECOND),
        "interval": (zero, zero),
    }


# -- inequalities: just inside and just outside ------------------------------------------------------------------


def test_a_lifetime_just_longer_than_what_a_successor_needs_is_safe() -> None:
    floor = DEFAULT.prepublish + 2 * DEFAULT.interval
    assert changed(lifetime=floor + US).faults() == []
    assert the_fault(changed(lifetime=floor)) == (
        "Unsafe: A key signs for 1d1h9m; its successor needs 1d1h7m in public and two ticks of 1m, 1d1h9m in all,"
        " before it can take over. Required: lifetime > prepublish + 2 × interval."
    )


@pytest.mark.parametrize("name", ["cache_max_age", "cache_stale", "verifier_cache", "interval", "clock_skew"])
def test_whatever_a_successor_waits_for_counts_against_the_lifetime(name: str) -> None:
    floor = DEFAULT.prepublish + 2 * DEFAULT.interval
    policy = changed(lifetime=floor + SECOND)
    assert policy.faults() == []
    assert "Required: lifetime >" in the_fault(replace(policy, **{name: getattr(policy, name) + SECOND}))


def test_three_keys_of_one_algorithm_must_find_room() -> None:
    assert changed(max_keys=3).faults() == []
    assert the_fault(changed(max_keys=2)) == (
        "Unsafe: 1 algorithm(s) × (2 + ⌈3h9m ÷ 30d⌉) = 3 keys at once; max_keys is 2."
        " Required: algorithms × (2 + ⌈retention ÷ lifetime⌉) ≤ max_keys."
    )


def test_a_retention_longer_than_a_lifetime_keeps_another_key_in_public() -> None:
    rest = DEFAULT.retention - DEFAULT.token_lifetime
    full = changed(max_keys=3, token_lifetime=DEFAULT.lifetime - rest)
    assert full.retention == full.lifetime
    assert full.faults() == []
    more = replace(full, token_lifetime=full.token_lifetime + US)
    assert "= 4 keys at once; max_keys is 3." in the_fault(more)
    assert replace(more, max_keys=4).faults() == []


def test_every_algorithm_needs_its_own_room() -> None:
    three = ("RS256", "ES256", "EdDSA")
    assert changed(algorithms=three, max_keys=9).faults() == []
    assert "3 algorithm(s) × (2 + ⌈3h9m ÷ 30d⌉) = 9 keys at once; max_keys is 8." in the_fault(
        changed(algorithms=three, max_keys=8)
    )


def test_a_policy_can_break_both_inequalities_at_once() -> None:
    faults = changed(lifetime=HOUR, max_keys=5).faults()
    assert [fault.rpartition("Required: ")[2] for fault in faults] == [
        "lifetime > prepublish + 2 × interval.",
        "algorithms × (2 + ⌈retention ÷ lifetime⌉) ≤ max_keys.",
    ]


def test_a_proof_of_nonsense_still_has_its_lines() -> None:
    assert [line.holds for line in changed(lifetime=timedelta(0)).inequalities()] == [False, True]


# -- what makes no sense -----------------------------------------------------------------------------------------

MAY_BE_ZERO = {"cache_stale", "signer_lag", "clock_skew"}


@pytest.mark.parametrize("name", DURATIONS)
def test_a_negative_duration_is_refused(name: str) -> None:
    assert the_fault(changed(**{name: -5 * MINUTE})) == f"{name} is -5m: a duration cannot be negative."


@pytest.mark.parametrize("name", DURATIONS)
def test_a_zero_is_refused_but_where_it_means_something(name: str) -> None:
    faults = changed(**{name: timedelta(0)}).faults()
    assert faults == ([] if name in MAY_BE_ZERO else [f"{name} is 0: it must be longer."])


@pytest.mark.parametrize("name", DURATIONS)
def test_a_fraction_of_a_second_is_refused_where_a_header_needs_whole_ones(name: str) -> None:
    faults = changed(**{name: getattr(DEFAULT, name) + timedelta(milliseconds=500)}).faults()
    if name in {"cache_max_age", "cache_stale"}:
        seconds = getattr(DEFAULT, name).total_seconds() + 0.5
        assert faults == [f"{name} is {seconds} s: an HTTP header needs whole seconds."]
    else:
        assert faults == []


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"cache_tiers": 0}, "cache_tiers is 0: 1 to 100 caches stand between origin and verifier."),
        ({"cache_tiers": -1}, "cache_tiers is -1: 1 to 100 caches stand between origin and verifier."),
        ({"max_creations_per_day": 0}, "max_creations_per_day is 0: it must be at least 1."),
        ({"algorithms": ()}, "algorithms is empty: name at least one, e.g. RS256."),
        ({"algorithms": ("RS256", "RS256")}, "algorithms names one twice: RS256, RS256."),
        ({"rsa_bits": 1024}, "rsa_bits is 1024: choose from 2048, 3072, 4096."),
        ({"max_keys": 0}, "= 3 keys at once; max_keys is 0."),
    ],
)
def test_nonsense_is_refused_in_a_sentence(values: dict[str, Any], fault: str) -> None:
    assert fault in the_fault(changed(**values))


def test_the_least_that_makes_sense_is_accepted() -> None:
    assert changed(max_creations_per_day=1, cache_tiers=1, max_keys=3).faults() == []


@pytest.mark.parametrize("alg", ["HS256", "none", "rs256", "ES256K", ""])
def test_an_unknown_algorithm_is_refused_with_those_there_are(alg: str) -> None:
    fault = the_fault(changed(algorithms=(alg,)))
    assert fault == (
        f"Unknown algorithm {alg!r}: choose from RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA,"
        " Ed25519, Ed448, ML-DSA-44, ML-DSA-65, ML-DSA-87."
    )


@pytest.mark.parametrize("alg", list(ALGORITHMS))
def test_every_known_algorithm_is_accepted(alg: str) -> None:
    assert changed(algorithms=(alg,)).faults() == []


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_every_rsa_size_is_accepted_and_names_the_kms_key(bits: int) -> None:
    assert changed(rsa_bits=bits).faults() == []
    assert algorithm("PS256").key_spec(bits) == f"RSA_{bits}"
    assert algorithm("ES256").key_spec(bits) == "ECC_NIST_P256"


def test_all_faults_are_told_at_once() -> None:
    bad = Policy(
        algorithms=("RS256", "RS256", "HS256"),
        rsa_bits=512,
        lifetime=timedelta(0),
        token_lifetime=-HOUR,
        signer_lag=-US,
        cache_max_age=timedelta(seconds=0.5),
        cache_stale=timedelta(seconds=1.5),
        cache_tiers=0,
        max_creations_per_day=-1,
        interval=timedelta(0),
    )
    assert [fault.split(" is ")[0].split(" names ")[0].split(":")[0] for fault in bad.faults()] == [
        "lifetime",
        "token_lifetime",
        "signer_lag",
        "interval",
        "cache_max_age",
        "cache_stale",
        "cache_tiers",
        "max_creations_per_day",
        "algorithms",
        "Unknown algorithm 'HS256'",
        "rsa_bits",
    ]


@given(
    st.builds(
        Policy,
        algorithms=st.lists(st.sampled_from([*ALGORITHMS, "HS256"]), max_size=4).map(tuple),
        rsa_bits=st.integers(-1, 5000),
        cache_tiers=st.integers(-2, 5),
        max_keys=st.integers(-2, 20),
        max_creations_per_day=st.none() | st.integers(-2, 20),
        **{name: st.timedeltas(-DAY, 90 * DAY) for name in DURATIONS},
    )
)
def test_any_policy_gets_its_verdict_in_sentences(policy: Policy) -> None:
    faults = policy.faults()
    assert all(fault.endswith(".") for fault in faults)
    if not faults:
        assert policy.lifetime > policy.prepublish
        assert all(line.holds for line in policy.inequalities())


# -- creations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "creations"),
    [
        ({}, 10),
        ({"lifetime": DAY + US}, 10),
        ({"lifetime": DAY}, 14),
        ({"lifetime": HOUR}, 106),
        ({"lifetime": HOUR, "algorithms": ("RS256", "ES256")}, 202),
        ({"algorithms": ("RS256", "ES256", "ES384")}, 12),
        ({"lifetime": timedelta(0)}, 10),
        ({"max_creations_per_day": 3, "lifetime": HOUR}, 3),
    ],
)
def test_short_lifetimes_may_create_more_keys_a_day(values: dict[str, Any], creations: int) -> None:
    assert changed(**values).creations_per_day == creations


# -- headers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_age", "stale", "header"),
    [
        (300, 3600, "public, max-age=300, stale-while-revalidate=3600, stale-if-error=3600"),
        (300, 1, "public, max-age=300, stale-while-revalidate=1, stale-if-error=1"),
        (300, 0, "public, max-age=300, stale-while-revalidate=0, stale-if-error=0, must-revalidate"),
        (86_400, 60, "public, max-age=86400, stale-while-revalidate=60, stale-if-error=60"),
    ],
)
def test_the_header_says_both_stale_allowances_always(max_age: int, stale: int, header: str) -> None:
    policy = changed(cache_max_age=max_age * SECOND, cache_stale=stale * SECOND)
    assert policy.cache_control == header


@given(st.integers(1, 31_000_000), st.integers(0, 31_000_000), st.integers(1, 5))
def test_the_gate_counts_on_exactly_what_the_header_allows(max_age: int, stale: int, tiers: int) -> None:
    policy = changed(cache_max_age=max_age * SECOND, cache_stale=stale * SECOND, cache_tiers=tiers)
    assert staleness_of(policy.cache_control, tiers) == policy.staleness
    assert max_age_of(policy.cache_control) == policy.cache_max_age


YEAR = 366 * DAY


@pytest.mark.parametrize(
    ("header", "staleness", "max_age"),
    [
        (None, 2 * UNPROMISED, None),
        ("", 2 * UNPROMISED, None),
        (" , ,", 2 * UNPROMISED, None),
        ("max-age=300", 300 * SECOND + UNPROMISED, 300 * SECOND),
        ("max-age=300, must-revalidate", 300 * SECOND, 300 * SECOND),
        ("max-age=300, proxy-revalidate", 300 * SECOND, 300 * SECOND),
        ("max-age=300, stale-if-error=60", 360 * SECOND, 300 * SECOND),
        ("max-age=300, stale-while-revalidate=60", 360 * SECOND, 300 * SECOND),
        ("max-age=300, stale-while-revalidate=60, stale-if-error=90", 390 * SECOND, 300 * SECOND),
        ("max-age=300, must-revalidate, stale-if-error=90", 390 * SECOND, 300 * SECOND),
        ('max-age="300", must-revalidate', 300 * SECOND, 300 * SECOND),
        ("Max-Age = 300 ,MUST-REVALIDATE", 300 * SECOND, 300 * SECOND),
        ("max-age=60, s-maxage=300, must-revalidate", 300 * SECOND, 300 * SECOND),
        ("max-age=300, s-maxage=60, must-revalidate", 300 * SECOND, 300 * SECOND),
        ("s-maxage=60, must-revalidate", 60 * SECOND, 60 * SECOND),
        ("max-age=0, must-revalidate", timedelta(0), timedelta(0)),
        ("must-revalidate", UNPROMISED, None),
        ("no-store", timedelta(0), None),
        ("max-age=300, no-store", timedelta(0), 300 * SECOND),
        ("no-cache", timedelta(0), None),
        ("no-cache, max-age=300", timedelta(0), 300 * SECOND),
        ("no-cache, stale-if-error=60", 60 * SECOND, None),
        ("max-age=999999999999999999999999, must-revalidate", YEAR, YEAR),
        ("max-age=" + "9" * 10_000 + ", must-revalidate", YEAR, YEAR),
        ("max-age=300, stale-if-error=4294967296", YEAR + 300 * SECOND, 300 * SECOND),
        ("max-age=-1", 2 * UNPROMISED, None),
        ("max-age=1.5", 2 * UNPROMISED, None),
        ("max-age=soon", 2 * UNPROMISED, None),
        ("max-age=", 2 * UNPROMISED, None),
        ("max-age", 2 * UNPROMISED, None),
        ("max-age=\u0663\u0660\u0660", 2 * UNPROMISED, None),
        ("max-age=300; must-revalidate", 2 * UNPROMISED, None),
        ("=300", 2 * UNPROMISED, None),
        ("public, immutable", 2 * UNPROMISED, None),
    ],
    ids=lambda value: ascii(value)[:60] if isinstance(value, str | None) else "",
)
def test_a_header_of_anybody_is_taken_at_its_word_and_what_it_does_not_say_as_a_day(
    header: str | None, staleness: timedelta, max_age: timedelta | None
) -> None:
    assert staleness_of(header) == staleness
    assert staleness_of(header, tiers=3) == 3 * staleness
    assert max_age_of(header) == max_age


DIRECTIVES = st.sampled_from(["max-age", "s-maxage", "no-store", "no-cache", "stale-if-error", "must-revalidate"])
HEADERS = st.text() | st.lists(
    st.builds("{}{}{}".format, DIRECTIVES, st.sampled_from(["=", "", '="', " = "]), st.integers() | st.text(max_size=9))
).map(",".join)


@given(HEADERS)
def test_no_header_is_an_accident(header: str) -> None:
    staleness, max_age = staleness_of(header), max_age_of(header)
    assert timedelta(0) <= staleness <= 2 * YEAR
    assert max_age is None or timedelta(0) <= max_age <= YEAR


# -- durations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration", "written"),
    [
        (timedelta(0), "0s"),
        (SECOND, "1s"),
        (90 * SECOND, "1m30s"),
        (HOUR, "1h"),
        (HOUR + 5 * MINUTE, "1h5m"),
        (25 * HOUR + 7 * MINUTE, "1d1h7m"),
        (30 * DAY, "30d"),
        (DAY + SECOND, "1d1s"),
        (timedelta(milliseconds=500), "0.5s"),
        (-90 * SECOND, "-1m30s"),
        (-30 * DAY, "-30d"),
    ],
)
def test_durations_are_written_as_people_write_them(duration: timedelta, written: str) -> None:
    assert text(duration) == written


@given(st.integers(0, 10_000 * 86_400_000))
def test_what_is_written_is_read_back(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(text(duration)) == duration


@pytest.mark.parametrize(
    ("written", "duration"),
    [
        ("30d", 30 * DAY),
        ("2w", 14 * DAY),
        ("1h30m", 90 * MINUTE),
        ("90s", 90 * SECOND),
        ("0s", timedelta(0)),
        ("1.5h", 90 * MINUTE),
        ("0.25s", timedelta(milliseconds=250)),
        (" 5m\n", 5 * MINUTE),
        ("P30D", 30 * DAY),
        ("P2W", 14 * DAY),
        ("PT1H", HOUR),
        ("PT1H30M", 90 * MINUTE),
        ("PT0.5S", timedelta(milliseconds=500)),
        ("P1W2DT3H4M5S", 9 * DAY + 3 * HOUR + 4 * MINUTE + 5 * SECOND),
        ("P0D", timedelta(0)),
    ],
)
def test_durations_are_read_as_people_and_iso_8601_write_them(written: str, duration: timedelta) -> None:
    assert parse_duration(written) == duration


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "30",
        "d",
        "-5m",
        "+5m",
        "1h 30m",
        "30D",
        "1y",
        "2 days",
        "1e3s",
        "1,5h",
        ".5h",
        "5.h",
        "5mm",
        "x5m",
        "5mx",
        "\u0663d",
        "5\uff4d",
        "nan",
        "infs",
        "P",
        "PT",
        "P1DT",
        "P1M",
        "P1Y",
        "P1.5D",
        "pt1h",
        "-P1D",
        "P\u0663D",
        "1d\n2h",
        "\ud800",
    ],
    ids=ascii,
)
def test_what_is_no_duration_is_refused_with_an_example(written: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Not a duration: .* Write e\.g\. 30d, 1h30m, 90s or ISO 8601"):
        parse_duration(written)


@pytest.mark.parametrize("written", ["9" * 400 + "d", "1000000000d", "P" + "9" * 400 + "D", "9999999999w"])
def test_what_no_calendar_holds_is_too_long(written: str) -> None:
    with pytest.raises(ConfigurationError, match="is too long") as caught:
        parse_duration(written)
    assert len(str(caught.value)) < 100


@given(st.text() | st.text("0123456789.wdhmsPT ", max_size=12))
def test_any_text_is_a_duration_or_refused_briefly(written: str) -> None:
    try:
        duration = parse_duration(written)
    except ConfigurationError as exc:
        message = str(exc)
    else:
        assert duration >= timedelta(0)
        return
    assert len(message) < 500


# -- key sets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "0", "acme", "acme-eu_2", "a" * 63])
def test_a_key_set_has_a_name_that_fits_into_paths_and_tags(name: str) -> None:
    assert KeySet(name, DEFAULT).name == name


@pytest.mark.parametrize(
    "name", ["", "a" * 64, "Acme", "-acme", "_acme", "a/b", "../a", "a.b", "a b", "acme\n", "é", "\x00"], ids=ascii
)
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="use 1 to 63 of a-z, 0-9, '_' and '-'"):
        KeySet(name, DEFAULT)


def test_a_document_shows_all_algorithms_or_those_it_names() -> None:
    every, some = PublicDocument("jwks", "a"), PublicDocument("view", "b", algorithms=frozenset({"ES256"}))
    keyset = KeySet("acme", DEFAULT, (every, some))
    assert keyset.documents_of("RS256") == (every,)
    assert keyset.documents_of("ES256") == (every, some)


def test_what_was_derived_from_a_policy_is_no_setting_of_it() -> None:
    policy = Policy(lifetime=timedelta(days=828), token_lifetime=timedelta(days=305), clock_skew=timedelta(days=413))
    assert policy.faults() == policy.faults()
    assert policy.retention
    assert not any("retention is" in fault for fault in policy.faults())
