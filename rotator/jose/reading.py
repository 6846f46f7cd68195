"""An input of any form, taken apart: the keys in it, and what is wrong with how it is written.

Nothing here stops at the first fault: what can be read is read, and each fault is a finding.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from rotator.errors import ConfigurationError
from rotator.jose import keys, pem
from rotator.jose.findings import Finding, error, warning

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cryptography.x509 import Certificate

    from rotator.jose.pem import Part, Passphrase
    from rotator.keys.jwks import Jwk

#: No input larger than this is read: 1,000 keys with their certificates fit, and no verifier takes more.
MAX_BYTES = 5_000_000

#: No more keys than this are looked at, however small they are.
MAX_KEYS = 10_000

_BOM = b"\xef\xbb\xbf"
_JWS = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*){2}")
_JWE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*){4}")
_MARKUP = re.compile(rb"\s*<(!doctype|html|head|\?xml|!--|[a-z]+[\s>])", re.IGNORECASE)

_JSON = "RFC 8259"
_SET = "RFC 7517 section 5"


class Doubled(dict[str, Any]):
    """A JSON object in which a name stood twice; the last one counts (RFC 7517 section 4)."""

    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One key of the input: what it is, where it stood, and as a JWK."""

    where: str
    form: str
    jwk: Jwk = field(repr=False)
    """As it stood there, where it stood as a JWK; else made of what stood there. May hold a private half."""
    chain: tuple[Certificate, ...] = ()
    """The certificate that the key comes from, and those above it."""
    spki: bytes | None = None
    """Its SubjectPublicKeyInfo as it stood there, where that allows RSASSA-PSS alone (RFC 4055 section 1.2)."""

    @property
    def written(self) -> bool:
        """Whether somebody wrote this JWK: only then can its members be written wrong."""
        return self.form == "JWK"


@dataclass(frozen=True, slots=True)
class Contents:
    """What an input holds."""

    form: str
    """``JWKS``, ``JWK``, ``PEM``, ``DER``, ``OpenSSH``, ``JWT``, ``JWE``; or what it is instead."""
    size: int
    items: tuple[Item, ...] = ()
    findings: tuple[Finding, ...] = ()
    token: str = field(default="", repr=False)
    """The compact JWS, where the form is ``JWT``."""


def read(body: bytes, passphrase: Passphrase = lambda _: None) -> Contents:
    """Every key in ``body``, or the token it is; ``passphrase`` is asked where a key is encrypted."""
    if not body.strip():
        return _nothing(
            body, "nothing", "empty", "The input is empty: name the file or URL of a key, a set or a token."
        )
    if len(body) > MAX_BYTES:
        return too_large(len(body))
    if pem.is_pem(body):
        blocks = enumerate(islice(pem.parts(body, passphrase), MAX_KEYS), 1)
        return _of_parts("PEM", body, [*((f"block {number}", part) for number, part in blocks), *_lines(body)])
    if pem.is_ssh(body):
        return _of_parts("OpenSSH", body, _lines(body))
    if pem.is_der(body):
        return _of_der(body, body, passphrase)
    return _of_text(body, passphrase)


def too_large(size: int) -> Contents:
    """What is said of an input of ``size`` bytes or more, unread."""
    says = (
        f"The input has {size:,} bytes or more; nothing above {MAX_BYTES:,} is read, and no verifier takes a key set"
        " that large (AWS ALB stops at 150 KB)."
    )
    return Contents("too large", size, findings=(error("too-large", says),))


def _nothing(body: bytes, form: str, code: str, says: str, source: str = "") -> Contents:
    return Contents(form, len(body), findings=(error(code, says, source),))


# -- PEM, DER, OpenSSH ------------------------------------------------------------------------------------------------


def _lines(body: bytes) -> list[tuple[str, Part | ConfigurationError]]:
    return [(f"line {number}", part) for number, part in islice(pem.parts_of_ssh(body), MAX_KEYS)]


def _of_der(der: bytes, body: bytes, passphrase: Passphrase) -> Contents:
    part: Part | ConfigurationError
    try:
        part = pem.part_of_der(der, passphrase)
    except ConfigurationError as exc:
        part = exc
    return _of_parts("DER", body, [("", part)])


def _of_parts(form: str, body: bytes, found: Sequence[tuple[str, Part | ConfigurationError]]) -> Contents:
    items: list[Item] = []
    findings: list[Finding] = []
    for place, part in found:
        where = place if len(found) > 1 else ""
        try:
            if isinstance(part, ConfigurationError):
                raise part
            if not _above(part, items):
                items.append(_item(part, where))
        except ConfigurationError as exc:
            findings.append(error("unreadable", str(exc)).at(where))
    return Contents(form, len(body), tuple(items), tuple(findings))


def _item(part: Part, where: str) -> Item:
    private: Any = part.key
    jwk = keys.private_members(private) if part.private else keys.public_members(private)
    return Item(where, part.form, jwk, (part.certificate,) if part.certificate else (), part.spki)


def _above(part: Part, items: list[Item]) -> bool:
    """Whether ``part`` is the certificate that issued the last one; then it joins that one's chain."""
    if part.certificate is None or not items or not items[-1].chain:
        return False
    last = items[-1]
    if last.chain[-1].issuer != part.certificate.subject or last.chain[-1].issuer == last.chain[-1].subject:
        return False
    items[-1] = replace(last, chain=(*last.chain, part.certificate))
    return True


# -- JSON and tokens --------------------------------------------------------------------------------------------------


def _of_text(body: bytes, passphrase: Passphrase) -> Contents:
    if _MARKUP.match(body):
        says = (
            "This is HTML or XML, not JSON: the address answers with a page (an error, a login, a single-page app)"
            " instead of the key set. Mend the address."
        )
        return _nothing(body, "HTML or XML", "wrong-content", says, _SET)
    plain = body.removeprefix(_BOM)
    try:
        text = plain.decode("utf-8")
    except UnicodeDecodeError:
        return _of_bytes(body)
    findings: list[Finding] = []
    if len(plain) < len(body):
        says = "The document begins with a byte order mark: leave it out."
        findings.append(warning("bom", says, f"{_JSON} section 8.1"))
    compact = text.strip().removeprefix("Bearer ").strip()
    if _JWS.fullmatch(compact):
        return Contents("JWT", len(body), findings=tuple(findings), token=compact)
    if _JWE.fullmatch(compact):
        says = "This is an encrypted token or key (JWE): decrypt it first."
        return _nothing(body, "JWE", "encrypted", says, "RFC 7516 section 3.1")
    return _of_json_text(text, body, findings, passphrase)


def _of_json_text(text: str, body: bytes, findings: list[Finding], passphrase: Passphrase) -> Contents:
    try:
        document = _parsed(text)
    except json.JSONDecodeError as exc:
        return _base64_of_der(text, body, passphrase) or _no_json(
            body, f"{exc.msg} in line {exc.lineno}, column {exc.colno}"
        )
    except RecursionError:
        return _no_json(body, "it is nested too deeply")
    except ValueError as exc:
        return _no_json(body, str(exc))
    return _of_json(document, body, findings)


def _of_bytes(body: bytes) -> Contents:
    if body[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        says = "The document is UTF-16: JSON is exchanged as UTF-8. Write it anew."
        return _nothing(body, "UTF-16", "encoding", says, f"{_JSON} section 8.1")
    says = "This is neither text in UTF-8 nor DER: no key, set or token that is known."
    return _nothing(body, "unknown bytes", "wrong-content", says)


def _no_json(body: bytes, why: str) -> Contents:
    # What json says names a place and never quotes the input.
    says = f"This is no PEM, no DER, no token, and no JSON either: {why}."
    return _nothing(body, "unknown text", "wrong-content", says, _JSON)


def _base64_of_der(text: str, body: bytes, passphrase: Passphrase) -> Contents | None:
    """The certificate or key in bare base64, as ``x5c`` and many consoles show it."""
    try:
        der = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return _of_der(der, body, passphrase) if pem.is_der(der) else None


def _parsed(text: str) -> Any:
    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    def integer(digits: str) -> int:
        if len(digits) > 1000:  # noqa: PLR2004 - Python itself stops at 4,300, with words about Python
            raise ValueError("a number in it is too long")
        return int(digits)

    def fraction(digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            raise ValueError("a number in it is too large")
        return value

    return json.loads(
        text, object_pairs_hook=object_of, parse_constant=constant, parse_int=integer, parse_float=fraction
    )


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of its names and values, as ``json`` gives them; one that is :class:`Doubled` says so."""
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    doubled = Doubled(made)
    counts = Counter(name for name, _ in pairs)
    doubled.names = tuple(name for name, count in counts.items() if count > 1)
    return doubled


def _of_json(document: Any, body: bytes, findings: list[Finding]) -> Contents:
    size = len(body)
    if isinstance(document, list):
        says = "This is a JSON array: a set is an object with the member 'keys'. Wrap it."
        findings.append(error("wrong-content", says, _SET))
        return Contents("JWKS", size, tuple(_members(document, findings)), tuple(findings))
    if not isinstance(document, dict):
        return _nothing(body, "JSON", "wrong-content", "This is JSON, but neither a JWK nor a set of them.", _SET)
    if "keys" in document:
        if isinstance(document, Doubled):
            findings.append(doubled(document))
        found = document["keys"]
        if not isinstance(found, list):
            findings.append(error("wrong-content", "The member 'keys' must be an array of JWKs.", f"{_SET}.1"))
            found = []
        elif not found:
            says = "The set is empty: every verifier that fetches it rejects every token. Publish the current key."
            findings.append(error("empty-set", says, f"{_SET}.1"))
        if "kty" in document:
            says = (
                "The set has the member 'kty', as if it were a key: a JWK has no member 'keys'. Take one of them away."
            )
            findings.append(warning("mixed-content", says, _SET))
        return Contents("JWKS", size, tuple(_members(found, findings)), tuple(findings))
    if "kty" in document:
        return Contents("JWK", size, (Item("", "JWK", document),), tuple(findings))
    findings.append(error("wrong-content", _instead(document), _SET))
    return Contents("JSON", size, findings=tuple(findings))


def _members(found: list[Any], findings: list[Finding]) -> Iterator[Item]:
    if len(found) > MAX_KEYS:
        says = (
            f"The set has {len(found):,} members: the first {MAX_KEYS:,} are looked at, and no verifier takes so many."
        )
        findings.append(error("too-many-keys", says, _SET))
    for number, member in enumerate(found[:MAX_KEYS], 1):
        where = f"key {number}"
        if isinstance(member, dict):
            yield Item(where, "JWK", member)
        else:
            says = "This member of 'keys' is no JSON object: a JWK is one. Leave it out."
            findings.append(error("not-an-object", says, f"{_SET}.1").at(where))


def _instead(document: Mapping[str, Any]) -> str:
    address = document.get("jwks_uri")
    if isinstance(address, str):
        return f"This is a discovery document, not a key set: inspect the address {address:.200} in its 'jwks_uri'."
    if document and all(isinstance(value, str) and "BEGIN CERTIFICATE" in value for value in document.values()):
        return "These are certificates by key ID (as Google's 'x509' address serves them), not a key set."
    if {"ciphertext", "encrypted_key", "recipients"} & document.keys():
        return "This is encrypted (JWE in JSON): decrypt it first."
    if {"payload", "signature", "signatures"} & document.keys():
        return "This is a JWS in JSON, not a key set; only compact tokens are inspected."
    return "This is a JSON object, but it has neither 'keys' (a set) nor 'kty' (a JWK)."


def doubled(document: Doubled, source: str = "RFC 7517 section 4") -> Finding:
    """What is said of names that stand twice in an object."""
    names = ", ".join(repr(name[:40]) for name in document.names[:5])
    says = f"The name {names} stands more than once in one object: parsers differ in which one counts. Keep one."
    return error("duplicate-name", says, source)
