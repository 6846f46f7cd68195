"""Which verifiers there are, and one of them as a process that lives as long as the run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rotator.keys.verifiers import VERIFIERS, Verifier

if TYPE_CHECKING:
    from types import TracebackType

    from tests.clients.drivers.line import Setup

HERE = Path(__file__).parent
NODE = HERE / "node"


#: Until when a client trusts a key that has left.
CACHE, NEW_KID, UNUSED = "its cache ends", "it meets a new kid", "nobody asks for it"


@dataclass(frozen=True)
class Client:
    """A row of the table. ``name`` is that of a driver; ``verifier`` is its row in ``rotator.keys.verifiers``."""

    name: str
    title: str
    verifier: Verifier
    npm: bool = False
    trusts: str = CACHE

    @property
    def command(self) -> list[str]:
        if self.npm:
            return ["node", str(NODE / f"{self.name}.mjs")]
        return [sys.executable, "-m", f"tests.clients.drivers.{self.name}"]


CLIENTS = (
    Client("pyjwt", "PyJWT PyJWKClient", VERIFIERS["pyjwt"]),
    Client("joserfc", "joserfc", VERIFIERS["joserfc"]),
    Client("authlib", "Authlib", VERIFIERS["authlib"]),
    Client("jwcrypto", "jwcrypto", VERIFIERS["jwcrypto"]),
    Client("jose", "jose", VERIFIERS["jose"], npm=True),
    Client("jwks-rsa", "jwks-rsa, jsonwebtoken", VERIFIERS["jwks-rsa"], npm=True),
    Client("aws-jwt-verify", "aws-jwt-verify", VERIFIERS["aws-jwt-verify"], npm=True, trusts=NEW_KID),
    Client("express-oauth2-jwt-bearer", "express-oauth2-jwt-bearer", VERIFIERS["express-oauth2-jwt-bearer"], npm=True),
    Client("get-jwks", "get-jwks, fast-jwt", VERIFIERS["get-jwks"], npm=True, trusts=UNUSED),
    Client("apache", "Apache mod_auth_openidc", VERIFIERS["mod_auth_openidc"], trusts=NEW_KID),
    Client("envoy", "Envoy", VERIFIERS["envoy"]),
)


class MissingError(Exception):
    """A client that this machine lacks; the message says how to install it."""


def prepare() -> None:
    """Install what ``package-lock.json`` pins, where it is not there yet.

    Raises:
        MissingError: no Node.js, or the packages cannot be had.
    """
    if shutil.which("node") is None:
        raise MissingError("Node.js is not installed (Debian: apt-get install nodejs npm)")
    lock, done = NODE / "package-lock.json", NODE / "node_modules" / ".package-lock.json"
    if done.exists() and done.stat().st_mtime >= lock.stat().st_mtime:
        return
    if shutil.which("npm") is None:
        raise MissingError("npm is not installed (Debian: apt-get install npm)")
    installed = subprocess.run(["npm", "ci"], cwd=NODE, capture_output=True, text=True, check=False)
    if installed.returncode:
        raise MissingError(f"`npm ci` in {NODE} failed: {installed.stderr[-500:]}")


class Running:
    """A client at work: one token at a time."""

    def __init__(self, client: Client, setup: Setup, log: Path) -> None:
        self.client = client
        environment = {**os.environ, "SSL_CERT_FILE": setup.ca, "NODE_EXTRA_CA_CERTS": setup.ca}
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            [*client.command, json.dumps(asdict(setup))],
            cwd=HERE.parents[1],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._one = threading.Lock()
        self.version = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        # At the end of its input a driver ends, and with it the server that it runs.
        self._process.communicate(timeout=20)
        self._log.close()

    def ready(self) -> None:
        """Wait until it is.

        Raises:
            MissingError: it is not installed; what it said tells how to.
        """
        line = self._line()
        if not line.startswith("ready "):
            said = Path(self._log.name).read_text(errors="replace").strip()
            raise MissingError(f"{self.client.title}: {said[-500:] or line}")
        self.version = line.removeprefix("ready ")

    def ask(self, token: str) -> str:
        """``ok``, or why it rejects ``token``."""
        with self._one:
            assert self._process.stdin is not None
            self._process.stdin.write(f"{token}\n")
            self._process.stdin.flush()
            return self._line() or "it ended"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()
