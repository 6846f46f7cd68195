"""The line protocol: ``ready VERSION`` once, then a token in, ``ok`` or the reason why not out."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Setup:
    """What a verifier is told; certificates it takes from the environment, or from ``ca``."""

    url: str
    cache: float
    leeway: float
    issuer: str
    audience: str
    algorithms: list[str]
    ca: str

    @staticmethod
    def given() -> Setup:
        return Setup(**json.loads(sys.argv[1]))


def answer(version: str, verify: Callable[[str], object]) -> None:
    """Answer until the input ends; whatever ``verify`` raises is the reason."""
    _say(f"ready {version}")
    for line in sys.stdin:
        try:
            verify(line.strip())
        except Exception as exc:  # noqa: BLE001 - whatever it is, the user is logged out
            _say(" ".join(f"{type(exc).__name__}: {exc}".split()))
        else:
            _say("ok")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Cached:
    """What an application writes around a library that fetches nothing: a set is kept for ``cache`` seconds.

    What is not in it does not exist until then.
    """

    def __init__(self, setup: Setup, read: Callable[[bytes], Any]) -> None:
        self._setup, self._read = setup, read
        self._kept: Any = None
        self._until = 0.0

    def __call__(self) -> Any:
        if time.monotonic() >= self._until:
            with urllib.request.urlopen(self._setup.url, timeout=10) as found:
                self._kept = self._read(found.read())
            self._until = time.monotonic() + self._setup.cache
        return self._kept
