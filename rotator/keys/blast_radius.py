"""Who is affected by a revoke, and until when: told before it is recorded, and asked again until it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rotator.keys.facts import revocable, successor
from rotator.keys.keyring import Stage
from rotator.keys.plan import creatable_at, gate
from rotator.keys.policy import text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta

    from rotator.keys.keyring import Key, Keyring
    from rotator.keys.policy import KeySet


@dataclass(frozen=True, slots=True)
class BlastRadius:
    """Who is affected by a revoke, and until when."""

    kid: str
    alg: str
    stage: Stage
    signed_from: datetime | None
    """Since when it may have signed; ``None``: it never did, or nobody wrote down since when."""
    tokens_until: datetime | None
    """The latest ``exp`` of a token that it signed, or that an issuer who lags behind may still sign; with leeway."""
    trusted_until: datetime
    """Until when a verifier that obeys the policy may still trust it."""
    heir: str | None
    """kid of the key that takes over."""
    early_until: datetime | None
    """Until when a verifier may not know the heir yet; ``None``: every verifier knows it."""
    sentences: tuple[str, ...]


def blast_radius(  # noqa: PLR0913 - what is known beside the ledger, each by name
    ring: Keyring, keyset: KeySet, kid: str, now: datetime, *, pointed: str | None = None, blind: bool = False
) -> BlastRadius:
    """What a revoke of ``kid`` at ``now`` would cost, or costs since it was revoked.

    ``pointed`` is the intent id that the pointer names now, whatever the ledger says; ``blind``: it cannot be read.

    Raises:
        Refused: no key of this kid is public.
    """
    key, policy = revocable(ring, keyset, kid), keyset.policy
    signs = key.stage is Stage.CURRENT
    heir = (ring.promoting(key.alg) or successor(ring, key.alg)) if signs else None
    opens = gate(keyset, heir) if heir else None
    early_until = opens if opens and opens > now else None
    signed_from = key.activated_at or key.promoting_at or (key.published_at if key.exposed else None)
    if key.adopted:
        # Others signed with it before: nobody wrote down since when.
        signed_from = None
    tokens_until = last_signature = None
    # In the middle of its promotion the pointer may name it already; and somebody may have led it there.
    led = blind or pointed == key.id
    if key.exposed or key.promoting_at or led:
        # Until somebody says that the pointer was led away from it, issuers may sign with it.
        stopped_at = None if key.astray or led else key.superseded_at or (key.disabled_at if key.revoked_at else None)
        last_signature = (stopped_at or now) + max(key.signer_lag, policy.signer_lag)
        tokens_until = (
            last_signature
            + max(key.token_lifetime, policy.token_lifetime)
            + max(key.verifier_leeway, policy.verifier_leeway)
        )
    trusted_until, staleness = _trusted(key, ring, keyset, now)
    said = [f"It was revoked at {_when(key.revoked_at)}: {key.revoke_reason}."] if key.revoked_at else []
    if blind:
        said.append(f"The {key.alg} pointer cannot be read: it is counted as if it named this key.")
    said += _of_tokens(signed_from, tokens_until, last_signature, now)
    if trusted_until <= now:
        said.append(f"No verifier trusts it any more: the last copy of it ended at {_when(trusted_until)}.")
    else:
        said.append(
            f"A verifier may trust it until {_when(trusted_until)}: caches for {text(staleness)},"
            f" then its own for {text(policy.verifier_cache)}; sooner where the CDN is invalidated."
        )
    if signs:
        said += _of_heir(key, heir, early_until, ring, keyset, now)
    return BlastRadius(
        kid,
        key.alg,
        key.stage,
        signed_from,
        tokens_until,
        trusted_until,
        heir.kid if heir else None,
        early_until,
        tuple(said),
    )


def _trusted(key: Key, ring: Keyring, keyset: KeySet, now: datetime) -> tuple[datetime, timedelta]:
    """Until when a verifier may trust ``key``, and for how long caches may hand a copy out."""
    policy = keyset.policy
    # What was seen to be gone everywhere grows old from then on; until that is seen, copies may go out at any time.
    over = key.revoked_at is not None and all(each.name in key.gone for each in keyset.documents_of(key.alg))
    fetched_until = max(key.gone.values(), default=now) if over else now
    served = [entry for facts in ring.documents.values() for entry in facts.served]
    staleness = max([policy.staleness, *(entry.staleness for entry in served if entry.until is None)])
    replaced = [entry.until for entry in served if entry.until]
    return max([fetched_until + staleness, *replaced]) + policy.verifier_cache, staleness


def _of_tokens(
    signed_from: datetime | None, tokens_until: datetime | None, last_signature: datetime | None, now: datetime
) -> Iterator[str]:
    if tokens_until is None:
        yield "It never signed: no token is affected."
    elif tokens_until <= now:
        yield "Every token it signed has ended: no live token is affected."
    else:
        yield (
            f"Every token it signed since {_when(signed_from)} is rejected from now on (the last would end by"
            f" {_when(tokens_until)}): their holders must log in again."
        )
    if last_signature and last_signature > now:
        yield (
            f"An issuer that does not read the pointer again may sign with it until {_when(last_signature)}:"
            " make every issuer read it now."
        )


def _of_heir(  # noqa: PLR0913, PLR0917 - all of it decides what is said
    key: Key, heir: Key | None, early_until: datetime | None, ring: Keyring, keyset: KeySet, now: datetime
) -> Iterator[str]:
    if heir and early_until:
        yield f"{heir.kid} takes over at once, before its gate: verifiers may reject it until {_when(early_until)}."
    elif heir:
        yield f"{heir.kid} takes over at once; every verifier knows it already."
    else:
        yield "No next key is in public: nothing signs until a new key is made and seen."
        possible_at = creatable_at(ring, keyset.policy, emergency=True)
        if possible_at > now and not any(other.standby for other in ring.of(key.alg)):
            yield (
                f"None can be made before {_when(possible_at)}: too many were made within a day. Raise"
                " policy.max_creations_per_day first."
            )


def _when(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}Z" if moment else "an unknown time"
