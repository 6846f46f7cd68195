"""moto and ministack as separate server processes on loopback: what the tests know of AWS."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(command: list[str], env: Mapping[str, str], url: str, health: str) -> Iterator[str]:
    """``command``, once ``health`` answers below ``url``."""
    process = subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(url + health, timeout=2):
                    break
            except OSError as exc:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} did not start") from exc
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def moto(env: Mapping[str, str] | None = None) -> Iterator[str]:
    """A moto server; yields its URL."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with serving(command, env or {}, f"http://127.0.0.1:{port}", "/moto-api/") as url:
        yield url


@contextmanager
def ministack(env: Mapping[str, str] | None = None) -> Iterator[str]:
    """A ministack server; yields its URL."""
    port = free_port()
    bind = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "EDGE_PORT": str(port), **(env or {})}
    command = [sys.executable, "-m", "ministack"]
    with serving(command, bind, f"http://127.0.0.1:{port}", "/_ministack/health") as url:
        yield url
