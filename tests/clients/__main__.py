"""Runs the story twice, as it is and without prepublish, and prints the table.

``python -m tests.clients [--write] [NAME …]``: ``--write`` puts it into the README; names leave the other clients out.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.clients import story, table
from tests.clients.clients import CLIENTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description="The README's table of verifiers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(client.name for client in CLIENTS)}")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    given = parser.parse_args()
    if unknown := set(given.names) - {client.name for client in CLIENTS}:
        parser.error(f"there is no client {', '.join(sorted(unknown))}")
    clients = [client for client in CLIENTS if client.name in given.names or not given.names]
    if given.write and len(clients) < len(CLIENTS):
        parser.error("--write wants the whole table: name no clients")
    with ThreadPoolExecutor(2) as pool:
        as_it_is = pool.submit(story.run, clients=clients, say=lambda line: say(f"as it is            {line}"))
        unguarded = pool.submit(
            story.run, guarded=False, clients=clients, say=lambda line: say(f"without prepublish  {line}")
        )
        try:
            told, without = as_it_is.result(), unguarded.result()
        except pytest.skip.Exception as exc:
            parser.exit(1, f"{exc}\n")
    made = table.rendered(told, without, clients)
    sys.stdout.write(made)
    faults = [*told.failures, *told.rejected(), *(f"{name}: {why}" for name, why in told.missing.items())]
    for fault in faults[:20]:
        say(fault)
    if given.write and not faults:
        table.write(made)
        say("README.md has it now.")
    return 1 if faults else 0


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
