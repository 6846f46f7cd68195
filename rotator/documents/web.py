"""Public URLs fetched as an ordinary verifier fetches them: over TLS, through every cache in between."""

from __future__ import annotations

import ipaddress
import re
import ssl
import zlib
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from rotator import __version__, uris
from rotator.errors import ConfigurationError, StoreError
from rotator.ports import Fetched

if TYPE_CHECKING:
    import httpx

_REDIRECTS = 3

_PORTS = range(65_536)

#: No Cache-Control: what verifiers get is what we want to see. gzip alone, because it is decoded here.
_HEADERS = {"User-Agent": f"rotator/{__version__}", "Accept-Encoding": "gzip"}

_OK, _ABSENT = 200, {404, 410}

#: Any greater age means this one (RFC 9111 section 1.2.2).
_OLDEST = 2**31


class TooLarge(StoreError):
    """What a URL serves has more bytes than are read."""


class HttpsWeb:
    """Fetches what is public, whole, within ``timeout`` seconds and ``max_bytes`` decoded bytes, or not at all.

    Plain ``http`` is for loopback alone.
    """

    def __init__(self, timeout: float = 10.0, max_bytes: int = 1_000_000) -> None:
        self._timeout = timeout
        self._max_bytes = max_bytes

    def fetch(self, url: str) -> Fetched | None:
        """See :meth:`rotator.ports.Web.fetch`."""
        import asyncio

        import httpx

        shown = uris.shown(url)
        try:
            start = httpx.URL(url)
            sound = _is_sound(start)
        except httpx.InvalidURL:
            # The cause may quote a password, and in what is no URL it may stand anywhere before an @.
            shown, sound = shown if "@" not in url else "https://…", False
        if not sound:
            raise ConfigurationError(f"{shown!r} is no URL: its host or its port cannot be one.") from None
        if not (start.scheme == "https" and start.host) and not (start.scheme == "http" and _is_loopback(start.host)):
            raise ConfigurationError(f"{shown} must begin with https:// (http:// is for loopback alone).")
        try:
            return asyncio.run(self._get(start))
        except (TimeoutError, httpx.TimeoutException) as exc:
            raise StoreError(f"{shown} gave no whole answer in time ({self._timeout:g} s in all).") from exc
        except (httpx.HTTPError, OSError, UnicodeError, OverflowError, ExceptionGroup) as exc:
            # The last three: a host or a port that nobody checked before it was resolved, as where a proxy is named.
            raise StoreError(f"{shown} cannot be fetched: {_reason(exc)}.") from exc

    async def _get(self, url: httpx.URL) -> Fetched | None:
        import asyncio

        import httpx

        start, shown, loop = url, _shown(url), asyncio.get_running_loop()
        end = loop.time() + self._timeout
        # httpx limits each read alone: a server that drips could hold us for hours. This limits the whole.
        async with asyncio.timeout_at(end), self._client(url) as client:
            for _ in range(_REDIRECTS + 1):
                # A TLS handshake that is cut off from outside leaves its socket open: its own limit comes first.
                patience = httpx.Timeout(self._timeout, connect=(end - loop.time()) / 3)
                async with client.stream("GET", url, timeout=patience) as answer:
                    if answer.next_request is not None:
                        url = _followed(url, answer.next_request.url)
                    elif answer.status_code in _ABSENT:
                        return None
                    elif answer.status_code != _OK:
                        raise StoreError(f"{_shown(url)} answered {answer.status_code} instead of {_OK}.")
                    else:
                        body = await self._body(answer, _shown(url))
                        said = answer.headers
                        return Fetched(
                            body,
                            said.get("Cache-Control"),
                            _age(said.get("Age", "")),
                            said.get("Content-Type"),
                            redirected=url != start,
                        )
        raise StoreError(f"{shown} redirects more than {_REDIRECTS} times.")

    def _client(self, url: httpx.URL) -> httpx.AsyncClient:
        import httpx

        # A plain-text request stays on this machine: no proxy of the environment sees it.
        environment = url.scheme == "https"
        try:
            return httpx.AsyncClient(verify=self._tls, trust_env=environment, headers=_HEADERS)
        except (ImportError, OSError, ValueError, httpx.InvalidURL):
            raise ConfigurationError(
                f"{_shown(url)} cannot be fetched: the proxy or the certificates that the environment names "
                "(HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE, SSL_CERT_DIR) cannot be used. Mend them."
            ) from None  # the cause may quote the proxy's password

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """Made once: reading every root certificate takes 30 ms."""
        import httpx

        return httpx.create_ssl_context()

    async def _body(self, answer: httpx.Response, shown: str) -> bytes:
        """The decoded body; never holds more of it than allowed, however small it was packed."""
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"identity", "gzip"}:
            raise StoreError(f"{shown} answered in {encoding!r}, which was not asked for.")
        unpack = zlib.decompressobj(zlib.MAX_WBITS | 16) if encoding == "gzip" else None
        body = b""
        async for chunk in answer.aiter_raw():
            room = self._max_bytes + 1 - len(body)
            try:
                body += chunk[:room] if unpack is None else unpack.decompress(chunk, room)
            except zlib.error as exc:
                raise StoreError(f"{shown} answered with broken gzip.") from exc
            if len(body) > self._max_bytes:
                raise TooLarge(f"{shown} is larger than {self._max_bytes} bytes, and was not read.")
            if unpack is not None and unpack.eof:
                break
        if unpack is not None and not unpack.eof:
            raise StoreError(f"{shown} answered with broken gzip.")
        return body


def _followed(url: httpx.URL, target: httpx.URL) -> httpx.URL:
    if not _is_sound(target):
        raise StoreError(f"{_shown(url)} redirects to {_shown(target)}: its host or its port cannot be one.")
    if target.host != url.host or target.scheme not in {"https", url.scheme}:
        raise StoreError(
            f"{_shown(url)} redirects to {_shown(target)}: only redirects to the same host are followed, "
            "and none from https to http."
        )
    return target


def _is_sound(url: httpx.URL) -> bool:
    """Whether ``url`` has a host and a port that a resolver can be asked for; httpx itself does not look."""
    try:
        _, port = url.host, url.port
    except UnicodeError:  # an A-label that is none (RFC 5891), xn-- alone for one
        return False
    return port is None or port in _PORTS


def _shown(url: httpx.URL) -> str:
    return uris.shown(str(url))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _age(value: str) -> timedelta:
    """The seconds in an ``Age`` header, added up where caches in a row each sent one; 0 where it is none."""
    if not re.fullmatch(r"[0-9]{1,18}(\s*,\s*[0-9]{1,18})*", value):
        return timedelta(0)
    return timedelta(seconds=min(sum(map(int, value.split(","))), _OLDEST))


def _reason(exc: BaseException) -> str:
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({seen.verify_message})"
        seen = seen.__cause__ or seen.__context__
    return str(exc).rstrip(".") or type(exc).__name__
