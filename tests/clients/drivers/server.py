"""A verifier that is a web server: a line is a request with that bearer token."""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from tests.clients.drivers.line import Setup, answer
from tests.emulators import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Where the templates of the configurations stand.
TEMPLATES = Path(__file__).parents[1]


class RejectedError(Exception):
    """What a server answered instead of 200."""


@contextmanager
def home(setup: Setup) -> Iterator[Path]:
    """A directory that a server which gives up root can read, with the certificate in it."""
    with tempfile.TemporaryDirectory(prefix="rotator-client-") as name:
        made = Path(name)
        made.chmod(0o755)
        shutil.copy(setup.ca, made / "ca.pem")
        yield made


def written(template: str, target: Path, **values: object) -> Path:
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    target.write_text(Template(text).substitute(values), encoding="utf-8")
    return target


def serve(version: str, command: Sequence[str], port: int, path: str, log: Path) -> None:
    """Run ``command``, answer lines with what it answers on ``port``, and end it."""
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        _await(port, process, log)
        answer(version, lambda token: _request(port, path, token))
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _request(port: int, path: str, token: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        found = connection.getresponse()
        body = found.read().decode("utf-8", "replace")
        if found.status != http.client.OK:
            raise RejectedError(f"{found.status} {found.headers.get('WWW-Authenticate', '')} {body}"[:200])
    finally:
        connection.close()


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError as exc:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it did not start: {log.read_text(errors='replace')[-2000:]}") from exc
            time.sleep(0.05)
        else:
            return


def run(start: Callable[[Setup, Path, int], tuple[str, Sequence[str], str]]) -> None:
    """What both servers do: a home, a port, and then the lines."""
    setup = Setup.given()
    with home(setup) as place:
        port = free_port()
        version, command, path = start(setup, place, port)
        serve(version, command, port, path, place / "output.log")
