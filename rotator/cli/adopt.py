"""``rotator adopt``: take over a public document and its private keys, without a verifier noticing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rotator.cli import fleet, output, sources
from rotator.errors import ConfigurationError, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rotator.engine.adoption import Adoption, Proposal
    from rotator.keys.halves import Half
    from rotator.keys.keyring import Keyring
    from rotator.keys.policy import KeySet
    from rotator.settings import Configuration

_COLUMNS = ("KID", "ALG", "BECOMES", "PRIVATE HALF")
_TONES = {"current": "bold green", "previous": "yellow", "foreign": "dim"}


def adopt(
    ctx: typer.Context,
    keyset: fleet.OneKeySet,
    *,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="FILE", help="Private keys: PEM, a private JWK or a set of them; - is stdin."),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option("--secret", metavar="NAME", help="A secret (name or ARN) with such a value; it is copied."),
    ] = None,
    kms_key: Annotated[
        list[str] | None, typer.Option("--kms-key", metavar="KEY", help="A KMS key: its ARN, ID or alias/name.")
    ] = None,
    current: Annotated[
        list[str] | None,
        typer.Option("--current", metavar="KID", help="The key that signs now, where an algorithm has several."),
    ] = None,
    jwks: Annotated[
        str | None,
        typer.Option("--jwks", metavar="FILE", help="The public document, where none stands at its path yet."),
    ] = None,
    passphrase_env: Annotated[
        str | None,
        typer.Option("--passphrase-env", metavar="NAME", help="Variable with the passphrase of encrypted keys."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be written.")] = False,
) -> None:
    """Take over an existing key set, and rotate it from then on.

    The public document stays as it is; each private key is proven against it before anything is written. The key
    that signs now becomes current, others whose private half is given become previous, and the rest stay published
    as foreign keys until 'rotator drop'. Only for a key set without a ledger; safe to repeat after any crash.

    \b
    Examples:
      rotator adopt acme --key signing.pem --dry-run
      rotator adopt acme --key signing.pem --key last-year.jwk --current 2026-01
      rotator adopt acme --secret prod/jwt-signing-key
      rotator adopt acme --kms-key alias/jwt-signing
    """
    from rotator import app

    configured = fleet.configuration(ctx)
    (chosen,) = fleet.chosen(configured, [keyset])
    _refuse_what_the_store_cannot_take(configured, [*(key or ()), *(secret or ())], kms_key or ())
    with fleet.naming(keyset):
        adoption = app.adoption(configured, chosen)
        brought = [("stdin" if name == "-" else name, _read(name, "--key")) for name in key or ()]
        brought += [(f"secret {name}", app.secret_value(configured, name)) for name in secret or ()]
        halves = [half for origin, data in brought for half in _from(data, origin, passphrase_env)]
        halves += [adoption.known(name) for name in kms_key or ()]
        done = adoption.done(halves)
        if done is not None:
            typer.echo(f"{keyset}: it was adopted before. Nothing was changed.")
            return
        proposal = adoption.propose(halves, current or (), _read(jwks, "--jwks") if jwks else None)
        _show(proposal, adoption)
        if dry_run:
            return
        _confirm(yes=yes)
        ring = adoption.adopt(proposal)
        _say_what_now(ring, chosen, adoption, configured.keys.scheme)


# -- private halves --------------------------------------------------------------------------------------------------


def _refuse_what_the_store_cannot_take(
    configured: Configuration, private: Sequence[str], kms_keys: Sequence[str]
) -> None:
    if configured.keys.scheme == "kms" and private:
        raise ConfigurationError(
            "stores.keys is kms://, and no private key is brought into KMS: name KMS keys with --kms-key, or choose"
            " secretsmanager:// or file://. Nothing was changed."
        )
    if configured.keys.scheme != "kms" and kms_keys:
        raise ConfigurationError(
            f"stores.keys is {configured.keys.scheme}://, and no private key leaves KMS: choose kms:// for --kms-key."
            " Nothing was changed."
        )


def _from(data: bytes, origin: str, passphrase_env: str | None) -> tuple[Half, ...]:
    from rotator.keys.halves import is_encrypted, read_halves

    return read_halves(data, origin, _passphrase(origin, passphrase_env) if is_encrypted(data) else None)


def _read(name: str, option: str) -> bytes:
    from rotator.keys.jwks import MAX_BYTES

    try:
        if name == "-":
            return sources.standard_input(MAX_BYTES + 1)
        with Path(name).open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "it is no name of a file"
        raise ConfigurationError(f"{option} {name[:200]!r} cannot be read: {reason}. Nothing was changed.") from exc


def _passphrase(origin: str, variable: str | None) -> bytes:
    if variable is not None:
        if not os.environ.get(variable):
            raise ConfigurationError(f"{origin} is encrypted, and {variable} is not set. Nothing was changed.")
        return os.environ[variable].encode()
    if not output.can_ask():
        raise ConfigurationError(
            f"{origin} is encrypted, and there is no terminal to ask for its passphrase: name a variable that holds it"
            " with --passphrase-env. Nothing was changed."
        )
    return str(typer.prompt(f"Passphrase of {origin}", hide_input=True)).encode()


# -- what it says ----------------------------------------------------------------------------------------------------


def _show(proposal: Proposal, adoption: Adoption) -> None:
    from rotator.keys.publication import called

    name = adoption.keyset.name
    output.say(f"{name}: adopt {proposal.source}")
    rows = [
        (each.kid, each.algorithm.alg, "current" if each.signs else "previous", each.half.origin)
        for each in proposal.taken
    ]
    rows += [(called(jwk), str(jwk.get("alg", ""))[:20], "foreign", "") for jwk in proposal.foreign]
    output.table(_COLUMNS, rows, _TONES)
    typer.echo("It will write, in this order:")
    for line in _writes(proposal, adoption):
        output.say(f"  {line}")
    for line in _notes(proposal, adoption.keyset):
        output.say(f"Note: {line}")


def _writes(proposal: Proposal, adoption: Adoption) -> Iterator[str]:
    for each in proposal.taken:
        where = "tags and an alias of KMS key" if each.half.private is None else "a copy of"
        yield f"{where} {each.half.origin} ({each.kid})"
    if not proposal.standing:
        yield f"the public document, as it is, to {adoption.document_place}"
    for each in proposal.taken:
        if each.signs:
            yield f"{adoption.pointer_place(each.algorithm.alg)}: {each.kid}"
    yield f"the ledger {adoption.ledger_place}"


def _notes(proposal: Proposal, keyset: KeySet) -> Iterator[str]:
    from rotator.keys.policy import staleness_of, text

    policy = keyset.policy
    if not proposal.taken:
        yield (
            "no private key is given, so every key stays foreign. Issuers go on with theirs until a key of rotator's"
            f" signs, in {text(policy.prepublish)} or later."
        )
    if any(not each.signs for each in proposal.taken):
        yield f"previous keys may have signed until now; they stay published for {text(policy.retention)}."
    if any(each.half.private is None for each in proposal.taken):
        yield (
            f"an adopted KMS key is disabled {text(policy.signer_lag + 2 * policy.clock_skew)} after it stopped being"
            " current, and scheduled for deletion after its retention, like rotator's own."
        )
    if proposal.lost_members:
        lost = ", ".join(proposal.lost_members)
        yield f"members beside 'keys' are not kept when the document is next written: {lost:.200}."
    held, wanted = len(proposal.taken) + len(proposal.foreign), len(policy.algorithms)
    if held + wanted > policy.max_keys:
        yield (
            f"the document holds {held} keys and max_keys is {policy.max_keys}: a next key waits until there is room."
            " Drop foreign keys, or raise max_keys."
        )
    longest = max((staleness_of(each) for shown in proposal.shown for each in shown.cache_controls), default=None)
    if longest is not None and longest > policy.cache_max_age + policy.cache_stale:
        yield (
            f"the document may have been handed out to caches that keep it for {text(longest)}, longer than the policy"
            " says: the first rotation waits for them."
        )


def _confirm(*, yes: bool) -> None:
    if yes:
        return
    if not output.can_ask():
        raise Refused("There is no terminal to ask on, so nothing was changed. Say --yes to adopt without a question.")
    if not typer.confirm("Adopt it now?"):
        raise Refused("Nothing was changed.")


def _say_what_now(ring: Keyring, keyset: KeySet, adoption: Adoption, scheme: str) -> None:
    from rotator.keys.plan import withdraw_at

    typer.echo(f"{keyset.name}: adopted. Every tick rotates it from now on.")
    for key in ring.keys:
        if key.activated_at:
            until = key.activated_at + keyset.policy.lifetime
            output.say(
                f"Lead issuers of {key.alg} to {adoption.pointer_place(key.alg)} before {until:%Y-%m-%d %H:%M}Z:"
                f" it names {key.kid} now, and another key from then on. {_HOW[scheme]}"
            )
        elif key.superseded_at:
            until = withdraw_at(keyset.policy, key, key.superseded_at)
            output.say(f"{key.kid} verifies until {until:%Y-%m-%d %H:%M}Z: no issuer may sign with it any more.")
    if ring.keys and scheme != "kms":
        typer.echo("The private keys were copied: destroy the originals once no issuer reads them.")


_HOW = {
    "secretsmanager": "They read it with GetSecretValue: a private JWK with kid and alg.",
    "kms": "It is JSON with kid and key_arn: they call kms:Sign with that ARN.",
    "file": "It is JSON with kid and key, the name of the PEM file beside it.",
}
