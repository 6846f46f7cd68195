"""Keys beside one another: what is wrong with a set though each key may be right."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from rotator.jose.findings import Finding, error, warning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rotator.inspect.keys import KeyReport

#: Two keys of a set, or more, are named up to here.
_NAMED = 5


def check(reports: Sequence[KeyReport]) -> Iterator[Finding]:
    """What is wrong with the keys of one set together."""
    for kid, places in _same(reports, "kid").items():
        says = (
            f"The kid {kid[:60]!r} stands at {_listed(places)}: verifiers take any of them, or reject the set."
            " Every key needs a kid of its own."
        )
        yield error("duplicate-kid", says, "RFC 7517 section 4.5")
    for places in _same(reports, "thumbprint").values():
        says = f"One and the same key stands at {_listed(places)}: revoked under one kid, it lives on under another."
        yield warning("duplicate-key", says, "RFC 7638 section 3")


def _same(reports: Sequence[KeyReport], name: str) -> dict[str, list[str]]:
    places = defaultdict(list)
    for report in reports:
        value = getattr(report, name)
        if value is not None:
            places[value].append(report.where)
    return {value: found for value, found in places.items() if len(found) > 1}


def _listed(places: Sequence[str]) -> str:
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return f"keys {', '.join(place.removeprefix('key ') for place in places[:_NAMED])}{more}"
