"""Keeps guards: each serves one run after the other, so a run hardly ever has to start one.

A guard that is started as a program of its own spends more time on starting Python than a small program runs,
and a forked one spends it on copying pages. So those that are free wait for the next run. Where none is free,
one helper process for each worker forks one: it has started Python once. A guard's socket, limits and duties
are the same, and guards outlive their helper. A helper that was killed is replaced when the next is needed.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from workers.runtimes import guard

__all__ = ["Guard", "begin", "keep"]

#: More than so many that are free only take memory.
_FREE = 32


@dataclass(frozen=True, slots=True)
class Guard:
    """A guard, and the socket to it."""

    pid: int
    line: socket.socket
    #: The largest size of a file. A process can only lower its own, so a guard keeps it for life.
    file_bytes: int


class _Helper:
    """The running helper, and the line to it."""

    def __init__(self) -> None:
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

    def start(self, file_bytes: int) -> Guard:
        line, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            socket.send_fds(self._line, [str(file_bytes).encode()], [end.fileno()])
            said = self._line.recv(16)
            if not said:
                raise BrokenPipeError("the helper has ended")
        except OSError:
            line.close()
            raise
        finally:
            end.close()
        return Guard(int(said), line, file_bytes)

    def forget(self) -> None:
        """Leave it to the parent of this process."""
        self._line.close()
        self._process.returncode = 0

    def close(self) -> None:
        self._line.close()
        self._process.wait()


class _Nursery:
    """The helper and the free guards of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._helper: _Helper | None = None
        self._free: list[Guard] = []

    def take(self, file_bytes: int) -> Guard | None:
        """Return a free guard, the one that served last."""
        with self._lock:
            for at in range(len(self._free) - 1, -1, -1):
                if self._free[at].file_bytes == file_bytes:
                    return self._free.pop(at)
        return None

    def start(self, file_bytes: int) -> Guard:
        with self._lock:
            if self._helper is not None:
                try:
                    return self._helper.start(file_bytes)
                except OSError:
                    self._helper.close()
                    self._helper = None
            self._helper = _Helper()
            return self._helper.start(file_bytes)

    def keep(self, free: Guard) -> None:
        with self._lock:
            self._free.append(free)
            if len(self._free) > _FREE:
                self._free.pop(0).line.close()

    def forget(self) -> None:
        """Leave all of them to the parent of this process."""
        for free in self._free:
            free.line.close()
        if self._helper is not None:
            self._helper.forget()

    def close(self) -> None:
        with self._lock:
            for free in self._free:
                free.line.close()
            self._free.clear()
            if self._helper is not None:
                self._helper.close()
                self._helper = None


_nursery = _Nursery()


def begin(order: bytes, fds: Sequence[int], file_bytes: int) -> Guard:
    """Have a guard begin with an order.

    Parameters
    ----------
    order
        As :func:`workers.runtimes.guard.framed` makes it.
    fds
        The program's standard output; or its standard output, error and input. The caller closes them.
    file_bytes
        How large one file may become.

    Raises
    ------
    OSError
        No process can be started.
    """
    while free := _nursery.take(file_bytes):
        with suppress(OSError):  # it was killed, or something of its last run cannot be ended
            return _told(free, order, fds)
    return _told(_nursery.start(file_bytes), order, fds)


def keep(free: Guard) -> None:
    """Take back a guard that has reported the end of its run and was told nothing since the order."""
    _nursery.keep(free)


def _told(free: Guard, order: bytes, fds: Sequence[int]) -> Guard:
    try:
        sent = socket.send_fds(free.line, [order], fds)
        if sent < len(order):
            free.line.sendall(memoryview(order)[sent:])
    except OSError:
        free.line.close()
        raise
    return free


def _forget() -> None:
    """A forked child must not speak on its parent's lines, nor hold them open."""
    global _nursery  # noqa: PLW0603  (one for each process)
    _nursery.forget()
    _nursery = _Nursery()


@atexit.register
def _close() -> None:
    _nursery.close()


os.register_at_fork(after_in_child=_forget)
