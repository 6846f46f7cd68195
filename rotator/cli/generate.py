"""``rotator generate``."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rotator.cli import fleet, output, sources
from rotator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rotator.keys.jwks import Jwk

#: Forms that a file name's end stands for.
_BY_SUFFIX = {".pem": "pem", ".key": "pem", ".der": "der"}


def generate(
    algs: Annotated[
        list[str] | None,
        typer.Option(
            "--alg", metavar="ALG", help="What it signs or encrypts with, e.g. ES256; repeat for a set of keys."
        ),
    ] = None,
    bits: Annotated[
        int | None, typer.Option("--bits", metavar="BITS", help="Size: RSA 2048 (default), 3072, 4096; oct any.")
    ] = None,
    crv: Annotated[
        str | None, typer.Option("--crv", metavar="CRV", help="Curve, where ALG works with several (ECDH-ES, EdDSA).")
    ] = None,
    kids: Annotated[
        list[str] | None,
        typer.Option("--kid", metavar="KID", help="Name of the key, one for each --alg; by default its thumbprint."),
    ] = None,
    use: Annotated[
        str | None, typer.Option("--use", metavar="USE", help="'sig' or 'enc'; by default what ALG does.")
    ] = None,
    key_ops: Annotated[
        str | None, typer.Option("--key-ops", metavar="OPS", help="Such as sign,verify: instead of 'use'.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Show the public halves alone; the private ones are lost.")
    ] = False,
    out: sources.Out = None,
    force: sources.Force = False,
    as_json: fleet.Json = False,
) -> None:
    """Make keys, as JWK and PEM.

    Each is printed as private and public JWK, PKCS#8 and SPKI PEM. ALG is a JOSE algorithm (RS256 … PS512, ES256,
    ES384, ES512, ES256K, EdDSA, Ed25519, Ed448, ML-DSA-44, ML-DSA-65, ML-DSA-87, RSA-OAEP-256, ECDH-ES, HS256,
    A256KW, …) or a kind of key (RSA, P-256, P-384, P-521, X25519, X448, oct). Several of them become one set. With
    --out the private half goes to that file alone (PEM if it ends in .pem, DER if in .der, else JWK), and the
    public one is printed.

    \b
    Examples:
      rotator generate --alg ES256
      rotator generate --alg RS256 --bits 4096 --kid 2026-05 --out key.json
      rotator generate --alg ES256 --alg RS256 --public
    """
    from rotator.jose import writing

    if not algs:
        raise ConfigurationError(f"Say what to make with --alg: {', '.join(writing.choices())}.")
    if kids and len(kids) != len(algs):
        raise ConfigurationError(f"There are {len(algs)} --alg, and {len(kids)} --kid: name one for each, or none.")
    if kids and len(set(kids)) < len(kids):
        raise ConfigurationError("Two keys of one set cannot have one kid.")
    # A size or curve is for those that have several; where none has, each says so.
    sized = [writing.is_sized(alg) for alg in algs]
    curved = [writing.has_curves(alg) for alg in algs]
    made = [
        _labelled(
            writing.make(
                alg, bits=bits if size or not any(sized) else None, crv=crv if curve or not any(curved) else None
            ),
            kid,
            use,
            key_ops,
        )
        for alg, size, curve, kid in zip_longest(algs, sized, curved, kids or ())
    ]
    halves = [writing.public_half(jwk) for jwk in made]
    shown = [half for half in halves if half is not None]
    if public and not shown:
        raise ConfigurationError("A symmetric key has no public half: leave out --public.")
    if out is not None:
        chosen = shown if public else made
        form = _BY_SUFFIX.get(out.suffix.lower(), "jwk")
        sources.write(out, _written(chosen, form, private=not public), private=not public, force=force)
        output.say(f"Wrote {out}: {_what(len(chosen), private=not public)}.", err=True)
    secret = not public and out is None
    if as_json:
        output.data(_facts(made, secret=secret))
    else:
        for part in _parts(made, shown, secret=secret):
            typer.echo(part)


def _labelled(jwk: Jwk, kid: str | None, use: str | None, key_ops: str | None) -> Jwk:
    from rotator.jose import writing
    from rotator.jose.registry import KEY_OPS

    if use is not None:
        if use not in {"sig", "enc"}:
            raise ConfigurationError(f"--use {use[:40]}: say sig or enc (RFC 7517 section 4.2).")
        if jwk.get("use", use) != use:
            raise ConfigurationError(f"--use {use} does not go with {jwk.get('alg', jwk['kty'])}.")
        jwk = jwk | {"use": use}
    if key_ops is not None:
        names = [name.strip() for name in key_ops.split(",")]
        unknown = [name for name in names if name not in KEY_OPS]
        if unknown or len(set(names)) < len(names):
            raise ConfigurationError(f"--key-ops: choose from {', '.join(KEY_OPS)}, each once (RFC 7517 section 4.3).")
        if "use" in jwk and any(KEY_OPS[name][0] != jwk["use"] for name in names):
            raise ConfigurationError(f"--key-ops {key_ops} does not go with {jwk.get('alg', jwk['kty'])}.")
        # One of the two is enough (RFC 7517 section 4.3).
        jwk = {name: value for name, value in jwk.items() if name != "use" or use} | {"key_ops": names}
    return writing.ordered(writing.named(jwk, kid))


def _what(count: int, *, private: bool) -> str:
    half = "private" if private else "public"
    return f"{count} {half} key{'s' if count != 1 else ''}" + (", readable by its owner alone" if private else "")


def _written(found: Sequence[Jwk], form: str, *, private: bool) -> bytes:
    import json

    from rotator.jose import writing

    if form != "jwk":
        return writing.encoded(found, form, private=private)
    document: Any = {"keys": list(found)} if len(found) > 1 else found[0]
    return (json.dumps(document, indent=2) + "\n").encode()


def _parts(made: Sequence[Jwk], shown: Sequence[Jwk], *, secret: bool) -> Iterator[str]:
    asymmetric = [jwk for jwk in made if jwk["kty"] != "oct"]
    if secret:
        yield f"Private JWK{'S' if len(made) > 1 else ''}: keep it to yourself\n{_text(made)}"
    if shown:
        yield f"Public JWK{'S' if len(shown) > 1 else ''}\n{_text(shown)}"
    if secret and asymmetric:
        yield f"Private PEM (PKCS#8): keep it to yourself\n{_pem(asymmetric, private=True)}"
    if shown:
        yield f"Public PEM (SPKI)\n{_pem(shown, private=False)}"


def _text(found: Sequence[Jwk]) -> str:
    return _written(found, "jwk", private=False).decode()


def _pem(found: Sequence[Jwk], *, private: bool) -> str:
    return _written(found, "pem", private=private).decode()


def _facts(made: Sequence[Jwk], *, secret: bool) -> dict[str, Any]:
    """For programs: each key in every form, and the public set."""
    from rotator.jose import writing

    rows = []
    for jwk in made:
        half = writing.public_half(jwk)
        row: dict[str, Any] = {
            "kid": jwk["kid"],
            "public_jwk": half,
            "public_pem": half and _pem([half], private=False),
        }
        if secret:
            row |= {"private_jwk": jwk, "private_pem": half and _pem([jwk], private=True)}
        rows.append(row)
    return {"keys": rows, "jwks": {"keys": [row["public_jwk"] for row in rows if row["public_jwk"]]}}
