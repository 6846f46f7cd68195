"""``rotator verify``: the probe for monitors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rotator.cli import fleet, output, sources
from rotator.errors import ConfigurationError, RotatorError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rotator.engine.verifying import Verification
    from rotator.keys.verification import Copy, Fault


def verify(
    ctx: typer.Context,
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEYSET|URL", show_default=False, help="Key sets or URLs; else all key sets."),
    ] = None,
    as_json: fleet.Json = False,
) -> None:
    """Check what verifiers get and issuers sign: for a monitor.

    Fetches each document from each public URL, compares it with the ledger, looks at headers, age and limits, signs
    with every current key through the key store and verifies that with what was fetched. Of a URL (a JWKS, or a
    discovery document, which is followed) only what it shows itself is checked. Changes nothing.

    \b
    Exit codes:
      0  tokens verify; there may be warnings
      1  tokens are rejected, or soon will be

    \b
    Examples:
      rotator verify
      rotator verify acme --json
      rotator verify https://id.example.com/.well-known/openid-configuration
    """
    urls = [target for target in targets or () if sources.is_url(target)]
    names = [target for target in targets or () if not sources.is_url(target)]
    if urls and names:
        raise ConfigurationError("Name key sets or URLs, not both in one call.")
    if urls:
        _show_urls(urls, as_json=as_json)
        return
    found = fleet.engines(fleet.configuration(ctx), names or None)
    done = fleet.each(found, lambda engine: engine.verify(), "verify")
    if as_json:
        output.data({"keysets": [{"name": name, **_facts(result)} for name, result in done.items()]})
    else:
        for name, result in done.items():
            for line in _lines(name, result):
                output.say(line)
    fleet.end(done)
    if any(result.severe for result in done.values() if not isinstance(result, RotatorError)):
        raise typer.Exit(1)


def _lines(name: str, result: Verification | RotatorError) -> Iterator[str]:
    if isinstance(result, RotatorError):
        yield f"{name}: cannot be verified: see the error below"
        return
    yield f"{name}: {'not ' if result.severe else ''}fine"
    for copy in result.copies:
        yield f"  fetched  {_about(copy)}"
    for kid in result.signed:
        yield f"  signs    {kid}"
    yield from _faults(result.faults)


def _about(copy: Copy) -> str:
    from rotator.keys.jwks import parse

    parsed = parse(copy.body)
    keys = f", {len(parsed.keys)} keys" if parsed else ""
    age = f", {output.span(copy.age)} old" if copy.age else ""
    return f"{sources.shown(copy.where)} ({len(copy.body):,} bytes{keys}{age})"


def _faults(faults: Iterable[Fault]) -> Iterator[str]:
    for fault in sorted(faults, key=lambda fault: not fault.severe):
        yield f"  {'FAULT  ' if fault.severe else 'warning'}  {sources.shown(fault.where)}: {fault.says}"


def _facts(result: Verification | RotatorError) -> dict[str, Any]:
    if isinstance(result, RotatorError):
        return {"ok": False, "error": str(result), "fetched": [], "signed": [], "faults": []}
    return {
        "ok": not result.severe,
        "at": result.at,
        "fetched": [_copy(copy) for copy in result.copies],
        "signed": list(result.signed),
        "faults": [_fault(fault) for fault in result.faults],
    }


def _copy(copy: Copy) -> dict[str, Any]:
    return {
        "where": sources.shown(copy.where),
        "bytes": len(copy.body),
        "age_seconds": copy.age,
        "cache_control": copy.cache_control,
        "content_type": copy.content_type,
    }


def _fault(fault: Fault) -> dict[str, Any]:
    severity = "error" if fault.severe else "warning"
    return {"severity": severity, "code": fault.code, "where": sources.shown(fault.where), "says": fault.says}


# -- any URL ----------------------------------------------------------------------------------------------------------


def _show_urls(urls: list[str], *, as_json: bool) -> None:
    looked = [(url, *_looked_at(url)) for url in urls]
    if as_json:
        output.data(
            {
                "urls": [
                    {
                        "url": sources.shown(url),
                        "ok": not any(fault.severe for fault in faults),
                        "fetched": [_copy(copy) for copy in copies],
                        "faults": [_fault(fault) for fault in faults],
                    }
                    for url, copies, faults in looked
                ]
            }
        )
    else:
        for url, copies, faults in looked:
            output.say(f"{sources.shown(url)}: {'not ' if any(fault.severe for fault in faults) else ''}fine")
            for line in (*(f"  fetched  {_about(copy)}" for copy in copies), *_faults(faults)):
                output.say(line)
    if any(fault.severe for _, _, faults in looked for fault in faults):
        raise typer.Exit(1)


def _looked_at(url: str) -> tuple[list[Copy], list[Fault]]:
    """The copies behind ``url`` (of a discovery document also its JWKS), and what is wrong with them."""
    from rotator.keys.verification import Fault, leads_to, of_anybody

    copies: list[Copy] = []
    faults: list[Fault] = []
    copy = _fetched(url, faults, typed=True)
    if copy is None:
        return copies, faults
    copies.append(copy)
    faults += of_anybody(copy)
    led = leads_to(copy.body)
    if led is None:
        faults += _judged(copy)
        return copies, faults
    issuer, uri = led
    if url.partition("?")[0] not in _well_known(issuer):
        says = f"its issuer {issuer!r:.120} would have it elsewhere (OpenID Connect Discovery 1.0 section 4)"
        faults.append(Fault("issuer", says, url))
    jwks = _fetched(uri, faults)
    if jwks is not None:
        copies.append(jwks)
        faults += [*of_anybody(jwks), *_judged(jwks)]
    return copies, faults


def _well_known(issuer: str) -> tuple[str, ...]:
    """Where the discovery document of ``issuer`` is: OpenID Connect Discovery section 4, and RFC 8414 section 3."""
    scheme, _, rest = issuer.rstrip("/").partition("://")
    host, slash, path = rest.partition("/")
    names = ("openid-configuration", "oauth-authorization-server")
    return (
        f"{scheme}://{rest}/.well-known/openid-configuration",
        *(f"{scheme}://{host}/.well-known/{name}{slash}{path}" for name in names),
    )


def _fetched(url: str, faults: list[Fault], *, typed: bool = False) -> Copy | None:
    """The copy at ``url``.

    Raises:
        ConfigurationError: it cannot be fetched at all, and a person typed it.
    """
    from rotator.documents.web import HttpsWeb
    from rotator.keys.verification import Copy, Fault

    try:
        answer = HttpsWeb().fetch(url)
    except RotatorError as exc:
        if typed and isinstance(exc, ConfigurationError):
            raise
        why = str(exc).removeprefix(sources.shown(url)).strip().rstrip(".")
        faults.append(Fault("unreachable", why, url))
        return None
    if answer is None:
        faults.append(Fault("missing", "it answers 404", url))
        return None
    return Copy(url, answer.body, answer.cache_control, answer.age, answer.content_type, redirected=answer.redirected)


def _judged(copy: Copy) -> Iterator[Fault]:
    """The errors and warnings that ``rotator inspect`` has for a JWKS."""
    from rotator import app
    from rotator.inspect import inspect
    from rotator.jose.findings import Severity
    from rotator.jose.reading import read
    from rotator.keys.jwks import parse
    from rotator.keys.verification import Fault

    if parse(copy.body) is None:
        yield Fault("not-a-jwks", "it is neither a JWKS nor a discovery document", copy.where)
        return
    for finding in inspect(read(copy.body), app.now(), address=copy.where).everything():
        if finding.severity is not Severity.NOTE:
            where = f"{finding.where}: " if finding.where else ""
            yield Fault(finding.code, f"{where}{finding.says}", copy.where, severe=finding.severity is Severity.ERROR)
