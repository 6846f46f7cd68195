"""``rotator policy``: the proof that no rotation rejects a token, or why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rotator.cli import fleet, output
from rotator.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rotator.keys.policy import KeySet, Policy


def policy(
    ctx: typer.Context,
    keyset: Annotated[
        str | None, typer.Argument(metavar="KEYSET", show_default=False, help="Only this key set.")
    ] = None,
    as_json: fleet.Json = False,
) -> None:
    """Prove with numbers that no rotation rejects a token.

    Shows what follows from the configured durations. Each inequality is printed with its numbers; where one does
    not hold, the exit code is 3 and no other command works with this configuration. Lines with ! name verifiers that
    cannot use the documents as they are, and the view that helps them.

    \b
    Examples:
      rotator --config rotator.toml policy
      rotator policy acme --json
    """
    from rotator.keys.cautions import cautions

    found = fleet.chosen(fleet.configuration(ctx, unsafe=True), [keyset] if keyset else None)
    if as_json:
        output.data({"keysets": [{"name": each.name, **_facts(each.policy), **_warned(each)} for each in found]})
    else:
        for each in found:
            typer.echo(each.name)
            for line in _lines(each.policy):
                typer.echo(f"  {line}")
            for caution in cautions(each):
                typer.echo(f"! {caution.sentence}")
    unsafe = [each.name for each in found if not all(line.holds for line in each.policy.inequalities())]
    if unsafe:
        raise Refused(f"Unsafe: {', '.join(unsafe)}. Nothing rotates with this policy.")


def _lines(policy: Policy) -> Iterator[str]:
    from rotator.keys.policy import text

    tiers, skew = policy.cache_tiers, text(policy.clock_skew)
    yield (
        f"staleness   {text(policy.staleness):<9} = cache_tiers {tiers} × (cache_max_age {text(policy.cache_max_age)}"
        f" + cache_stale {text(policy.cache_stale)})"
    )
    yield (
        f"prepublish  {text(policy.prepublish):<9} = staleness {text(policy.staleness)} + verifier_cache"
        f" {text(policy.verifier_cache)} + 2 × clock_skew {skew}"
    )
    yield (
        f"retention   {text(policy.retention):<9} = signer_lag {text(policy.signer_lag)} + token_lifetime"
        f" {text(policy.token_lifetime)} + verifier_leeway {text(policy.verifier_leeway)} + 4 × clock_skew {skew}"
    )
    yield f"Cache-Control: {policy.cache_control}"
    for line in policy.inequalities():
        yield f"{'✓' if line.holds else '✗'} {line.name}"
        yield f"  {line.sentence}"


def _warned(keyset: KeySet) -> dict[str, Any]:
    from rotator.keys.cautions import cautions

    return {
        "warnings": [
            {"sentence": each.sentence, "verifiers": list(each.verifiers), "view_shows": list(each.shows)}
            for each in cautions(keyset)
        ]
    }


def _facts(policy: Policy) -> dict[str, Any]:
    return {
        "algorithms": list(policy.algorithms),
        "lifetime_seconds": policy.lifetime,
        "staleness_seconds": policy.staleness,
        "prepublish_seconds": policy.prepublish,
        "retention_seconds": policy.retention,
        "cache_control": policy.cache_control,
        "inequalities": [
            {"name": line.name, "holds": line.holds, "sentence": line.sentence} for line in policy.inequalities()
        ],
    }
