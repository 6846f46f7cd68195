"""No private value that any test generated stands in anything that the test wrote, logged or printed.

``conftest.py`` makes pytest call the hooks below. Each private half that ``rotator.keys.material.generate`` makes is
learned in every form in which it could leak: raw, base64url, base64, hexadecimal and decimal, and the lines of its PEM.
What is searched: captured output and log records, what the command line and child processes printed, every document
that a store, the simulated world or a test directory holds; the homes of private keys themselves are left out.
"""

from __future__ import annotations

import base64
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from rotator.documents.filesystem import FilesystemDocuments
from rotator.documents.s3 import S3Documents
from rotator.keys import material
from tests.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

#: Tests whose subject is a private key that is shown on purpose.
BY_DESIGN = {
    "test_adopt.py": "it hands private keys to 'rotator adopt' in files",
    "test_adopt_aws.py": "it hands private keys to 'rotator adopt' in files",
    "test_key_commands.py": "'rotator generate' and 'convert' print private keys",
    "test_jose.py": "it makes and converts private keys",
}

#: Files and directories in which private keys live: they hold nothing else.
_HOMES = re.compile(r"(^|/)(private-)?keys?(/|$)|\.(pem|key|der|pk8)$|/\.half-|passphrase")

_RUN = re.compile(r"[A-Za-z0-9+/_-]{40,}")
_LARGEST = 2_000_000

#: How many of a test's own keys are looked for inside longer texts, too (base64 of a whole JWK, say).
_INSIDE = 40


class Watch:
    """What must never be seen, and where it was."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.recent: list[tuple[str | bytes, str]] = []
        self.found: list[str] = []

    def learn(self, private: Any, alg: str) -> None:
        """Remember every form of one private half."""
        values = secret_values(private)
        for name, value in values.items():
            for form, words in forms(value).items():
                self.known[words] = f"{name} of a key for {alg}, in {form}"
        for line in telling_lines(material.private_pem(private)):
            self.known[line] = f"the PEM of a key for {alg}"
        for name, value in values.items():
            what = f"{name} of a key for {alg}"
            self.recent += [(value, f"{what}, raw"), (base64.b64encode(value)[:-4].decode(), what)]
            self.recent.append((base64.urlsafe_b64encode(value)[:-4].decode(), what))

    def look(self, words: str | bytes | None, where: str) -> None:
        """Search ``words``; what is found is told when the test ends."""
        if not words or len(words) > _LARGEST:
            return
        body = words if isinstance(words, bytes) else words.encode("utf-8", "replace")
        said = body.decode("latin-1")
        for run in _RUN.findall(said):
            if run in self.known:
                self.found.append(f"{self.known[run]} stands in {where}")
        for value, what in self.recent[-3 * _INSIDE :]:
            if (value in body) if isinstance(value, bytes) else (value in said):
                self.found.append(f"{what} stands in {where}")

    def look_through(self, directory: Path) -> None:
        """Search every file below ``directory`` but the homes of private keys."""
        for file in directory.rglob("*"):
            inside = file.relative_to(directory).as_posix()
            if not _HOMES.search(inside) and file.is_file() and not file.is_symlink():
                try:
                    self.look(file.read_bytes(), f"the file {inside}")
                except OSError:
                    continue


def secret_values(private: Any) -> dict[str, bytes]:
    """The numbers or bytes that nobody else may know, by their JWK names (RFC 7518 section 6, RFC 8037, RFC 9964)."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(private, rsa.RSAPrivateKey):
        numbers = private.private_numbers()
        secret = {"d": numbers.d, "p": numbers.p, "q": numbers.q, "dp": numbers.dmp1, "dq": numbers.dmq1}
        return {name: value.to_bytes((value.bit_length() + 7) // 8, "big") for name, value in secret.items()}
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return {"d": private.private_numbers().private_value.to_bytes((private.key_size + 7) // 8, "big")}
    raw = serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    return {"d": private.private_bytes(*raw)}


def forms(value: bytes) -> dict[str, str]:
    """The texts under which ``value`` could be written."""
    return {
        "base64url": base64.urlsafe_b64encode(value).rstrip(b"=").decode(),
        "base64": base64.b64encode(value).rstrip(b"=").decode(),
        "hexadecimal": value.hex(),
        "HEXADECIMAL": value.hex().upper(),
        "decimal": str(int.from_bytes(value, "big")) if len(value) < 1_500 else value.hex(),
    }


def telling_lines(pem: bytes) -> Iterator[str]:
    """Lines of a PKCS#8 PEM that hold private bytes: the first of a short one, the middle and later ones of RSA's."""
    lines = pem.decode().splitlines()[1:-1]
    for line in lines[:1] if len(lines) < 10 else lines[len(lines) // 2 : -1]:
        yield line.rstrip("=")


WATCH = Watch()


def pytest_configure(config: pytest.Config) -> None:
    """Listen where private halves are made, and where anything is written or printed."""
    if getattr(material.generate, "watched", False):
        return
    honest_generate = material.generate

    def generate(algorithm: Any, rsa_bits: int) -> Any:
        private = honest_generate(algorithm, rsa_bits)
        WATCH.learn(private, algorithm.alg)
        return private

    generate.watched = True  # type: ignore[attr-defined]
    material.generate = generate
    _listen(CliRunner, "invoke", lambda done: WATCH.look(done.output, "what the command line printed"))
    _listen(pytest.CaptureFixture, "readouterr", lambda done: WATCH.look(done.out + done.err, "captured output"))
    _listen(subprocess.Popen, "communicate", _told)
    for store in (FilesystemDocuments, S3Documents):
        for call in ("create", "replace"):
            _overhear(store, call, lambda given: WATCH.look(given[2], f"the document {given[1]}"))
    _overhear(World, "_written", lambda given: WATCH.look(given[2], f"the simulated document {given[1]}"))


def _told(streams: tuple[Any, Any]) -> None:
    for stream in streams:
        WATCH.look(stream, "what a process printed")


def _listen(of: type, call: str, hear: Callable[[Any], None]) -> None:
    honest = getattr(of, call)

    def listening(*given: Any, **named: Any) -> Any:
        done = honest(*given, **named)
        hear(done)
        return done

    setattr(of, call, listening)


def _overhear(of: type, call: str, hear: Callable[[Any], None]) -> None:
    honest = getattr(of, call)

    def listening(*given: Any, **named: Any) -> Any:
        hear(given)
        return honest(*given, **named)

    setattr(of, call, listening)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Fail the test whose output holds a private value."""
    report = yield
    if call.when != "call":
        return report
    home = getattr(item, "funcargs", {}).get("tmp_path")
    if home is not None:
        WATCH.look_through(home)
    WATCH.look(report.capstdout + report.capstderr, "captured output")
    WATCH.look(report.caplog, "the log")
    WATCH.recent.clear()
    found, WATCH.found = list(dict.fromkeys(WATCH.found)), []
    if found and item.path.name not in BY_DESIGN:
        report.outcome = "failed"
        report.longrepr = "A private value leaked: " + "; ".join(found[:5])
    return report
