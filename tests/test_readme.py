"""The README is true: its table is the settings', its commands are the command line's."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from rotator.cli import app
from rotator.settings import table
from rotator.simulate.gates import GATES

README = Path(__file__).parents[1] / "README.md"


def between(start: str, end: str) -> str:
    return README.read_text().split(start)[1].split(end)[0].strip()


def rendered() -> str:
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    rows += [f"| `{path}` | {default.replace('|', chr(92) + '|')} | {meaning} |" for path, default, meaning in table()]
    return "\n".join(rows)


def test_the_configuration_table_is_that_of_the_settings() -> None:
    assert between("<!-- settings -->", "<!-- /settings -->") == rendered()


def test_every_command_is_in_the_readme_and_every_command_of_the_readme_exists() -> None:
    commands = CliRunner().invoke(app, ["--help"]).output.split("Commands:")[1]
    listed = set(re.findall(r"^  (\w+) ", commands, re.MULTILINE))
    described = set(re.findall(r"^\| `rotator (\w+)", README.read_text(), re.MULTILINE))
    assert described == listed


def test_every_file_that_the_readme_names_exists() -> None:
    root = README.parent
    for name in re.findall(r"`((?:rotator|config|deploy|tests)/[\w./-]+)`", README.read_text()):
        assert (root / name).exists(), name


def test_the_table_of_protections_lists_each_with_what_it_prevents() -> None:
    rows = re.findall(
        r"^\| `([\w-]+)` \| (.+?) \| ([\d,]+) \| .+ \|$", between("<!-- gates -->", "<!-- /gates -->"), re.MULTILINE
    )
    assert [(name, prevents) for name, prevents, _ in rows] == [(gate.name, gate.prevents) for gate in GATES.values()]
