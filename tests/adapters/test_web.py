from __future__ import annotations

import gc
import gzip
import ipaddress
import ssl
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from rotator.documents.web import HttpsWeb
from rotator.errors import ConfigurationError, StoreError
from rotator.ports import Fetched
from tests.emulators import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rotator.ports import Web

    Answer = Callable[[BaseHTTPRequestHandler], None]

BODY = b'{"keys": []}'


class Site:
    """A web server on loopback whose paths answer what a story says; remembers what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        #: Set when the story is over: what stalls may go on.
        self.over = threading.Event()

    def answer(self, path: str, status: int, body: bytes = b"", **headers: str) -> None:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        self.answers[path] = answer


@contextmanager
def served(certificate: Path | None = None) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            try:
                here.answers[self.path.partition("?")[0]](self)
            except OSError:
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

        def handle_error(self, *args: object) -> None:
            """Clients that hang up are part of the stories."""

    server = Server(("127.0.0.1", 0), Handler)
    here = Site(f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}")
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield here
    finally:
        here.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def certificate(directory: Path, name: str, *, days: int = 1) -> Path:
    """A self-signed certificate for ``name`` and its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        alternative = x509.DNSName(name)
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = directory / f"{name}.pem"
    file.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return file


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def site() -> Iterator[Site]:
    with served() as site:
        yield site


@pytest.fixture
def web() -> Web:
    return HttpsWeb(timeout=5)


# What a verifier gets


def test_a_document_is_fetched_with_what_its_headers_promise(web: Web, site: Site) -> None:
    site.answer("/jwks.json", 200, BODY, Cache_Control="public, max-age=300", Age="42")
    fetched = web.fetch(f"{site.url}/jwks.json")
    assert fetched == Fetched(BODY, "public, max-age=300", timedelta(seconds=42))


def test_the_request_is_an_ordinary_verifiers_and_asks_no_cache_for_a_favour(web: Web, site: Site) -> None:
    site.answer("/jwks.json", 200, BODY)
    assert web.fetch(f"{site.url}/jwks.json?v=1") == Fetched(BODY)
    [(path, headers)] = site.asked
    assert path == "/jwks.json?v=1"
    assert headers["accept"] == "*/*"
    assert not headers.keys() & {"cache-control", "pragma", "authorization", "cookie", "if-none-match", "range"}


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_none(web: Web, site: Site, status: int) -> None:
    site.answer("/jwks.json", status, b"no such page")
    assert web.fetch(f"{site.url}/jwks.json") is None


@pytest.mark.parametrize(
    ("age", "seconds"),
    [
        ("0", 0),
        ("007", 7),
        ("10, 20", 30),
        ("", 0),
        ("-1", 0),
        ("1.5", 0),
        ("soon", 0),
        ("10, soon", 0),
        ("\xb2", 0),
        ("9" * 18, 2**31),
        ("9" * 5000, 0),
    ],
)
def test_an_age_is_added_up_and_a_bad_one_is_none(web: Web, site: Site, age: str, seconds: int) -> None:
    site.answer("/jwks.json", 200, BODY, Age=age)
    assert web.fetch(f"{site.url}/jwks.json") == Fetched(BODY, None, timedelta(seconds=seconds))


def test_gzip_is_unpacked(web: Web, site: Site) -> None:
    site.answer("/jwks.json", 200, gzip.compress(BODY * 1000, mtime=0), Content_Encoding="gzip")
    assert web.fetch(f"{site.url}/jwks.json") == Fetched(BODY * 1000)


# Where it goes


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/jwks.json",
        "http://128.0.0.1/jwks.json",
        "http://localhost.example.com/jwks.json",
        "http://[2001:db8::1]/jwks.json",
        "http:///jwks.json",
        "https:///jwks.json",
        "ftp://localhost/jwks.json",
        "file:///etc/passwd",
        "/jwks.json",
        "",
    ],
)
def test_only_https_is_fetched_but_from_loopback(web: Web, url: str) -> None:
    with pytest.raises(ConfigurationError, match="https://"):
        web.fetch(url)


@pytest.mark.parametrize(
    "url", ["https://host:port/", "https://[::1/", "https://ho st:x/", "https://h/\n", "https://\x00"]
)
def test_what_is_no_url_is_told(web: Web, url: str) -> None:
    with pytest.raises(ConfigurationError, match="is no URL"):
        web.fetch(url)


@pytest.mark.parametrize("place", ["127.0.0.1:99999", "127.0.0.1:-1", "xn--", "xn--a.example"])
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_host_or_port_that_cannot_be_one_is_told(web: Web, scheme: str, place: str) -> None:
    with pytest.raises(ConfigurationError, match="its host or its port cannot be one") as raised:
        web.fetch(f"{scheme}://{place}/x?token=s3cret")
    assert "s3cret" not in str(raised.value)


def test_a_url_without_a_host_is_quoted_as_it_was_given(web: Web) -> None:
    with pytest.raises(ConfigurationError, match=r"^https:///x must begin with"):
        web.fetch("https:///x")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "[::1]"])
def test_plain_http_is_tried_on_every_loopback_address(web: Web, host: str) -> None:
    with pytest.raises(StoreError, match="cannot be fetched"):
        web.fetch(f"http://{host}:{free_port()}/jwks.json")


def test_plain_http_on_loopback_goes_through_no_proxy(web: Web, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    site.answer("/jwks.json", 200, BODY)
    assert web.fetch(f"{site.url}/jwks.json") == Fetched(BODY)


@pytest.mark.parametrize(
    ("name", "value"),
    [("HTTPS_PROXY", "gopher://user:s3cret@proxy"), ("HTTPS_PROXY", "http://s3cret:port"), ("SSL_CERT_FILE", "/none")],
)
def test_an_environment_that_cannot_be_used_is_told_without_its_secrets(
    web: Web, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name) as raised:
        web.fetch("https://127.0.0.1/jwks.json")
    assert "s3cret" not in f"{raised.value!r}{raised.value.__cause__!r}"


# TLS


def test_a_certificate_that_the_machine_trusts_is_accepted(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = certificate(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with served(trusted) as site:
        site.answer("/jwks.json", 200, BODY)
        assert web.fetch(f"{site.url}/jwks.json") == Fetched(BODY)
        assert web.fetch(f"{site.url}/jwks.json") == Fetched(BODY)


@pytest.mark.parametrize(
    ("name", "days", "trusted", "reason"),
    [
        ("127.0.0.1", 1, False, "self-signed"),
        ("127.0.0.1", -1, True, "expired"),
        ("example.com", 1, True, "IP address mismatch"),
    ],
)
def test_a_bad_certificate_is_told_with_its_fault(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, days: int, trusted: bool, reason: str
) -> None:
    bad = certificate(tmp_path, name, days=days)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(bad))
    with served(bad) as site:
        site.answer("/jwks.json", 200, BODY)
        with pytest.raises(StoreError, match=f"certificate is not trusted.*{reason}") as raised:
            web.fetch(f"{site.url}/jwks.json?token=s3cret")
        assert not site.asked
    assert f"{site.url}/jwks.json" in str(raised.value)


# Redirects


def test_redirects_on_one_host_are_followed(web: Web, site: Site) -> None:
    site.answer("/a", 301, Location="/b")
    site.answer("/b", 302, Location=f"{site.url}/c?d=e")
    site.answer("/c", 308, Location="jwks.json")
    site.answer("/jwks.json", 200, BODY)
    assert web.fetch(f"{site.url}/a") == Fetched(BODY, redirected=True)
    assert [path for path, _ in site.asked] == ["/a", "/b", "/c?d=e", "/jwks.json"]


def test_a_redirect_to_what_is_not_there_is_none(web: Web, site: Site) -> None:
    site.answer("/a", 307, Location="/b")
    site.answer("/b", 404)
    assert web.fetch(f"{site.url}/a") is None


def test_endless_redirects_end(web: Web, site: Site) -> None:
    site.answer("/a", 303, Location="/a")
    with pytest.raises(StoreError, match="/a redirects more than 3 times"):
        web.fetch(f"{site.url}/a")
    assert len(site.asked) == 4


@pytest.mark.parametrize(
    "location", ["http://localhost:{port}/jwks.json", "//example.com/jwks.json", "ftp://127.0.0.1/jwks.json"]
)
def test_a_redirect_elsewhere_is_not_followed(web: Web, site: Site, location: str) -> None:
    site.answer("/a", 302, Location=location.format(port=site.url.rpartition(":")[2]))
    with pytest.raises(StoreError, match="only redirects to the same host"):
        web.fetch(f"{site.url}/a")
    assert len(site.asked) == 1


def test_a_redirect_from_https_to_http_is_not_followed(
    web: Web, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = certificate(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with served(trusted) as secure:
        secure.answer("/a", 302, Location=f"{site.url}/a")
        with pytest.raises(StoreError, match="none from https to http"):
            web.fetch(f"{secure.url}/a")
    assert not site.asked


def test_a_redirect_to_nowhere_is_an_error(web: Web, site: Site) -> None:
    site.answer("/a", 302)
    with pytest.raises(StoreError, match="answered 302"):
        web.fetch(f"{site.url}/a")
    site.answer("/a", 302, Location="http://[::1/")
    with pytest.raises(StoreError, match="cannot be fetched: Invalid URL"):
        web.fetch(f"{site.url}/a")


@pytest.mark.parametrize("location", ["http://127.0.0.1:99999/", "http://127.0.0.1:-1/", "http://xn--/", "//xn--a/b"])
def test_a_server_that_redirects_to_a_host_or_port_that_cannot_be_one_is_down(
    web: Web, site: Site, location: str
) -> None:
    site.answer("/a", 302, Location=location)
    with pytest.raises(StoreError, match=r"/a (redirects to .*its host or its port cannot be one|cannot be fetched)"):
        web.fetch(f"{site.url}/a")
    assert len(site.asked) == 1


# What goes wrong


@pytest.mark.parametrize("status", [201, 204, 206, 304, 401, 403, 429, 500, 503])
def test_another_status_is_an_error_that_names_the_url_without_its_secrets(web: Web, site: Site, status: int) -> None:
    site.answer("/jwks.json", status)
    with pytest.raises(StoreError, match=f"/jwks.json answered {status}") as raised:
        web.fetch(f"{site.url.replace('//', '//user:s3cret@')}/jwks.json?token=s3cret#s3cret")
    assert "s3cret" not in str(raised.value)
    assert "user" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:s3cret@host:port/jwks.json",
        "https://user:s3cret/more@host/",
        "https://user:s3cret?more@host/",
        "http://user:s3cret@example.com/?s3cret",
        "http://example.com?token=s3cret",
        "https://[::1/jwks.json?token=s3cret",
        "https://[::1/jwks.json#s3cret",
    ],
)
def test_a_refused_url_is_told_without_its_secrets(web: Web, url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        web.fetch(url)
    assert "s3cret" not in f"{raised.value!r}{raised.value.__cause__!r}"


def test_nobody_there_is_an_error(web: Web) -> None:
    with pytest.raises(StoreError, match="cannot be fetched"):
        web.fetch(f"https://127.0.0.1:{free_port()}/jwks.json")


@pytest.mark.parametrize("part", ["nothing", "headers", "body"])
def test_a_server_that_stalls_or_drips_is_given_up_in_time(site: Site, part: str) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        if part != "nothing":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        if part == "body":
            handler.wfile.write(b"Content-Length: 1000\r\n\r\n")
        while not site.over.wait(0.05):
            if part != "nothing":
                handler.wfile.write(b"a")

    site.answers["/jwks.json"] = drip
    begun = time.monotonic()
    with pytest.raises(StoreError, match=r"/jwks\.json gave no whole answer in time"):
        HttpsWeb(timeout=0.4).fetch(f"{site.url}/jwks.json")
    assert time.monotonic() - begun < 3


def test_a_server_that_never_finishes_its_handshake_is_given_up_in_time() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(StoreError, match="in time"):
        HttpsWeb(timeout=0.3).fetch(f"https://127.0.0.1:{silent.getsockname()[1]}/jwks.json")
    gc.collect()  # a socket left open would warn


def test_a_body_may_be_as_large_as_allowed_and_no_byte_larger(site: Site) -> None:
    web = HttpsWeb(max_bytes=1000)
    for encoding, pack in (("identity", bytes), ("gzip", gzip.compress)):
        site.answer("/whole", 200, pack(b"x" * 1000), Content_Encoding=encoding)
        site.answer("/large", 200, pack(b"x" * 1001), Content_Encoding=encoding)
        assert web.fetch(f"{site.url}/whole") == Fetched(b"x" * 1000)
        with pytest.raises(StoreError, match="/large is larger than 1000 bytes"):
            web.fetch(f"{site.url}/large")


def test_an_endless_body_is_not_read_to_its_end(web: Web, site: Site) -> None:
    sent = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not site.over.is_set():
            sent.append(handler.wfile.write(b"x" * 65536))

    site.answers["/jwks.json"] = endless
    with pytest.raises(StoreError, match="larger than 1000000 bytes"):
        web.fetch(f"{site.url}/jwks.json")
    assert sum(sent) < 50_000_000


def test_what_follows_the_end_of_a_gzip_body_is_not_read(web: Web, site: Site) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(BODY, mtime=0))
        while not site.over.is_set():
            handler.wfile.write(b"x" * 65536)

    site.answers["/jwks.json"] = endless
    assert web.fetch(f"{site.url}/jwks.json") == Fetched(BODY)


def test_a_gzip_bomb_is_never_unpacked(web: Web, site: Site) -> None:
    import tracemalloc

    bomb = gzip.compress(bytes(300_000_000), 1)
    site.answer("/jwks.json", 200, bomb, Content_Encoding="gzip")
    tracemalloc.start()
    try:
        with pytest.raises(StoreError, match="larger than 1000000 bytes"):
            web.fetch(f"{site.url}/jwks.json")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "encoding", "told"),
    [
        (b"this is no gzip", "gzip", "broken gzip"),
        (gzip.compress(BODY, mtime=0)[:-4], "gzip", "broken gzip"),
        (gzip.compress(BODY, mtime=0)[:-8] + bytes(8), "gzip", "broken gzip"),
        (b"", "gzip", "broken gzip"),
        (BODY, "br", "'br', which was not asked for"),
        (BODY, "gzip, gzip", "which was not asked for"),
    ],
)
def test_a_body_that_cannot_be_unpacked_is_an_error(
    web: Web, site: Site, body: bytes, encoding: str, told: str
) -> None:
    site.answer("/jwks.json", 200, body, Content_Encoding=encoding)
    with pytest.raises(StoreError, match=told):
        web.fetch(f"{site.url}/jwks.json")


@pytest.mark.parametrize(
    "raw", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", b"SSH-2.0-OpenSSH_9.7\r\n\r\n"]
)
def test_a_server_that_hangs_up_or_speaks_another_language_is_an_error(web: Web, site: Site, raw: bytes) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(raw)
        handler.close_connection = True

    site.answers["/jwks.json"] = answer
    with pytest.raises(StoreError, match=r"/jwks\.json cannot be fetched"):
        web.fetch(f"{site.url}/jwks.json")


def test_many_threads_may_fetch_at_once(web: Web, site: Site) -> None:
    from concurrent.futures import ThreadPoolExecutor

    site.answer("/jwks.json", 200, BODY)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(web.fetch, [f"{site.url}/jwks.json"] * 24)) == [Fetched(BODY)] * 24
