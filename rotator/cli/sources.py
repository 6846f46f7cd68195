"""What the commands about keys read (a file, a URL, standard input) and where they write it."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rotator import uris
from rotator.cli import output
from rotator.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    from rotator.jose.reading import Contents
    from rotator.ports import Fetched

#: Where a public half that is written may be read by anybody, less the umask.
_PUBLIC_MODE = 0o644

#: Bytes of a passphrase.
_LONGEST = 10_000

Source = Annotated[str, typer.Argument(metavar="FILE|URL|-", help="A file, a URL, or - for standard input.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="File with the passphrase of encrypted keys."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="Write to this new file; with private keys, for its owner alone."),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the file of --out.")]


class Reader:
    """Reads inputs; the passphrase is asked for once, when the first encrypted key is met."""

    def __init__(self, passphrase_file: Path | None = None) -> None:
        self._known: bytes | None = None
        if passphrase_file is not None:
            self._known = _file(str(passphrase_file), _LONGEST).removesuffix(b"\n").removesuffix(b"\r")

    def read(self, source: str) -> Contents:
        """What stands at ``source``, whatever it is.

        Raises:
            ConfigurationError: there is no such file, or it cannot be read.
            StoreError: the URL does not answer with a document.
        """
        from rotator.jose import reading

        if is_url(source):
            return self._at(source)
        body = _file(source, reading.MAX_BYTES + 1)
        return reading.too_large(len(body)) if len(body) > reading.MAX_BYTES else reading.read(body, self._passphrase)

    def _at(self, url: str) -> Contents:
        from dataclasses import replace

        from rotator.documents.web import TooLarge
        from rotator.jose import reading
        from rotator.jose.findings import warning
        from rotator.keys.verification import REDIRECTS

        try:
            found = _fetched(url)
        except TooLarge:
            # A fault of the input, as it is of a file.
            return reading.too_large(reading.MAX_BYTES + 1)
        contents = reading.read(found.body, self._passphrase)
        if not found.redirected:
            return contents
        says = f"T{REDIRECTS[1:]}. Name the address that answers."
        return replace(contents, findings=(*contents.findings, warning("redirect", says)))

    def _passphrase(self, form: str) -> bytes | None:
        if self._known is None and output.can_ask():
            self._known = str(typer.prompt(f"Passphrase of the {form}", hide_input=True, err=True)).encode()
        return self._known


def is_url(source: str) -> bool:
    """Whether ``source`` is an address to fetch."""
    return source.lower().startswith(("https://", "http://"))


def shown(source: str) -> str:
    """``source`` as output may show it: without user, password and query, any of which may be a secret."""
    if is_url(source):
        return uris.shown(source)
    return "standard input" if source == "-" else source


def _fetched(source: str) -> Fetched:
    from rotator.documents.web import HttpsWeb
    from rotator.jose.reading import MAX_BYTES

    found = HttpsWeb(max_bytes=MAX_BYTES).fetch(source)
    if found is None:
        raise StoreError(f"{shown(source)} answers that there is no such document (404 or 410). Mend the address.")
    return found


def standard_input(most: int) -> bytes:
    """What stands on standard input, up to ``most`` bytes.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        return sys.stdin.buffer.read(most)
    except OSError as exc:
        raise ConfigurationError(f"Standard input cannot be read: {exc.strerror or exc}.") from None


def _file(source: str, most: int) -> bytes:
    if source == "-":
        return standard_input(most)
    try:
        with Path(source).open("rb") as stream:
            return stream.read(most)
    except FileNotFoundError:
        hint = " A URL begins with https://." if "." in source.partition("/")[0] and "/" in source else ""
        raise ConfigurationError(f"There is no file {source}.{hint}") from None
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "no file can have that name"
        raise ConfigurationError(f"{source} cannot be read: {reason}.") from None


def write(path: Path, content: bytes, *, private: bool, force: bool) -> None:
    """Put ``content`` into the new file ``path``, whole or not at all; private keys for its owner alone.

    Raises:
        ConfigurationError: the file exists and ``force`` was not given, or the path cannot be one.
        StoreError: the disk is full.
    """
    from rotator import files

    if str(path) == "-":
        raise ConfigurationError("--out names a file; without it everything goes to standard output.")
    if path.is_dir():
        raise ConfigurationError(f"{path} is a directory: name a file.")
    try:
        with files.translated("write", path), files.half_written(path, content, None if private else _mode()) as half:
            if force:
                half.replace(path)
            else:
                path.hardlink_to(half)
            with suppress(OSError):
                files.sync(path.parent)
    except StoreError as exc:
        if isinstance(exc.__cause__, FileExistsError):
            raise ConfigurationError(_exists(path)) from None
        if isinstance(exc.__cause__, FileNotFoundError):
            raise ConfigurationError(f"There is no directory {path.parent}: make it first.") from None
        raise


def _exists(path: Path) -> str:
    from rotator import files

    if path.exists() or path.is_symlink():
        return f"{path} exists, and was left as it is. Name another file, or overwrite it with --force."
    return f"{path.with_name(files.half_name(path.name))} was left by a crash: remove it."


def _mode() -> int:
    import os

    mask = os.umask(0o077)
    os.umask(mask)
    return _PUBLIC_MODE & ~mask
