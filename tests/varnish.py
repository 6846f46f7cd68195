"""varnish on loopback as an edge of a CDN, and one that keeps what it has for an hour, whatever the origin says."""

from __future__ import annotations

import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.emulators import free_port, serving
from tests.nginx import program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VCL = """
vcl 4.1;
backend origin {{ .host = "{host}"; .port = "{port}"; }}
sub vcl_recv {{
    if (req.url == "/up") {{ return (synth(200)); }}
    if (req.method == "PURGE") {{ return (purge); }}
}}
sub vcl_backend_fetch {{
    set bereq.http.host = "{host}:{port}";
    set bereq.url = "{path}" + bereq.url;
    # moto's 304 leaves Cache-Control out (RFC 9110 section 15.4.5 forbids that): varnish would keep the copy for two
    # minutes, its default.
    unset bereq.http.If-None-Match;
    unset bereq.http.If-Modified-Since;
}}
sub vcl_backend_response {{
    {response}
}}
"""


class Edge:
    """One point of presence."""

    def __init__(self, url: str) -> None:
        self.url = url

    def purge(self, path: str) -> None:
        """Drop the copy of ``path``."""
        request = urllib.request.Request(f"{self.url}/{path}", method="PURGE")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200


@contextmanager
def edge(origin: str, home: Path, *, stubborn: bool = False) -> Iterator[Edge]:
    """A cache in front of ``origin``; a ``stubborn`` one takes no advice on how long to keep a copy."""
    home.mkdir()
    place = urlsplit(origin)
    file = home / "edge.vcl"
    file.write_text(
        VCL.format(
            host=place.hostname,
            port=place.port,
            path=place.path.rstrip("/"),
            response="set beresp.ttl = 1h;" if stubborn else "",
        ),
        encoding="ascii",
    )
    port = free_port()
    # In the foreground, without the sandbox that would need users of its own, and without a control port.
    command = [program("varnishd", "varnish"), "-F", "-j", "none", "-n", str(home / "work"), "-s", "malloc,16m"]
    command += ["-a", f"127.0.0.1:{port}", "-T", "none", "-f", str(file)]
    with serving(command, {}, f"http://127.0.0.1:{port}", "/up") as url:
        yield Edge(url)
