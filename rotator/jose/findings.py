"""What is said about an input: one sentence each, with how bad it is and where it is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum


class Severity(IntEnum):
    """How bad a finding is; the greater, the worse."""

    NOTE = 0
    """Allowed, and worth knowing."""
    WARNING = 1
    """Some verifiers stumble, or something is weaker than it looks."""
    ERROR = 2
    """A standard says no, or tokens will be rejected, or a secret is out."""

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault. ``code`` never changes; ``says`` tells what was found and what to do; ``source`` who says so.

    Nothing in it quotes key material.
    """

    severity: Severity
    code: str
    says: str
    source: str = ""
    where: str = ""
    """Which key or block; empty: the whole input."""

    def at(self, where: str) -> Finding:
        """The same finding, said of ``where``."""
        return replace(self, where=where)


def error(code: str, says: str, source: str = "") -> Finding:
    """A finding that is an error."""
    return Finding(Severity.ERROR, code, _one_line(says), source)


def warning(code: str, says: str, source: str = "") -> Finding:
    """A finding that is a warning."""
    return Finding(Severity.WARNING, code, _one_line(says), source)


def note(code: str, says: str, source: str = "") -> Finding:
    """A finding that is a note."""
    return Finding(Severity.NOTE, code, _one_line(says), source)


def _one_line(says: str) -> str:
    """``says`` without what would steer a terminal or begin a line: it may name what a stranger wrote."""
    return "".join(sign if sign.isprintable() else "�" for sign in says)
