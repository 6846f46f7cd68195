"""The command line: one file per command group, loaded when its command is called for."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from rotator import __version__
from rotator.errors import ConfigurationError, RotatorError

if TYPE_CHECKING:
    from typer._click import Command, Context

#: Command → the module it lives in, and what it is for; in the order in which a person meets them.
COMMANDS = {
    "run": ("run", "Rotate every key set, until stopped: the daemon."),
    "init": ("init", "Create the ledger of each new key set."),
    "adopt": ("adopt", "Take over an existing key set, and rotate it from then on."),
    "tick": ("tick", "Do every step that is safe now, once."),
    "status": ("look", "Show every key, where it stands, and what happens to it next."),
    "plan": ("look", "Say what would be done now or at another time, and why."),
    "policy": ("policy", "Prove with numbers that no rotation rejects a token."),
    "verify": ("verify", "Check what verifiers get and issuers sign: for a monitor."),
    "simulate": ("simulate", "Live through years of your policy, with every fault."),
    "rotate": ("requests", "Rotate early, if every cache holds the next key."),
    "revoke": ("requests", "Stop trusting a key at once: for one that is compromised."),
    "retire": ("requests", "End the keys of an algorithm that is configured no more."),
    "drop": ("requests", "Remove a key that somebody else made public."),
    "recover": ("recover", "Bring back a ledger that is lost, damaged or outdated."),
    "gc": ("gc", "List keys that no ledger knows, or discard them."),
    "sign": ("sign", "Sign a token with the current key, as an issuer would."),
    "inspect": ("inspect", "Name all that is wrong with a key, key set or token."),
    "generate": ("generate", "Make keys, as JWK and PEM."),
    "convert": ("convert", "Turn PEM, DER, certificates and JWK into one another."),
    "thumbprint": ("thumbprint", "Print the fingerprints of each key."),
}

_WITH_KID = {"revoke", "drop"}


class _Commands(TyperGroup):
    """Loads only the command that is called, and ends it with the exit code that its error stands for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: TyperCommand(name, help=purpose) for name, (_, purpose) in COMMANDS.items()}

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        name, found, rest = super().resolve_command(ctx, args)
        return name, _loaded(name) if name in COMMANDS else found, rest

    def invoke(self, ctx: Context) -> Any:
        try:
            return super().invoke(ctx)
        except RotatorError as exc:
            from rotator.cli.output import complain

            complain(str(exc))
            raise typer.Exit(exc.exit_code) from None
        except KeyboardInterrupt:
            raise _interrupted() from None
        except typer.Abort as exc:
            # What a question makes of Ctrl-C, and of an input that ends.
            if isinstance(exc.__context__, KeyboardInterrupt):
                raise _interrupted() from None
            typer.echo("Error: No answer was given. Nothing was changed.", err=True)
            raise typer.Exit(ConfigurationError.exit_code) from None
        except Exception as exc:
            # What typer raises itself (usage errors, exits) is its own to tell.
            if type(exc).__module__.partition(".")[0] in {"typer", "click"} or isinstance(exc, BrokenPipeError):
                raise
            if ctx.params.get("debug"):
                raise
            if isinstance(exc, OSError) and exc.errno in {errno.ENOSPC, errno.EIO, errno.EBADF}:
                # Stores translate theirs: what is left comes from what a command prints.
                typer.echo(f"Error: the output cannot be written: {exc.strerror or exc}.", err=True)
                raise typer.Exit(1) from None
            from rotator.daemon import fault

            typer.echo(f"Error: {fault(exc)} 'rotator --debug …' shows the traceback.", err=True)
            raise typer.Exit(1) from None


def _interrupted() -> typer.Exit:
    typer.echo("Interrupted. Every step can be repeated safely.", err=True)
    return typer.Exit(130)


def _loaded(name: str) -> Command:
    from importlib import import_module

    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    # One kid in 64 begins with a dash.
    lenient = {"ignore_unknown_options": name in _WITH_KID}
    alone.command(name, context_settings=lenient)(getattr(import_module(f"rotator.cli.{COMMANDS[name][0]}"), name))
    return typer.main.get_command(alone)


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Rich would double the time that --help takes.
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"rotator {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", envvar="ROTATOR_CONFIG", metavar="FILE", help="Configuration, a TOML file."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a bug in rotator, to report it.")
    ] = False,
) -> None:
    """Rotate JWT signing keys and publish them as a static jwks.json, without ever rejecting a token.

    Start with 'rotator run --demo': it needs no configuration and shows the whole life of a key in two minutes.

    \b
    Exit codes:
      0  fine
      1  a key set failed; the next tick tries again
      2  configuration or usage
      3  refused, because it would be unsafe
      4  inspect alone: warnings found
      5  inspect alone: errors found
    """
    del version, debug
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Who started this closed it (<&-): there is nothing to read, and nobody reads.
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - for as long as we live
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that cannot show a sign must not stop a command.
            stream.reconfigure(errors="replace")
    ctx.obj = config
