"""PEM and DER: every block that holds a key or a certificate, and a plain word for each that does not.

RFC 7468 (PEM labels), RFC 5958 (PKCS#8), RFC 8017 appendix A (PKCS#1), RFC 5915 (SEC1), RFC 5280 (SPKI, certificates).
"""

from __future__ import annotations

import hashlib
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rotator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
    from cryptography.x509 import Certificate

    #: Asks for the passphrase of what it is told; ``None``: there is none to be had.
    Passphrase = Callable[[str], bytes | None]

_MARKER = re.compile(rb"-----(BEGIN|END) ([A-Z0-9 ]{1,60})-----")

#: An OpenSSH public key (RFC 4253 section 6.6) in its line: its type, and it in base64.
_SSH = re.compile(rb"(?:^|\s)((?:ssh|ecdsa|sk|rsa|webauthn)-[A-Za-z0-9@.+_-]{2,80})\s+(AAAA[A-Za-z0-9+/]*=*)(?=\s|$)")
_SSH_WITH_JWK = re.compile(r"ssh-rsa|ssh-ed25519|ecdsa-sha2-nistp[0-9]+")
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')

#: What each label holds, as messages say it.
_HOLDS = {
    "PUBLIC KEY": "SPKI public key",
    "RSA PUBLIC KEY": "PKCS#1 public key",
    "PRIVATE KEY": "PKCS#8 private key",
    "ENCRYPTED PRIVATE KEY": "PKCS#8 private key",
    "RSA PRIVATE KEY": "PKCS#1 private key",
    "EC PRIVATE KEY": "SEC1 private key",
    "OPENSSH PRIVATE KEY": "OpenSSH private key",
    "CERTIFICATE": "certificate",
    "X509 CERTIFICATE": "certificate",
    "PKCS7": "certificates",
    "CERTIFICATE REQUEST": "certificate request",
    "NEW CERTIFICATE REQUEST": "certificate request",
}

#: What openssl writes beside a key; it holds none.
_BESIDE = {"EC PARAMETERS"}


@dataclass(frozen=True, slots=True)
class Part:
    """What one block, or one DER document, holds: a private key, a public key, or a certificate."""

    form: str
    key: PrivateKeyTypes | PublicKeyTypes = field(repr=False)
    private: bool
    certificate: Certificate | None = None


def is_pem(body: bytes) -> bool:
    """Whether a PEM block begins in ``body``; JSON that quotes one is JSON."""
    return body.lstrip()[:1] not in {b"{", b"["} and _MARKER.search(body) is not None


def is_ssh(body: bytes) -> bool:
    """Whether ``body`` is OpenSSH public keys, as in ``id_ed25519.pub`` and ``authorized_keys``."""
    first = next(_ssh_lines(body), None)
    return first is not None and _SSH.search(_QUOTED.sub(b"", first[1])) is not None


def _ssh_lines(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The numbered lines of ``body`` that are neither empty nor a comment (sshd(8), AUTHORIZED_KEYS FILE FORMAT)."""
    for number, line in enumerate(body.splitlines(), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith(b"#"):
            yield number, stripped


def is_der(body: bytes) -> bool:
    """Whether ``body`` begins as a DER SEQUENCE that ends where it ends."""
    if body[:1] != b"\x30" or len(body) < 2:  # noqa: PLR2004 - tag and length
        return False
    length, used = body[1], 2
    if length & 0x80:
        used += length & 0x7F
        length = int.from_bytes(body[2:used], "big")
    return used + length == len(body)


def parts(body: bytes, passphrase: Passphrase) -> Iterator[Part | ConfigurationError]:
    """What each PEM block in ``body`` holds, in order; an error stands where a block cannot be read."""
    markers = list(_MARKER.finditer(body))
    for begin, end in zip(markers, [*markers[1:], None], strict=True):
        label = begin[2].decode("ascii")
        if begin[1] == b"END" or label in _BESIDE:
            continue
        if end is None or (end[1], end[2]) != (b"END", begin[2]):
            yield ConfigurationError(f"The PEM block {label!r} is cut off: the END line of that name is missing.")
            continue
        try:
            yield from _in_block(label, body[begin.start() : end.end()], passphrase)
        except ConfigurationError as exc:
            yield exc


def _in_block(label: str, block: bytes, passphrase: Passphrase) -> Iterator[Part]:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.serialization import pkcs7

    form = _HOLDS.get(label)
    if form is None:
        raise ConfigurationError(f"A PEM block {label!r} holds no key that has a JWK.")
    with _readable(form):
        if form == "certificates":
            yield from map(_of_certificate, pkcs7.load_pem_pkcs7_certificates(block))
        elif form == "certificate":
            yield _of_certificate(x509.load_pem_x509_certificate(block.replace(b" X509 ", b" ")))
        elif form == "certificate request":
            yield Part(form, x509.load_pem_x509_csr(block).public_key(), private=False)
        elif form.endswith("public key"):
            yield Part(form, serialization.load_pem_public_key(block), private=False)
        else:
            load = serialization.load_ssh_private_key if label.startswith("OPENSSH") else _pem_private
            yield Part(form, _private(load, block, form, passphrase), private=True)


def part_of_der(body: bytes, passphrase: Passphrase) -> Part:
    """What the DER document ``body`` holds.

    Raises:
        ConfigurationError: nothing that is known, or an encrypted key without its passphrase. Never quotes the input.
    """
    from cryptography import x509
    from cryptography.exceptions import InternalError, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    readers: dict[str, Callable[[bytes], Any]] = {
        "certificate": x509.load_der_x509_certificate,
        "SPKI public key": serialization.load_der_public_key,
        "certificate request": x509.load_der_x509_csr,
    }
    for form, read in readers.items():
        with _readable(form):
            try:
                loaded = read(body)
            except (ValueError, x509.InvalidVersion):
                continue
            if form == "certificate":
                return _of_certificate(loaded)
            return Part(form, loaded if form == "SPKI public key" else loaded.public_key(), private=False)
    form = "private key"
    try:
        return Part(form, _private(_der_private, body, form, passphrase), private=True)
    except UnsupportedAlgorithm:
        raise _unsupported(form) from None
    except (ValueError, InternalError):
        raise ConfigurationError(
            "It is DER, but no SPKI, PKCS#8, PKCS#1 or SEC1 key and no certificate; out of PKCS#12,"
            " 'openssl pkcs12 -in FILE' takes what is in it."
        ) from None


def parts_of_ssh(body: bytes) -> Iterator[tuple[int, Part | ConfigurationError]]:
    """What each line of OpenSSH public keys holds, by its number; an error stands where a line cannot be read.

    Beside PEM only the lines that are such keys are read.
    """
    beside = is_pem(body)
    for number, line in _ssh_lines(body):
        if beside and not _SSH.search(_QUOTED.sub(b"", line)):
            continue
        try:
            yield number, _of_ssh(line)
        except ConfigurationError as exc:
            yield number, exc


def _of_ssh(line: bytes) -> Part:
    from cryptography.hazmat.primitives import serialization

    form = "OpenSSH public key"
    # Options stand before the key, and may quote anything.
    found = _SSH.search(_QUOTED.sub(b"", line))
    if found is None:
        raise ConfigurationError("The line is no OpenSSH public key, and no comment.")
    kind = found[1].decode("ascii")
    if not _SSH_WITH_JWK.fullmatch(kind):
        raise ConfigurationError(
            f"An {form} of type {kind:.60} has no JWK: of them ssh-rsa, ssh-ed25519 and ecdsa-sha2-nistp* have."
        )
    with _readable(form):
        loaded: Any = serialization.load_ssh_public_key(found[1] + b" " + found[2])
    return Part(form, loaded, private=False)


def certificate(der: bytes) -> Certificate:
    """The certificate in ``der``.

    Raises:
        ConfigurationError: it cannot be read.
    """
    from cryptography import x509

    with _readable("certificate"):
        return _sound(x509.load_der_x509_certificate(der))


def _sound(found: Certificate) -> Certificate:
    """``found``, once all that is asked of it later was parsed: cryptography parses each part when it is asked for."""
    found.public_key()
    # A year 0000 stands in some, and Python has no such date.
    _ = found.not_valid_before_utc, found.not_valid_after_utc
    for part in (found.subject, found.issuer):
        part.rfc4514_string()
    return found


def thumbprints(found: Certificate) -> dict[str, bytes]:
    """``x5t`` and ``x5t#S256`` (RFC 7517 sections 4.8 and 4.9) of a certificate, not yet in base64url."""
    from cryptography.hazmat.primitives.serialization import Encoding

    der = found.public_bytes(Encoding.DER)
    # SHA-1, because the RFC says so.
    return {"x5t": hashlib.sha1(der, usedforsecurity=False).digest(), "x5t#S256": hashlib.sha256(der).digest()}


def _of_certificate(found: Certificate) -> Part:
    return Part("certificate", _sound(found).public_key(), private=False, certificate=found)


def _pem_private(block: bytes, password: bytes | None) -> Any:
    from cryptography.hazmat.primitives import serialization

    # Its checks cost as much as a new RSA key; where the private half is written out again it is checked.
    return serialization.load_pem_private_key(block, password, unsafe_skip_rsa_key_validation=True)


def _der_private(body: bytes, password: bytes | None) -> Any:
    from cryptography.hazmat.primitives import serialization

    return serialization.load_der_private_key(body, password, unsafe_skip_rsa_key_validation=True)


def _private(load: Callable[..., Any], body: bytes, form: str, passphrase: Passphrase) -> Any:
    from cryptography.exceptions import InternalError, UnsupportedAlgorithm

    try:
        return load(body, None)
    except TypeError:
        secret = passphrase(form)
    except ValueError as exc:
        # An encrypted OpenSSH key is told from a broken one by the words alone.
        if "password" not in str(exc).lower():
            raise
        secret = passphrase(form)
    if not secret:
        raise ConfigurationError(
            f"The {form} is encrypted: name a file that holds its passphrase with --passphrase-file, or run this on a"
            " terminal to be asked."
        )
    try:
        return load(body, secret)
    except UnsupportedAlgorithm:
        raise ConfigurationError(
            f"The {form} is encrypted in a way that is not supported: 'openssl pkcs8 -topk8 -in FILE' (for OpenSSH"
            " 'ssh-keygen -p -m PKCS8 -f FILE') writes it as PKCS#8."
        ) from None
    except (TypeError, ValueError, InternalError):
        raise ConfigurationError(f"The {form} cannot be decrypted: the passphrase is wrong.") from None


@contextmanager
def _readable(form: str) -> Iterator[None]:
    """Raise whatever ``cryptography`` says of a block as ours; its words may quote the input and are not kept."""
    from cryptography import x509
    from cryptography.exceptions import InternalError, UnsupportedAlgorithm

    try:
        with warnings.catch_warnings():
            # What cryptography will refuse one day (a serial number of 0, say) is no matter of keys.
            warnings.simplefilter("ignore")
            yield
    except UnsupportedAlgorithm:
        raise _unsupported(form) from None
    except (AttributeError, TypeError, ValueError, InternalError, x509.InvalidVersion):
        raise ConfigurationError(f"The {form} cannot be read: it is damaged, or something else.") from None


def _unsupported(form: str) -> ConfigurationError:
    return ConfigurationError(
        f"The {form} is of a kind or on a curve that is not supported: JOSE has RSA, P-256, P-384, P-521, secp256k1,"
        " Ed25519, Ed448, X25519, X448 and ML-DSA."
    )
