"""A whole life of keys on a network that fails: whatever happens to any call, it ends in the same state.

A proxy stands between rotator (in this process: real boto3, real HTTP, a fresh worker for each command) and the
emulators. A fault-free life tells which calls there are; then each meets each fault, one by one, and at random.
No second key, no lost version; in KMS no orphan after upkeep, and never more keys than recorded attempts.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections import Counter
from typing import TYPE_CHECKING

import botocore.config
import pytest

from tests.lives import PHASES, SERVERS, at_once, done_here
from tests.proxy import (
    at,
    beheaded,
    half,
    internal_error,
    late,
    lost,
    refused,
    stalled,
    throttled,
    unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.lives import Act, Life, Lives
    from tests.proxy import Call, Fault, Weather

#: Seconds that boto3 waits for an answer here, instead of 10; a fault that takes longer looks the same to it.
READ_TIMEOUT = 1.5

FAULTS: Mapping[str, Fault] = {
    "500": internal_error,
    "503": unavailable,
    "throttled": throttled,
    "closed": refused,
    "lost": lost,
    "half body": half,
    "half head": beheaded,
    "late": late(READ_TIMEOUT + 0.3),
    "stalled": stalled(READ_TIMEOUT + 0.3),
}

#: A call meets a fault once, so that boto3 tries again, or as often as boto3 tries.
ATTEMPTS = (1, 3)

#: Lives lived at once: much of a life is waiting.
AT_ONCE = 3


@pytest.fixture(scope="module", params=SERVERS)
def lives(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lives]:
    with at_once(request.param, tmp_path_factory.mktemp("lives"), AT_ONCE) as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def _impatient() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        config = functools.partial(_config, botocore.config.Config)
        patched.setattr("botocore.config.Config", config)
        patched.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
        yield


def _config(original: Callable[..., object], **options: object) -> object:
    return original(**{**options, "read_timeout": READ_TIMEOUT})


def trials(calls: Sequence[Call], *, every: bool) -> list[tuple[Call, str, int]]:
    """The faults that the calls of a phase meet, one in each life: ``every`` one, or two for each call in turn."""
    if every:
        return list(itertools.product(calls, FAULTS, ATTEMPTS))
    kinds = list(FAULTS)
    # The first four were not applied, the others were: each call meets one of each.
    told = [(call, kinds[call.number % 4], ATTEMPTS[call.number // 4 % 2]) for call in calls]
    return told + [(call, kinds[4 + call.number % 5], ATTEMPTS[1 - call.number // 5 % 2]) for call in calls]


def in_weather(weather: Weather) -> Act:
    def act(life: Life, phase: str) -> None:
        life.proxy.begin(weather)
        done_here(life, phase)

    return act


def ends_alike(lives: Lives, *, every: bool) -> None:
    staged = {phase: trials(told.calls, every=every) for phase, told in lives.fair.items()}
    rows = [dict(zip(staged, row, strict=True)) for row in itertools.zip_longest(*staged.values())]
    acts = [
        {phase: in_weather(at(trial[0].number, FAULTS[trial[1]], trial[2])) for phase, trial in row.items() if trial}
        for row in rows
    ]
    met, missed, failed = Counter[str](), [], 0
    faults = []
    for row, lived in zip(rows, lives.all(acts), strict=True):
        for phase, trial in row.items():
            told = lived[phase]
            if unlike := told.differs_from(lives.fair[phase]):
                faults.append(f"{phase}, {trial}: {unlike}")
            if trial and told.hit:
                met[trial[1]] += 1
                failed += told.error is not None
            elif trial:
                missed.append((phase, trial))
    print(f"\n{sum(met.values())} faults in {len(rows)} lives: {dict(met)}; {failed} commands failed")  # noqa: T201 - quoted in the README
    assert not faults, "\n".join(faults)
    # A fault before may have made a tick shorter or longer than the fair one was.
    assert len(missed) <= sum(met.values()) / 20, missed
    assert failed > sum(met.values()) / 10, "boto3 alone hid nearly every fault: nothing was proven of rotator"


@pytest.mark.slow
def test_whichever_call_meets_a_fault_a_life_ends_in_the_same_state(lives: Lives) -> None:
    ends_alike(lives, every=False)


@pytest.mark.endurance
def test_whatever_fault_any_call_meets_a_life_ends_in_the_same_state(lives: Lives) -> None:
    ends_alike(lives, every=True)


@pytest.mark.slow
def test_in_a_storm_a_life_ends_in_the_same_state(lives: Lives) -> None:
    seeds = range(12)

    def storm(seed: int) -> Act:
        chance = random.Random(seed)
        return in_weather(lambda _: chance.choice(list(FAULTS.values())) if chance.random() < 0.1 else None)

    hit = 0
    for seed, lived in zip(seeds, lives.all([dict.fromkeys(PHASES, storm(seed)) for seed in seeds]), strict=True):
        for phase, told in lived.items():
            hit += len(told.hit)
            assert not told.differs_from(lives.fair[phase]), f"seed {seed}, {phase}"
    print(f"\n{hit} faults at random in {len(seeds)} lives")  # noqa: T201 - quoted in the README
    assert hit > len(seeds) * 5
