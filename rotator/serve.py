"""A small web server on loopback: public documents with the headers that S3 would send, health, metrics.

It serves exactly the paths it was given and looks at no directory: nothing else can be reached through it.
"""

from __future__ import annotations

import errno
import html
import socket
import socketserver
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from rotator import __version__
from rotator.errors import ConfigurationError, RotatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rotator.ports import DocumentStore

#: An idle or slow client gives its thread back after so many seconds.
_SLOW = 10

_TEXT, _HTML = "text/plain; charset=utf-8", "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: status, content type, body, and what else its head says."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"Cache-Control": "no-store"})


def plainly(status: HTTPStatus, words: str) -> Answer:
    """A short answer in words, which no cache may keep."""
    return Answer(status, _TEXT, f"{words}\n".encode())


class Site:
    """Everything there is to fetch, by exact path.

    ``documents`` are (key set, path in ``store``) pairs; ``pages`` are made anew for every request.
    """

    def __init__(
        self,
        store: DocumentStore | None = None,
        documents: Sequence[tuple[str, str]] = (),
        pages: Mapping[str, Callable[[], Answer]] | None = None,
    ) -> None:
        self._store = store
        self._documents = documents if store else ()
        self._paths = {f"/{path}": path for _, path in self._documents}
        self._pages = {"/": self._index, **(pages or {})}

    def answer(self, target: str, if_none_match: str | None = None) -> Answer:
        """The answer to a GET of ``target``."""
        # Looked up, never joined to a directory: there is no path to climb.
        path = unquote(urlsplit(target).path)
        if path in self._pages:
            return self._pages[path]()
        if path in self._paths and self._store:
            return self._document(self._store, self._paths[path], if_none_match)
        return plainly(HTTPStatus.NOT_FOUND, "Not found. / lists what there is.")

    def _document(self, store: DocumentStore, path: str, if_none_match: str | None) -> Answer:
        try:
            document = store.read(path).document
        except RotatorError as exc:
            return plainly(HTTPStatus.SERVICE_UNAVAILABLE, str(exc))
        if document is None:
            return plainly(HTTPStatus.NOT_FOUND, "Not published yet.")
        etag = f'"{document.version}"'
        head = {"ETag": etag, "Access-Control-Allow-Origin": "*"}
        if document.headers and document.headers.cache_control:
            head["Cache-Control"] = document.headers.cache_control
        kind = document.headers.content_type if document.headers else "binary/octet-stream"
        if _matches(if_none_match, etag):
            return Answer(HTTPStatus.NOT_MODIFIED, kind, b"", head)
        return Answer(HTTPStatus.OK, kind, document.body, head)

    def _index(self) -> Answer:
        rows = [
            f'<li>{html.escape(keyset)}: <a href="/{quote(path)}">{html.escape(path)}</a></li>'
            for keyset, path in self._documents
        ]
        rows += [f'<li><a href="{path}">{path}</a></li>' for path in self._pages if path != "/"]
        body = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>rotator</title>'
            f"<h1>rotator {__version__}</h1><ul>{''.join(rows)}</ul></html>\n"
        )
        return Answer(HTTPStatus.OK, _HTML, body.encode())


def _matches(if_none_match: str | None, etag: str) -> bool:
    """Whether a conditional request is met, by weak comparison (RFC 9110 section 13.1.2)."""
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags


class Server:
    """Answers for ``site`` on ``host`` and ``port`` (0: a free one) in threads of its own, from construction to close.

    Raises:
        ConfigurationError: the address cannot be used; the message names the port.
    """

    def __init__(self, site: Site, host: str, port: int) -> None:
        kind = _Listener6 if ":" in host else _Listener
        try:
            self._listener = kind((host, port), type("Request", (_Request,), {"site": site}))
        except (OSError, OverflowError) as exc:
            raise _unusable(host, port, exc) from exc
        self.host, self.port = host, int(self._listener.server_address[1])
        threading.Thread(target=self._listener.serve_forever, name="http", daemon=True).start()

    @property
    def url(self) -> str:
        """Its root, without a slash at the end."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - shown, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def close(self) -> None:
        """Answer no more."""
        self._listener.shutdown()
        self._listener.server_close()


def _unusable(host: str, port: int, exc: Exception) -> ConfigurationError:
    if isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE:
        return ConfigurationError(f"Port {port} on {host} is taken by another process. Choose another with --port.")
    if isinstance(exc, PermissionError):
        return ConfigurationError(f"Port {port} on {host} is not open to this user. Choose one above 1023 with --port.")
    why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return ConfigurationError(f"Cannot listen on port {port} of {host}: {why}. Mend the address, or --port.")


class _Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    # http.server's own listener asks the DNS for our name when it binds, which can take seconds.
    allow_reuse_address = daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that went away is no news, and a traceback on the terminal helps nobody."""


class _Listener6(_Listener):
    address_family = socket.AF_INET6


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = f"rotator/{__version__}", ""
    timeout = _SLOW
    site: Site

    def do_GET(self) -> None:
        self._send(self.site.answer(self.path, self.headers.get("If-None-Match")))

    def do_HEAD(self) -> None:
        self._send(self.site.answer(self.path, self.headers.get("If-None-Match")), body=False)

    def _send(self, answer: Answer, *, body: bool = True) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status is not HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if body:
            self.wfile.write(answer.body)

    def log_message(self, *_: Any) -> None:
        """Nothing: the log is about keys."""
