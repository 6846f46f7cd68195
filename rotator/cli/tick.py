"""``rotator tick``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from rotator.cli import fleet, output
from rotator.errors import RotatorError

if TYPE_CHECKING:
    from rotator.engine import Engine, Outcome, Report


def tick(ctx: typer.Context, keysets: fleet.KeySets = None, as_json: fleet.Json = False) -> None:
    """Do every step that is safe now, once.

    What the daemon does at every tick, for a CronJob or a person. May run anywhere, beside others, and be killed at
    any moment. A key set that fails does not keep the others from their turn.

    \b
    Examples:
      rotator --config rotator.toml tick
      rotator tick acme --json
    """
    tell = Teller()
    found = fleet.engines(fleet.configuration(ctx), keysets, tell)
    done = fleet.each(found, lambda engine: engine.tick(), "tick")
    show(done, as_json=as_json)
    fleet.end(done)


class Teller:
    """Tells each step as it happens; the log is opened with the first."""

    def __init__(self) -> None:
        self._log: Any = None

    def __call__(self, report: Report) -> None:
        """One step, or a warning beside it."""
        self._log = self._log or output.log()
        self._log.step(report)


def show(done: dict[str, Outcome | RotatorError], *, as_json: bool) -> None:
    """What came of a tick: for each key set what was done, and what comes next."""
    if as_json:
        output.data({"keysets": [{"name": name, **_facts(result)} for name, result in done.items()]})
        return
    for name, result in done.items():
        if isinstance(result, RotatorError):
            continue
        count = len(result.steps)
        steps = f"{count} step{'s'[: count != 1]}: {', '.join(dict.fromkeys(report.step for report in result.steps))}"
        typer.echo(f"{name}: {steps if count else 'nothing to do'}; {_ahead(result)}")
        for line in output.worries(result):
            output.say(f"{name}: {line}", err=True)


def tick_now(engine: Engine) -> None:
    """Tick after a person's request, and show what came of it."""
    name = engine.keyset.name
    done = fleet.each({name: engine}, lambda one: one.tick(), "tick")
    show(done, as_json=False)
    fleet.end(done)


def _ahead(outcome: Outcome) -> str:
    change = output.next_change(outcome)
    if change is None:
        return "next: when something outside changes" if outcome.plan.waits else "nothing is waited for"
    return f"next: {change['step']} {output.moment(change['at'], outcome.at)}"


def _facts(result: Outcome | RotatorError) -> dict[str, Any]:
    if isinstance(result, RotatorError):
        return {"error": str(result)}
    return {
        "steps": [
            {
                "step": report.step,
                "reason": report.reason,
                "at": report.at,
                "seconds": report.seconds,
                "alg": report.alg,
                "kid": report.kid,
                "document": report.document,
            }
            for report in result.steps
        ],
        "next_change": output.next_change(result),
        "foreign": {name: list(kids) for name, kids in result.foreign.items()},
        "clock_fault": result.clock_fault,
    }
