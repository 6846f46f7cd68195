"""``rotator simulate``: years of your own policy with every fault; and what happens without a protection."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rotator.cli import fleet, output
from rotator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta

    from rotator.keys.policy import KeySet
    from rotator.ports import Traits
    from rotator.simulate.campaign import Campaign, Totals
    from rotator.simulate.schedule import Order, Result
    from rotator.simulate.world import Life

_WIDTH = 64

#: Keys shown in the picture, and lines of the story of a violation.
_KEYS = 12
_LINES = 24


def simulate(
    ctx: typer.Context,
    keyset: Annotated[
        str | None, typer.Argument(metavar="KEYSET", show_default=False, help="Only this key set.")
    ] = None,
    years: Annotated[
        float, typer.Option("--years", min=0.001, max=100_000, help="How many years to live through.")
    ] = 10,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, show_default=False, help="Go on until so many steps, not years, are done."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Replays everything.")] = 0,
    faults: Annotated[
        str | None,
        typer.Option("--faults", metavar="all|none|LIST", help="What goes wrong, e.g. lost,stall,operator.  [all]"),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, max=20, help="How many workers tick.")] = 3,
    gate: Annotated[
        str | None,
        typer.Option("--without", metavar="GATE", help="Take one protection away ('all': each in turn, a table)."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, show_default=False, help="Worlds at once; one for each CPU.")
    ] = None,
    as_json: fleet.Json = False,
) -> None:
    """Live through years of your policy, with every fault.

    A simulated world: plan and engine are the real ones; stores, CDN, caches, issuers, clocks and people are not. After
    every change it is asked whether any cache that obeys the policy could reject a token. Nothing outside is touched.
    The exit code is 1 when something broke; then the shortest replay that was found is printed.

    Faults: lost, applied, twice, slow, kill, stall, throttle, outage, gap, clock, edge, header, outsider, ledger, key,
    operator, policy, algorithms.

    Protections: prepublish, cache-stale, verifier-cache, seen-in-public, first-key, retention, signer-lag,
    token-lifetime, skew, clock-guard, promises-only-grow, proof, drift, old-ledger, intent-first, attempts,
    compare-and-swap, promoting-first, pointer-before-ledger, fence.

    \b
    Examples:
      rotator --config rotator.toml simulate --years 50
      rotator simulate --faults none
      rotator simulate --without prepublish
      rotator simulate --without all
    """
    from rotator.simulate import campaign as campaigns
    from rotator.simulate.faults import chosen
    from rotator.simulate.gates import named

    keysets, at_once = _keysets(ctx, keyset), jobs or os.cpu_count() or 1
    if gate == "all":
        raise typer.Exit(max(_table(each, seed, at_once, as_json=as_json) for each, _ in keysets))
    wanted = chosen(faults) if faults is not None else named(gate).faults if gate else chosen("all")
    facts, broken = [], False
    for each, traits in keysets:
        # Without a store that can leave keys behind, the protection against them would mean nothing.
        store = campaigns.STRAYS if gate and named(gate).strays else traits
        campaign = campaigns.Campaign(each, seed, years, steps, wanted, workers, store, gate)
        if not as_json:
            typer.echo(_title(campaign))
        totals = campaigns.run(campaign, at_once, _progress(campaign, quiet=as_json))
        broken = broken or totals.broken is not None
        facts.append(_facts(campaign, totals))
        if not as_json:
            _show(ctx, campaign, totals)
    if as_json:
        output.data({"keysets": facts})
    if broken:
        raise typer.Exit(1)


def _show(ctx: typer.Context, campaign: Campaign, totals: Totals) -> None:
    from rotator.simulate.campaign import shortest

    for line in _summary(totals):
        typer.echo(line)
    shown = totals.broken or totals.last
    if shown:
        for line in _picture(shown.lives, shown):
            typer.echo(line)
    if totals.broken:
        for line in _broken(ctx, campaign, *shortest(campaign, totals.broken)):
            output.say(line)
    elif campaign.gate:
        output.say(f"Nobody noticed yet that {campaign.gate} is missing: live through more --years, or another --seed.")


def _keysets(ctx: typer.Context, name: str | None) -> list[tuple[KeySet, Traits]]:
    from rotator.keys.policy import KeySet, Policy, PublicDocument
    from rotator.ports import Traits
    from rotator.settings import is_configured
    from rotator.simulate.campaign import STRAYS

    if not is_configured(fleet.path(ctx)) and not (fleet.LOCAL / fleet.FILE).is_file():
        if name:
            raise ConfigurationError("There is no configuration that could name a key set: use --config.")
        typer.echo("No configuration is named: the default policy is simulated.", err=True)
        document = PublicDocument("jwks", "default/jwks.json", ("https://issuer.example/jwks.json",))
        return [(KeySet("default", Policy(), (document,)), Traits())]
    configured = fleet.configuration(ctx, unsafe=True)
    traits = STRAYS if configured.keys.scheme == "kms" else Traits()
    found = fleet.chosen(configured, [name] if name else None)
    for each in found:
        for fault in each.policy.faults():
            output.say(f"{each.name}: {fault}", err=True)
    # The discovery document gates no key; what it says is not simulated.
    return [
        (replace(each, documents=tuple(document for document in each.documents if not document.discovery)), traits)
        for each in found
    ]


def _title(campaign: Campaign) -> str:
    from rotator.keys.policy import text
    from rotator.simulate.faults import listed

    policy = campaign.keyset.policy
    length = f"{campaign.steps:,} steps" if campaign.steps else f"{campaign.years:g} years"
    lacking = f", without {campaign.gate}" if campaign.gate else ""
    return (
        f"{campaign.keyset.name}: {length} of {', '.join(policy.algorithms)}, lifetime {text(policy.lifetime)},"
        f" {campaign.workers} workers, faults: {listed(campaign.faults)}, seed {campaign.seed}{lacking}"
    )


def _progress(campaign: Campaign, *, quiet: bool) -> Callable[[Totals], None]:
    if quiet or not output.is_terminal():
        return lambda _: None
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    # The whole is in years or in steps; whichever, it ends at 1.
    bar = Progress(
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task("", total=1.0)
    bar.start()

    def show(totals: Totals) -> None:
        from rotator.simulate.campaign import YEAR

        done = totals.steps / campaign.steps if campaign.steps else totals.span / (campaign.years * YEAR)
        bar.update(task, completed=done, description=f"{totals.steps:,} steps, {totals.rotations:,} rotations")
        if done >= 1 or totals.broken:
            bar.stop()

    return show


def _summary(totals: Totals) -> Iterator[str]:
    from rotator.simulate.faults import FAULTS

    happened = ", ".join(f"{name} {totals.faults[name]:,}" for name in FAULTS if totals.faults[name])
    rate = totals.steps / totals.seconds if totals.seconds else 0
    rows = {
        "lived through": f"{totals.span.days / 365:,.1f} years in {totals.worlds:,} world{'s' * (totals.worlds != 1)}",
        "steps": f"{totals.steps:,} ({rate:,.0f} a second)",
        "rotations": f"{totals.rotations:,}, and {totals.revokes:,} revokes",
        "faults": f"{sum(totals.faults[name] for name in FAULTS):,}: {happened}" if happened else "none",
        "tokens verified": f"{totals.verified:,}",
        "rejections": f"{totals.rejections:,}",
        "latest rotation": f"{output.span(totals.delay)} late",
        "invariants": f"BROKEN: {totals.broken.violation}" if totals.broken else "all held",
    }
    for name, value in rows.items():
        yield f"  {name:<16} {value}"


def _picture(lives: list[Life], shown: Result) -> Iterator[str]:
    """The last keys over time: who was public, who signed."""
    last = [life for life in lives if life.public][-_KEYS:]
    if not last:
        return
    begin, end = min(life.made for life in last), shown.ended
    cell = (end - begin) / _WIDTH
    yield f"  {begin:%Y-%m-%d} ─ {end:%Y-%m-%d}   · made  ─ public  █ signs  ▒ verifies only  ✗ revoked"
    for life in last:
        bar = "".join(_cell(life, begin + n * cell, cell) for n in range(_WIDTH))
        yield f"  {life.alg:<9} {life.number:>4} {bar.rstrip()}"


def _cell(life: Life, at: Any, cell: timedelta) -> str:
    if life.revoked and at <= life.revoked < at + cell:
        return "✗"
    until = at + cell
    if life.made >= until or (life.left and life.left <= at) or (life.revoked and life.revoked <= at):
        return " "
    if life.signs and life.signs < until and (life.stopped is None or life.stopped > at):
        return "█"
    if life.stopped and life.stopped <= at:
        return "▒"
    return "─" if life.public and life.public < until else "·"


def _broken(ctx: typer.Context, campaign: Campaign, order: Order, broken: Result) -> Iterator[str]:
    from rotator.simulate.campaign import YEAR
    from rotator.simulate.faults import listed

    yield ""
    yield f"BROKEN after {broken.steps:,} steps: {broken.violation}"
    for line in broken.story[-_LINES:]:
        yield f"  {line}"
    config = f" --config {ctx.obj}" if ctx.obj else ""
    lacking = f" --without {campaign.gate}" if campaign.gate else ""
    yield "Replay it with:"
    # Years rounded up: what breaks last has to be in them.
    yield (
        f"  rotator{config} simulate {campaign.keyset.name if ctx.obj else ''}".rstrip()
        + f" --seed {order.seed} --years {order.span / YEAR + 5e-7:.6f} --faults {listed(order.faults)}"
        f" --workers {order.workers}{lacking}"
    )


def _table(keyset: KeySet, seed: int, jobs: int, *, as_json: bool) -> int:
    """Print the table of all protections; 0 where the loss of each was noticed."""
    from rotator.simulate.campaign import table

    rows = []
    for caught in table(keyset, seed=seed, jobs=jobs):
        rows.append(caught)
        if not as_json:
            verdict = f"caught after {caught.steps:,} steps" if caught.violation else "NOT CAUGHT"
            output.say(f"{caught.gate:<22} {verdict:<28} {caught.violation or caught.prevents}")
    if as_json:
        output.data({"keyset": keyset.name, "protections": [_row(caught) for caught in rows]})
    return 0 if all(caught.violation for caught in rows) else 1


def _row(caught: Any) -> dict[str, Any]:
    return {
        "without": caught.gate,
        "prevents": caught.prevents,
        "steps": caught.steps,
        "violation": caught.violation,
    }


def _facts(campaign: Campaign, totals: Totals) -> dict[str, Any]:
    return {
        "name": campaign.keyset.name,
        "seed": campaign.seed,
        "without": campaign.gate,
        "years": round(totals.span.days / 365, 3),
        "worlds": totals.worlds,
        "steps": totals.steps,
        "seconds": round(totals.seconds, 3),
        "rotations": totals.rotations,
        "revokes": totals.revokes,
        "faults": dict(totals.faults),
        "tokens_verified": totals.verified,
        "rejections": totals.rejections,
        "latest_rotation_seconds": totals.delay,
        "violation": totals.broken.violation if totals.broken else None,
        "broken_seed": totals.broken.seed if totals.broken else None,
    }
