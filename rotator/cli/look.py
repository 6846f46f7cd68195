"""``rotator status`` and ``rotator plan``: looking, without changing anything."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rotator.cli import fleet, output
from rotator.errors import ConfigurationError, RotatorError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rotator.engine import Engine, Outcome
    from rotator.keys.keyring import Key, Keyring

_COLUMNS = ("KEY SET", "KID", "ALG", "STAGE", "AGE", "NEXT CHANGE")
_TONES = {
    "pending": "dim",
    "next": "cyan",
    "current": "bold green",
    "previous": "yellow",
    "retired": "dim",
    "revoked": "bold red",
    "unreadable": "bold red",
}


def status(ctx: typer.Context, keysets: fleet.KeySets = None, as_json: fleet.Json = False) -> None:
    """Show every key, where it stands, and what happens to it next.

    Stages: pending (made, not yet seen in public), next (in public, not signing), current (signing), previous
    (verifying only), retired (not public any more), revoked.

    \b
    Examples:
      rotator status
      rotator status acme --json
    """
    found = fleet.engines(fleet.configuration(ctx), keysets)
    looks = fleet.each(found, lambda engine: engine.look(), "status")
    if as_json:
        rows = [{"name": name, **_facts(look, found[name])} for name, look in looks.items()]
        output.data({"keysets": rows})
    else:
        _show(looks, found)
    fleet.end(looks)


def _show(looks: dict[str, Outcome | RotatorError], found: dict[str, Engine]) -> None:
    rows: list[tuple[str, ...]] = []
    for name, look in looks.items():
        ring = _ring(look, found[name])
        if ring is None:
            rows.append((name, "", "", "unreadable", "", "see the error below"))
            continue
        keys = sorted(ring.keys, key=lambda key: (key.alg, key.intended_at))
        lines = [
            (key.kid or "(being made)", key.alg, str(key.stage), _age(key, look), _next(key, look)) for key in keys
        ]
        lines = lines or [("(no key yet)", "", "", "", _next(None, look))]
        rows += [("" if n else name, *line) for n, line in enumerate(lines)]
    output.table(_COLUMNS, rows, _TONES)
    for name, look in looks.items():
        if not isinstance(look, RotatorError):
            for line in (*_documents(found[name]), *_due(look), *_ended(look, found[name]), *output.worries(look)):
                output.say(f"{name}: {line}")


def _due(look: Outcome) -> Iterator[str]:
    """The step that only waits for a tick: a daemon that runs does it at once."""
    step = look.plan.step
    if step:
        # A look reads no public URL: only a tick, or verify, sees what stands in its way there.
        seen = step.name == "note-published"
        counts = "; it counts once every public URL shows it: 'rotator verify' tells" if seen else ""
        yield f"due now: {_what(step.name, step.alg, step.kid)}: {step.reason}{counts}"


def _documents(engine: Engine) -> Iterator[str]:
    """What stands beside the one document that every key set has."""
    for document in engine.keyset.written[1:]:
        if document.discovery:
            yield f"{document.path} leads to {document.discovery.jwks_uri}"
        else:
            yield f"{document.path} shows {', '.join(sorted(document.algorithms or ('every algorithm',)))}"


def _ended(look: Outcome, engine: Engine) -> Iterator[str]:
    """Algorithms that left the configuration: their keys stay as they are until a person says so."""
    configured = engine.keyset.policy.algorithms
    for alg in look.ring.algorithms():
        if alg not in configured and look.ring.current(alg):
            yield (
                f"{alg} is not configured any more: its keys stay as they are until"
                f" 'rotator retire {engine.keyset.name} --alg {alg}'"
            )


def _ring(look: Outcome | RotatorError, engine: Engine) -> Keyring | None:
    """The keys; where pointer or documents cannot be read, those of the ledger alone."""
    if not isinstance(look, RotatorError):
        return look.ring
    try:
        return engine.ledger()
    except RotatorError:
        return None


def _age(key: Key, look: Outcome | RotatorError) -> str:
    from rotator import app

    at = app.now() if isinstance(look, RotatorError) else look.at
    return output.span(at - (key.created_at or key.intended_at))


def _next(key: Key | None, look: Outcome | RotatorError) -> str:
    if isinstance(look, RotatorError):
        return "see the error below"
    step = look.plan.step
    if step is not None and (key is None or (step.kid and step.kid == key.kid)):
        return f"{step.name} now"
    timed = [(at, wait) for wait in look.plan.waits if key and wait.kid == key.kid and (at := wait.at)]
    if not timed:
        return ""
    at, wait = min(timed, key=lambda pair: pair[0])
    return f"{wait.step} in {output.span(at - look.at)}"


def _facts(look: Outcome | RotatorError, engine: Engine) -> dict[str, Any]:
    keyset = engine.keyset
    if isinstance(look, RotatorError):
        known = _ring(look, engine)
        keys = [output.key_facts(key, keyset) for key in known.keys] if known else []
        return {"keys": keys, "next_change": None, "error": str(look), "error_at": None}
    ring = look.ring
    plan_facts = output.plan_facts(look)
    del plan_facts["step"]
    return {
        **plan_facts,
        "documents": [
            {
                "name": document.name,
                "path": document.path,
                "urls": list(document.urls),
                "shows": [alg for alg in look.ring.algorithms() if document.shows(alg)],
            }
            for document in keyset.written
        ],
        "keys": [output.key_facts(key, keyset) for key in ring.keys],
        "forgotten": [
            {"kid": gone.kid, "alg": gone.alg, "at": gone.at, "revoked": gone.revoked} for gone in ring.retired
        ],
        "error": ring.trouble and ring.trouble.message,
        "error_at": ring.trouble and ring.trouble.at,
    }


def plan(
    ctx: typer.Context,
    keysets: fleet.KeySets = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="Ask for another time: ISO 8601 with a zone, or +30d, +1h30m."),
    ] = None,
    as_json: fleet.Json = False,
) -> None:
    """Say what would be done now or at another time, and why.

    And what is waited for, and until when. Changes nothing. Only the next step is told: those after it follow from
    what it leaves behind.

    \b
    Examples:
      rotator plan acme
      rotator plan --at +30d
      rotator plan --at 2026-05-01T03:00:00Z --json
    """
    from rotator import app

    then = moment(at, app.now()) if at is not None else None
    found = fleet.engines(fleet.configuration(ctx), keysets)
    looks = fleet.each(found, lambda engine: engine.look(then), "plan")
    if as_json:
        output.data({"keysets": [{"name": name, **_plan_facts(look)} for name, look in looks.items()]})
    else:
        for name, look in looks.items():
            typer.echo(f"{name}{f' at {then:%Y-%m-%d %H:%M:%S}Z' if then else ''}")
            for line in _lines(look):
                output.say(f"  {line}")
    fleet.end(looks)


def moment(value: str, now: datetime) -> datetime:
    """The time that ``value`` names: ISO 8601 with a zone, or ``+`` and a duration from ``now``.

    Raises:
        ConfigurationError: it names none, or one that is over.
    """
    from datetime import UTC

    from rotator.keys.policy import parse_duration

    wrong = f"--at {value[:40]!r} names no time. Write ISO 8601 with a zone, as 2026-05-01T03:00:00Z, or +30d."
    try:
        if value.startswith("+"):
            return now + parse_duration(value[1:])
        at = datetime.fromisoformat(value)
        if at.tzinfo is not None:
            if at >= now:
                return at.astimezone(UTC)
            wrong = f"--at {value[:40]!r} is over: a plan is made from what the ledger knows now."
    except (ValueError, OverflowError):
        pass
    raise ConfigurationError(wrong)


def _plan_facts(look: Outcome | RotatorError) -> dict[str, Any]:
    return {"error": str(look)} if isinstance(look, RotatorError) else output.plan_facts(look)


def _lines(look: Outcome | RotatorError) -> Iterator[str]:
    if isinstance(look, RotatorError):
        yield "cannot be planned: see the error below"
        return
    step = look.plan.step
    yield f"do     {_what(step.name, step.alg, step.kid)}: {step.reason}" if step else "do     nothing"
    for wait in look.plan.waits:
        until = f"until {output.moment(wait.at, look.at)}" if wait.at else "until something outside changes"
        yield f"wait   {_what(wait.step, wait.alg, wait.kid)} {until}: {wait.reason}"
    yield from output.worries(look)


def _what(*words: str | None) -> str:
    return " ".join(word for word in words if word)
