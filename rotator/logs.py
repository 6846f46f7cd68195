"""One line per step: JSON where programs read it, plain words on a terminal. structlog is loaded with the first line.

Only chosen facts are logged, never an object whole: no line can hold key material.
"""

from __future__ import annotations

import re
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rotator.engine import Report

#: Where a key stands after a step about it: what a person wants to see move.
_BECOMES = {
    "create": "pending",
    "note-published": "next",
    "activate": "current",
    "withdraw": "retired",
    "revoke": "revoked",
}

#: A kid by RFC 7638 or SPKI hash: too long for a line that a person reads.
_THUMBPRINT = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])")

_COLOURS = {
    "dim": "2",
    "pending": "2",
    "next": "36",
    "current": "1;32",
    "previous": "33",
    "retired": "2",
    "revoked": "1;31",
    "warning": "33",
    "error": "1;31",
}


class Log:
    """Writes lines to ``stream`` (standard error): JSON, or with ``words`` for people, in colour if asked."""

    def __init__(self, stream: TextIO | None = None, *, words: bool = False, colour: bool = False) -> None:
        self._out, self._words, self._colour = _Lines(stream), words, colour
        self._writing = threading.Lock()
        self._logger: Any = None

    def step(self, report: Report) -> None:
        """One step, or a warning beside it."""
        self.say(
            "warning" if report.level == "warning" else "info",
            report.level,
            keyset=report.keyset,
            step=report.step,
            alg=report.alg,
            kid=report.kid,
            document=report.document,
            reason=report.reason,
            seconds=round(report.seconds, 3),
        )

    def say(self, level: str, event: str, **facts: Any) -> None:
        """One line about ``event``; facts that are ``None`` are left out."""
        known = {name: value for name, value in facts.items() if value is not None}
        with self._writing:
            self._logger = self._logger or self._opened()
            # A reader that went away (a closed terminal, a broken pipe) must not stop a rotation.
            with suppress(OSError, ValueError):
                getattr(self._logger, level)(event, **known)

    def paint(self, tone: str, words: str) -> str:
        """``words`` in the colour of a stage or level, where colour is wanted."""
        code = _COLOURS.get(tone)
        return f"\x1b[{code}m{words}\x1b[0m" if self._colour and code and words.strip() else words

    def _opened(self) -> Any:
        import structlog

        render: Any = self._in_words if self._words else structlog.processors.JSONRenderer()
        return structlog.wrap_logger(
            self._out,
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                render,
            ],
            wrapper_class=structlog.BoundLogger,
            context_class=dict,
        )

    def _in_words(self, _: object, level: str, facts: dict[str, Any]) -> str:
        time = facts.pop("timestamp")[11:19] + "Z"
        event, keyset, step, alg, kid = (facts.pop(name, "") for name in ("event", "keyset", "step", "alg", "kid"))
        said = _THUMBPRINT.sub(lambda found: f"{short(found[0])}…", facts.pop("reason", "") or facts.pop("error", ""))
        becomes = _BECOMES.get(step, "")
        for name in ("level", "seconds", "document"):
            facts.pop(name, None)
        keys = [f"{printable(short(key))} {self.paint(stage, stage)}" for key, stage in facts.pop("stages", ())]
        columns = (
            self.paint("dim", time),
            f"{keyset:<10}",
            self.paint(level if level in _COLOURS else becomes, f"{step or event:<15}"),
            f"{alg:<5} {printable(short(kid)):<8}",
            self.paint(becomes, f"{'→ ' + becomes if becomes else '':<10}"),
            *keys,
            printable(said),
            *(printable(f"{name}={value}") for name, value in facts.items()),
        )
        return "  ".join(columns).rstrip()


class _Lines:
    """What structlog writes to. The stream is looked up for each line: a progress bar may stand in for it."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def info(self, line: str) -> None:
        stream = self._stream or sys.stderr
        stream.write(f"{line}\n")
        stream.flush()

    warning = error = info


def short(kid: str) -> str:
    """Enough of a kid to tell it from its siblings; commands take it as it is."""
    return kid[:8]


def printable(words: str) -> str:
    """``words`` without what would steer a terminal: a foreign kid may hold anything."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "�" for sign in words)


def hush() -> None:
    """Keep the libraries' own chatter out of the log: what matters in it reaches us as exceptions."""
    import logging

    # With a handler at the root, logging does not fall back to writing warnings to standard error.
    logging.getLogger().addHandler(logging.NullHandler())
