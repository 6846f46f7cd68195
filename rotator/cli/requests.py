"""What a person asks for: ``rotator rotate``, ``revoke``, ``retire``, ``drop``.

Each is a fact in the ledger first, so that no crash can lose it, and then a tick.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from rotator.cli import fleet, output, tick
from rotator.errors import ConfigurationError, Refused, RotatorError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from rotator.engine import Engine, Outcome
    from rotator.keys.blast_radius import BlastRadius
    from rotator.keys.keyring import Key, Retired

#: Fewer characters of a kid are too easily mistyped into another one.
_PREFIX = 6

#: Seconds between two looks at whether a revoked key is gone.
_PAUSE = 3.0

_Kid = Annotated[str, typer.Argument(metavar="KID", help=f"Its kid, or the first {_PREFIX} or more characters of it.")]


def rotate(
    ctx: typer.Context,
    keyset: fleet.OneKeySet,
    alg: Annotated[
        str | None, typer.Option("--alg", metavar="ALG", help="Only this algorithm; all of them by default.")
    ] = None,
) -> None:
    """Rotate early, if every cache holds the next key.

    Where caches may lack it, nothing is changed, the exit code is 3, and the message says until when to wait.
    For a key that is compromised, use 'rotator revoke'.

    \b
    Examples:
      rotator rotate acme
      rotator rotate acme --alg ES256
    """
    with fleet.one(ctx, keyset, tick.Teller()) as engine:
        algorithms: tuple[str, ...] = engine.keyset.policy.algorithms
        if alg is None:
            ring = engine.look().ring
            # An algorithm whose first key does not sign yet has nothing to rotate.
            algorithms = tuple(each for each in algorithms if ring.current(each)) or algorithms
        engine.rotate([alg] if alg else algorithms)
        tick.tick_now(engine)


def retire(
    ctx: typer.Context,
    keyset: fleet.OneKeySet,
    alg: Annotated[str, typer.Option("--alg", metavar="ALG", help="An algorithm that is not configured any more.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """End the keys of an algorithm that is configured no more.

    Issuers get no key of it from now on; its public keys stay until every token they signed has ended. Where no other
    algorithm signs yet, issuers would have no key at all: then you are told, and asked.

    \b
    Examples:
      rotator retire acme --alg RS256
    """
    with fleet.one(ctx, keyset, tick.Teller()) as engine:
        if alone := _signs_alone(engine, alg):
            output.say(alone)
            _confirm("retire", yes=yes)
        engine.retire(alg)
        tick.tick_now(engine)


def _signs_alone(engine: Engine, alg: str) -> str | None:
    """What the end of ``alg`` means for issuers where no other algorithm signs; ``None``: another does."""
    from rotator.keys.keyring import Stage
    from rotator.keys.plan import gate

    ring, keyset = engine.ledger(), engine.keyset
    signing = {key.alg for key in ring.keys if key.stage is Stage.CURRENT}
    going = {each for each in signing if ring.succession(each).retire_requested_at}
    if alg in going or alg in keyset.policy.algorithms or signing - going != {alg}:
        return None
    gates = [gate(keyset, key) for key in ring.keys if key.standby and key.alg in keyset.policy.algorithms]
    first = min((at for at in gates if at), default=None)
    return (
        f"{keyset.name}: only {alg} signs. Once it is retired, issuers have no key until a key for"
        f" {', '.join(keyset.policy.algorithms)} signs"
        f"{f', not before {first:%Y-%m-%d %H:%M:%S}Z' if first else ''}. Better wait until"
        f" 'rotator status {keyset.name}' shows one as current."
    )


def drop(ctx: typer.Context, keyset: fleet.OneKeySet, kid: _Kid) -> None:
    """Remove a key that somebody else made public.

    Keys that rotator does not know are kept beside its own until somebody says drop; 'rotator status' names them.

    \b
    Examples:
      rotator drop acme legacy-2019
    """
    with fleet.one(ctx, keyset, tick.Teller()) as engine:
        strangers = dict.fromkeys(each for kids in engine.look().foreign.values() for each in kids)
        engine.drop(matched(kid, strangers, f"Key set {keyset}: foreign keys"))
        tick.tick_now(engine)


def revoke(
    ctx: typer.Context,
    keyset: fleet.OneKeySet,
    kid: _Kid,
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the ledger.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
    wait: Annotated[
        str, typer.Option("--wait", metavar="DURATION", help="How long to wait until no public URL shows it.")
    ] = "2m",
) -> None:
    """Stop trusting a key at once: for one that is compromised.

    If it signs, the next key takes over immediately. It leaves the public document, its private half is stopped,
    and a new next key is made. Tokens that it signed are rejected from then on: the cost is shown before you are
    asked. Exit code 0 means that no public URL shows the key any more and another signs; 1 that this is not so yet:
    the revoke is recorded, and every tick goes on with it.

    \b
    Examples:
      rotator revoke acme kA8fQ2xy --dry-run
      rotator revoke acme kA8fQ2xy --reason "laptop stolen"
    """
    from rotator.keys.policy import parse_duration

    patience = parse_duration(wait).total_seconds()
    if not (reason.strip() or dry_run):
        raise ConfigurationError("--reason is empty: say why, whoever reads the ledger later wants to know.")
    configured = fleet.configuration(ctx)
    engine = fleet.engines(configured, [keyset], tick.Teller())[keyset]
    with fleet.naming(keyset):
        _revoke(engine, kid, reason, patience, scheme=configured.keys.scheme, yes=yes, dry_run=dry_run)


def _revoke(engine: Engine, kid: str, reason: str, patience: float, *, scheme: str, yes: bool, dry_run: bool) -> None:
    keyset = engine.keyset.name
    if past := _past(engine, kid):
        typer.echo(
            f"{keyset}: {past.kid} ({past.alg}) was revoked and destroyed at {past.at:%Y-%m-%d %H:%M:%S}Z. No document"
            " shows it, and it never comes back. Nothing was changed."
        )
        return
    radius = _radius(engine, kid)
    typer.echo(f"{keyset}: revoke {radius.kid} ({radius.alg}, {radius.stage})")
    for sentence in radius.sentences:
        typer.echo(f"  {sentence}")
    if scheme == "secretsmanager":
        typer.echo(
            "  AWS keeps the private key readable by its version id for a while: whoever may call GetSecretValue"
            " could read it there."
        )
    if dry_run:
        return
    _confirm("revoke", yes=yes)
    try:
        engine.revoke(radius.kid, reason)
    except StoreError as exc:
        raise type(exc)(
            f"{str(exc).rstrip('.')}. The revoke may not be recorded: until it is, {radius.kid} is trusted. Mend that"
            " and run the same command again."
        ) from exc
    _see_it_out(engine, radius, patience)


def _past(engine: Engine, kid: str) -> Retired | None:
    """A key revoked so long ago that the ledger only remembers its kid."""
    return next((past for past in engine.ledger().retired if past.revoked and past.kid == kid), None)


def _radius(engine: Engine, kid: str) -> BlastRadius:
    try:
        # In an emergency a whole kid must do, whatever else cannot be read.
        return engine.blast_radius(kid)
    except Refused:
        # A revoke that was interrupted is begun again with the same words: its key is public no more.
        known = [key.kid for key in engine.ledger().keys if key.kid and (key.public or key.revoked_at)]
        try:
            return engine.blast_radius(matched(kid, known, f"Key set {engine.keyset.name}: keys"))
        except ConfigurationError as exc:
            raise ConfigurationError(f"{exc} A key that rotator did not make leaves with 'rotator drop'.") from None


def matched(kid: str, known: Iterable[str], what: str) -> str:
    """The one of ``known`` that ``kid`` names or begins.

    Raises:
        ConfigurationError: none, or more than one.
    """
    choices = list(known)
    if kid in choices:
        return kid
    if not choices:
        raise ConfigurationError(f"{what}: there are none. Nothing was changed.")
    found = [each for each in choices if len(kid) >= _PREFIX and each.startswith(kid)]
    if len(found) == 1:
        return found[0]
    wanted = f"give it whole, or {_PREFIX} or more characters"
    why = f"begins {len(found)} of them" if found else f"is none of them ({wanted})"
    names = ", ".join(each[:80] for each in choices[:20])
    raise ConfigurationError(f"{what}: {names}. {kid!r:.80} {why}. Nothing was changed.")


def _confirm(deed: str, *, yes: bool) -> None:
    if yes:
        return
    if not output.can_ask():
        raise Refused(
            f"There is no terminal to ask on, so nothing was changed. Say --yes to {deed} without a question."
        )
    if not typer.confirm(f"{deed.capitalize()} it now?"):
        raise Refused("Nothing was changed.")


def _see_it_out(engine: Engine, radius: BlastRadius, patience: float) -> None:
    """Tick until no public URL shows the key, the CDN was told and another signs, or ``patience`` ends."""
    from rotator.app import about

    deadline = time.monotonic() + patience
    name, told = engine.keyset.name, False
    while True:
        result = fleet.each({name: engine}, lambda one: one.tick(), "revoke")[name]
        gone = _is_gone(engine, result, radius.kid)
        left = deadline - time.monotonic()
        if (gone and not isinstance(result, RotatorError) and not _nobody_signs(engine, result, radius)) or left <= 0:
            break
        if not told:
            typer.echo(
                f"{name}: {_why(engine, result, radius)}. Looking again for {left:.0f} s; it is safe to stop (Ctrl-C)."
            )
            told = True
        time.sleep(min(_PAUSE, left))
    if not gone:
        raise RotatorError(_still_there(engine, result, radius))
    typer.echo(f"{name}: {radius.kid} is gone from every public URL.{_still_trusted(engine, radius)}")
    if isinstance(result, RotatorError):
        # Whatever its own code would be: what was asked for is recorded.
        raise RotatorError(f"{about(name, result)} Every further tick tries again.") from result
    tick.show({name: result}, as_json=False)
    if reason := _nobody_signs(engine, result, radius):
        raise RotatorError(f"Key set {name}: {reason}. Every further tick goes on with it.")


def _nobody_signs(engine: Engine, result: Outcome, radius: BlastRadius) -> str | None:
    """Why no key took over; ``None``: one did, or none has to."""
    alg: str = radius.alg
    return next(output.unsigned(result, alg), None) if alg in engine.keyset.policy.algorithms else None


def _is_gone(engine: Engine, result: Outcome | RotatorError, kid: str) -> bool:
    try:
        # A tick that failed may have seen it gone before, or beside, what failed.
        ring = engine.ledger() if isinstance(result, RotatorError) else result.ring
    except RotatorError:
        return False
    key: Key | None = ring.by_kid(kid)
    return key is None or all(document.name in key.gone for document in engine.keyset.documents_of(key.alg))


def _still_trusted(engine: Engine, radius: BlastRadius) -> str:
    with suppress(RotatorError):
        until: datetime = engine.blast_radius(radius.kid).trusted_until
        return f" A verifier that fetched it before may trust it until {until:%Y-%m-%d %H:%M:%S}Z."
    return ""


def _still_there(engine: Engine, result: Outcome | RotatorError, radius: BlastRadius) -> str:
    until: datetime = radius.trusted_until
    return (
        f"Key set {engine.keyset.name}: {radius.kid} is revoked, but it is not seen to be gone from every public URL"
        f" yet: {_why(engine, result, radius)}. A verifier may trust it until {until:%Y-%m-%d %H:%M:%S}Z."
        " Every further tick goes on with it."
    )


def _why(engine: Engine, result: Outcome | RotatorError, radius: BlastRadius) -> str:
    if isinstance(result, RotatorError):
        return str(result).rstrip(".")
    reasons = [wait.reason for wait in result.plan.waits if wait.step == "note-gone" and wait.kid == radius.kid]
    return "; ".join(reasons) or _nobody_signs(engine, result, radius) or ""
