"""The shim: a loop of a few shell lines that runs a legacy command line for each message.

It saves the container's start and not the program's: a program is a fresh process for each run, and nothing
that it left running, in ``/tmp`` or in the folders outlives its run.
"""

from __future__ import annotations

import math
import os
import secrets
from functools import cache
from pathlib import Path

from dynsvc.runtime import Run
from workers.pool import Unusable
from workers.runtimes.environment import program_name
from workers.runtimes.talk import Answer

__all__ = ["Shim", "can_shim"]

_KILLED = 137


@cache
def _loop() -> str:
    return Path(__file__).with_name("shim_loop.sh").read_text(encoding="utf-8")


def can_shim(run: Run) -> bool:
    """Return whether the loop can be told this run: its ids go on lines of their own."""
    return not any("\n" in text for text in (run.order_id, run.attempt))


class Shim:
    """Speaks with one loop. Lines of its own begin with words that programs cannot know."""

    def __init__(self) -> None:
        self._mark = secrets.token_hex(16)

    def argv(self, run: Run) -> tuple[str, ...]:  # noqa: ARG002  (the loop is the same for all)
        """Return the loop."""
        return ("/bin/sh", "-c", _loop(), "dynsvc-shim", self._mark)

    def is_ready(self, line: bytes) -> bool:
        """Return whether the loop waits for messages."""
        return line == f"{self._mark} ready".encode()

    def message(self, run: Run, number: str) -> bytes:
        """Return the lines for one run."""
        program_name(run)
        head = [number, str(math.ceil(run.limits.timeout_s) + 1), run.order_id, run.attempt]
        lines = [os.fsencode(word) for word in head]
        for word in run.argv:
            begun, *more = os.fsencode(word).split(b"\n")
            lines += [b"a" + begun, *(b"c" + piece for piece in more)]
        return b"\n".join([*lines, b".", b""])

    def understand(self, line: bytes, number: str) -> Answer | str | None:
        """Return the program's end, where *line* tells it.

        Raises
        ------
        Unusable
            The program was killed: whether by its memory limit is told by a container of its own.
        """
        mark, _, status = line.partition(b" ")
        if mark != number.encode():
            return None
        if not status.isdigit() or int(status) == _KILLED:
            raise Unusable("its program was killed")
        code = int(status)
        return Answer(error=(lambda ending: ending.by_itself(code, "docker")) if code else None)
