"""Somebody who follows a page of the documentation: types its commands as they are written there."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.hospital import Program
from tests.support.pages import commands

__all__ = ["EXECUTED", "Reader", "executes"]

LIMIT_S = 100.0
#: Commands, and the tests that execute them.
EXECUTED: dict[str, list[str]] = {}


class Reader:
    """Runs commands in a folder.

    Parameters
    ----------
    folder
        Where the reader is.
    env
        The reader's environment.
    """

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder, self.env = folder, dict(env)
        #: Words of the pages, such as ``ID``, and what stands for them here.
        self.put_in: dict[str, str] = {}
        self.ran: set[str] = set()
        self.programs: list[Program] = []

    def run(self, *lines: str, status: int = 0, settings: bool = False) -> str:
        """Run *lines* in one shell; return what they printed.

        With *settings*, assignments are settings, as in a file of them.
        """
        done = subprocess.run(
            ["bash", "-ae" if settings else "-e", "-o", "pipefail", "-c", "\n".join(map(self.typed, lines))],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == status, f"{lines}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def serve(self, *lines: str, **env: str) -> Program:
        """Start the server that the last of *lines* starts; the caller waits for it."""
        *before, last = map(self.typed, lines)
        script = "\n".join([*before, f"exec {last}"])
        program = Program(
            f"served-{len(self.programs)}", ["bash", "-e", "-c", script], self.env | env, self.folder
        )
        self.programs.append(program)
        return program

    def typed(self, line: str) -> str:
        """Return *line* with everything put in."""
        assert line in commands(), f"no page has the command: {line}"
        self.ran.add(line)
        for word, here in self.put_in.items():
            line = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", here.replace("\\", r"\\"), line)
        return line

    def stop(self) -> None:
        """End all servers."""
        for program in self.programs:
            if program.process.poll() is None:
                program.process.terminate()
        for program in self.programs:
            program.stop()
            print(f"==> {program.log_path.name}\n{program.log[-3000:]}")


def executes(*lines: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Say which commands a test's ``reader`` executes; the test fails if it leaves one out."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        for line in lines:
            EXECUTED.setdefault(line, []).append(test.__name__)

        @functools.wraps(test)
        def checked(*, reader: Reader, **more: Any) -> None:
            test(reader=reader, **more)
            assert set(lines) - reader.ran == set()

        return checked

    return decorate
