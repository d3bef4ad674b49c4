"""Starts guards quickly: one helper process for each worker forks one guard for each run.

A guard that is started as a program of its own spends more time on starting Python than a small program runs.
The helper has done that once. It only forks: a guard's pipes, limits and duties are the same, and guards
outlive their helper. A helper that was killed is replaced at the next run.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

from workers.runtimes import guard

__all__ = ["start_guard"]

_lock = threading.Lock()
_helper: _Helper | None = None


class _Helper:
    """The running helper, and the line to it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._line, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", guard.__file__],
                stdin=end.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"LANG": "C.UTF-8"},
                start_new_session=True,  # a signal to the worker's group must not reach it
            )
        except OSError:
            self._line.close()
            raise
        finally:
            end.close()

    def start(self, fds: Sequence[int]) -> int:
        socket.send_fds(self._line, [b"\0"], fds)
        said = self._line.recv(16)
        if not said:
            raise BrokenPipeError("the helper has ended")
        return int(said)

    def close(self) -> None:
        self._line.close()
        if self.owner == os.getpid():
            self._process.wait()


def start_guard(fds: Sequence[int]) -> int:
    """Start a guard and return its process id.

    Parameters
    ----------
    fds
        Its standard input, output and error, the pipe for its reports, and the program's standard input where
        it has one. The caller closes them.

    Raises
    ------
    OSError
        No process can be started.
    """
    global _helper  # noqa: PLW0603  (one for each process)
    with _lock:
        # A forked child must not speak on its parent's line.
        if _helper is not None and _helper.owner == os.getpid():
            try:
                return _helper.start(fds)
            except OSError:
                _helper.close()
        _helper = _Helper()
        return _helper.start(fds)


@atexit.register
def _close() -> None:
    if _helper is not None and _helper.owner == os.getpid():
        _helper.close()
