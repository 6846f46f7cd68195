"""A person at a terminal: the words of a ``rotator`` command a line, its exit code and output a line back.

One process for all of them: on a busy machine the start of a new one takes longer than what is to be shown here.
``python -m tests.clients.terminal CONFIG [--unguarded]``
"""

from __future__ import annotations

import json
import sys

from typer.testing import CliRunner

from rotator.cli import app
from tests.clients import unguarded

if __name__ == "__main__":
    file, *rest = sys.argv[1:]
    if rest == ["--unguarded"]:
        unguarded.take_away()
    for line in sys.stdin:
        done = CliRunner().invoke(app, ["--config", file, *json.loads(line)])
        sys.stdout.write(json.dumps([done.exit_code, done.output]) + "\n")
        sys.stdout.flush()
