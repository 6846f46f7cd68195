"""The policy: durations from which every deadline follows, and the inequalities that make a rotation safe.

staleness  = cache_tiers × (cache_max_age + cache_stale)
prepublish = staleness + verifier_cache + 2 × clock_skew
retention  = signer_lag + token_lifetime + verifier_leeway + 4 × clock_skew
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from rotator.errors import ConfigurationError
from rotator.keys.algorithms import RSA_BITS, algorithm

if TYPE_CHECKING:
    from rotator.keys.discovery import Discovery
    from rotator.keys.jwks import KidFormat

ZERO = timedelta(0)
LONGEST = timedelta(days=3_653)
MOST_TIERS = 100
_DAY = timedelta(days=1)

#: What a cache may do with a document that promises nothing: CloudFront's default TTL (RFC 9111 section 4.2.2
#: leaves it to the cache).
UNPROMISED = timedelta(days=1)

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(frozen=True)
class Policy:
    """Durations and limits of one key set; see the README's table for the meaning of each."""

    algorithms: tuple[str, ...] = ("RS256",)
    rsa_bits: int = 2048
    kid: KidFormat = "thumbprint"
    lifetime: timedelta = timedelta(days=30)
    token_lifetime: timedelta = timedelta(hours=1)
    signer_lag: timedelta = timedelta(hours=2)
    cache_max_age: timedelta = timedelta(minutes=5)
    cache_stale: timedelta = timedelta(hours=1)
    cache_tiers: int = 1
    verifier_cache: timedelta = timedelta(hours=24)
    verifier_leeway: timedelta = timedelta(minutes=5)
    clock_skew: timedelta = timedelta(seconds=60)
    max_keys: int = 10
    max_creations_per_day: int | None = None
    """``None``: 10, and four per algorithm and lifetime on top where lifetimes are shorter than a day."""
    interval: timedelta = timedelta(seconds=60)
    """How often a tick is due (``schedule.interval``); the proof counts two of them."""

    @cached_property
    def staleness(self) -> timedelta:
        """The age of the oldest copy that the caches in front of the document may still hand out."""
        return self.cache_tiers * (self.cache_max_age + self.cache_stale)

    @cached_property
    def prepublish(self) -> timedelta:
        """From when a key was seen in every document that must hold it, until it may sign."""
        return self.staleness + self.verifier_cache + 2 * self.clock_skew

    @cached_property
    def retention(self) -> timedelta:
        """From the last moment the pointer may have named a key, until its public half may leave."""
        return self.signer_lag + self.token_lifetime + self.verifier_leeway + 4 * self.clock_skew

    @cached_property
    def creations_per_day(self) -> int:
        """How many private keys may be created in 24 hours; as many again where no key is left that signs."""
        if self.max_creations_per_day is not None:
            return self.max_creations_per_day
        algorithms = len(self.algorithms)
        return max(10, 4 * algorithms) + 4 * algorithms * (_DAY // self.lifetime if self.lifetime else 0)

    @cached_property
    def cache_control(self) -> str:
        """The ``Cache-Control`` header (RFC 9111, RFC 5861): both stale allowances are always said, also as 0."""
        stale = int(self.cache_stale.total_seconds())
        value = (
            f"public, max-age={int(self.cache_max_age.total_seconds())}, "
            f"stale-while-revalidate={stale}, stale-if-error={stale}"
        )
        return value if stale else f"{value}, must-revalidate"

    @cached_property
    def keys_per_algorithm(self) -> int:
        """How many keys of one algorithm may be public at once: a next, a current, and those whose tokens live."""
        return 2 + (math.ceil(self.retention / self.lifetime) if self.lifetime > ZERO else 0)

    def inequalities(self) -> list[Inequality]:
        """The proof, line by line: each inequality with its numbers, and whether it holds."""
        floor = self.prepublish + 2 * self.interval
        keys = len(self.algorithms) * self.keys_per_algorithm
        return [
            Inequality(
                "lifetime > prepublish + 2 × interval",
                self.lifetime > floor,
                f"A key signs for {text(self.lifetime)}; its successor needs {text(self.prepublish)} in public and two"
                f" ticks of {text(self.interval)}, {text(floor)} in all, before it can take over.",
            ),
            Inequality(
                "algorithms × (2 + ⌈retention ÷ lifetime⌉) ≤ max_keys",
                keys <= self.max_keys,
                f"{len(self.algorithms)} algorithm(s) × (2 + ⌈{text(self.retention)} ÷ {text(self.lifetime)}⌉) ="
                f" {keys} keys at once; max_keys is {self.max_keys}.",
            ),
        ]

    def faults(self) -> list[str]:
        """Every reason why this policy is unsafe or makes no sense, each a sentence with its numbers."""
        found = [*self._range_faults(), *self._algorithm_faults()]
        if not found:
            found += [
                f"Unsafe: {line.sentence} Required: {line.name}." for line in self.inequalities() if not line.holds
            ]
        return found

    def _range_faults(self) -> list[str]:
        may_be_zero = {"cache_stale", "signer_lag", "clock_skew"}
        found = []
        for name, value in self._durations().items():
            if value < ZERO:
                found.append(f"{name} is {text(value)}: a duration cannot be negative.")
            elif value > LONGEST:
                found.append(f"{name} is {value.days} days: more than ten years is no policy.")
            elif value == ZERO and name not in may_be_zero:
                found.append(f"{name} is 0: it must be longer.")
        found += [
            f"{name} is {getattr(self, name).total_seconds()} s: an HTTP header needs whole seconds."
            for name in ("cache_max_age", "cache_stale")
            if getattr(self, name) % timedelta(seconds=1)
        ]
        if not 1 <= self.cache_tiers <= MOST_TIERS:
            found.append(
                f"cache_tiers is {self.cache_tiers}: 1 to {MOST_TIERS} caches stand between origin and verifier."
            )
        if self.max_creations_per_day is not None and self.max_creations_per_day < 1:
            found.append(f"max_creations_per_day is {self.max_creations_per_day}: it must be at least 1.")
        return found

    def _algorithm_faults(self) -> list[str]:
        found = []
        if not self.algorithms:
            found.append("algorithms is empty: name at least one, e.g. RS256.")
        if len(set(self.algorithms)) < len(self.algorithms):
            found.append(f"algorithms names one twice: {', '.join(self.algorithms)}.")
        for alg in self.algorithms:
            try:
                algorithm(alg)
            except ConfigurationError as exc:
                found.append(str(exc))
        if self.rsa_bits not in RSA_BITS:
            found.append(f"rsa_bits is {self.rsa_bits}: choose from {', '.join(map(str, RSA_BITS))}.")
        return found

    def _durations(self) -> dict[str, timedelta]:
        # Not vars(): what is derived is kept there, too, once it was asked for.
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, timedelta)}


@dataclass(frozen=True, slots=True)
class Inequality:
    """One line of the proof."""

    name: str
    holds: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class PublicDocument:
    """One public document of a key set: where it is kept, and the URLs from which verifiers fetch it."""

    name: str
    path: str
    urls: tuple[str, ...] = ()
    algorithms: frozenset[str] | None = None
    """The algorithms it shows; ``None``: all."""
    discovery: Discovery | None = None
    """What it says as an issuer's discovery document; ``None``: it is a JWKS."""

    def shows(self, alg: str) -> bool:
        """Whether keys of ``alg`` belong into this document."""
        return self.algorithms is None or alg in self.algorithms


@dataclass(frozen=True, slots=True)
class KeySet:
    """One issuer's keys, as configured: what the pure core needs to know of a configuration."""

    name: str
    policy: Policy
    documents: tuple[PublicDocument, ...] = field(default=())
    """Every JWKS: the main one and its views."""
    content_type: str = "application/jwk-set+json"
    discovery: PublicDocument | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(
                f"Key set name {self.name!r}: use 1 to 63 of a-z, 0-9, '_' and '-', beginning with a letter or digit."
            )

    @property
    def written(self) -> tuple[PublicDocument, ...]:
        """Every public document; the one that leads to others comes last."""
        return (*self.documents, self.discovery) if self.discovery else self.documents

    def documents_of(self, alg: str) -> tuple[PublicDocument, ...]:
        """Every JWKS in which the keys of ``alg`` stand."""
        return tuple(document for document in self.documents if document.shows(alg))

    def gates_of(self, alg: str) -> tuple[PublicDocument, ...]:
        """The documents that must show a key of ``alg`` (or list ``alg``) before it signs."""
        return tuple(document for document in self.written if document.shows(alg))

    def content_type_of(self, document: str) -> str:
        """The ``Content-Type`` that the document of this name is served with (RFC 7517 section 8.5, RFC 8414)."""
        return "application/json" if self.discovery and self.discovery.name == document else self.content_type


def staleness_of(cache_control: str | None, tiers: int = 1) -> timedelta:
    """The age of the oldest copy that caches may hand out of a document served with ``cache_control``.

    What the header does not promise is taken as :data:`UNPROMISED` (RFC 9111 section 4.2; RFC 5861).
    """
    directives = _directives(cache_control)
    if "no-store" in directives:
        return ZERO
    ages = [value for name in ("max-age", "s-maxage") if (value := _seconds(directives.get(name))) is not None]
    fresh = ZERO if "no-cache" in directives else max(ages, default=UNPROMISED)
    stales = [
        value
        for name in ("stale-while-revalidate", "stale-if-error")
        if (value := _seconds(directives.get(name))) is not None
    ]
    bound = {"must-revalidate", "no-cache", "proxy-revalidate"} & directives.keys()
    return tiers * (fresh + (max(stales) if stales else ZERO if bound else UNPROMISED))


def max_age_of(cache_control: str | None) -> timedelta | None:
    """``max-age`` (or the larger ``s-maxage``) of a header; ``None`` where it names none."""
    directives = _directives(cache_control)
    ages = [value for name in ("max-age", "s-maxage") if (value := _seconds(directives.get(name))) is not None]
    return max(ages, default=None)


def _directives(cache_control: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in (cache_control or "").lower().split(","):
        name, _, value = item.partition("=")
        name, value = name.strip(), value.strip().strip('"')
        # RFC 9111 section 4.2.1 leaves open which of two counts: the larger is the safe one.
        if name and (_seconds(found.get(name)) or ZERO) <= (_seconds(value) or ZERO):
            found[name] = value
    return found


def _seconds(value: str | None) -> timedelta | None:
    # RFC 9111 section 1.2.2: a delta-seconds beyond 2^31 means "for ever"; a year of caution is as good.
    if value is None or not value.isascii() or not value.isdigit():
        return None
    return timedelta(seconds=min(int(value.lstrip("0")[:12] or "0"), 366 * 86_400))


def text(duration: timedelta) -> str:
    """``duration`` as people write it: ``30d``, ``1h5m``, ``90s`` as ``1m30s``."""
    if duration < ZERO:
        return f"-{text(-duration)}"
    parts = []
    for unit, size in (("d", _DAY), ("h", _DAY / 24), ("m", _DAY / 1_440)):
        count, duration = divmod(duration, size)
        if count:
            parts.append(f"{count}{unit}")
    if duration or not parts:
        # Whole microseconds, never 1e-06: what is written here can be read by parse_duration.
        parts.append(f"{duration.total_seconds():.6f}".rstrip("0").rstrip(".") + "s")
    return "".join(parts)


_UNITS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_SHORT = re.compile(r"(\d+(?:\.\d+)?)([wdhms])")
_ISO = re.compile(
    r"P(?:(?P<w>\d+)W)?(?:(?P<d>\d+)D)?(?:T(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+(?:\.\d+)?)S)?)?", re.ASCII
)


def parse_duration(value: str) -> timedelta:
    """The duration in ``30d``, ``1h30m``, ``90s`` or ISO 8601 ``P30D``, ``PT1H``.

    Raises:
        ConfigurationError: anything else (months and years have no fixed length).
    """
    compact = value.strip()
    try:
        iso = _ISO.fullmatch(compact)
        if iso and not compact.endswith(("P", "T")):
            return timedelta(seconds=sum(float(iso[unit] or 0) * size for unit, size in _UNITS.items()))
        pairs = _SHORT.findall(compact)
        if pairs and "".join(number + unit for number, unit in pairs) == compact and compact.isascii():
            return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in pairs))
    except OverflowError:
        raise ConfigurationError(f"The duration {value[:40]!r} is too long.") from None
    raise ConfigurationError(f"Not a duration: {value[:40]!r}. Write e.g. 30d, 1h30m, 90s or ISO 8601 (P30D, PT1H).")
