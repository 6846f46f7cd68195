"""``rotator recover``: bring back a ledger, from its versions or from what is left without it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rotator.cli import fleet, output, tick
from rotator.errors import ConfigurationError, Refused

if TYPE_CHECKING:
    from rotator.engine.recovery import Proposal, Wanted

_COLUMNS = ("KID", "ALG", "BECOMES", "WHY")
_TONES = {
    "next": "cyan",
    "current": "bold green",
    "previous": "yellow",
    "foreign": "dim",
    "left out": "dim",
    "remembered": "dim",
    "revoked": "bold red",
}

#: A ledger of ten thousand kids that are remembered has some megabytes.
_MOST_BYTES = 50_000_000


def recover(
    ctx: typer.Context,
    keyset: fleet.OneKeySet,
    *,
    version: Annotated[
        str | None, typer.Option("--version", metavar="ID", help="This version of the ledger (an S3 version id).")
    ] = None,
    copy: Annotated[
        str | None, typer.Option("--from", metavar="FILE", help="A copy of the ledger that was kept elsewhere.")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="From the public documents, pointers and key store, whatever is kept.")
    ] = False,
    revoked: Annotated[
        list[str] | None,
        typer.Option("--revoked", metavar="KID", help="A kid (whole) that was revoked, and must never come back."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be written.")] = False,
) -> None:
    """Bring back a ledger that is lost, damaged or outdated.

    Takes the version of it that came furthest and can have made the world as it is; where none is kept, it is
    rebuilt from the public documents, the pointers and the key store: the key that the pointer names stays current,
    and every other may have signed until now. No published key leaves. Shows what it would write, and asks. Daemons
    may go on meanwhile: they refuse to work without a ledger, and find it at their next tick.

    Exit code 0: written, or the ledger is sound. 3: nothing was written, also where nobody can be asked without --yes.

    \b
    Examples:
      rotator recover acme --dry-run
      rotator recover acme
      rotator recover acme --from backup/ledger.json
      rotator recover acme --rebuild --revoked kA8fQ2xyWw0bJH3mH0tVZrTzN6lQ5u1yI7gqJ2cXo9E
    """
    from rotator import app
    from rotator.engine.recovery import Wanted

    if sum((version is not None, copy is not None, rebuild)) > 1:
        raise ConfigurationError("Give one of --version, --from and --rebuild. Nothing was changed.")
    configured = fleet.configuration(ctx)
    (chosen,) = fleet.chosen(configured, [keyset])
    wanted = Wanted(version, _read(copy) if copy is not None else None, rebuild, tuple(revoked or ()))
    with fleet.naming(keyset):
        recovery = app.recovery(configured, chosen, tick.Teller())
        proposal = recovery.propose(wanted)
        if proposal is None:
            typer.echo(f"{keyset}: the ledger is sound: there is nothing to recover.")
            return
        _refuse_half_kids(proposal, wanted)
        _show(keyset, proposal)
        if dry_run:
            return
        _confirm(keyset, yes=yes)
        ring = recovery.write(proposal, wanted)
    output.say(
        f"{keyset}: written, revision {ring.revision}. The next tick goes on with it; 'rotator plan {keyset}' says how."
    )


def _read(name: str) -> bytes:
    try:
        with Path(name).open("rb") as stream:
            return stream.read(_MOST_BYTES)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "it is no name of a file"
        raise ConfigurationError(f"--from {name[:200]!r} cannot be read: {reason}. Nothing was changed.") from exc


def _refuse_half_kids(proposal: Proposal, wanted: Wanted) -> None:
    """A kid that is cut short would be remembered, and the key that is meant would live on."""
    for kid in wanted.revoked:
        whole = [line.key for line in proposal.lines if line.key.startswith(kid) and line.key != kid]
        if whole or not kid:
            names = ", ".join(whole) or "none"
            raise ConfigurationError(
                f"--revoked {kid!r:.80} is not whole: it begins {names}. Nothing was changed. Give the whole kid."
            )


def _show(keyset: str, proposal: Proposal) -> None:
    output.say(f"{keyset}: the ledger cannot be used: {_fault(keyset, proposal)}.")
    output.say(f"What would be written is {proposal.source}:")
    rows = [(line.key, line.alg, line.becomes, line.why) for line in proposal.lines]
    if rows:
        output.table(_COLUMNS, rows, _TONES)
    else:
        typer.echo("  (no key)")
    if proposal.changes:
        typer.echo("Compared with the newest ledger that can be read:")
        for change in proposal.changes:
            output.say(f"  {change}")
    for warning in proposal.warnings:
        output.say(f"Note: {warning}")


def _fault(keyset: str, proposal: Proposal) -> str:
    fault = proposal.fault.removeprefix(f"Key set {keyset}: ")
    return f"it {rest}" if (rest := fault.removeprefix("the ledger ")) != fault else fault


def _confirm(keyset: str, *, yes: bool) -> None:
    if yes:
        return
    if not output.can_ask():
        raise Refused(
            f"Key set {keyset}: nothing was written: there is no terminal to ask on. Say --yes to write it without a"
            " question."
        )
    if not typer.confirm("Write this ledger?"):
        raise Refused(f"Key set {keyset}: nothing was written.")
