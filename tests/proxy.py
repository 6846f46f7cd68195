"""A proxy between rotator and AWS: it knows each call by name and number, and does to it what networks do.

A *call* is what boto3 was asked to do, however often it sends it. The weather decides about every single request, and
answers with a fault or with fair passage.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_METHODS = {"GET": "GetObject", "PUT": "PutObject", "DELETE": "DeleteObject"}
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect", "host"}


@dataclass(frozen=True)
class Call:
    """One request: the ``attempt``-th that boto3 sends for its ``number``-th call."""

    number: int
    attempt: int
    service: str
    operation: str
    about: str = ""

    def __str__(self) -> str:
        return f"{self.number} {self.operation} {self.about}".rstrip()


Forward: TypeAlias = "Callable[[], bytes]"
"""Asks AWS, and returns the whole answer."""

Fault: TypeAlias = "Callable[[Call, Forward], bytes]"
"""What the client gets instead of the answer, before the connection is closed."""

Weather: TypeAlias = "Callable[[Call], Fault | None]"


# -- faults ----------------------------------------------------------------------------------------------------------


def answer(status: int, body: bytes, kind: str) -> bytes:
    head = (
        f"HTTP/1.1 {status} Staged\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


def _error(call: Call, status: int, code: str) -> bytes:
    """An error in the wire format of the service (S3: REST and XML; the others: JSON 1.1)."""
    if call.service == "s3":
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>staged</Message></Error>"
        return answer(status, body.encode("ascii"), "application/xml")
    return answer(
        status, json.dumps({"__type": code, "message": "staged"}).encode("ascii"), "application/x-amz-json-1.1"
    )


def internal_error(call: Call, _: Forward) -> bytes:
    codes = {"s3": "InternalError", "kms": "KMSInternalException", "secretsmanager": "InternalServiceError"}
    return _error(call, 500, codes.get(call.service, "InternalServiceException"))


def throttled(call: Call, _: Forward) -> bytes:
    if call.service == "s3":
        return _error(call, 503, "SlowDown")
    return _error(call, 400, "ThrottledException" if call.service == "tagging" else "ThrottlingException")


def unavailable(_: Call, __: Forward) -> bytes:
    """Something on the way to AWS answers, and knows nothing of AWS's formats."""
    return answer(503, b"<html><h1>503 Service Unavailable</h1></html>", "text/html")


def refused(_: Call, __: Forward) -> bytes:
    """The connection is closed before the request went any further."""
    return b""


def lost(_: Call, forward: Forward) -> bytes:
    """AWS did as it was told, and nobody hears of it."""
    forward()
    return b""


def half(_: Call, forward: Forward) -> bytes:
    """The head of the answer, and half of its body."""
    head, end, body = forward().partition(b"\r\n\r\n")
    return head + end + body[: len(body) // 2] if body else head[:-1]


def beheaded(_: Call, forward: Forward) -> bytes:
    """Half of the head of the answer."""
    head = forward().partition(b"\r\n\r\n")[0]
    return head[: len(head) // 2]


def late(seconds: float) -> Fault:
    """AWS did as it was told, but the client has given up by the time the answer comes."""

    def fault(_: Call, forward: Forward) -> bytes:
        told = forward()
        time.sleep(seconds)
        return told

    return fault


def stalled(seconds: float) -> Fault:
    """The client has given up by the time the request reaches AWS, which then does as it was told."""

    def fault(_: Call, forward: Forward) -> bytes:
        time.sleep(seconds)
        return forward()

    return fault


# -- weather ---------------------------------------------------------------------------------------------------------


def fair(_: Call) -> Fault | None:
    return None


def at(number: int, fault: Fault, attempts: int = 1) -> Weather:
    """``fault`` meets the first ``attempts`` requests of the ``number``-th call."""
    return lambda call: fault if call.number == number and call.attempt <= attempts else None


# -- the proxy -------------------------------------------------------------------------------------------------------


class Proxy:
    """Passes requests on to ``upstream`` as the weather allows. The clock of its answers is ``ahead`` of AWS's."""

    def __init__(self, upstream: str, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.ahead = timedelta(0)
        self.calls: list[Call] = []
        """The first request of each call since the last :meth:`begin`."""
        self.hit: list[Call] = []
        """Each request since then that met a fault."""
        self.broken: list[BaseException] = []
        self._upstream = urlsplit(upstream)
        self._weather: Weather = fair
        self._known: dict[str, list[Call]] = {}
        self._under_way = 0
        self._last = time.monotonic()
        self._change = threading.Condition()

    def begin(self, weather: Weather = fair) -> tuple[list[Call], list[Call]]:
        """Count from 1, in this weather, once nothing of before is under way; what was counted until then."""
        with self._change:
            assert self._change.wait_for(lambda: self._under_way == 0, 30)
            counted = self.calls, self.hit
            self._weather = weather
            self.calls, self.hit, self._known = [], [], {}
            return counted

    def quiet(self, seconds: float) -> bool:
        """Whether there were calls since :meth:`begin`, and none for so many seconds."""
        with self._change:
            return bool(self.calls) and not self._under_way and time.monotonic() - self._last > seconds

    def answer(self, request: _Connection, body: bytes) -> tuple[bytes, bool]:
        """The bytes to send, and whether they are the whole answer."""

        def forward() -> bytes:
            return self._forward(request, body)

        with self._change:
            self._under_way += 1
            call = self._named(request)
            fault = self._weather(call)
            if fault:
                self.hit.append(call)
        try:
            return (fault(call, forward), False) if fault else (forward(), True)
        finally:
            with self._change:
                self._under_way -= 1
                self._last = time.monotonic()
                self._change.notify_all()

    def _named(self, request: _Connection) -> Call:
        # boto3 names a call by the same id however often it sends it; a fetch by anybody else is its own call.
        known = self._known.setdefault(request.headers.get("amz-sdk-invocation-id") or f"fetch {len(self.calls)}", [])
        service, operation, about = _meaning(request)
        number = known[0].number if known else len(self.calls) + 1
        call = Call(number, len(known) + 1, service, operation, about)
        if not known:
            self.calls.append(call)
        known.append(call)
        return call

    def _forward(self, request: _Connection, body: bytes) -> bytes:
        connection = HTTPConnection(self._upstream.hostname or "", self._upstream.port, timeout=30)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
            connection.request(request.command, request.path, body, {**headers, "Host": self._upstream.netloc})
            got = connection.getresponse()
            told = got.read()
            lines = [f"HTTP/1.1 {got.status} {got.reason}"]
            for name, value in got.getheaders():
                if name.lower() not in _HOP:
                    lines.append(f"{name}: {self._moved(value) if name.lower() == 'date' else value}")
            lines.append(f"Content-Length: {len(told)}")
            return "\r\n".join([*lines, "", ""]).encode("latin-1") + told
        except ConnectionError as exc:
            raise RuntimeError(f"{self._upstream.netloc} closed the connection") from exc
        finally:
            connection.close()

    def _moved(self, date: str) -> str:
        return format_datetime(parsedate_to_datetime(date) + self.ahead, usegmt=True)


def _meaning(request: _Connection) -> tuple[str, str, str]:
    target = request.headers.get("X-Amz-Target")
    if not target:
        return "s3", _METHODS[request.command], urlsplit(request.path).path.lstrip("/").partition("/")[2]
    prefix, _, operation = target.partition(".")
    services = {"TrentService": "kms", "secretsmanager": "secretsmanager"}
    return services.get(prefix, "tagging"), operation, ""


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        told, whole = self.server.proxy.answer(self, body)
        self.close_connection = self.close_connection or not whole
        # Whoever was killed, or gave up, does not listen any more.
        with suppress(ConnectionError):
            self.wfile.write(told)

    do_GET = do_PUT = do_POST = do_DELETE = _any  # noqa: N815 - names of http.server

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: Proxy

    def handle_error(self, *_: object) -> None:
        """Who was killed closes connections at any moment; anything else is a fault that nobody staged."""
        exc = sys.exception()
        if exc and not isinstance(exc, ConnectionError):
            self.proxy.broken.append(exc)


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy in front of ``upstream``, in threads of this process."""
    with _Server(("127.0.0.1", 0), _Connection) as server:
        server.proxy = Proxy(upstream, server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.proxy
        finally:
            server.shutdown()
            thread.join()
        assert not server.proxy.broken
