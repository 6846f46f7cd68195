"""The certificate members of a JWK: ``x5c``, ``x5t``, ``x5t#S256``, ``x5u`` (RFC 7517 sections 4.6 to 4.9)."""

from __future__ import annotations

import base64
import binascii
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rotator.errors import ConfigurationError
from rotator.inspect.members import Members
from rotator.jose import keys, pem
from rotator.jose.findings import Finding, error, warning
from rotator.keys.material import b64u

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from cryptography.x509 import Certificate

    from rotator.keys.jwks import Jwk

_X5C = "RFC 7517 section 4.7"

#: Each thumbprint member: its length in bytes, and where it is written. x5t is SHA-1 because the RFC says so.
_THUMBPRINTS = {"x5t": (20, "RFC 7517 section 4.8"), "x5t#S256": (32, "RFC 7517 section 4.9")}


def check(jwk: Mapping[str, Any], spki: bytes | None, now: datetime) -> tuple[list[Finding], tuple[Certificate, ...]]:
    """What is wrong with the certificate members of ``jwk``, whose key is ``spki``; and the certificates in them."""
    findings: list[Finding] = []
    chain: tuple[Certificate, ...] = ()
    if "x5c" in jwk:
        chain = tuple(_chain(jwk["x5c"], findings))
        if chain:
            if spki is not None and keys.spki(_public(chain[0])) != spki:
                says = "The first certificate of 'x5c' is for another key: who uses it rejects every token."
                findings.append(error("x5c-mismatch", says, _X5C))
            findings += of_chain(chain, now, "'x5c'")
    for name, (size, source) in _THUMBPRINTS.items():
        if name in jwk:
            findings += _of_thumbprint(jwk, name, size, source, chain)
    address = jwk.get("x5u")
    if address is not None and not (isinstance(address, str) and address.startswith("https://")):
        findings.append(warning("x5u", "'x5u' must be an https:// URL.", "RFC 7517 section 4.6"))
    return findings, chain


def mended(jwk: Mapping[str, Any]) -> Jwk:
    """The certificate members of ``jwk`` as they should be written; those that cannot be put right are left out."""
    from cryptography.hazmat.primitives.serialization import Encoding

    found: Jwk = {}
    faults: list[Finding] = []
    chain = tuple(_chain(jwk["x5c"], faults)) if "x5c" in jwk else ()
    if chain and len(chain) == len(jwk["x5c"]):
        found["x5c"] = [base64.b64encode(each.public_bytes(Encoding.DER)).decode("ascii") for each in chain]
    for name, (size, source) in _THUMBPRINTS.items():
        octets = Members(jwk).octets(name, source)
        if octets is not None and len(octets) == size:
            found[name] = b64u(octets)
        elif name in jwk and "x5c" in found:
            found[name] = b64u(pem.thumbprints(chain[0])[name])
    return found


def _chain(value: object, findings: list[Finding]) -> Iterator[Certificate]:
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        findings.append(error("x5c", "'x5c' must be an array of certificates, each DER in base64.", _X5C))
        return
    for number, text in enumerate(value, 1):
        plain = "".join(text.split())
        if plain != text:
            findings.append(warning("x5c", f"Certificate {number} in 'x5c' has white space in it: leave it out.", _X5C))
        if "-" in plain or "_" in plain:
            says = f"Certificate {number} in 'x5c' is PEM or base64url: it must be DER in base64, nothing else."
            findings.append(error("x5c", says, _X5C))
            plain = plain.translate(str.maketrans("-_", "+/"))
        try:
            yield pem.certificate(base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True))
        except (ConfigurationError, binascii.Error, ValueError):
            findings.append(error("x5c", f"Certificate {number} in 'x5c' cannot be read. Replace it.", _X5C))
            return


def of_chain(chain: Sequence[Certificate], now: datetime, name: str) -> Iterator[Finding]:
    """What is wrong with certificates of which each is issued by the next."""
    from cryptography.exceptions import InvalidSignature

    first = chain[0]
    if first.not_valid_after_utc < now:
        says = f"The certificate of {name} ended on {first.not_valid_after_utc:%Y-%m-%d}: who checks it rejects it."
        yield warning("certificate-expired", says, "RFC 5280 section 4.1.2.5")
    elif first.not_valid_before_utc > now:
        says = f"The certificate of {name} is not valid before {first.not_valid_before_utc:%Y-%m-%d}."
        yield warning("certificate-not-yet-valid", says, "RFC 5280 section 4.1.2.5")
    for number, (below, above) in enumerate(pairwise(chain), 2):
        try:
            below.verify_directly_issued_by(above)
        except (InvalidSignature, TypeError, ValueError):
            says = f"Certificate {number} of {name} did not issue the one before it: put the chain in order."
            yield warning("x5c-order", says, _X5C)


def _of_thumbprint(
    jwk: Mapping[str, Any], name: str, size: int, source: str, chain: Sequence[Certificate]
) -> Iterator[Finding]:
    members = Members(jwk)
    octets = members.octets(name, source)
    yield from members.findings
    if octets is None:
        return
    if len(octets) != size:
        hexadecimal = " (it encodes hexadecimal digits)" if len(octets) == 2 * size and octets.isalnum() else ""
        says = f"{name!r} has {len(octets)} bytes, not {size}{hexadecimal}: no verifier finds the certificate by it."
        yield warning("x5t", says, source)
    elif chain and octets != pem.thumbprints(chain[0])[name]:
        yield error("x5t-mismatch", f"{name!r} is not the thumbprint of the first certificate in 'x5c'.", source)


def _public(certificate: Certificate) -> Any:
    return certificate.public_key()
