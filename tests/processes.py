"""``rotator`` commands as processes that know nothing of one another: begun together, killed, waited for."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Self
from unittest.mock import patch

from rotator import app, aws
from rotator.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

#: Seconds until eight processes on two cores are done.
PATIENCE = 180

#: Forked from one that has imported everything and does nothing else: eight of them begin at one moment.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [__name__, "tests.warm", "rotator.daemon", *(f"rotator.cli.{name}" for name in ("init", "requests", "run", "tick"))]
)


@dataclass(frozen=True)
class Ended:
    words: tuple[str, ...]
    code: int | None
    lines: tuple[str, ...]

    def steps(self) -> list[tuple[str, str]]:
        """Each step it did, and the kid that it was about."""
        told: list[dict[str, Any]] = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [(line["step"], line.get("kid", "")) for line in told if line["event"] == "step"]


class Rotators:
    """``rotator`` commands in processes of their own, which begin together on entering the block.

    Their clocks are ``ahead`` of this machine's.
    """

    def __init__(self, file: Path, *commands: Sequence[str], ahead: timedelta = timedelta(0)) -> None:
        self._commands = [tuple(words) for words in commands]
        self._said = [file.with_name(f"{uuid.uuid4()}.log") for _ in commands]
        self._together = PROCESSES.Barrier(len(commands) + 1)
        self._all = [
            PROCESSES.Process(target=_rotator, args=(("--config", str(file), *words), said, self._together, ahead))
            for words, said in zip(self._commands, self._said, strict=True)
        ]

    def __enter__(self) -> Self:
        for process in self._all:
            process.start()
        self._together.wait(PATIENCE)
        return self

    def ended(self) -> list[Ended]:
        """What came of each, once all have ended."""
        for process in self._all:
            process.join(PATIENCE)
        return [
            Ended(words, process.exitcode, tuple(said.read_text(encoding="utf-8").splitlines()))
            for words, process, said in zip(self._commands, self._all, self._said, strict=True)
        ]

    def running(self) -> bool:
        """Whether any is."""
        return any(process.is_alive() for process in self._all)

    def stop(self) -> None:
        """SIGTERM, as an init system sends it."""
        for process in self._all:
            process.terminate()

    def kill(self) -> None:
        """``kill -9``, from any thread."""
        for process in self._all:
            process.kill()

    def __exit__(self, *_: object) -> None:
        self.kill()
        for process in self._all:
            process.join()


def _rotator(words: Sequence[str], said: Path, together: Barrier, ahead: timedelta) -> None:
    with said.open("w") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    from tests import warm

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + ahead

    sys.argv = ["rotator", *words]
    with (
        patch.object(app, "now", lambda: Ahead.now(UTC)),
        patch("apscheduler.schedulers.base.datetime", Ahead),
        patch.object(aws, "_session", lambda: warm.SESSION),
    ):
        together.wait(PATIENCE)
        main()


def together(file: Path, *commands: Sequence[str]) -> list[Ended]:
    """What came of ``commands`` that began at one moment."""
    with Rotators(file, *commands) as running:
        return running.ended()


def killed(file: Path, words: Sequence[str], after: float) -> None:
    """``words``, for ``after`` seconds."""
    with Rotators(file, words):
        time.sleep(after)


def timed(file: Path, words: Sequence[str]) -> float:
    """How long ``words`` take when nobody kills them."""
    with Rotators(file, words) as running:
        begun = time.monotonic()
        assert running.ended()[0].code == 0
        return time.monotonic() - begun
