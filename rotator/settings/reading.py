"""From a file and the environment to :class:`Settings`, with every fault on the way as a sentence."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from rotator.errors import ConfigurationError
from rotator.settings.tables import DELIMITER, PREFIX, Settings, leaves, table_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

    Place = tuple[int | str, ...]

CONFIG_VARIABLE = "ROTATOR_CONFIG"

#: Variables that are no settings.
_OTHERS = frozenset({CONFIG_VARIABLE})

#: Kubernetes tells every pod about every Service; one named "rotator…" must not look like a setting.
_SERVICE_LINK = re.compile(
    r"ROTATOR_(?:[A-Z0-9]+_)*(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
    r"|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
    r"|ROTATOR_(?:[A-Z0-9]+_)*PORT=(?:tcp|udp|sctp)://.*"
)

#: Tables whose keys the operator chooses.
_OPEN = (f"{PREFIX}KMS__TAGS__", f"{PREFIX}SECRETSMANAGER__TAGS__")


@dataclass(slots=True)
class Faults:
    """All that is wrong, a sentence each, and the places of the values that were left out for it."""

    found: list[str] = field(default_factory=list)
    unsafe: list[str] = field(default_factory=list)
    places: set[Place] = field(default_factory=set)

    def add(self, where: str, sentence: str) -> None:
        """Note that the setting ``where`` is wrong."""
        self.found.append(f"{where}: {sentence}")

    def touch(self, *place: int | str) -> bool:
        """Whether a value in ``place``, or around it, was left out: what follows from it would mislead."""
        return any(each[: len(place)] == place or place[: len(each)] == each for each in self.places)


def read(path: Path) -> dict[str, Any]:
    """The tables in the file at ``path``.

    Raises:
        ConfigurationError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as exc:
        raise ConfigurationError(f"The configuration {path} cannot be read: {exc.strerror}.") from exc
    except UnicodeDecodeError:
        raise ConfigurationError(f"The configuration {path} is not UTF-8 text.") from None
    except (ValueError, RecursionError) as exc:
        raise ConfigurationError(f"The configuration {path} is not TOML: {exc}.") from None


def variables() -> dict[str, str]:
    """The environment variables that are meant as settings, known or not; their names in upper case."""
    return {
        name.upper(): value
        for name, value in os.environ.items()
        if name.upper().startswith(PREFIX) and name not in _OTHERS and not _is_service_link(name, value)
    }


def _is_service_link(name: str, value: str) -> bool:
    return any(map(_SERVICE_LINK.fullmatch, (name, f"{name}={value}")))


def settings(tables: Mapping[str, Any], forced: Mapping[str, Any], faults: Faults) -> Settings:
    """The settings in ``tables``, over them the environment, over both ``forced``.

    What is wrong is noted in ``faults`` and taken out of what was given, so that one look finds all.
    """
    return _validated(_merged(_merged(tables, _environment(tables, faults)), forced), faults)


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """``low``, and over it ``high``: tables are merged, all else is replaced."""
    return dict(low) | {
        name: _merged(low[name], value) if isinstance(value, dict) and isinstance(low.get(name), dict) else value
        for name, value in high.items()
    }


# -- the environment -------------------------------------------------------------------------------------------------


class _Environment(EnvSettingsSource):
    """Leaves what should be JSON and is not as it is: then its type is told together with all other faults."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except (ValueError, RecursionError):
            return value


def _environment(tables: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
    given, known = variables(), _known()
    unknown = {name for name in given if name not in known and not name.startswith(_OPEN)}
    source = _Environment(Settings)
    # pydantic-settings takes what it does not know for a part of a table; it would be told by the wrong name.
    source.env_vars = {name: value for name, value in source.env_vars.items() if name.upper() not in unknown}
    found = source()
    file = _merged(tables, found).get("file")
    passphrase = file.get("passphrase_env") if isinstance(file, dict) else None
    for name in sorted(unknown - {str(passphrase).upper()}):
        near = difflib.get_close_matches(name.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in known], 1)
        meant = _asked(PREFIX + each for each in near)
        faults.add(name, f"unknown variable; {meant or 'the README lists all settings.'}")
    return found


def _known() -> list[str]:
    paths = [path for path, _ in leaves() if "[]" not in path]
    return [PREFIX + path.upper().replace(".", DELIMITER) for path in (*paths, *Settings.model_fields)]


# -- the faults that pydantic finds ----------------------------------------------------------------------------------


def _validated(tables: dict[str, Any], faults: Faults) -> Settings:
    # Looked at before pydantic-settings, whose own options are arguments that begin with an underscore.
    for name in [name for name in tables if name not in Settings.model_fields]:
        faults.add(name, f"unknown setting; {_suggestion((name,))}")
        del tables[name]
    while True:
        try:
            return Settings(**tables)
        except ValidationError as exc:
            errors = exc.errors(include_url=False, include_input=False)
        for error in errors:
            faults.add(_name(error["loc"], tables), _sentence(error))
        places = {_place(error["loc"]) for error in errors}
        for place in places:
            _leave_out(place, tables)
        faults.places |= places


def _place(loc: Place) -> Place:
    """The setting that an error is about, without the way into its value."""
    if loc[0] == "keysets":
        return loc[: 4 if loc[2:3] == ("policy",) else 3]
    return loc[:2]


def _leave_out(place: Place, tables: Any) -> None:
    *above, last = place
    for part in above:
        if isinstance(tables, dict) and part not in tables:
            return
        tables = tables[part]
    if isinstance(tables, list):
        tables[int(last)] = {}
    else:
        tables.pop(last, None)


def _name(loc: Place, tables: Mapping[str, Any]) -> str:
    """How the operator knows a setting: by its variable where that is set, by its path in the file otherwise."""
    names = [part for part in loc if isinstance(part, str)]
    variable = PREFIX + DELIMITER.join(names).upper()
    if loc[0] == "keysets" and len(loc) > 1:
        entry = tables["keysets"][loc[1]]
        name = entry.get("name") if isinstance(entry, dict) and loc[2:] != ("name",) else None
        return ".".join([keyset_name(name, int(loc[1])), *names[1:]])
    return variable if variable in variables() else ".".join(names)


def keyset_name(name: object, index: int) -> str:
    """How a message calls a key set: by its name, or by its place among the others."""
    plain = isinstance(name, str) and re.fullmatch(r"[\w-]{1,63}", name)
    return f"keysets.{name}" if plain else f"keysets #{index + 1}"


_WANTED = {
    "string": "must be text.",
    "int": "must be a whole number.",
    "bool": "must be true or false.",
    "tuple": "must be a list; in the environment write it as JSON.",
    "dict": "must be a table; in the environment write it as JSON.",
    "model": "must be a table; in the environment write it as JSON.",
    "missing": "is missing.",
    "literal_error": "must be {expected}.",
    "greater_than_equal": "must be at least {ge}.",
    "less_than_equal": "must be at most {le}.",
    "string_pattern_mismatch": "is no such ID.",
    "value_error": "{error}",
}


def _sentence(error: ErrorDetails) -> str:
    kind = error["type"]
    if kind == "extra_forbidden":
        return f"unknown setting; {_suggestion(error['loc'])}"
    wanted = _WANTED.get(kind) or _WANTED.get(kind.partition("_")[0])
    return wanted.format(**error.get("ctx", {})) if wanted else f"{error['msg']}."


def _suggestion(loc: Place) -> str:
    """What may have been meant: a sibling, or a setting of this very name in another table."""
    *above, name = (part for part in loc if isinstance(part, str))
    model: type[BaseModel] = Settings
    for part in above:
        model = table_of(model.model_fields[part]) or model
    near = difflib.get_close_matches(name, model.model_fields, 1)
    siblings = [".".join([*above, each]) for each in near]
    elsewhere = [path for path, _ in leaves() if path.rpartition(".")[2] == name]
    return _asked(siblings or elsewhere) or f"known here are {', '.join(model.model_fields)}."


def _asked(names: Iterable[str]) -> str:
    return next((f"did you mean {name}?" for name in names), "")
