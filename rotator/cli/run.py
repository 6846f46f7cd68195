"""``rotator run``: the daemon, with or without a configuration."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rotator.cli import fleet, output
from rotator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rotator.daemon import Daemon
    from rotator.engine import Outcome, Report
    from rotator.logs import Log
    from rotator.serve import Answer, Server
    from rotator.settings import Configuration


def run(
    ctx: typer.Context,
    demo: Annotated[bool, typer.Option("--demo", help="Show a whole life of keys: lifetimes of seconds.")] = False,
    directory: Annotated[
        str | None,
        typer.Option("--dir", metavar="PATH", help="Where to work without a configuration."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="N", min=0, max=65535, help="Port for JWKS, health and metrics; 0 for none."),
    ] = None,
) -> None:
    """Rotate every key set, until stopped: the daemon.

    Without a configuration it makes one in ./rotator-data, works there, and says where the JWKS is. A key set that
    fails is tried again and never stops the others. SIGTERM and Ctrl-C end it; it may be killed at any moment.

    \b
    Examples:
      rotator run --demo
      rotator run
      rotator --config /etc/rotator.toml run
    """
    from rotator import daemon

    with daemon.signals() as asked:
        # Only now: a signal that comes while all this is loaded is not lost.
        from rotator import app
        from rotator.keys.policy import text

        log = output.log()
        configured, local = _configuration(ctx, directory, demo=demo)
        found = daemon.standings(tuple(keyset.name for keyset in configured.keysets))

        def heard(report: Report) -> None:
            found[report.keyset].heard(report)
            log.step(report)

        engines = app.engines(configured, report=heard)
        if local:
            for engine in engines.values():
                engine.init()
        after = _Ahead(log) if output.is_terminal() else _silent
        works = daemon.Daemon(engines, found, interval=configured.interval, clock=app.now, say=log.say, after=after)
        server = _server(configured, works, port, yielding=local)
        _greet(configured, server, local, demo=demo)
        scope = f"{len(engines)} key set(s), a tick every {text(configured.interval)}"
        log.say("info", "started", reason=scope, url=server and server.url)
        if not local:
            _warn(configured, log)
        left = works.run(asked)
        if server:
            server.close()
        for name in left:
            log.say("warning", "abandoned", keyset=name, reason="its step takes too long; the next start repairs it")
        log.say("info", "stopped")
        if left:
            # A thread in the middle of a step would keep the process alive.
            sys.stdout.flush()
            os._exit(0)


def _warn(configured: Configuration, log: Log) -> None:
    from rotator.keys.cautions import cautions

    for keyset in configured.keysets:
        for caution in cautions(keyset):
            log.say("warning", "verifiers", keyset=keyset.name, reason=caution.sentence)


def _silent(_: Outcome) -> None:
    """The log has said it all."""


class _Ahead:
    """After a tick that changed something: where each key stands, and what is waited for."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._told: dict[str, list[tuple[str, str]]] = {}

    def __call__(self, outcome: Outcome) -> None:
        name = outcome.ring.keyset
        stages = [(key.kid or "", str(key.stage)) for key in outcome.ring.keys if key.destroyed_at is None]
        if self._told.get(name) == stages:
            return
        self._told[name] = stages
        change = output.next_change(outcome)
        ahead = f"{change['step']} in {output.span(change['at'] - outcome.at)}" if change else ""
        self._log.say("info", "keys", keyset=name, stages=stages, reason=ahead)


# -- without a configuration -------------------------------------------------------------------------------------


def _configuration(ctx: typer.Context, directory: str | None, *, demo: bool) -> tuple[Configuration, Path | None]:
    """The configuration, and the local directory it was made in where nothing else is configured."""
    from rotator.settings import Configuration, is_configured

    if is_configured(fleet.path(ctx)):
        if demo or directory:
            raise ConfigurationError(
                f"{'--demo' if demo else '--dir'} works where nothing is configured, but there is a configuration"
                " (--config, ROTATOR_CONFIG or ROTATOR_STORES__…). Leave one of them out."
            )
        return Configuration.load(fleet.path(ctx)), None
    if directory is None and demo:
        import tempfile

        home = Path(tempfile.mkdtemp(prefix="rotator-demo-"))
    else:
        home = Path(directory) if directory else fleet.LOCAL
    file = home / fleet.FILE
    if not file.exists():
        made = Configuration.demo(home) if demo else Configuration.default(home)
        _write(file, _toml(made))
    return Configuration.load(file), home


def _write(file: Path, content: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    except OSError as exc:
        raise ConfigurationError(f"Cannot write {file}: {exc.strerror}. Choose another directory with --dir.") from exc


def _toml(made: Configuration) -> str:
    """The configuration as a file: to look at it with the other commands, and to change it."""
    import json

    stores, policy = made.settings.stores, made.settings.policy
    lines = [
        "# Made by 'rotator run'. The README explains every setting.",
        "[stores]",
        *(f"{name} = {json.dumps(uri)}" for name, uri in stores),
        "",
        "[policy]",
        *(
            f"{name} = {_value(value)}"
            for name, value in policy
            if name in policy.model_fields_set or name == "lifetime"
        ),
        "",
        "[schedule]",
        f"interval = {_value(made.interval)}",
        "",
        *(f'[[keysets]]\nname = "{keyset.name}"' for keyset in made.keysets),
    ]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    import json
    from datetime import timedelta

    from rotator.keys.policy import text

    return json.dumps(text(value) if isinstance(value, timedelta) else value)


# -- the web server ----------------------------------------------------------------------------------------------


def _server(configured: Configuration, works: Daemon, port: int | None, *, yielding: Path | None) -> Server | None:
    """Health, metrics and (with a file store) the public documents; ``yielding``: any free port will do."""
    wanted = configured.server.port if port is None else port
    if not wanted:
        return None
    from rotator import app
    from rotator.serve import Server, Site

    documents = [(keyset.name, document.path) for keyset in configured.keysets for document in keyset.written]
    site = Site(app.public_documents(configured), documents, _pages(works))
    try:
        return Server(site, configured.server.host, wanted)
    except ConfigurationError:
        # Who chose the port wants that one.
        if not yielding or port is not None or "port" in configured.server.model_fields_set:
            raise
        return Server(site, configured.server.host, 0)


def _pages(works: Daemon) -> dict[str, Callable[[], Answer]]:
    from http import HTTPStatus

    from rotator.metrics import CONTENT_TYPE, Metrics
    from rotator.serve import Answer, plainly

    metrics = Metrics(works.standings)

    def told(bad: list[str], fault: str) -> Answer:
        if bad:
            return plainly(HTTPStatus.SERVICE_UNAVAILABLE, f"{fault}: {', '.join(bad)}")
        return plainly(HTTPStatus.OK, "ok")

    return {
        "/healthz": lambda: told(works.stuck(), "no sign of life"),
        "/readyz": lambda: told(works.unready(), "no good tick yet"),
        "/metrics": lambda: Answer(HTTPStatus.OK, CONTENT_TYPE, metrics.exposition()),
    }


# -- the greeting ------------------------------------------------------------------------------------------------


def _greet(configured: Configuration, server: Server | None, home: Path | None, *, demo: bool) -> None:
    if home is None:
        if server and output.is_terminal():
            documents = ", public documents" if configured.public.scheme == "file" else ""
            typer.echo(f"Health, metrics{documents}: {server.url}")
        return
    from rotator.keys.policy import text

    policy = configured.keysets[0].policy
    typer.echo(
        f"No configuration, so rotator works in {home.resolve()}: {' and '.join(policy.algorithms)},"
        f" a new key every {text(policy.lifetime)}."
    )
    for keyset in configured.keysets:
        for document in keyset.documents:
            typer.echo(f"  JWKS file  {Path(configured.public.path) / document.path}")
            if server:
                typer.echo(f"  JWKS URL   {server.url}/{document.path}")
    typer.echo(f"  keys       {configured.keys.path} (private)")
    known = not demo and home == fleet.LOCAL
    typer.echo(f"From another terminal: rotator{'' if known else f' --config {home / fleet.FILE}'} status")
    if demo:
        typer.echo("A key goes pending → next → current → previous → retired, each within seconds.")
    typer.echo("Ctrl-C ends it.")
    sys.stdout.flush()
