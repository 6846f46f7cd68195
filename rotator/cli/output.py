"""How things look: tables and colours on a terminal, plain text in a pipe, JSON for programs.

Only chosen facts are shown. rich is loaded for a table on a terminal, and for nothing else.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rotator.engine import Outcome
    from rotator.keys.keyring import Key
    from rotator.keys.plan import Wait
    from rotator.keys.policy import KeySet
    from rotator.logs import Log

_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)
_MINUTE, _SECOND = timedelta(minutes=1), timedelta(seconds=1)


def is_terminal() -> bool:
    """Whether a person looks at what is written."""
    return sys.stderr.isatty()


def can_ask() -> bool:
    """Whether a person can answer a question."""
    return sys.stdin.isatty()


def log() -> Log:
    """Where steps are told: in words to a person, as JSON to a program."""
    from rotator.logs import Log, hush

    hush()
    return Log(words=is_terminal(), colour=is_terminal() and "NO_COLOR" not in os.environ)


def say(words: str, *, err: bool = False) -> None:
    """Print one line of text, whatever stands in ``words``: what comes from outside cannot add a line to ours."""
    typer.echo(_one_line(words), err=err)


def complain(words: str) -> None:
    """Print an error; some tell several faults, a line for each."""
    for line in f"Error: {words}".split("\n"):
        say(line, err=True)


def _one_line(words: str) -> str:
    from rotator.logs import printable

    return printable(words).replace("\n", "�")


def data(value: object) -> None:
    """Print ``value`` as JSON."""
    import json

    typer.echo(json.dumps(value, indent=2, default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    raise TypeError(type(value).__name__)


def moment(at: datetime | None, now: datetime) -> str:
    """A time, and how far away it is: ``2026-05-01 03:00:00Z (in 3d4h)``."""
    if at is None:
        return "?"
    away = f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"
    return f"{at:%Y-%m-%d %H:%M:%S}Z ({away})"


def span(duration: timedelta) -> str:
    """A duration in its two largest units."""
    from rotator.keys.policy import text

    whole = max(timedelta(0), duration)
    grain = _HOUR if whole >= _DAY else _MINUTE if whole >= _HOUR else _SECOND
    return text(whole - whole % grain)


def key_facts(key: Key, keyset: KeySet) -> dict[str, Any]:
    """What a program may know of a key."""
    from rotator.keys.plan import gate

    return {
        "kid": key.kid,
        "alg": key.alg,
        "stage": str(key.stage),
        "adopted": key.adopted,
        "intended_at": key.intended_at,
        "created_at": key.created_at,
        "published_at": key.published_at,
        "ready_at": gate(keyset, key) if key.standby else None,
        "activated_at": key.activated_at,
        "superseded_at": key.superseded_at,
        "disabled_at": key.disabled_at,
        "withdrawn_at": key.withdrawn_at,
        "destroyed_at": key.destroyed_at,
        "revoked_at": key.revoked_at,
        "revoke_reason": key.revoke_reason,
    }


def plan_facts(outcome: Outcome) -> dict[str, Any]:
    """What a program may know of a plan, and of what stands in its way."""
    step = outcome.plan.step
    return {
        "at": outcome.at,
        "step": step and {"step": step.name, "reason": step.reason, "alg": step.alg, "kid": step.kid},
        "waits": [wait_facts(wait) for wait in outcome.plan.waits],
        "next_change": next_change(outcome),
        "foreign": {name: list(kids) for name, kids in outcome.foreign.items()},
        "clock_fault": outcome.clock_fault,
    }


def wait_facts(wait: Wait) -> dict[str, Any]:
    """What a program may know of a wait."""
    return {"step": wait.step, "reason": wait.reason, "at": wait.at, "alg": wait.alg, "kid": wait.kid}


def next_change(outcome: Outcome) -> dict[str, Any] | None:
    """The step that is due, or the one that time makes due next."""
    step = outcome.plan.step
    if step is not None:
        return {"at": outcome.at, "step": step.name, "reason": step.reason, "alg": step.alg, "kid": step.kid}
    timed = [wait for wait in outcome.plan.waits if wait.at]
    return wait_facts(min(timed, key=lambda wait: wait.at or outcome.at)) if timed else None


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], tones: Mapping[str, str]) -> None:
    """Print rows under a head; ``tones`` are the styles of words that stand alone in a cell."""
    rows = [[_one_line(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Column, Table
        from rich.text import Text

        # Where the terminal is narrow the kids are cut; commands take what is left of them.
        heads = (Column(name, overflow="ellipsis") if name == "KID" else Column(name, no_wrap=True) for name in columns)
        shown = Table(*heads, box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for row in rows:
            shown.add_row(*(Text(cell, style=tones.get(cell, "")) for cell in row))
        Console().print(shown)
        return
    widths = [max(len(row[n]) for row in (columns, *rows)) for n in range(len(columns))]
    for row in (columns, *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def unsigned(outcome: Outcome, alg: str) -> Iterator[str]:
    """What issuers of ``alg`` wait for, where a revoke left no key that signs."""
    if outcome.ring.succession(alg).forced_at is not None:
        wait = next((wait for wait in outcome.plan.waits if wait.alg == alg), None)
        until = f" (until {moment(wait.at, outcome.at)})" if wait and wait.at else ""
        yield f"no {alg} key signs since a revoke: {wait.reason if wait else 'the next tick goes on with it'}{until}"


def worries(outcome: Outcome) -> Iterator[str]:
    """What a person should know of a key set beside its keys."""
    name = outcome.ring.keyset
    trouble = outcome.ring.trouble
    if trouble:
        yield f"last error, {span(outcome.at - trouble.at)} ago: {trouble.message}"
    for alg in outcome.ring.successions:
        yield from unsigned(outcome, alg)
    if outcome.clock_fault:
        yield f"clock: {outcome.clock_fault}"
    for document, kids in outcome.foreign.items():
        yield (
            f"foreign keys in {document}: {', '.join(kid[:80] for kid in kids)}. They are kept beside ours;"
            f" 'rotator drop {name} KID' removes one."
        )
    # Keys of several algorithms often wait for one and the same thing.
    yield from dict.fromkeys(
        f"{wait.step} waits: {wait.reason}"
        for wait in outcome.plan.waits
        if wait.at is None and wait.reason != outcome.clock_fault
    )
