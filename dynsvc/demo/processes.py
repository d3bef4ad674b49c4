"""Programs that the demo runs: started with a log file each, watched, and all gone at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dynsvc.errors import AlgorithmUnavailable, PeerUnavailable

__all__ = ["Processes", "tail", "wait_for_line"]

#: From the polite signal to the other one. A worker finishes nothing in it that the demo still needs.
_GRACE_S = 8.0
_KILL_S = 5.0


@dataclass(frozen=True, slots=True)
class _Started:
    name: str
    popen: subprocess.Popen[bytes]
    log: Path


class Processes:
    """Child processes, each the leader of a group of its own, so that its children end with it.

    Parameters
    ----------
    logs
        An existing folder for ``NAME.log``.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._started: list[_Started] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self, name: str, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> Path:
        """Start a program and return its log file.

        Raises
        ------
        AlgorithmUnavailable
            It cannot be started (permanent).
        """
        log = self.logs / f"{name}.log"
        try:
            with log.open("ab") as output:
                popen = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=dict(env),
                    cwd=cwd,
                    start_new_session=True,  # Ctrl-C reaches us alone: we stop them, in their order
                )
        except OSError as error:
            raise AlgorithmUnavailable(name, f"{argv[0]} cannot be started: {error.strerror}") from error
        self._started.append(_Started(name, popen, log))
        return log

    def check(self) -> None:
        """Look whether all still run.

        Raises
        ------
        PeerUnavailable
            One has ended, which none should (transient).
        """
        for started in self._started:
            # Not poll(): the process stays to be waited for, and its group's number stays ours until then.
            ended = os.waitid(os.P_PID, started.popen.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if ended:
                how = "status" if ended.si_code == os.CLD_EXITED else "signal"
                raise PeerUnavailable(
                    started.name, f"ended by {how} {ended.si_status}; its log: {started.log}"
                )

    def stop(self) -> None:
        """End all, the last started first, and wait for them."""
        while self._started:
            popen = self._started.pop().popen
            _signal(popen, signal.SIGTERM)
            if not _ended(popen, _GRACE_S):
                _signal(popen, signal.SIGKILL)
                _ended(popen, _KILL_S)
            # What the leader left behind in its group goes too. Its number is taken until it is waited for.
            _signal(popen, signal.SIGKILL)
            popen.wait(_KILL_S)


def _signal(popen: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(popen.pid, number)


def _ended(popen: subprocess.Popen[bytes], limit_s: float) -> bool:
    """Wait until the process has ended, and leave it to be waited for."""
    give_up = time.monotonic() + limit_s
    while not os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def wait_for_line(processes: Processes, log: Path, text: str, limit_s: float) -> None:
    """Wait until *text* is in a log.

    Raises
    ------
    PeerUnavailable
        It did not appear in time, or a process ended (transient).
    """
    give_up = time.monotonic() + limit_s
    while text not in log.read_text(encoding="utf-8", errors="replace"):
        processes.check()
        if time.monotonic() > give_up:
            raise PeerUnavailable(log.stem, f"not ready after {limit_s:g} s; its log: {log}")
        time.sleep(0.05)


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log, or nothing where there is none."""
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    return ""
