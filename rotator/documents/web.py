"""Public URLs fetched as an ordinary verifier fetches them: over TLS, through every cache in between."""

from __future__ import annotations

import ipaddress
import re
import ssl
import zlib
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from rotator import __version__
from rotator.errors import ConfigurationError, StoreError
from rotator.ports import Fetched

if TYPE_CHECKING:
    import httpx

_REDIRECTS = 3

#: No Cache-Control: what verifiers get is what we want to see. gzip alone, because it is decoded here.
_HEADERS = {"User-Agent": f"rotator/{__version__}", "Accept-Encoding": "gzip"}

_OK, _ABSENT = 200, {404, 410}

#: Any greater age means this one (RFC 9111 section 1.2.2).
_OLDEST = 2**31


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

        try:
            start = httpx.URL(url)
        except httpx.InvalidURL:
            # The cause may quote a password.
            raise ConfigurationError(f"{re.sub('//.*@', '//', url)!r} is no URL.") from None
        shown = _shown(start)
        if not (start.scheme == "https" and start.host) and not (start.scheme == "http" and _is_loopback(start.host)):
            raise ConfigurationError(f"{shown} must begin with https:// (http:// is for loopback alone).")
        try:
            return asyncio.run(self._get(start))
        except (TimeoutError, httpx.TimeoutException) as exc:
            raise StoreError(f"{shown} gave no whole answer in time ({self._timeout:g} s in all).") from exc
        except (httpx.HTTPError, OSError) as exc:
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
                raise StoreError(f"{shown} is larger than {self._max_bytes} bytes, and was not read.")
            if unpack is not None and unpack.eof:
                break
        if unpack is not None and not unpack.eof:
            raise StoreError(f"{shown} answered with broken gzip.")
        return body


def _followed(url: httpx.URL, target: httpx.URL) -> httpx.URL:
    if target.host != url.host or target.scheme not in {"https", url.scheme}:
        raise StoreError(
            f"{_shown(url)} redirects to {_shown(target)}: only redirects to the same host are followed, "
            "and none from https to http."
        )
    return target


def _shown(url: httpx.URL) -> str:
    """``url`` as messages may show it: without user, password and query, any of which may be a secret."""
    return str(url.copy_with(username=None, password=None, query=None, fragment=None))


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
