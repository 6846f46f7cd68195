"""The members of one JWK, read as a forgiving verifier reads them, with a finding for each thing forgiven."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from rotator.jose.findings import Finding, error, warning
from rotator.keys.material import b64u, unb64u

if TYPE_CHECKING:
    from collections.abc import Mapping

_BASE64URL = "RFC 7515 section 2"
_STANDARD = str.maketrans("+/", "-_")
_ALPHABET = re.compile(r"[A-Za-z0-9_-]*")


class Members:
    """Reads the members of ``jwk``; what is wrong with them gathers in ``findings``."""

    def __init__(self, jwk: Mapping[str, Any]) -> None:
        self._jwk = jwk
        self.findings: list[Finding] = []

    def text(self, name: str, source: str) -> str | None:
        """The string ``name``; ``None``: there is none, which is no fault, or it is something else."""
        value = self._jwk.get(name)
        if isinstance(value, str):
            return value
        if name in self._jwk:
            self.findings.append(error("wrong-type", f"{name!r} must be a string.", source))
        return None

    def octets(self, name: str, source: str) -> bytes | None:
        """The bytes of the required base64url member ``name``; ``None``: none can be made out."""
        if name not in self._jwk:
            self.findings.append(error("missing-member", f"{name!r} is missing: there is no key without it.", source))
            return None
        text = self.text(name, source)
        return None if text is None else self._decoded(name, text)

    def _decoded(self, name: str, text: str) -> bytes | None:
        plain = text.rstrip("=")
        if plain != text:
            says = f"{name!r} is padded with '=': strict verifiers refuse the key. Leave the padding out."
            self.findings.append(error("padded", says, _BASE64URL))
        if "+" in plain or "/" in plain:
            says = f"{name!r} is base64, not base64url: strict verifiers refuse it. Write '-' and '_' for '+' and '/'."
            self.findings.append(error("not-base64url", says, _BASE64URL))
            plain = plain.translate(_STANDARD)
        if not _ALPHABET.fullmatch(plain) or len(plain) % 4 == 1:
            self.findings.append(
                error("not-base64url", f"{name!r} is not base64url: it is damaged or cut off.", _BASE64URL)
            )
            return None
        octets = unb64u(plain)
        if b64u(octets) != plain:
            says = f"{name!r} ends in bits that belong to no byte, so two texts stand for one value. Encode it anew."
            self.findings.append(warning("non-canonical", says, "RFC 4648 section 3.5"))
        return octets

    def number(self, name: str, source: str) -> int | None:
        """The Base64urlUInt ``name`` (RFC 7518 section 2); ``None``: none can be made out."""
        octets = self.octets(name, source)
        if not octets:
            if octets is not None:
                self.findings.append(error("missing-member", f"{name!r} is empty: there is no key without it.", source))
            return None
        if octets[0] == 0 and len(octets) > 1:
            says = (
                f"{name!r} begins with a zero byte: thumbprints of it differ, and strict verifiers refuse it."
                " Encode the number without."
            )
            self.findings.append(warning("leading-zero", says, "RFC 7518 section 2"))
        return int.from_bytes(octets, "big")

    def exactly(self, name: str, size: int, source: str, *, number: bool) -> bytes | None:
        """The member ``name`` of just ``size`` bytes; ``None``: none can be made out.

        Where it is a ``number``, as in EC, it is filled up, or its zeros are cut; bytes of another length are no key.
        """
        octets = self.octets(name, source)
        if octets is None or len(octets) == size:
            return octets
        code = "too-short" if len(octets) < size else "too-long"
        if not number:
            why = "it is cut off, damaged, or of another kind"
        elif len(octets) < size:
            why = "leading zeros were stripped, or it is cut off. Encode it at full length"
        else:
            why = "leave out the leading zeros" if not any(octets[:-size]) else "it is of another kind, or damaged"
        self.findings.append(error(code, f"{name!r} has {len(octets)} bytes, not {size}: {why}.", source))
        value = int.from_bytes(octets, "big")
        return value.to_bytes(size, "big") if number and value.bit_length() <= 8 * size else None
