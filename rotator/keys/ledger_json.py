"""The ledger's JSON: its format number and the upgrades from older ones, and the pieces that its tables are made of.

``keyring`` says which members there are. What is read is checked member by member: nothing unknown, nothing twice,
no NaN, every time with its zone. A ledger is read whole or refused.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rotator.errors import Damaged, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

#: The format that is written. Raise it with any member that an older rotator does not know, and add the upgrade.
FORMAT = 1

#: Format → what makes the next one of it: pure, from members to members. An older ledger is upgraded when it is read,
#: and written so with its next fact. The oldest format here is the oldest that is read.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

_JSON = json.JSONEncoder(sort_keys=True)

#: Gates lie years ahead at the most; sums with a time beyond this may leave the calendar.
_LAST_YEAR = 3000

#: The ledger holds lists, these hold keys, these hold facts.
_DEPTH = 2

ADVICE = "Nothing was changed. Run 'rotator recover' (README, 'Lost ledger')."


# -- the ledger as a whole ---------------------------------------------------------------------------------------


def encoded(ledger: Any) -> bytes:
    """The bytes of ``ledger``, a dataclass: sorted JSON, a line for each fact; what is unset or empty is left out."""
    return (_lines({"format": FORMAT, **_encode(ledger)}) + "\n").encode("ascii")


def _lines(value: Any, depth: int = 0) -> str:
    """JSON with a line for each member, down to the facts of a key: an encoder that indents is ten times as slow."""
    if not value or depth > _DEPTH or not isinstance(value, (dict, list)):
        return _JSON.encode(value)
    indent, (begin, end) = "\n" + " " * depth, "{}" if isinstance(value, dict) else "[]"
    if isinstance(value, dict):
        items = [f"{_JSON.encode(name)}: {_lines(value[name], depth + 1)}" for name in sorted(value)]
    else:
        items = [_lines(item, depth + 1) for item in value]
    return f"{begin}{indent} " + f",{indent} ".join(items) + indent + end


def members(body: bytes, keyset: str) -> dict[str, Any]:
    """The members of the ledger of ``keyset`` in ``body``, as of today's format.

    Raises:
        Damaged: this is no ledger, or half of one.
        Refused: its format is newer, or it belongs to another key set.
    """
    try:
        document = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise Damaged(f"Key set {keyset}: the ledger is not readable JSON (half-written?). {ADVICE}") from None
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise Damaged(f"Key set {keyset}: this is not a ledger: it names no format. {ADVICE}")
    oldest = min(UPGRADES, default=FORMAT)
    if document["format"] < oldest:
        raise Damaged(f"Key set {keyset}: this is not a ledger: no format is below {oldest}. {ADVICE}")
    if document["format"] > FORMAT:
        raise Refused(
            f"Key set {keyset}: the ledger has format {str(document['format'])[:20]}, this rotator knows up to"
            f" {FORMAT}. Nothing was changed. Upgrade rotator."
        )
    if document.get("keyset") != keyset:
        raise Refused(
            f"Key set {keyset}: the ledger found there belongs to key set {document.get('keyset')!r:.80}."
            " Nothing was changed. Mend stores.ledger or the name."
        )
    return document


def decoded(document: dict[str, Any], ledger: Callable[[Any], Any], keyset: str) -> Any:
    """What ``ledger``, a decoder, makes of :func:`members`, upgraded where they are of an older format.

    Raises:
        Damaged: a member is missing, unknown, or not what it must be.
    """
    try:
        for format_ in range(document["format"], FORMAT):
            document = UPGRADES[format_](document)
        return ledger({name: value for name, value in document.items() if name != "format"})
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise Damaged(f"Key set {keyset}: the ledger is damaged at {str(exc)[:60]!r}. {ADVICE}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("duplicate member name")
    return found


def _encode(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if hasattr(value, "__dataclass_fields__"):
        return {
            name: _encode(item)
            for name in value.__dataclass_fields__
            if (item := getattr(value, name)) is not None and item is not False and item not in ((), {})
        }
    if isinstance(value, (tuple, list)):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {name: _encode(item) for name, item in value.items()}
    return value


# -- decoders: each returns what a member means, or raises TypeError or ValueError -------------------------------


def time_of(value: Any) -> datetime:
    """The aware UTC datetime in an ISO 8601 string; raises ``ValueError`` where it names no zone."""
    if not isinstance(value, str):
        raise TypeError(f"not a time: {value!r:.40}")
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError(f"no time zone: {value[:40]!r}")
    if moment.year > _LAST_YEAR:
        raise ValueError(f"no time of ours: {value[:40]!r}")
    return moment.astimezone(UTC)


def text(value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise TypeError(f"not a text: {value!r:.40}")
    return value


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise TypeError(f"not true or false: {value!r:.40}")
    return value


def count(value: Any) -> int:
    """A whole number, 0 or more."""
    if type(value) is not int or value < 0:
        raise TypeError(f"not a count: {value!r:.40}")
    return value


def span(value: Any) -> timedelta:
    """A duration in seconds."""
    if type(value) not in (int, float) or value < 0:
        raise TypeError(f"not a duration: {value!r:.40}")
    return timedelta(seconds=value)


def times(value: Any) -> dict[str, datetime]:
    """Times by name."""
    return {name: time_of(item) for name, item in value.items()}


def json_object(value: Any) -> dict[str, Any]:
    """A JSON object, as it is."""
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def many(one: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A decoder of lists of what ``one`` decodes."""

    def decode(value: Any) -> Any:
        if not isinstance(value, list):
            raise TypeError("not a list")
        return tuple(one(item) for item in value)

    return decode


def named(one: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A decoder of objects whose members are what ``one`` decodes."""
    return lambda value: {text(name): one(item) for name, item in value.items()}


def record(kind: type, **decoders: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A decoder of one dataclass; members it does not know are an error, so that no fact is lost unseen."""

    def decode(value: Any) -> Any:
        unknown = value.keys() - decoders.keys()
        if unknown:
            raise ValueError(f"unknown member {min(unknown)[:40]}")
        return kind(**{name: decoders[name](item) for name, item in value.items()})

    return decode
