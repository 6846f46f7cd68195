"""``rotator simulate``: years of your own policy with every fault; and what happens without a protection."""

from __future__ import annotations

import os
import shlex
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rotator.cli import fleet, output
from rotator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rotator.keys.policy import KeySet
    from rotator.ports import Traits
    from rotator.simulate.campaign import Campaign, Caught, Progress, Totals
    from rotator.simulate.schedule import Order, Result
    from rotator.simulate.world import Life

_WIDTH = 64

#: Keys shown in the picture, and lines of the story of a violation.
_KEYS = 12
_LINES = 24

#: The fewest years: what breaks in the first second has a replay, too.
_SHORTEST = 1e-8

#: Fewer years than this are told in days or less.
_READABLE = 0.1

_DAY = timedelta(days=1)


def simulate(
    ctx: typer.Context,
    keyset: Annotated[
        str | None, typer.Argument(metavar="KEYSET", show_default=False, help="Only this key set.")
    ] = None,
    years: Annotated[
        float | None,
        typer.Option(
            "--years",
            min=_SHORTEST,
            max=100_000,
            show_default=False,
            help="How many years to live through.  [10, or 50 --without GATE; less where keys live for less than 30d]",
        ),
    ] = None,
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
        int | None,
        typer.Option("--jobs", min=1, max=1_000, show_default=False, help="Worlds at once, at most one for each CPU."),
    ] = None,
    as_json: fleet.Json = False,
) -> None:
    """Live through years of your policy, with every fault.

    A simulated world: plan and engine are the real ones; stores, CDN, caches, issuers, clocks and people are not. After
    every change it is asked whether any cache that obeys the policy could reject a token. Nothing outside is touched.
    The exit code is 1 when something broke; then the shortest replay that was found is printed. It is so with --without
    GATE, too: 1 where its loss was noticed, 0 where it was not, or could not be. With --without all it is 1 where the
    loss of one went unnoticed.

    Faults: lost, applied, twice, slow, kill, stall, throttle, outage, gap, clock, edge, header, outsider, ledger, key,
    operator, policy, algorithms.

    Protections: prepublish, cache-stale, verifier-cache, seen-in-public, newest-copy, first-key, retention, signer-lag,
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

    keysets, at_once = _keysets(ctx, keyset), min(jobs or _cpus(), _cpus())
    if gate == "all":
        if faults is not None:
            raise ConfigurationError("--without all lets happen what shows each protection: leave --faults out.")
        exits = []
        for each, _ in keysets:
            length = years or campaigns.usual_years(each.policy, lacking=True)
            campaign = campaigns.Campaign(each, seed, length, steps, workers=workers)
            exits.append(_table(campaign, at_once, as_json=as_json))
        raise typer.Exit(max(exits))
    taken = None if gate is None else named(gate)
    wanted = chosen(faults) if faults is not None else taken.faults if taken else chosen("all")
    facts = []
    for each, traits in keysets:
        # Without a store that can leave keys behind, the protection against them would mean nothing.
        store = campaigns.STRAYS if taken and taken.strays else traits
        length = years or campaigns.usual_years(each.policy, lacking=taken is not None)
        campaign = campaigns.Campaign(each, seed, length, steps, wanted, workers, store, gate)
        facts.append(_lived(ctx, campaign, at_once, as_json=as_json))
    if as_json:
        output.data({"keysets": facts})
    if any(fact["violation"] for fact in facts):
        raise typer.Exit(1)


def _lived(ctx: typer.Context, campaign: Campaign, jobs: int, *, as_json: bool) -> dict[str, Any]:
    """Live through the campaign and tell of it: to a person, or as the facts for a program."""
    from rotator.simulate.campaign import Totals, run, shortest
    from rotator.simulate.gates import named

    say: Callable[[str], None] = (lambda _: None) if as_json else output.say
    if campaign.gate and (reason := named(campaign.gate).idle(campaign.keyset)):
        say(f"{campaign.keyset.name}: {campaign.gate} means nothing here, as {reason}: there is nothing to take away.")
        return {**_facts(campaign, Totals()), "replay": None, "means_nothing": reason}
    say(_title(campaign))
    with _progress(campaign, quiet=as_json) as progress:
        totals = run(campaign, jobs, progress)
    shown, replay = totals.broken or totals.last, None
    for line in (*_summary(totals), *(_picture(shown.lives, shown) if shown else ())):
        say(line)
    if totals.broken:
        order, broken = shortest(campaign, totals.broken)
        replay = _replay(ctx, campaign, order)
        for line in _broken(broken, replay):
            say(line)
    elif campaign.gate:
        say(f"Nobody noticed yet that {campaign.gate} is missing: live through more --years, or another --seed.")
    return {**_facts(campaign, totals), "replay": replay, "means_nothing": None}


def _cpus() -> int:
    return os.cpu_count() or 1


def _keysets(ctx: typer.Context, name: str | None) -> list[tuple[KeySet, Traits]]:
    from rotator.keys.policy import KeySet, Policy, PublicDocument
    from rotator.ports import Traits
    from rotator.simulate.campaign import STRAYS

    if not _is_configured(ctx):
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
    return [(replace(each, discovery=None), traits) for each in found]


def _is_configured(ctx: typer.Context) -> bool:
    from rotator.settings import is_configured

    return is_configured(fleet.path(ctx)) or (fleet.LOCAL / fleet.FILE).is_file()


def _title(campaign: Campaign) -> str:
    from rotator.keys.policy import text
    from rotator.simulate.faults import listed

    policy = campaign.keyset.policy
    length = f"{campaign.steps:,} steps" if campaign.steps else _length(campaign.years)
    lacking = f", without {campaign.gate}" if campaign.gate else ""
    return (
        f"{campaign.keyset.name}: {length} of {', '.join(policy.algorithms)}, lifetime {text(policy.lifetime)},"
        f" {campaign.workers} workers, faults: {listed(campaign.faults)}, seed {campaign.seed}{lacking}"
    )


def _length(years: float) -> str:
    """Years, where they can be read as such; else a duration."""
    return f"{years:g} years" if years >= _READABLE else output.span(years * 365 * _DAY)


@contextmanager
def _progress(campaign: Campaign, *, quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal for as long as the block lasts, whatever ends it."""
    if quiet or not output.is_terminal():
        yield lambda _steps, _span: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from rotator.simulate.campaign import YEAR, unheard

    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    # The whole is in years or in steps; whichever, it ends at 1.
    task = bar.add_task("", total=1.0)

    def show(steps: int, span: timedelta) -> None:
        done = steps / campaign.steps if campaign.steps else span / (campaign.years * YEAR)
        bar.update(task, completed=done, description=f"{steps:,} steps")

    # Half started it could not be stopped, and would leave the cursor hidden.
    try:
        with unheard():
            bar.start()
        yield show
    finally:
        with unheard():
            bar.stop()


def _summary(totals: Totals) -> Iterator[str]:
    from rotator.simulate.faults import FAULTS

    happened = ", ".join(f"{name} {totals.faults[name]:,}" for name in FAULTS if totals.faults[name])
    rate = totals.steps / totals.seconds if totals.seconds else 0
    years = totals.span / _DAY / 365
    length = f"{years:,.1f} years" if years >= _READABLE else output.span(totals.span)
    rows = {
        "lived through": f"{length} in {totals.worlds:,} world{'s' * (totals.worlds != 1)}",
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


def _broken(broken: Result, replay: str) -> Iterator[str]:
    yield ""
    yield f"BROKEN after {broken.steps:,} steps: {broken.violation}"
    for line in broken.story[-_LINES:]:
        yield f"  {line}"
    yield "Replay it with:"
    yield f"  {replay}"


def _replay(ctx: typer.Context, campaign: Campaign, order: Order) -> str:
    """The command line that lives through ``order`` again."""
    from rotator.simulate.campaign import YEAR
    from rotator.simulate.faults import listed

    config = ("--config", str(ctx.obj)) if ctx.obj else ()
    name = (campaign.keyset.name,) if _is_configured(ctx) else ()
    lacking = ("--without", campaign.gate) if campaign.gate else ()
    # Years rounded up: what breaks last has to be in them.
    digits = 6 if order.span > _DAY else 10
    length = f"{max(order.span / YEAR, _SHORTEST) + 0.5 * 10**-digits:.{digits}f}"
    options = ("--seed", str(order.seed), "--years", length, "--faults", listed(order.faults))
    return shlex.join(("rotator", *config, "simulate", *name, *options, "--workers", str(order.workers), *lacking))


def _table(campaign: Campaign, jobs: int, *, as_json: bool) -> int:
    """Print the table of all protections; 0 where each loss that means something was noticed."""
    from rotator.simulate.campaign import table

    rows = []
    # Closed here, so that its processes end as soon as somebody interrupts.
    with closing(table(campaign, jobs)) as found:
        for caught in found:
            rows.append(caught)
            if not as_json:
                output.say(f"{caught.gate:<22} {_verdict(caught):<28} {caught.violation or caught.prevents}")
    if as_json:
        output.data({"keyset": campaign.keyset.name, "protections": [_row(caught) for caught in rows]})
    return 0 if all(caught.violation or caught.idle for caught in rows) else 1


def _verdict(caught: Caught) -> str:
    if caught.idle:
        return f"nothing: {caught.idle}"
    return f"caught after {caught.steps:,} steps" if caught.violation else "NOT CAUGHT"


def _row(caught: Caught) -> dict[str, Any]:
    return {
        "without": caught.gate,
        "prevents": caught.prevents,
        "steps": caught.steps,
        "violation": caught.violation,
        "means_nothing": caught.idle,
    }


def _facts(campaign: Campaign, totals: Totals) -> dict[str, Any]:
    return {
        "name": campaign.keyset.name,
        "seed": campaign.seed,
        "without": campaign.gate,
        "years": round(totals.span / _DAY / 365, 3),
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
