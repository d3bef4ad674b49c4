"""A program of this host under its guard, which ends it with its limits, with its run and with the worker."""

from __future__ import annotations

import marshal
import os
import select
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dynsvc.errors import EngineUnavailable
from dynsvc.runtime import Limits
from workers.runtimes import guard
from workers.runtimes.bounds import file_bytes
from workers.runtimes.nursery import start_guard

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
        self._pid: int | None = None
        self._said = b""
        ours: list[IO[bytes]] = []
        theirs: list[int] = []

        def to_read() -> IO[bytes]:
            end, their_end = os.pipe()
            ours.append(os.fdopen(end, "rb", buffering=0))
            theirs.append(their_end)
            return ours[-1]

        def to_write(buffering: int) -> IO[bytes]:
            their_end, end = os.pipe()
            ours.append(os.fdopen(end, "wb", buffering=buffering))
            theirs.append(their_end)
            return ours[-1]

        try:
            self._hold = to_write(-1)
            self.stdout = to_read()
            self.stderr = to_read() if attached else None
            if not attached:
                theirs.append(os.dup(theirs[-1]))
            self.status = to_read()
            #: The program's stdin.
            self.stdin = to_write(0) if attached else None
            self._guard = start_guard(theirs)
        except OSError as error:
            for stream in ours:
                stream.close()
            raise EngineUnavailable("process", f"no process can be started: {error.strerror}") from error
        finally:
            for end in theirs:
                os.close(end)
        order = {
            "program": command.program,
            "argv": list(command.argv),
            "env": command.env,
            "scratch": str(folder),
            "timeout_s": limit_s,
            "memory_kib": limits.memory_mib * 1024,
            "pids": limits.pids,
            "file_bytes": file_bytes(limits),
        }
        with suppress(BrokenPipeError):  # then the guard said why
            self._hold.write(marshal.dumps(order))
            self._hold.flush()

    def limit(self, limit_s: float) -> None:
        """Have the guard end the program this many seconds from now, in place of when it would have.

        Only to be called when the program is known to run.
        """
        with suppress(BrokenPipeError):  # the program has ended
            self._hold.write(f"{limit_s}\n".encode())
            self._hold.flush()

    def listen(self) -> bool:
        """Read what the guard says; return whether it goes on."""
        data = os.read(self.status.fileno(), _READ_BYTES)
        self._said += data
        words = self._said.split()
        if self._pid is None and len(words) >= 2 and words[0] == b"started":
            self._pid = int(words[1])
        return bool(data)

    def report(self) -> Report:
        """Return what the guard has said."""
        words = self._said.decode().split()
        if words[:1] == ["failed"]:
            return Report(errno=int(words[1]))
        if words[2:3] != ["ended"]:
            return Report()
        return Report(ended=True, status=int(words[3]), reason=words[4], duration_s=float(words[5]))

    def alive(self) -> bool:
        """Return whether the guard lives: without it nothing holds the program to its limits."""
        poll = select.poll()
        poll.register(self.status, select.POLLIN)
        return not any(event & select.POLLHUP for _, event in poll.poll(0))

    def memory_used_mib(self) -> int:
        """Return what the program and all that it started use."""
        family = guard.descendants(self._guard)
        return guard.kib(family, "status", guard.QUICK_SUM) // 1024

    def kill_group(self) -> None:
        """End the program where its guard cannot: it was killed itself."""
        if self._pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """End the program, all that it started, and the guard."""
        with suppress(BrokenPipeError):
            self._hold.close()  # the guard kills all that is left
        if not self._gone():
            # It still has its end of the pipe, so the number is still its own.
            os.kill(self._guard, signal.SIGKILL)
            self._gone()
        report = self.report()
        if not report.ended and not report.errno:
            # It was killed. What it said before tells whom it would have ended.
            self.kill_group()
        for stream in (self.status, self.stdin, self.stdout, self.stderr):
            if stream:
                stream.close()

    def _gone(self) -> bool:
        """Wait until the guard has ended: nobody else has its end of the pipe for reports."""
        deadline = time.monotonic() + _GUARD_S
        while (left_s := deadline - time.monotonic()) > 0:
            if select.select([self.status], [], [], left_s)[0] and not self.listen():
                return True
        return False
