"""nginx on loopback as a CDN with several points of presence: what stands between the origin and the verifiers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.emulators import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Nothing is said of times: what a copy may be used for, and for how long, is up to the headers of the origin alone.
#: ``proxy_cache_use_stale`` stays off, so stale copies go out only as far as stale-while-revalidate and
#: stale-if-error (RFC 5861) allow.
MAIN = """
daemon off;
{user}
worker_processes 1;
pid {home}/pid;
error_log {home}/error.log;
events {{ worker_connections 256; }}
http {{
    log_format short "$server_port $upstream_cache_status $status";
    access_log {home}/access.log short;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    {places}
}}
"""

PLACE = """
    proxy_cache_path {home}/cache-{port} keys_zone=place-{port}:1m max_size=10m inactive=1h;
    server {{
        listen 127.0.0.1:{port}{tls};
        location / {{
            proxy_pass {origin};
            proxy_cache place-{port};
            proxy_cache_background_update on;
            proxy_cache_lock on;
            proxy_connect_timeout 3s;
            proxy_read_timeout 10s;
        }}
    }}
"""


class Places:
    """The points of presence: their URLs, and what their caches did."""

    def __init__(self, home: Path, ports: list[int], scheme: str = "http") -> None:
        self._home = home
        self.urls = [f"{scheme}://127.0.0.1:{port}" for port in ports]

    def answers(self) -> Counter[str]:
        """How often each cache status was answered: ``MISS``, ``HIT``, ``STALE``, ``UPDATING``, ``EXPIRED``…"""
        return Counter(line.split()[1] for line in (self._home / "access.log").read_text(encoding="ascii").splitlines())


@contextmanager
def places(origin: str, home: Path, count: int = 2, certificate: Path | None = None) -> Iterator[Places]:
    """``count`` caches in front of ``origin``, each of which knows nothing of the others.

    With a ``certificate`` (PEM, its private key in the same file) they speak TLS.
    """
    ports = [free_port() for _ in range(count)]
    home.mkdir()
    tls = f" ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate}" if certificate else ""
    file = home / "nginx.conf"
    file.write_text(
        MAIN.format(
            home=home,
            # Started by root, nginx would work as another user, who cannot write here.
            user="user root;" if os.geteuid() == 0 else "",
            places="".join(PLACE.format(home=home, port=port, origin=origin, tls=tls) for port in ports),
        ),
        encoding="ascii",
    )
    command = [program("nginx", "nginx-light"), "-p", str(home), "-e", str(home / "error.log"), "-c", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for port in ports:
            _await(port, process, home)
        yield Places(home, ports, "https" if certificate else "http")
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def program(name: str, package: str) -> str:
    """The path of a cache that Debian packages; skips the test where it is missing."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found:
        return found
    reason = f"{name} is not installed (Debian: apt-get install {package}), and not every cache honours RFC 5861"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; CI must have it")
    pytest.skip(reason)


def _await(port: int, process: subprocess.Popen[bytes], home: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError as exc:
            if process.poll() is not None or time.monotonic() > deadline:
                said = (home / "error.log").read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"nginx did not start: {said}") from exc
            time.sleep(0.05)
        else:
            return
