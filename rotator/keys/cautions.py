"""Which verifiers a configuration shuts out, or spoils the set for; and the view that would let them in.

No fault: an operator knows the verifiers of the tokens. But nobody should learn of it from a rejected token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rotator.keys.algorithms import ALGORITHMS
from rotator.keys.verifiers import VERIFIERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rotator.keys.policy import KeySet, Policy
    from rotator.keys.verifiers import Verifier


@dataclass(frozen=True, slots=True)
class Caution:
    """A sentence for the operator, the verifiers it is about, and what a view for them would show."""

    sentence: str
    verifiers: tuple[str, ...]
    shows: tuple[str, ...] = ()
    """Empty: no view helps."""


def cautions(keyset: KeySet) -> list[Caution]:
    """What the known verifiers cannot do with ``keyset``; where a view helps, which."""
    return [*_unverified(keyset.policy), *_unsuited(keyset)]


def _unverified(policy: Policy) -> list[Caution]:
    """Algorithms whose tokens some verifiers reject, whatever the documents show."""
    found = []
    for alg in policy.algorithms:
        # Who verifies another algorithm of this key set by its own documentation is expected to be sent that one.
        names = [
            row.title
            for row in VERIFIERS.values()
            if alg in row.refuses or not any(row.uses(other) for other in policy.algorithms)
        ]
        if names:
            older = " Most of them know these keys by the name EdDSA." if alg == "Ed25519" else ""
            found.append(Caution(f"{alg} tokens are rejected by {', '.join(names)}.{older}", tuple(names)))
    return found


def _unsuited(keyset: KeySet) -> list[Caution]:
    """Verifiers that use some of the algorithms, but no document as it stands; together where one view helps them."""
    groups: dict[tuple[str, ...], list[tuple[Verifier, str]]] = {}
    for row in VERIFIERS.values():
        shown = [[alg for alg in keyset.policy.algorithms if each.shows(alg)] for each in keyset.documents]
        faults = [_fault(row, algs, keyset.policy) for algs in shown]
        usable = _usable(row, keyset.policy)
        if None not in faults and any(map(row.uses, keyset.policy.algorithms)):
            groups.setdefault(usable, []).append((row, next(fault for fault in faults if fault)))
    found = []
    for shows, rows in groups.items():
        reasons = dict.fromkeys(reason for _, reason in rows)
        words = "; ".join(_said([row.title for row, its in rows if its == reason], reason) for reason in reasons)
        listed = ", ".join(f'"{alg}"' for alg in shows)
        remedy = f"Lead {'them' if len(rows) > 1 else 'it'} to a view: [[keysets.views]] shows = [{listed}]."
        if not shows:
            remedy = "Not even a view of one algorithm is small enough: let keys live longer."
        found.append(Caution(f"{words}. {remedy}", tuple(row.title for row, _ in rows), shows))
    return found


def _said(titles: Sequence[str], fault: str) -> str:
    verb, _, rest = fault.partition(" ")
    if len(titles) > 1:
        verb = "verify" if verb == "verifies" else verb.removesuffix("s")
    return f"{', '.join(titles)} {verb} {rest}"


def _fault(row: Verifier, algs: Sequence[str], policy: Policy) -> str | None:
    """Why a document of ``algs`` does not suit a verifier; ``None``: it does."""
    kinds = {ALGORITHMS[alg].kty for alg in algs}
    if row.only is not None and not row.only.issuperset(algs):
        return f"verifies {' and '.join(sorted(row.only & set(policy.algorithms)))} alone"
    if "AKP" in row.spoiled_by and "AKP" in kinds:
        return "rejects a whole set that holds an ML-DSA key"
    if "mixed kty" in row.spoiled_by and len(kinds) > 1:
        return "takes the first key of a set, of whatever kind"
    if row.max_keys is not None and len(algs) * policy.keys_per_algorithm > row.max_keys:
        return f"reads {row.max_keys} keys, and there may be {len(algs) * policy.keys_per_algorithm}"
    return None if any(map(row.uses, algs)) else "finds no algorithm that it knows"


def _usable(row: Verifier, policy: Policy) -> tuple[str, ...]:
    """The algorithms that a view for this verifier would show; none: no view helps."""
    usable = [alg for alg in policy.algorithms if row.uses(alg)]
    if "mixed kty" in row.spoiled_by:
        usable = [alg for alg in usable if ALGORITHMS[alg].kty == ALGORITHMS[usable[0]].kty]
    if row.max_keys is not None:
        usable = usable[: row.max_keys // policy.keys_per_algorithm]
    return tuple(usable)
