"""``rotator sign``: a token as an issuer would make it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rotator.cli import fleet, sources
from rotator.errors import ConfigurationError

if TYPE_CHECKING:
    from rotator.keys.policy import KeySet
    from rotator.settings import Configuration

#: Nobody types more, and a file given by mistake is to be told from claims.
_LONGEST_INPUT = 1_000_000


def sign(
    ctx: typer.Context,
    keyset: fleet.OneKeySet,
    claims: Annotated[
        str,
        typer.Option("--claims", metavar="JSON", help="The claims, a JSON object; - reads them from standard input."),
    ] = "{}",
    alg: Annotated[
        str | None, typer.Option("--alg", metavar="ALG", help="Which algorithm, where the key set has several.")
    ] = None,
    header: Annotated[
        str | None, typer.Option("--header", metavar="JSON", help="Further header parameters, a JSON object.")
    ] = None,
) -> None:
    """Sign a token with the current key, as an issuer would.

    Prints a compact JWT. Where the claims have no iat it is now, and where they have no exp it is token_lifetime
    later; claims that end later than that are refused. Where they have no iss it is the issuer that the key set is
    configured with. A service signs with rotator.signer, or as the README says.

    \b
    Examples:
      rotator sign acme --claims '{"sub": "u1", "aud": "api"}'
      rotator sign acme --alg ES256 --header '{"typ": "at+jwt"}' --claims - < claims.json
    """
    from rotator import app

    given, headers = _object(claims, "--claims"), _object(header or "{}", "--header")
    configured = fleet.configuration(ctx)
    (wanted,) = fleet.chosen(configured, [keyset])
    with fleet.naming(keyset), app.signer(configured, wanted, alg or _only(wanted)) as signer:
        try:
            token = signer.sign(_issuer(configured, keyset) | _timed(given, wanted), headers)
        except (TypeError, ValueError) as exc:
            raise ConfigurationError(str(exc)) from exc
    typer.echo(token)


def _only(keyset: KeySet) -> str:
    algorithms = keyset.policy.algorithms
    if len(algorithms) > 1:
        raise ConfigurationError(f"Say which algorithm with --alg: it has {', '.join(algorithms)}.")
    return algorithms[0]


def _issuer(configured: Configuration, keyset: str) -> dict[str, Any]:
    found = next((each.issuer for each in configured.settings.keysets if each.name == keyset), None)
    return {"iss": found} if found else {}


def _timed(claims: dict[str, Any], keyset: KeySet) -> dict[str, Any]:
    from rotator import app

    iat = claims.get("iat", int(app.now().timestamp()))
    if iat is None:
        raise ValueError("The claim iat is null: leave it out, or give a number of seconds since 1970.")
    lifetime = int(keyset.policy.token_lifetime.total_seconds())
    # What is no number is the signer's to refuse.
    exp = {"exp": iat + lifetime} if type(iat) in {int, float} else {}
    return {"iat": iat, **exp, **claims}


def _object(words: str, option: str) -> dict[str, Any]:
    given = sources.standard_input(_LONGEST_INPUT + 1) if words == "-" else os.fsencode(words)
    fault = "is not a JSON object"
    found = None
    if len(given) > _LONGEST_INPUT:
        fault = f"is longer than {_LONGEST_INPUT:,} bytes"
    else:
        try:
            found = json.loads(given.decode(), parse_constant=_no_constant)
        except (ValueError, RecursionError):
            fault = 'is not JSON; quote it for the shell: \'{"sub": "u1"}\''
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{fault}.", param_hint=option)
    return found


def _no_constant(name: str) -> Any:
    # NaN and Infinity are no JSON (RFC 8259 section 6).
    raise ValueError(name)
