"""The table of the README, from what came of the two runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.clients.clients import CLIENTS, Client
from tests.clients.story import COLUMNS, FIRST, GONE, SECOND, STALENESS, VERIFIER_CACHE, Told
from tests.clients.traffic import PHASES

if TYPE_CHECKING:
    from collections.abc import Sequence

README = Path(__file__).parents[2] / "README.md"
START, END = "<!-- verifiers -->\n", "<!-- /verifiers -->\n"

REFUSES, ACCEPTED, NOT_ASKED = "—", "✓", "·"


def cell(told: Told, client: Client, alg: str) -> str:
    """A mark for each phase: every token accepted, or how many were rejected."""
    if not client.verifier.uses(alg):
        return REFUSES
    marks = []
    for phase in PHASES:
        count = told.counts.get((client.name, alg, phase))
        if count is None or not count.asked:
            marks.append(NOT_ASKED)
        else:
            marks.append(str(len(count.rejected)) if count.rejected else ACCEPTED)
    return " ".join(marks)


def cells(told: Told, client: Client) -> tuple[str, ...]:
    """The row of ``client``, without what differs from one run to the next."""
    return (*(cell(told, client, alg) for alg in COLUMNS), client.trusts)


def rendered(told: Told, without: Told, clients: Sequence[Client] = CLIENTS) -> str:
    """The whole table and what it was made from, in Markdown. ``without``: what came of the run without prepublish."""
    heads = [alg + (" (goes)" if alg in GONE else "" if alg in FIRST else " (comes)") for alg in COLUMNS]
    lines = [
        f"| verifier | {' | '.join(heads)} | trusts a key that left until | without prepublish |",
        "|---|" + "---|" * (len(heads) + 2),
    ]
    for client in clients:
        name = told.versions.get(client.name, client.title)
        name = f"{client.title} {name.split()[-1]}" if "," not in name else name
        lost = f"{len(without.rejected(client.name)):,} of {without.asked(client.name):,} rejected"
        lines.append(f"| {name} | {' | '.join(cells(told, client))} | {lost} |")
    rotations = min(told.rotations[alg] for alg in SECOND)
    sums = (
        f"{told.asked():,} checks across {rotations} and more rotations of each algorithm: {len(told.rejected()):,}"
        f" rejected. Without prepublish: {len(without.rejected()):,} of {without.asked():,}. By the policy copies are"
        f" up to {STALENESS} s old in nginx, and up to {VERIFIER_CACHE} s more in clients."
    )
    lines += ["", sums]
    return "\n".join(lines) + "\n"


def in_readme() -> dict[str, tuple[str, ...]]:
    """The rows that stand in the README: name without version → what :func:`cells` makes."""
    text = README.read_text(encoding="utf-8").split(START)[1].split(END)[0]
    rows = [[each.strip() for each in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    found = {}
    for name, *rest in rows[2:]:
        client = next(client for client in CLIENTS if _bare(name) == client.title)
        found[client.name] = tuple(rest[:-1])
    return found


def _bare(name: str) -> str:
    return ", ".join(part.strip().rpartition(" ")[0] for part in name.split(","))


def write(table: str) -> None:
    """Put ``table`` into the README."""
    before, rest = README.read_text(encoding="utf-8").split(START)
    README.write_text(f"{before}{START}{table}{END}{rest.split(END)[1]}", encoding="utf-8")
