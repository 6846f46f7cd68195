"""PEM and DER: every block that holds a key or a certificate, and a plain word for each that does not.

RFC 7468 (PEM labels), RFC 5958 (PKCS#8), RFC 8017 appendix A (PKCS#1), RFC 5915 (SEC1), RFC 5280 (SPKI, certificates).
"""

from __future__ import annotations

import base64
import hashlib
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from rotator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
    from cryptography.x509 import Certificate, CertificateSigningRequest

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

#: The greatest length that a DER element says in one byte.
_SHORT = 0x7F

#: What openssl writes beside a key; it holds none.
_BESIDE = {"EC PARAMETERS"}


@dataclass(frozen=True, slots=True)
class Part:
    """What one block, or one DER document, holds: a private key, a public key, or a certificate."""

    form: str
    key: PrivateKeyTypes | PublicKeyTypes = field(repr=False)
    private: bool
    certificate: Certificate | None = None
    spki: bytes | None = None
    """Its SubjectPublicKeyInfo as it stood there, where that says more than the key: :func:`pss_algs`."""


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
            yield _of_request(x509.load_pem_x509_csr(block))
        elif form.endswith("public key"):
            public = serialization.load_pem_public_key(block)
            yield Part(form, public, private=False, spki=_pss_spki(_der_of(block), public))
        else:
            load = serialization.load_ssh_private_key if label.startswith("OPENSSH") else _pem_private
            private = _private(load, block, form, passphrase)
            plain = _der_of(block) if label == "PRIVATE KEY" else b""
            yield Part(form, private, private=True, spki=_pss_spki(plain, private.public_key()))


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
            if form == "certificate request":
                return _of_request(loaded)
            return Part(form, loaded, private=False, spki=_pss_spki(body, loaded))
    form = "private key"
    try:
        private = _private(_der_private, body, form, passphrase)
        return Part(form, private, private=True, spki=_pss_spki(body, private.public_key()))
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
    public: Any = _sound(found).public_key()
    # version (RFC 5280 section 4.1), which is left out of the oldest, serial, signature, issuer, validity, subject
    fields = list(_elements(found.tbs_certificate_bytes))
    info = fields[6 if fields[0][0] == _VERSION else 5]
    return Part("certificate", public, private=False, certificate=found, spki=_pss_spki(info, public))


def _of_request(found: CertificateSigningRequest) -> Part:
    public: Any = found.public_key()
    _, _, info, *_ = _elements(found.tbs_certrequest_bytes)
    return Part("certificate request", public, private=False, spki=_pss_spki(info, public))


# -- RSASSA-PSS -------------------------------------------------------------------------------------------------------

_SEQUENCE, _BIT_STRING, _VERSION = 0x30, 0x03, 0xA0

#: id-RSASSA-PSS, and the hash algorithms that JOSE has names for with it, as DER (RFC 4055 sections 2.1 and 3.1).
_PSS = bytes.fromhex("06092a864886f70d01010a")
_PSS_HASHES = {bytes.fromhex(f"060960864801650304020{n}"): f"PS{bits}" for n, bits in ((1, 256), (2, 384), (3, 512))}


def pss_algs(spki: bytes) -> tuple[str, ...]:
    """The ``alg`` that an RSA key may be used with whose ``spki`` allows RSASSA-PSS alone (RFC 4055 section 1.2)."""
    identifier, *_ = _elements(spki)
    _, *parameters = _elements(identifier)
    if not parameters:
        return tuple(_PSS_HASHES.values())
    # The hash algorithm comes first among the parameters; SHA-1, which has no name in JOSE, is left out.
    hashed = next((each for each in _elements(parameters[0]) if each[0] == _VERSION), b"")
    return tuple(alg for oid, alg in _PSS_HASHES.items() if oid in hashed)


def _pss_spki(der: bytes, key: PublicKeyTypes) -> bytes | None:
    """The SPKI of ``key``, read from the SPKI or PKCS#8 ``der``, where that allows RSASSA-PSS alone.

    ``cryptography`` takes such a key for any RSA key.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    if not isinstance(key, rsa.RSAPublicKey):
        return None
    identifier = next((each for each in islice(_elements(der), 2) if each[0] == _SEQUENCE), b"")
    if next(_elements(identifier), b"") != _PSS:
        return None
    pkcs1 = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    return _element(_SEQUENCE, identifier + _element(_BIT_STRING, b"\0" + pkcs1))


def _der_of(block: bytes) -> bytes:
    """What stands in a PEM block; nothing where that is more than base64."""
    try:
        return base64.b64decode(_MARKER.sub(b"", block))
    except ValueError:
        return b""


def _element(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = size.to_bytes((size.bit_length() + 7) // 8, "big") if size > _SHORT else b""
    return bytes([tag, _SHORT + 1 + len(length) if length else size]) + length + content


def _elements(der: bytes) -> Iterator[bytes]:
    """The elements in the DER element ``der``, each whole."""
    start, end = _content(der, 0)
    while start < end:
        _, after = _content(der, start)
        yield der[start:after]
        start = after


def _content(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at ``at`` begins and ends; nothing where there is none."""
    first = der[at + 1] if at + 1 < len(der) else 0
    long = first - _SHORT - 1 if first > _SHORT else 0
    begin = at + 2 + long
    size = int.from_bytes(der[at + 2 : begin], "big") if long else first
    return begin, min(begin + size, len(der))


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
