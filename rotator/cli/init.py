"""``rotator init``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from rotator.cli import fleet, output
from rotator.errors import RotatorError

if TYPE_CHECKING:
    from rotator.engine import Engine


def init(ctx: typer.Context, keysets: fleet.KeySets = None, as_json: fleet.Json = False) -> None:
    """Create the ledger of each new key set.

    Checks the permissions and that the document stores truly compare and swap. Refuses where a public document or a
    key of that name exists without a ledger: a lost ledger must not become a mass logout. Safe to repeat, and to
    run twice at the same time: the second finds what the first created.

    \b
    Examples:
      rotator --config rotator.toml init
      rotator init acme globex
    """
    from rotator.keys.cautions import cautions

    found = fleet.engines(fleet.configuration(ctx), keysets)
    done = fleet.each(found, _created, "init")
    said = {name: "failed" if isinstance(result, RotatorError) else result for name, result in done.items()}
    if as_json:
        output.data({"keysets": [{"name": name, "result": result} for name, result in said.items()]})
    else:
        for name, result in said.items():
            typer.echo(f"{name}: {result}")
    for name in done:
        if said[name] == "created":
            for caution in cautions(found[name].keyset):
                output.say(f"{name}: warning: {caution.sentence}", err=True)
    fleet.end(done)


def _created(engine: Engine) -> str:
    return "created" if engine.init() else "found"
