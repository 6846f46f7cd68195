"""The JWS Compact Serialization (RFC 7515 section 7.1) of claims and of other payloads. Pure."""

from __future__ import annotations

import json
from binascii import b2a_base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from math import isfinite
from typing import Any

from rotator.errors import Refused
from rotator.keys.algorithms import PRIVATE_MEMBERS
from rotator.keys.policy import text

_URL = bytes.maketrans(b"+/", b"-_")

#: Callers may round ``exp`` up to the next whole second.
_ROUNDED = 1


def b64u(data: bytes) -> bytes:
    """Base64url without padding (RFC 7515 section 2)."""
    return b2a_base64(data, newline=False).translate(_URL, b"=")


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return numeric_date(value)
    raise TypeError(f"A {type(value).__name__} cannot stand in JSON; claims and headers are JSON (RFC 7519 section 3).")


_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plain).encode


def numeric_date(at: datetime) -> int:
    """Seconds since 1970 in UTC (RFC 7519 section 2), the fraction cut off.

    Raises:
        ValueError: ``at`` says no time zone.
    """
    if at.tzinfo is None:
        raise ValueError("A datetime among the claims has no time zone: say datetime.now(UTC), not datetime.now().")
    return int(at.timestamp())


def protected(alg: str, kid: str, typ: str | None, headers: Mapping[str, Any] | None = None) -> bytes:
    """The encoded protected header and its dot: ``alg`` and ``kid`` are the key's, ``typ`` yields to ``headers``.

    Raises:
        ValueError: a header would make the token mean something else than it is.
        TypeError: a header is not JSON.
    """
    header = {"alg": alg, "kid": kid, "typ": typ}
    for name, value in (headers or {}).items():
        if name in {"alg", "kid"} and value != header[name]:
            raise ValueError(f"The header {name} is the current key's ({header[name]}); leave it out.")
        if name == "b64":
            raise ValueError("The header b64 (RFC 7797) is for detached payloads, which are not made here.")
        if name == "jwk" and isinstance(value, Mapping) and not PRIVATE_MEMBERS.isdisjoint(value):
            raise ValueError("The header jwk holds a private member.")
        header[name] = value
    if header["typ"] is None:
        del header["typ"]
    return b64u(_json(header).encode("ascii")) + b"."


def encoded_claims(claims: Mapping[str, Any]) -> bytes:
    """The encoded claims; an aware datetime among them becomes a NumericDate (RFC 7519 section 2).

    Raises:
        TypeError: something among them is not JSON.
        ValueError: it is not a number (NaN), or a datetime has no time zone.
    """
    return b64u(_json(claims if isinstance(claims, dict) else dict(claims)).encode("ascii"))


def refuse_long_lived(claims: Mapping[str, Any], longest: float, now: float) -> None:
    """Let pass only claims that end within ``longest`` seconds: retention counts on it.

    Raises:
        Refused: they never end, or later; nothing was signed.
        ValueError: ``exp`` or ``iat`` is not a NumericDate (RFC 7519 sections 4.1.4 and 4.1.6).
    """
    iat, exp = _seconds(claims, "iat"), _seconds(claims, "exp")
    if exp is None:
        raise Refused(f"The claims have no exp: a token must end within token_lifetime ({_words(longest)}).")
    # An iat in the future would let a token live longer than the difference says.
    lives = max(exp - now - _ROUNDED, exp - iat if iat is not None else 0)
    if lives > longest:
        raise Refused(
            f"The claims end later than token_lifetime ({_words(longest)}) after iat, or after now: their key may be"
            " gone by then. Shorten exp, or raise token_lifetime in rotator's policy first."
        )


def _words(seconds: float) -> str:
    return text(timedelta(seconds=seconds))


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if isinstance(value, datetime):
        return numeric_date(value)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)):
        return value
    raise ValueError(f"The claim {name} must be a number of seconds since 1970 (RFC 7519 section 2).")


def _is_finite(value: float) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # an int that is more than a float holds
        return False
