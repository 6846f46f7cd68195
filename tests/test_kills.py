"""``kill -9`` of real processes at every call they make, in every phase of a life: whoever is started next ends alike.

The daemon is killed while it makes the first keys, rotates, stops, retires; ``rotator init`` and ``rotator revoke``,
while they do their work. What is left behind by a process that died before a call and by one that died after the call
before it is the same, so the shorter run kills after each call; the endurance run does both.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import pytest

from tests.lives import SERVERS, at_once
from tests.processes import Rotators

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.lives import Life, Lives
    from tests.proxy import Call, Fault, Forward

#: Lives lived at once.
AT_ONCE = 3

#: A daemon that has made no call for so many seconds has nothing to do; the fair one shows all that it does.
QUIET, QUIET_WHEN_FAIR = 0.4, 2.0

PATIENCE = 60


class Killed:
    """Does a phase in a process that dies at its ``number``-th call, and then in one that lives."""

    def __init__(self, number: int, *, before: bool) -> None:
        self._number, self._before = number, before
        self.died = False

    def __call__(self, life: Life, phase: str) -> None:
        running = Rotators(life.file, words(life, phase), ahead=life.ahead)

        def dies(_: Call, forward: Forward) -> bytes:
            if not self._before:
                forward()
            running.kill()
            self.died = True
            return b""

        def weather(call: Call) -> Fault | None:
            return dies if call.number == self._number else None

        life.proxy.begin(weather)
        with running:
            wait(lambda: not running.running() or life.proxy.quiet(QUIET_WHEN_FAIR))
        # A person who sees that nothing was recorded says it again; anything else is up to the daemon. (Were the daemon
        # first, it would end the promotion in whose middle the key was to be revoked: right, and another end.)
        unheard = phase == "init" or (phase.startswith("revoke") and not life.revoked)
        done_by_process(life, phase if unheard else "daemon", QUIET)


def done_by_process(life: Life, phase: str, quiet: float = QUIET_WHEN_FAIR) -> None:
    life.proxy.begin()
    with Rotators(life.file, words(life, phase), ahead=life.ahead) as running:
        wait(lambda: not running.running() or life.proxy.quiet(quiet))


def words(life: Life, phase: str) -> Sequence[str]:
    if phase == "init":
        return ["init"]
    if phase.startswith("revoke"):
        return ["revoke", "acme", life.stolen, "--reason", "stolen", "--yes", "--wait", "1s"]
    return ["run"]


def wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module", params=SERVERS)
def lives(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lives]:
    with at_once(request.param, tmp_path_factory.mktemp("lives"), AT_ONCE, done_by_process) as found:
        yield found


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(False, marks=pytest.mark.slow, id="after"),
        pytest.param(True, marks=pytest.mark.endurance, id="before"),
    ],
)
def test_after_a_kill_at_any_call_a_life_ends_in_the_same_state(lives: Lives, *, before: bool) -> None:
    numbers = {phase: range(1, len(told.calls) + 1) for phase, told in lives.fair.items()}
    rows = [
        {phase: Killed(number, before=before) for phase, number in zip(numbers, row, strict=True) if number}
        for row in itertools.zip_longest(*numbers.values())
    ]
    faults, died = [], 0
    for row, lived in zip(rows, lives.all(rows), strict=True):
        for phase, told in lived.items():
            if unlike := told.differs_from(lives.fair[phase]):
                faults.append(f"{phase} of {list(row)}, {told.hit}, {told.error}: {unlike}")
        died += sum(killed.died for killed in row.values())
    calls = {phase: len(told.calls) for phase, told in lives.fair.items()}
    print(f"\n{died} processes killed, at each of these calls: {calls}")  # noqa: T201 - quoted in the README
    assert not faults, "\n".join(faults)
    # What a life went through before may leave less to do, or less to look through.
    assert died >= 0.9 * sum(calls.values())
