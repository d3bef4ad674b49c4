"""A program of this host under its guard, which ends it with its limits, with its run and with the worker."""

from __future__ import annotations

import marshal
import os
import select
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dynsvc.errors import EngineUnavailable
from dynsvc.runtime import Run
from workers.runtimes import guard

__all__ = ["Guarded", "Report"]

#: The guard answers within milliseconds; killing a large family takes it up to 10 s.
_GUARD_S = 15.0
_READ_BYTES = 1 << 16


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
    run
        Whose argument list and limits the program has.
    program
        Its absolute path.
    env
        All of its variables.
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
        run: Run,
        program: str,
        env: dict[str, str],
        folder: Path,
        limit_s: float,
        *,
        attached: bool = False,
    ) -> None:
        self._pid: int | None = None
        self._said = b""
        status, status_end = os.pipe()
        self.status: IO[bytes] = os.fdopen(status, "rb", buffering=0)
        given = [status_end]
        #: The program's stdin.
        self.stdin: IO[bytes] | None = None
        if attached:
            stdin_end, stdin = os.pipe()
            self.stdin = os.fdopen(stdin, "wb", buffering=0)
            given.append(stdin_end)
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", guard.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if attached else subprocess.STDOUT,
                pass_fds=given,
                cwd=folder,
                env={"LANG": "C.UTF-8"},
                start_new_session=True,  # a signal to the worker's group must not reach it
            )
        except OSError as error:
            self.status.close()
            if self.stdin:
                self.stdin.close()
            raise EngineUnavailable("process", f"no process can be started: {error.strerror}") from error
        finally:
            for end in given:
                os.close(end)
        assert self._guard.stdin  # noqa: S101  (for the type checker)
        assert self._guard.stdout  # noqa: S101
        self._hold: IO[bytes] = self._guard.stdin
        self.stdout: IO[bytes] = self._guard.stdout
        self.stderr: IO[bytes] | None = self._guard.stderr
        order = {
            "program": program,
            "argv": list(run.argv),
            "env": env,
            "pipe": status_end,
            "stdin": given[1] if attached else None,
            "scratch": str(folder),
            "timeout_s": limit_s,
            "memory_kib": run.limits.memory_mib * 1024,
            "pids": run.limits.pids,
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
        return self._guard.poll() is None

    def memory_used_mib(self) -> int:
        """Return what the program and all that it started use."""
        family = guard.descendants(self._guard.pid)
        return guard.kib(family, "status", guard.QUICK_SUM) // 1024

    def kill_group(self) -> None:
        """End the program where its guard cannot: it was killed itself."""
        if self._pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, 9)

    def close(self) -> None:
        """End the program, all that it started, and the guard."""
        with suppress(BrokenPipeError):
            self._hold.close()  # the guard kills all that is left
        try:
            self._guard.wait(_GUARD_S)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
            self.kill_group()
        if self._guard.returncode:
            # It was killed. What it said before tells whom it would have ended.
            while select.select([self.status], [], [], 0)[0] and self.listen():
                pass
            self.kill_group()
        for stream in (self.status, self.stdin, self.stdout, self.stderr):
            if stream:
                stream.close()
