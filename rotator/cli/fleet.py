"""Which configuration and which key sets a command is about, and doing one thing to each of them."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from rotator.cli import output
from rotator.errors import ConfigurationError, RotatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from rotator.engine import Engine, Report
    from rotator.keys.policy import KeySet
    from rotator.settings import Configuration

T = TypeVar("T")

#: Where ``rotator run`` works when nothing is configured.
LOCAL = Path("rotator-data")

#: The configuration that it writes there.
FILE = "rotator.toml"

#: Key sets worked on at once: their time is spent waiting for answers.
_AT_ONCE = 8

#: Seconds after which work on a terminal shows that it goes on.
_SHOW_AFTER = 0.7

KeySets = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEYSET", show_default=False, help="Only these key sets; all, if none is named."),
]
OneKeySet = Annotated[str, typer.Argument(metavar="KEYSET", help="The key set.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


def path(ctx: typer.Context) -> Path | None:
    """The configuration file, if one is named."""
    return Path(ctx.obj) if ctx.obj else None


def configuration(ctx: typer.Context, *, unsafe: bool = False) -> Configuration:
    """The configuration that was asked for; without any, that of the local directory which ``rotator run`` made.

    Raises:
        ConfigurationError: it is wrong, or there is none.
        Refused: its policy is unsafe.
    """
    from rotator.settings import Configuration, is_configured

    file = path(ctx)
    if not is_configured(file):
        file = LOCAL / FILE
        if not file.is_file():
            raise ConfigurationError(
                "There is no configuration: name a file with --config (or ROTATOR_CONFIG)."
                " To try it without one, start with 'rotator run --demo'."
            )
    return Configuration.load(file, unsafe=unsafe)


def chosen(configured: Configuration, names: Sequence[str] | None) -> tuple[KeySet, ...]:
    """The key sets of these names in the order of the configuration; all, if none is named.

    Raises:
        ConfigurationError: the configuration has no such key set.
    """
    known = {keyset.name: keyset for keyset in configured.keysets}
    for name in names or ():
        if name not in known:
            raise ConfigurationError(f"There is no key set {name!r:.80} in the configuration.{_hint(name, known)}")
    return tuple(keyset for name, keyset in known.items() if not names or name in names)


def _hint(name: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else f" It has: {', '.join(list(known)[:10])}."


def engines(
    configured: Configuration, names: Sequence[str] | None, report: Callable[[Report], None] | None = None
) -> dict[str, Engine]:
    """An engine for each of :func:`chosen`."""
    from rotator import app

    only = tuple(keyset.name for keyset in chosen(configured, names))
    return app.engines(configured, report=report, only=only) if report else app.engines(configured, only=only)


@contextmanager
def one(ctx: typer.Context, name: str, report: Callable[[Report], None] | None = None) -> Iterator[Engine]:
    """The engine of one key set, to ask something of it; whatever error comes of that names the key set."""
    engine = engines(configuration(ctx), [name], report)[name]
    with naming(name):
        yield engine


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Raise every error inside as one that names the key set."""
    from rotator.app import about

    try:
        yield
    except RotatorError as exc:
        raise type(exc)(about(name, exc)) from exc


def each(all_of_them: Mapping[str, Engine], call: Callable[[Engine], T], doing: str) -> dict[str, T | RotatorError]:
    """What ``call`` returns for each key set, or the error it ends with; no key set keeps another from its turn."""

    def attempt(engine: Engine) -> T | RotatorError:
        try:
            return call(engine)
        except RotatorError as exc:
            return exc

    if len(all_of_them) == 1 and not output.is_terminal():
        return {name: attempt(engine) for name, engine in all_of_them.items()}
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(max(1, min(_AT_ONCE, len(all_of_them))))
    try:
        futures = {name: pool.submit(attempt, engine) for name, engine in all_of_them.items()}
        if output.is_terminal():
            _watch(list(futures.values()), doing)
        return {name: future.result() for name, future in futures.items()}
    except KeyboardInterrupt:
        # The exit of the process would wait for the threads. Every crash is repaired, so there is nothing to wait for.
        typer.echo("Interrupted. Every step can be repeated safely.", err=True)
        os._exit(130)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _watch(futures: Sequence[Future[T]], doing: str) -> None:
    """Show that long work goes on, and how far it is."""
    from concurrent.futures import as_completed, wait

    if not wait(futures, _SHOW_AFTER).not_done:
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(doing, total=len(futures))
        for _ in as_completed(futures):
            progress.advance(task)


def end(results: Mapping[str, object]) -> None:
    """Tell the errors among ``results``, and exit with their code where there are any: 1 where they differ."""
    from rotator.app import about

    errors = {name: result for name, result in results.items() if isinstance(result, RotatorError)}
    for name, exc in errors.items():
        output.complain(about(name, exc))
    codes = {exc.exit_code for exc in errors.values()}
    if codes:
        raise typer.Exit(codes.pop() if len(codes) == 1 else 1)
