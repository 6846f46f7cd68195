"""``rotator inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rotator.cli import fleet, output, sources
from rotator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rotator.inspect import Report
    from rotator.inspect.keys import KeyReport
    from rotator.inspect.tokens import TokenReport
    from rotator.jose.findings import Finding

#: Exit codes by the worst severity; notes are fine.
_WARNINGS, _ERRORS = 4, 5

#: More keys with one and the same fault are counted, not named.
_NAMED = 8

#: Of fewer keys each is named.
_ALL = 3


def inspect(
    source: sources.Source,
    verifiers: Annotated[
        list[str] | None,
        typer.Option(
            "--for", metavar="NAME", help="Check the limits of this verifier, e.g. alb; or of all. Repeatable."
        ),
    ] = None,
    key_set: Annotated[
        str | None,
        typer.Option("--jwks", metavar="FILE|URL", help="The key set that is to verify the token."),
    ] = None,
    passphrase_file: sources.PassphraseFile = None,
    as_json: fleet.Json = False,
) -> None:
    """Name all that is wrong with a key, key set or token.

    Says what it is, too. Reads a JWK, a JWKS, PEM, DER, OpenSSH keys, certificates and chains, and compact tokens.
    Private members and signatures are never shown. Verifiers for --for: alb, apigateway, iam, oci, pyjwt, joserfc,
    authlib, jwcrypto, python-jose, jose, jwks-rsa, aws-jwt-verify, express-oauth2-jwt-bearer, get-jwks,
    mod_auth_openidc, envoy, keyfunc, nimbus, istio, microsoft, openid (its conformance suite), all.

    \b
    Exit codes: 0 nothing worse than notes, 4 warnings, 5 errors; 1 the URL does not answer, 2 usage.

    \b
    Examples:
      rotator inspect https://accounts.example.com/.well-known/jwks.json
      rotator inspect jwks.json --for alb --for pyjwt
      rotator inspect token.txt --jwks jwks.json
    """
    from rotator import app
    from rotator.inspect import inspect as judged
    from rotator.inspect.verifiers import chosen

    names = chosen(verifiers or ())
    if source == "-" and key_set == "-":
        raise ConfigurationError("Only one of the token and --jwks can be standard input.")
    reader = sources.Reader(passphrase_file)
    contents = reader.read(source)
    if key_set is not None and not contents.token:
        raise ConfigurationError(f"--jwks is for a token, and {sources.shown(source)} is none ({contents.form}).")
    if names and contents.token:
        raise ConfigurationError(f"--for is for a key set, and {sources.shown(source)} is a token: inspect its set.")
    against = None if key_set is None else reader.read(key_set)
    if against is not None and not against.items:
        says = against.findings[0].says if against.findings else "It holds no key."
        raise ConfigurationError(f"{sources.shown(key_set or '')} is no key set to verify with. {says}")
    address = source if sources.is_url(source) else None
    report = judged(contents, app.now(), against=against, verifier_names=names, address=address)
    if as_json:
        output.data(_facts(sources.shown(source), report))
    else:
        for line in _lines(sources.shown(source), report):
            output.say(line)
    _end(report)


def _end(report: Report) -> None:
    from rotator.jose.findings import Severity

    if report.worst is Severity.ERROR:
        raise typer.Exit(_ERRORS)
    if report.worst is Severity.WARNING:
        raise typer.Exit(_WARNINGS)


# -- for people -------------------------------------------------------------------------------------------------------


def _lines(name: str, report: Report) -> Iterator[str]:
    count = f", {len(report.keys)} key{'s' if len(report.keys) != 1 else ''}" if report.keys else ""
    yield f"{name}: {report.form}{count}, {report.size:,} bytes"
    for key in report.keys:
        yield from _of_key(key)
    if report.token is not None:
        yield from _of_token(report.token)
    found = list(report.everything())
    if found:
        yield ""
        yield from _of_findings(found, len(report.keys))
        yield _sum(found)
    else:
        yield "Nothing is wrong with it."


def _of_key(key: KeyReport) -> Iterator[str]:
    labels = {"use": key.use, "key_ops": " ".join(key.key_ops or ()), "alg": key.alg}
    facts = [
        key.type,
        *(f"{name} {value}" for name, value in labels.items() if value),
        *(["private"] if key.private else []),
        *([key.form] if key.where and key.form != "JWK" else []),
    ]
    yield ""
    yield f"{key.where or key.form}: {', '.join(facts)}"
    if key.kid is not None:
        yield f"  kid           {key.kid}"
    if key.thumbprint is not None:
        yield f"  thumbprint    {key.thumbprint}  (RFC 7638)"
        yield f"  SPKI SHA-256  {key.spki_sha256}"
    for certificate in key.chain:
        yield (
            f"  certificate   {certificate.subject.rfc4514_string() or '(no subject)'}"
            f"  {certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}"
        )


def _of_token(token: TokenReport) -> Iterator[str]:
    yield ""
    for name, value in (token.header | token.claims).items():
        yield f"  {name:<12}{value}"
    for name, at in token.times.items():
        yield f"  {name:<12}{at:%Y-%m-%d %H:%M:%S}Z"
    if token.verified_by is not None:
        yield f"  verified by {token.verified_by}"


def _of_findings(found: Iterable[Finding], keys: int) -> Iterator[str]:
    """One line for each thing said, the worst first, with all the places it is said of."""
    places: dict[tuple[int, str, str], list[str]] = {}
    for each in sorted(found, key=lambda finding: -finding.severity):
        places.setdefault((each.severity, each.says, each.source), []).append(each.where)
    from rotator.jose.findings import Severity

    for (severity, says, source), where in places.items():
        named = _listed([place for place in where if place], keys)
        yield f"{Severity(severity)!s:<8} {named}{says}{f' ({source})' if source else ''}"


def _listed(places: list[str], keys: int) -> str:
    if not places:
        return ""
    if len(places) == keys >= _ALL:
        return f"all {keys} keys: "
    if len(places) > _NAMED:
        return f"{len(places)} keys, {places[0]} among them: "
    kind = places[0].partition(" ")[0]
    return f"{kind}{'s' if len(places) > 1 else ''} {', '.join(place.partition(' ')[2] for place in places)}: "


def _sum(found: list[Finding]) -> str:
    from rotator.jose.findings import Severity

    counts = {severity: sum(each.severity is severity for each in found) for severity in reversed(Severity)}
    return ", ".join(f"{count} {severity}{'s' if count != 1 else ''}" for severity, count in counts.items())


# -- for programs -----------------------------------------------------------------------------------------------------


def _facts(name: str, report: Report) -> dict[str, Any]:
    return {
        "input": name,
        "form": report.form,
        "bytes": report.size,
        "worst": None if report.worst is None else str(report.worst),
        "findings": [_finding(each) for each in report.findings],
        "keys": [_key(each) for each in report.keys],
        "token": report.token and _token(report.token),
    }


def _key(key: KeyReport) -> dict[str, Any]:
    return {
        "where": key.where,
        "form": key.form,
        "kty": key.kind and key.kind.kty,
        "kind": key.kind and key.kind.name,
        "bits": key.bits,
        "private": key.private,
        "kid": key.kid,
        "use": key.use,
        "alg": key.alg,
        "key_ops": key.key_ops,
        "thumbprint": key.thumbprint,
        "spki_sha256": key.spki_sha256,
        "certificates": [
            {
                "subject": each.subject.rfc4514_string(),
                "issuer": each.issuer.rfc4514_string(),
                "not_before": each.not_valid_before_utc,
                "not_after": each.not_valid_after_utc,
            }
            for each in key.chain
        ],
        "findings": [_finding(each) for each in key.findings],
    }


def _token(token: TokenReport) -> dict[str, Any]:
    return {
        "header": token.header,
        "claims": token.claims,
        "times": token.times,
        "verified_by": token.verified_by,
        "findings": [_finding(each) for each in token.findings],
    }


def _finding(found: Finding) -> dict[str, str]:
    return {
        "severity": str(found.severity),
        "code": found.code,
        "where": found.where,
        "says": found.says,
        "source": found.source,
    }
