"""``rotator gc``: the upkeep of the key store, at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rotator.cli import fleet, output, tick
from rotator.errors import RotatorError

if TYPE_CHECKING:
    from rotator.engine import Engine
    from rotator.engine.upkeep import Leftover

_COLUMNS = ("KEY SET", "KEY", "ALG", "AGE", "FATE", "WHY")
_TONES = {"spared": "dim", "discard": "yellow", "discarded": "bold yellow"}
_NEEDLESS = "no ledger knows it, and it was made for this one"


def gc(
    ctx: typer.Context,
    keysets: fleet.KeySets = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Discard them: disabled now, deleted later.")] = False,
    as_json: fleet.Json = False,
) -> None:
    """List keys that no ledger knows, or discard them.

    What ticks do every six hours with KMS, where a crash can leave a key. Only keys that carry every tag of this
    ledger are discarded: disabled at once, deleted after kms.deletion_window. Those of other ledgers, without tags,
    or too young to judge are listed with the reason why they are spared. Without --yes nothing is changed.

    \b
    Examples:
      rotator gc
      rotator gc acme --yes
    """
    found = fleet.engines(fleet.configuration(ctx), keysets, tick.Teller())
    done = fleet.each(found, _discarded if yes else _listed, "gc")
    fate = "discarded" if yes else "discard"
    if as_json:
        output.data({"keysets": [{"name": name, **_facts(result, fate)} for name, result in done.items()]})
    else:
        _show(done, fate)
    fleet.end(done)


def _listed(engine: Engine) -> list[Leftover]:
    return engine.upkeep().leftovers()


def _discarded(engine: Engine) -> list[Leftover]:
    return engine.upkeep().discard()


def _show(done: dict[str, list[Leftover] | RotatorError], fate: str) -> None:
    from rotator import app

    now = app.now()
    rows = [
        (
            name,
            left.handle,
            left.alg or "?",
            output.span(now - left.created_at) if left.created_at else "?",
            "spared" if left.spared else fate,
            left.spared or _NEEDLESS,
        )
        for name, result in done.items()
        if not isinstance(result, RotatorError)
        for left in result
    ]
    if rows:
        output.table(_COLUMNS, rows, _TONES)
    needless = sum(row[4] == fate for row in rows)
    whole = sum(not isinstance(result, RotatorError) for result in done.values())
    if fate == "discard" and needless:
        typer.echo(f"Nothing was changed. 'rotator gc --yes' discards {needless} of them.")
    elif not rows and whole:
        typer.echo("Every key in the key store is known to its ledger.")


def _facts(result: list[Leftover] | RotatorError, fate: str) -> dict[str, Any]:
    if isinstance(result, RotatorError):
        return {"error": str(result)}
    return {
        "keys": [
            {
                "handle": left.handle,
                "alg": left.alg,
                "created_at": left.created_at,
                "fate": "spared" if left.spared else fate,
                "reason": left.spared or _NEEDLESS,
            }
            for left in result
        ]
    }
