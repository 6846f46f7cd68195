"""A compact JWS or JWT: its header, its times, and the key that verifies it (RFC 7515, RFC 7519, RFC 8725).

A token lets its bearer in: of its claims only issuer, audience and times are told, and of its signature nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rotator.jose.findings import Finding, error, note, warning
from rotator.jose.reading import Doubled, doubled, object_of
from rotator.jose.registry import ALGS
from rotator.keys import material
from rotator.keys.algorithms import ALGORITHMS
from rotator.keys.material import unb64u

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rotator.inspect.keys import KeyReport
    from rotator.keys.algorithms import Algorithm

_HEADER, _CLAIMS = "RFC 7515 section 4.1", "RFC 7519 section 4.1"

#: A NumericDate beyond this is in milliseconds: as seconds it would be after the year 5000.
_MILLISECONDS = 100_000_000_000

_LONG = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class TokenReport:
    """What is known of one token."""

    header: dict[str, str]
    claims: dict[str, str]
    times: dict[str, datetime]
    verified_by: str | None
    """The kid, or the place, of the key that verifies it."""
    findings: tuple[Finding, ...]


def check(token: str, now: datetime, candidates: Sequence[KeyReport] | None) -> TokenReport:
    """What ``token`` says, and which of ``candidates`` verifies it; ``None``: no set was named."""
    first, second, third = token.split(".")
    findings: list[Finding] = []
    header = _object(first, "header", findings)
    claims = _object(second, "payload", findings)
    times: dict[str, datetime] = {}
    if header is not None:
        findings += _of_header(header)
    if claims is not None:
        times = _times(claims, findings)
        findings += _of_times(times, now, ends="exp" in claims)
    verified_by = None
    if header is not None:
        verified_by = _verified(header, f"{first}.{second}".encode(), third, candidates, findings)
    return TokenReport(
        _shown(header, ("alg", "kid", "typ", "cty")),
        _shown(claims, ("iss", "aud")),
        times,
        verified_by,
        tuple(findings),
    )


def _object(segment: str, name: str, findings: list[Finding]) -> dict[str, Any] | None:
    try:
        found = json.loads(unb64u(segment), object_pairs_hook=object_of)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, Doubled):
        findings.append(doubled(found, f"{'RFC 7515' if name == 'header' else 'RFC 7519'} section 4"))
    if isinstance(found, dict):
        return found
    if name == "header":
        findings.append(
            error("token", "The header is no JSON object in base64url: this is no token.", "RFC 7515 section 3")
        )
    else:
        says = "The payload is no JSON object: this is a JWS, but no JWT, and has no claims."
        findings.append(note("token", says, "RFC 7519 section 3"))
    return None


def _shown(found: dict[str, Any] | None, names: tuple[str, ...]) -> dict[str, str]:
    if found is None:
        return {}
    return {
        name: found[name][:200] if isinstance(found[name], str) else json.dumps(found[name])[:200]
        for name in names
        if name in found
    }


# -- header -----------------------------------------------------------------------------------------------------------


def _of_header(header: dict[str, Any]) -> Iterator[Finding]:
    alg = header.get("alg")
    if not isinstance(alg, str):
        yield error("token-alg", "The header has no 'alg': every verifier rejects the token.", f"{_HEADER}.1")
    elif alg.lower() == "none":
        says = "'alg' is none: the token is not signed, and anyone can write one. Reject it."
        yield error("alg-none", says, "RFC 8725 section 3.2")
    elif alg not in ALGS or ALGS[alg].use != "sig":
        yield error("token-alg", f"'alg' is {alg:.40}, which is no registered signature algorithm.", f"{_HEADER}.1")
    elif ALGS[alg].kinds == ("oct",):
        says = f"{alg} is symmetric: who can verify the token can make one, and no key set may hold its key."
        yield warning("token-symmetric", says, "RFC 8725 section 3.5")
    if not isinstance(header.get("kid"), str):
        says = "The header has no 'kid': across a rotation, verifiers cannot tell which key to take. Sign with one."
        yield warning("missing-kid", says, f"{_HEADER}.4")
    if "crit" in header:
        says = "The header has 'crit': a verifier that does not know the extensions in it must reject the token."
        yield warning("token-crit", says, f"{_HEADER}.11")
    for name in ("jwk", "jku", "x5u", "x5c"):
        if name in header:
            says = f"The header brings its own key ({name!r}): a verifier that trusts it lets anybody in."
            yield warning("token-own-key", says, "RFC 8725 section 3.10")


# -- times ------------------------------------------------------------------------------------------------------------


def _times(claims: dict[str, Any], findings: list[Finding]) -> dict[str, datetime]:
    times: dict[str, datetime] = {}
    for name in ("iat", "nbf", "exp"):
        value = claims.get(name)
        if name not in claims:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            says = f"{name!r} is no number of seconds since 1970: verifiers reject the token."
            findings.append(error("token-times", says, "RFC 7519 section 2"))
        elif value > _MILLISECONDS:
            says = f"{name!r} is in milliseconds, or beyond the year 5000: it must be in seconds."
            findings.append(error("token-times", says, "RFC 7519 section 2"))
        else:
            times[name] = datetime.fromtimestamp(value, UTC)
    return times


def _of_times(times: dict[str, datetime], now: datetime, *, ends: bool) -> Iterator[Finding]:
    end, begin, issued = times.get("exp"), times.get("nbf"), times.get("iat")
    if not ends:
        says = "There is no 'exp': the token never ends, and no key that signed it may ever leave the set."
        yield warning("token-no-exp", says, f"{_CLAIMS}.4")
    elif end is not None and end <= now:
        yield warning("token-expired", f"The token ended {_ago(now - end)} ago.", f"{_CLAIMS}.4")
    if begin is not None and begin > now:
        yield warning("token-not-yet-valid", f"The token is not valid for another {_ago(begin - now)}.", f"{_CLAIMS}.5")
    if issued is not None and issued > now:
        says = f"'iat' lies {_ago(issued - now)} ahead: the issuer's clock is fast, or ours slow."
        yield warning("token-not-yet-valid", says, f"{_CLAIMS}.6")
    if end is not None and issued is not None and end - issued > _LONG:
        says = f"The token lives for {_ago(end - issued)}: its key must stay published that long after it last signed."
        yield note("token-long", says, f"{_CLAIMS}.4")


def _ago(span: timedelta) -> str:
    from rotator.keys.policy import text

    return text(timedelta(seconds=int(span.total_seconds())))


# -- signature --------------------------------------------------------------------------------------------------------


def _verified(
    header: dict[str, Any], message: bytes, signed: str, candidates: Sequence[KeyReport] | None, findings: list[Finding]
) -> str | None:
    if candidates is None:
        says = "The signature was not checked: name the key set with --jwks."
        findings.append(note("token-unchecked", says, "RFC 7515 section 5.2"))
        return None
    alg, kid = header.get("alg"), header.get("kid")
    row = ALGORITHMS.get(alg) if isinstance(alg, str) else None
    try:
        signature = unb64u(signed)
    except ValueError:
        findings.append(error("token-signature", "The signature is no base64url: it is cut off.", "RFC 7515 section 3"))
        return None
    if row is None or header.get("b64") is False:
        says = "The signature was not checked: that is done for the algorithms that rotator rotates, and for no other."
        findings.append(warning("token-unchecked", says, "RFC 7515 section 5.2"))
        return None
    fitting = [key for key in candidates if _fits(key, row.alg)]
    by = next((key for key in fitting if material.verify(key.jwk, row, message, signature)), None)
    if by is None:
        findings.append(_unverified(kid, row, candidates, signature))
        return None
    name = by.kid or by.where
    if kid is not None and by.kid is not None and kid != by.kid:
        says = f"The token names the kid {kid!r:.80}, but the key {by.kid!r:.80} verifies it: verifiers reject it."
        findings.append(error("token-kid", says, f"{_HEADER}.4"))
    return name


def _fits(key: KeyReport, alg: str) -> bool:
    return (
        key.thumbprint is not None
        and key.alg in {None, alg}
        and key.kind is not None
        and key.kind.name in ALGS[alg].kinds
    )


def _unverified(kid: object, row: Algorithm, candidates: Sequence[KeyReport], signature: bytes) -> Finding:
    """Why no key verifies the token, as far as it shows."""
    half, named = row.coordinate_bytes, [key for key in candidates if key.kid is not None and key.kid == kid]
    if kid is not None and not named:
        known = ", ".join(repr(key.kid)[:60] for key in candidates[:10] if key.kid) or "none"
        says = f"The set has no key {kid!r:.80}: verifiers reject the token. It has: {known}."
        return error("token-kid", says, f"{_HEADER}.4")
    if named and not any(_fits(key, row.alg) for key in named):
        other = named[0].alg or named[0].type
        says = f"The token says {row.alg}, but the key {kid!r:.80} is {other}: verifiers reject it."
        return error("token-alg", says, "RFC 8725 section 3.1")
    if half is not None and len(signature) != 2 * half and signature[:1] == b"\x30":
        says = f"The signature is DER; JOSE wants r‖s, {2 * half} bytes. KMS and OpenSSL sign so: convert it."
        return error("token-signature", says, "RFC 7518 section 3.4")
    says = "No key of the set verifies the signature: the token was changed, or signed by another key."
    return error("token-signature", says, "RFC 7515 section 5.2")
