"""``rotator convert``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rotator.cli import output, sources
from rotator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rotator.jose.reading import Contents, Item
    from rotator.keys.jwks import Jwk

#: Errors that lie in the key itself, and in no member of it that could be put right.
_WEAK = {"rsa-size", "rsa-exponent", "rsa-modulus", "rsa-close-primes", "rsa-roca", "oct-size", "small-order"}


def convert(
    inputs: Annotated[list[str], typer.Argument(metavar="FILE|URL|-...", help="Files, URLs, or - for standard input.")],
    form: Annotated[
        str | None,
        typer.Option("--to", metavar="FORM", help="jwk, jwks, pem, der, pkcs1, sec1 or certificate."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Keep private halves; without it they are dropped.")
    ] = False,
    kid: Annotated[
        str | None, typer.Option("--kid", metavar="KID", help="Name of the key; by default its own, or its thumbprint.")
    ] = None,
    alg: Annotated[str | None, typer.Option("--alg", metavar="ALG", help="What the key is for, e.g. RS256.")] = None,
    out: sources.Out = None,
    force: sources.Force = False,
    passphrase_file: sources.PassphraseFile = None,
) -> None:
    """Turn PEM, DER, certificates and JWK into one another.

    Many inputs become one set. Reads whatever 'rotator inspect' reads. FORM is jwk (default for one key), jwks
    (default for more), pem (SPKI, or with --private PKCS#8), der (the same), pkcs1 (RSA), sec1 (private EC), or
    certificate (what stands in x5c). A certificate and the chain above it become x5c, x5t and x5t#S256; beside its
    own private key it joins that. Members that are written badly are put right; what cannot be is refused.

    \b
    Examples:
      rotator convert public.pem --alg RS256
      rotator convert old.pem new.pem --out jwks.json
      rotator convert jwk.json --private --to pem --out key.pem
    """
    from rotator.jose import writing
    from rotator.keys.jwks import is_private

    if form is not None and form not in writing.FORMS:
        raise ConfigurationError(f"--to {form[:40]}: choose from {', '.join(writing.FORMS)}.")
    reader = sources.Reader(passphrase_file)
    read = {source: reader.read(source) for source in dict.fromkeys(inputs)}
    found = _joined([item for source, each in read.items() for item in _items(source, each, private=private)])
    if kid is not None and len(found) > 1:
        raise ConfigurationError(f"--kid is for one key, and there are {len(found)}.")
    for item in found:
        _mind_restriction(item, alg)
    labelled = [(item, _labelled(jwk, kid, alg)) for item, jwk in _chosen(found, private=private)]
    made = [jwk for _, jwk in labelled]
    if form in {None, "jwk", "jwks"}:
        for item, jwk in labelled:
            _require_faultless(item, jwk)
        made = _distinct(made)
    chosen = form or ("jwk" if len(made) == 1 and not any(each.form == "JWKS" for each in read.values()) else "jwks")
    body = _body(made, chosen, private=private)
    if out is not None:
        sources.write(out, body, private=any(map(is_private, made)), force=force)
        output.say(f"Wrote {out}: {_count(len(made), 'key', 'keys')}.", err=True)
    elif chosen == "der":
        if _is_terminal():
            raise ConfigurationError("DER is no text: name a file with --out, or pipe it on.")
        sys.stdout.buffer.write(body)
    else:
        typer.echo(body.decode(), nl=False)


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _items(source: str, contents: Contents, *, private: bool) -> Iterator[Item]:
    """The keys of one input, each proven to be one, and written as it should be."""
    from dataclasses import replace

    from rotator.inspect.keys import mended
    from rotator.jose import keys, writing
    from rotator.jose.findings import Severity
    from rotator.jose.reading import Doubled, doubled

    if contents.token:
        raise ConfigurationError(f"{sources.shown(source)} is a token, and holds no key.")
    for finding in contents.findings:
        if finding.severity is Severity.ERROR:
            raise ConfigurationError(f"{_place(source, finding.where)}: {finding.says}")
    for item in contents.items:
        where = _place(source, item.where)
        if isinstance(item.jwk, Doubled):
            raise ConfigurationError(f"{where}: {doubled(item.jwk).says}")
        whole = mended(item.jwk) if item.written else item.jwk
        kept = whole if private else writing.public_half(whole)
        try:
            # What is no key is not passed on.
            if kept is not None:
                keys.prove(kept)
        except ConfigurationError as exc:
            says = exc if item.written else f"The parts of the {item.form} do not belong together: replace the key."
            raise ConfigurationError(f"{where}: {says}") from None
        yield replace(item, where=where, jwk=whole)


def _mind_restriction(item: Item, alg: str | None) -> None:
    """Hold ``alg`` against a key that is for RSASSA-PSS alone, and tell where nothing says so any more."""
    from rotator.jose import pem

    if item.spki is None:
        return
    fitting = pem.pss_algs(item.spki)
    only = f"{item.where}: the key is for RSASSA-PSS alone (RFC 4055 section 1.2)"
    if alg is None:
        output.say(f"{only}, and what is written does not say so: name one of {', '.join(fitting)} as --alg.", err=True)
    elif alg not in fitting:
        raise ConfigurationError(f"{only}: choose from {', '.join(fitting) or 'no algorithm of JOSE'}.")


def _place(source: str, where: str) -> str:
    return f"{sources.shown(source)}{f', {where}' if where else ''}"


def _require_faultless(item: Item, jwk: Jwk) -> None:
    """Raise where ``rotator inspect`` would call the ``jwk`` made of ``item`` wrong; a weak key may be passed on."""
    from dataclasses import replace

    from rotator import app
    from rotator.inspect.keys import check
    from rotator.jose.findings import Severity

    for finding in check(replace(item, form="JWK", jwk=jwk, chain=()), app.now(), public=False).findings:
        if finding.severity is Severity.ERROR and finding.code not in _WEAK:
            raise ConfigurationError(f"{item.where}: {finding.says} Nothing was written.")


def _joined(items: Sequence[Item]) -> list[Item]:
    """The items, with each certificate joined to the private key that it is for."""
    from dataclasses import replace

    from rotator.jose.registry import kind_of

    def material(item: Item) -> tuple[Any, ...]:
        kind = kind_of(item.jwk)
        return tuple(item.jwk.get(name) for name in ("kty", *(kind.public if kind else ())))

    chains = {material(item): item.chain for item in items if item.chain}
    keys = {material(item) for item in items if not item.chain}
    return [
        replace(item, chain=item.chain or chains.get(material(item), ()))
        for item in items
        if not item.chain or material(item) not in keys
    ]


def _chosen(items: Sequence[Item], *, private: bool) -> Iterator[tuple[Item, Jwk]]:
    from rotator.jose import writing
    from rotator.keys.jwks import is_private

    dropped = symmetric = 0
    for item in items:
        jwk = dict(item.jwk) if private else writing.public_half(item.jwk)
        dropped += is_private(item.jwk) and not private
        if jwk is None:
            symmetric += 1
            continue
        yield item, writing.with_certificates(jwk, item.chain) if item.chain else jwk
    if symmetric == len(items):
        raise ConfigurationError(
            "There is no key with a public half in it; --private keeps symmetric and private ones."
        )
    if dropped > symmetric:
        output.say(f"Left out: {_count(dropped - symmetric, 'private half', 'private halves')} (--private).", err=True)
    if symmetric:
        output.say(f"Left out: {_count(symmetric, 'symmetric key', 'symmetric keys')} (--private).", err=True)


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def _labelled(jwk: Jwk, kid: str | None, alg: str | None) -> Jwk:
    from rotator.jose import writing

    return writing.ordered(writing.named(jwk if alg is None else writing.fitting(jwk, alg), kid))


def _distinct(made: Iterable[Jwk]) -> list[Jwk]:
    """Each key once, with what any input says of it; where two contradict one another, the first counts."""
    from rotator.jose.registry import kind_of
    from rotator.jose.writing import ordered

    found: dict[str, Jwk] = {}
    for jwk in made:
        kid = jwk["kid"]
        kind = kind_of(jwk)
        before = found.setdefault(kid, jwk)
        if any(before.get(name) != jwk.get(name) for name in ("kty", "k", *(kind.public if kind else ()))):
            raise ConfigurationError(
                f"Two keys have the kid {kid[:80]!r}, and verifiers take any of them (RFC 7517 section 4.5): convert"
                " one alone first, with --kid."
            )
        found[kid] = ordered(jwk | before)
    return list(found.values())


def _body(made: Sequence[Jwk], form: str, *, private: bool) -> bytes:
    from rotator.jose import writing

    if form not in {"jwk", "jwks"}:
        return writing.encoded(made, form, private=private)
    if form == "jwk" and len(made) > 1:
        raise ConfigurationError(f"A JWK is one key, and there are {len(made)}: write a set (--to jwks).")
    document: Any = {"keys": list(made)} if form == "jwks" else made[0]
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()
