"""Every protection, and how to take it away: so that a sceptic can watch what it prevents.

Only ever used in a simulated world. A protection is taken away by replacing the function that gives it, and put back
when the ``with`` block ends; no production code knows of this.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rotator.engine import observe as observing
from rotator.engine.observe import Observer
from rotator.engine.steps import Steps
from rotator.errors import ConfigurationError
from rotator.keys import facts
from rotator.keys import plan as planning
from rotator.keys.policy import ZERO
from rotator.ports import Intent
from rotator.simulate.ports import Ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime, timedelta

    from rotator.keys.keyring import Key, Keyring
    from rotator.keys.policy import KeySet, Policy

Patch = tuple[Any, str, Any]


@dataclass(frozen=True, slots=True)
class Gate:
    """One protection: what it prevents, the faults that show it, and what replaces it."""

    name: str
    prevents: str
    faults: frozenset[str]
    patches: Callable[[], list[Patch]] = field(repr=False)
    strays: bool = False
    """It matters only where creating a key is not idempotent (KMS)."""
    idle: Callable[[KeySet], str | None] = field(default=lambda _: None, repr=False)
    """Why it gives nothing to a key set; ``None``: it does."""


@contextmanager
def without(name: str) -> Iterator[Gate]:
    """Take the protection ``name`` away for as long as the block lasts.

    Raises:
        ConfigurationError: there is no such protection.
    """
    gate = named(name)
    with ExitStack() as stack:
        for target, attribute, replacement in gate.patches():
            stack.callback(setattr, target, attribute, getattr(target, attribute))
            setattr(target, attribute, replacement)
        yield gate


def named(name: str) -> Gate:
    """The protection called ``name``.

    Raises:
        ConfigurationError: there is no such protection.
    """
    if name not in GATES:
        raise ConfigurationError(f"There is no protection {name!r:.80}: choose from {', '.join(GATES)}.")
    return GATES[name]


# -- gates of time -------------------------------------------------------------------------------------------------


def _gate(change: Callable[[KeySet, Key, datetime], datetime]) -> Callable[[], list[Patch]]:
    """``plan.gate`` with another answer for keys that were seen and stood in no first document."""

    def patches() -> list[Patch]:
        honest = planning.gate

        def gate(keyset: KeySet, key: Key) -> datetime | None:
            at = honest(keyset, key)
            return at if at is None or key.founding else change(keyset, key, at)

        return [(planning, "gate", gate), (facts, "gate", gate)]

    return patches


def _earlier(by: Callable[[Policy], timedelta]) -> Callable[[], list[Patch]]:
    return _gate(lambda keyset, _key, at: at - by(keyset.policy))


def _at_once(_keyset: KeySet, key: Key, at: datetime) -> datetime:
    return key.published_at or at


def _by_today(keyset: KeySet, key: Key, at: datetime) -> datetime:
    return max(key.published.values(), default=at) + keyset.policy.prepublish


def _leaving(stop: Callable[[Policy], timedelta], withdraw: Callable[[Policy], timedelta]) -> Callable[[], list[Patch]]:
    """``stop_at`` and ``withdraw_at``, each too early by so much."""

    def patches() -> list[Patch]:
        stop_at, withdraw_at = planning.stop_at, planning.withdraw_at
        return [
            (planning, "stop_at", lambda policy, key, at: stop_at(policy, key, at) - stop(policy)),
            (planning, "withdraw_at", lambda policy, key, at: withdraw_at(policy, key, at) - withdraw(policy)),
        ]

    return patches


def _skew() -> list[Patch]:
    return [
        *_earlier(lambda policy: 2 * policy.clock_skew)(),
        *_leaving(lambda policy: 2 * policy.clock_skew, lambda policy: 4 * policy.clock_skew)(),
    ]


def _promises() -> list[Patch]:
    def forgetful(policy: Policy, key: Key) -> tuple[Policy, Key]:
        return policy, replace(key, signer_lag=ZERO, token_lifetime=ZERO, verifier_leeway=ZERO, clock_skew=ZERO)

    stop_at, withdraw_at = planning.stop_at, planning.withdraw_at
    return [
        *_gate(_by_today)(),
        (planning, "stop_at", lambda policy, key, at: stop_at(*forgetful(policy, key), at)),
        (planning, "withdraw_at", lambda policy, key, at: withdraw_at(*forgetful(policy, key), at)),
    ]


def _first_key() -> list[Patch]:
    published = facts.published

    def at_once(ring: Keyring, keyset: KeySet, document: Any, key_ids: Any, now: datetime) -> Keyring:
        chosen = tuple(key_ids)
        first = [key.id for key in ring.keys if key.id in chosen and not any(o.exposed for o in ring.of(key.alg))]
        ring = published(ring, keyset, document, chosen, now)
        return ring.with_keys(first, lambda key: replace(key, founding=True))

    return [(facts, "published", at_once)]


# -- order and races -----------------------------------------------------------------------------------------------


def _blind_writes() -> list[Patch]:
    honest = Ports.replace

    def blind(self: Ports, path: str, body: bytes, headers: Any, version: str) -> str:
        stored = self.world.documents.get(path)
        return honest(self, path, body, headers, stored[1] if stored else version)

    return [(Ports, "replace", blind)]


def _effect_first() -> list[Patch]:
    def intend(self: Steps, step: Any, world: Any) -> None:
        # The obvious order: make the key, then write down that there is one.
        key_id, attempt, policy = self._nonce(), self._nonce(), self.keyset.policy
        row = facts_algorithm(step.alg)
        intent = Intent(self.keyset.name, world.ring.ledger_id, key_id, row, policy.rsa_bits, policy.kid, attempt)
        world.made[key_id] = self._keys.create(intent)
        self.commit(world, facts.intended(world.ring, step.alg, key_id, attempt, self.now(world.ring)), step)
        world.attempts.add(attempt)

    from rotator.keys.algorithms import algorithm as facts_algorithm

    return [(Steps, "_intend", intend)]


def _move_first() -> list[Patch]:
    def promote(self: Steps, step: Any, world: Any) -> None:
        # The obvious order: move the pointer, then write down that it moved.
        key = self._key(world, step)
        world.pointers[key.alg] = self._keys.move_pointer(world.pointers[key.alg], self._ref(key))
        self.commit(world, facts.activated(world.ring, self.keyset.policy, key.id, None, self.now(world.ring)), step)

    return [(Steps, "_promote", promote)]


def _ledger_first() -> list[Patch]:
    honest = Observer.observe

    def observe(self: Observer, *args: Any, **options: Any) -> Any:
        found, known = self._ledger.read(), self._ledger.read
        self._ledger.read = lambda: found  # type: ignore[method-assign]
        try:
            return honest(self, *args, **options)
        finally:
            self._ledger.read = known  # type: ignore[method-assign]

    return [(Observer, "observe", observe)]


def _no_fence() -> list[Patch]:
    return [(Ports, "fence", lambda _self, _keyset, _algorithm, pointer: pointer)]


def _same_attempt() -> list[Patch]:
    def attempt(self: Steps, step: Any, world: Any) -> None:
        world.attempts.add(self._key(world, step).attempt)

    return [(Steps, "_attempt", attempt)]


# -- what is looked at ---------------------------------------------------------------------------------------------


def _rule(name: str) -> Callable[[], list[Patch]]:
    """The plan without one of its rules."""

    def patches() -> list[Patch]:
        taken = getattr(planning, name)
        return [(planning, "RULES", tuple(rule for rule in planning.RULES if rule is not taken))]

    return patches


def _unproven() -> list[Patch]:
    return [(Steps, "_prove", lambda _self, _key, _copies: None)]


def _origin_only() -> list[Patch]:
    def look(_self: Observer, document: Any, world: Any, **_: Any) -> Any:
        return [world.seen[document.name]], None

    return [(Observer, "look_in_public", look)]


def _any_copy() -> list[Patch]:
    return [(observing, "older", lambda *_: False)]


def _any_clock() -> list[Patch]:
    return [(Observer, "compare_clocks", lambda _self, _sent, _date, _faults: None)]


def _all(*names: str) -> frozenset[str]:
    return frozenset(names)


def _zero(name: str) -> Callable[[KeySet], str | None]:
    return lambda keyset: None if getattr(keyset.policy, name) else f"{name} is 0s"


def _no_url(keyset: KeySet) -> str | None:
    return None if any(document.urls for document in keyset.documents) else "no document has a public_url"


_TABLE = (
    Gate("prepublish", "a key signs before caches know it", _all("operator"), _gate(_at_once)),
    Gate(
        "cache-stale",
        "a cache hands out an older copy for as long as it may, and lacks the key",
        _all("operator"),
        _earlier(lambda policy: policy.cache_tiers * policy.cache_stale),
        idle=_zero("cache_stale"),
    ),
    Gate(
        "verifier-cache",
        "a verifier keeps its set for a day, and lacks the key",
        _all("operator"),
        _earlier(lambda policy: policy.verifier_cache),
    ),
    Gate(
        "seen-in-public",
        "the clock of a key starts while the CDN still shows the set without it",
        _all("operator", "edge"),
        _origin_only,
        idle=_no_url,
    ),
    Gate(
        "newest-copy",
        "a key that the document lost is seen again in a copy from before, while others lack it yet",
        _all("operator", "edge", "outsider"),
        _any_copy,
        idle=_no_url,
    ),
    Gate(
        "first-key",
        "the first key of an added algorithm signs before caches know it",
        _all("algorithms"),
        _first_key,
    ),
    Gate(
        "retention",
        "a key leaves while tokens that it signed are alive",
        _all("operator"),
        _leaving(lambda _: ZERO, lambda policy: policy.retention),
    ),
    Gate(
        "signer-lag",
        "a private half stops while issuers that read the pointer before still sign with it",
        _all("operator"),
        _leaving(lambda policy: policy.signer_lag, lambda policy: policy.signer_lag),
        idle=_zero("signer_lag"),
    ),
    Gate(
        "token-lifetime",
        "a key leaves with its last issuer, but before its last token",
        _all("operator"),
        _leaving(lambda _: ZERO, lambda policy: policy.token_lifetime),
    ),
    Gate(
        "skew",
        "two clocks that are off by a minute open a gate too early",
        _all("operator", "clock"),
        _skew,
        idle=_zero("clock_skew"),
    ),
    Gate(
        "clock-guard",
        "a worker whose clock is days ahead promotes or withdraws days early",
        _all("operator", "clock"),
        _any_clock,
    ),
    Gate(
        "promises-only-grow",
        "a policy made shorter forgets tokens and copies that were made under the longer one",
        _all("operator", "policy"),
        _promises,
    ),
    Gate("proof", "a key that cannot sign (or signs what does not verify) becomes current", _all("key"), _unproven),
    Gate(
        "drift",
        "an old jwks.json restored by somebody's deployment goes unnoticed, and its copies lack the next key",
        _all("operator", "outsider"),
        _rule("_restored"),
    ),
    Gate(
        "old-ledger",
        "a ledger restored from yesterday leads issuers back to a key of yesterday",
        _all("operator", "ledger"),
        _rule("_ledger_explains_the_world"),
    ),
    Gate(
        "intent-first",
        "a crash leaves a private key that nobody knows of",
        _all("operator", "kill", "lost", "applied"),
        _effect_first,
    ),
    Gate(
        "attempts",
        "a crash loop makes key after key (spiffe/spire #5497)",
        _all("operator", "kill", "lost", "applied"),
        _same_attempt,
        strays=True,
    ),
    Gate(
        "compare-and-swap",
        "two workers overwrite one another's facts",
        _all("operator", "stall"),
        _blind_writes,
    ),
    Gate(
        "promoting-first",
        "a promotion that is half done looks like drift to another worker, and is undone",
        _all("operator", "stall", "kill", "lost", "applied"),
        _move_first,
    ),
    Gate(
        "pointer-before-ledger",
        "a promotion that ended between two reads looks like drift, or the ledger like an old one",
        _all("operator", "stall", "kill", "lost", "applied"),
        _ledger_first,
    ),
    Gate(
        "fence",
        "a worker that stalled hands the pointer to a key that was revoked meanwhile",
        _all("operator", "stall"),
        _no_fence,
    ),
)

#: Every protection by name, in the order in which a table lists them.
GATES = {gate.name: gate for gate in _TABLE}
