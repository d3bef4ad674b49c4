"""A program of this host under its guard, which ends it with its limits, with its run and with the worker."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dynsvc.errors import EngineUnavailable
from dynsvc.runtime import Limits
from workers.runtimes import guard, nursery
from workers.runtimes.bounds import file_bytes

__all__ = ["Command", "Guarded", "Report"]

#: The guard answers within milliseconds; killing a large family takes it up to 10 s.
_GUARD_S = 15.0
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Command:
    """What a guard starts."""

    #: Absolute path of the program.
    program: str
    argv: tuple[str, ...]
    #: All of its variables.
    env: dict[str, str]
    #: Where its temporary files are.
    tmp: Path


@dataclass(frozen=True, slots=True)
class Report:
    """What a guard said at its end."""

    #: Why the program did not start, as an error number; else 0.
    errno: int = 0
    #: Whether the program has ended and nothing of it is left.
    ended: bool = False
    status: int = 0
    #: What ended it: ``itself``, ``owner``, ``time``, ``memory`` or ``processes``.
    reason: str = ""
    duration_s: float = 0.0


class Guarded:
    """A program with its guard, until :meth:`close`.

    Parameters
    ----------
    command
        What is started.
    limits
        What it and all that it starts may use.
    folder
        Its working folder; the guard removes it when the worker is gone.
    limit_s
        When the guard ends it, in seconds from its start.
    attached
        Whether we write to its stdin, and read its stderr apart from its stdout. Else its stdin is empty, and
        both come together.

    Raises
    ------
    EngineUnavailable
        This host starts no process (transient).
    """

    def __init__(
        self,
        command: Command,
        limits: Limits,
        folder: Path,
        limit_s: float,
        *,
        attached: bool = False,
    ) -> None:
        self._said = b""
        #: Whether the guard hears nothing more after the order, and so can take another.
        self._reusable = not attached
        order = {
            "program": command.program,
            "argv": list(command.argv),
            "env": command.env,
            "scratch": str(folder),
            "timeout_s": limit_s,
            "memory_kib": limits.memory_mib * 1024,
            "pids": limits.pids,
        }
        # Our end of each, and the program's.
        pipes: list[tuple[int, int]] = []
        try:
            pipes.append(os.pipe())
            if attached:
                pipes.append(os.pipe())
                theirs, ours = os.pipe()
                pipes.append((ours, theirs))
            self._guard = nursery.begin(
                guard.framed(order), [theirs for _, theirs in pipes], file_bytes(limits)
            )
        except OSError as error:
            for ours, _ in pipes:
                os.close(ours)
            raise EngineUnavailable("process", f"no process can be started: {error.strerror}") from error
        finally:
            for _, theirs in pipes:
                os.close(theirs)
        #: The program's standard output; and its error and input, where it is attached.
        self.streams = tuple(ours for ours, _ in pipes)
        #: What the guard says comes here.
        self.status = self._guard.line.fileno()
        self._closed = False

    def limit(self, limit_s: float) -> None:
        """Have the guard end the program this many seconds from now, in place of when it would have.

        Only for one that is attached, and known to run.
        """
        with suppress(ConnectionError):  # the guard has ended
            self._guard.line.send(f"{limit_s}\n".encode())

    def listen(self) -> bool:
        """Read what the guard says; return whether it goes on."""
        try:
            data = self._guard.line.recv(_READ_BYTES)
        except ConnectionError:  # it was killed before it read all that it was told
            data = b""
        self._said += data
        words = self._said.split()
        return bool(data) and words[:1] != [b"failed"] and words[2:3] != [b"ended"]

    def report(self) -> Report:
        """Return what the guard has said."""
        words = self._said.decode().split()
        if words[:1] == ["failed"]:
            return Report(errno=int(words[1]))
        if words[2:3] != ["ended"]:
            return Report()
        return Report(ended=True, status=int(words[3]), reason=words[4], duration_s=float(words[5]))

    def alive(self) -> bool:
        """Return whether the guard lives and watches: without it nothing holds the program to its limits."""
        poll = select.poll()
        poll.register(self.status, select.POLLIN)
        while poll.poll(0):
            if not self.listen():
                return False
        return True

    def memory_used_mib(self) -> int:
        """Return what the program and all that it started use."""
        family = guard.descendants(self._guard.pid)
        return guard.kib(family, "status", guard.QUICK_SUM) // 1024

    def kill_group(self) -> None:
        """End the program where its guard cannot: it was killed itself."""
        words = self._said.split()
        if words[:1] == [b"started"]:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(int(words[1]), signal.SIGKILL)

    def close(self) -> None:
        """End the program and all that it started. The guard ends too, or is free for another."""
        if self._closed:
            return
        self._closed = True
        if self._reusable and self.report().ended:
            nursery.keep(self._guard)
        else:
            self._end()
        for fd in self.streams:
            os.close(fd)

    def _end(self) -> None:
        with suppress(OSError):  # it is gone already
            self._guard.line.shutdown(socket.SHUT_WR)  # the guard kills all that is left
        if not self._gone():
            # It still has its end of the socket, so the number is still its own.
            os.kill(self._guard.pid, signal.SIGKILL)
            self._gone()
        report = self.report()
        if not report.ended and not report.errno:
            # It was killed. What it said before tells whom it would have ended.
            self.kill_group()
        self._guard.line.close()

    def _gone(self) -> bool:
        """Wait until the guard has ended its program or itself: nobody else has its end of the socket."""
        deadline = time.monotonic() + _GUARD_S
        poll = select.poll()
        poll.register(self.status, select.POLLIN)
        while (left_s := deadline - time.monotonic()) > 0:
            if poll.poll(left_s * 1000) and not self.listen():
                return True
        return False
