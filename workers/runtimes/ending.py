"""How a run ended, in words and as an error: the same for every runtime."""

from __future__ import annotations

import re
import signal

from dynsvc.errors import (
    AlgorithmFailed,
    AlgorithmUnavailable,
    AttemptEnded,
    DynsvcError,
    EngineUnavailable,
    OutOfMemory,
    TimeLimitExceeded,
)
from dynsvc.runtime import Run

__all__ = ["Ending"]

_CANNOT_START = {
    125: "it could not be started (exit status 125)",
    126: "its program cannot be executed (exit status 126)",
    127: "its program, or one that it calls, was not found (exit status 127)",
}
#: So many of the processes that it may have are as good as all: they come and go.
_NEARLY = 0.9
#: What programs print that may start no more processes or threads.
_NO_PROCESS = re.compile(
    r"BlockingIOError: \[Errno 11\]|can't start new thread|[Cc]annot fork|fork: .*[Rr]esource temporarily"
)


class Ending:
    """Makes the error of one run.

    Parameters
    ----------
    run
        What was executed.
    duration_s
        How long the program ran.
    last_lines
        What it printed last.
    """

    def __init__(self, run: Run, duration_s: float, last_lines: str) -> None:
        self._run, self._duration, self._last_lines = run, f"{duration_s:.1f} s", last_lines

    def by_owner(self) -> AttemptEnded:
        """Return the error for a run that was killed because nobody wants its result any more."""
        return AttemptEnded(self._run.order_id, f"{self._run.algorithm} was stopped after {self._duration}")

    def by_time_limit(self, processes: int | None = None) -> TimeLimitExceeded:
        """Return the error for a run that was killed because it took too long, with so many *processes*."""
        outcome = f"was ended by its time limit of {self._run.limits.timeout_s:g} s"
        if processes and processes >= _NEARLY * self._run.limits.pids:
            outcome += f"; it had {processes} processes, {self._run.limits.pids} is its limit"
        return TimeLimitExceeded(self._run.algorithm, outcome, self._last_lines)

    def by_memory_limit(self) -> OutOfMemory:
        """Return the error for a run that was killed because it took too much memory."""
        outcome = f"was ended by its memory limit of {self._run.limits.memory_mib} MiB after {self._duration}"
        return OutOfMemory(self._run.algorithm, outcome, self._last_lines)

    def by_process_limit(self) -> AlgorithmFailed:
        """Return the error for a run that was killed because it started too many processes."""
        outcome = f"was ended by its limit of {self._run.limits.pids} processes after {self._duration}"
        return AlgorithmFailed(self._run.algorithm, outcome, self._last_lines)

    def by_tmp_limit(self) -> AlgorithmFailed:
        """Return the error for a run that was killed because its temporary files took too much."""
        outcome = f"was ended by its limit of {self._run.limits.tmp_mib} MiB in /tmp after {self._duration}"
        return AlgorithmFailed(self._run.algorithm, outcome, self._last_lines)

    def by_report(self, outcome: str) -> AlgorithmFailed:
        """Return the error for a run that did not end its program: what it said, or failed to say."""
        outcome = f"{outcome} after {self._duration}"
        if _NO_PROCESS.search(self._last_lines):
            outcome += f"; it could not start a process, {self._run.limits.pids} is its limit"
        return AlgorithmFailed(self._run.algorithm, outcome, self._last_lines)

    def by_itself(self, status: int, engine: str) -> DynsvcError | None:
        """Return the error for a run that ended without our doing, or None for a success.

        Parameters
        ----------
        status
            Exit status; a signal is given as its negative number or, as shells do, as 128 and its number.
        engine
            What ran the program, for the error that says that somebody else killed it.
        """
        if status == 0:
            return None
        name = _signal_name(-status if status < 0 else status - 128)
        if name == "SIGKILL":
            # Not by us and not by its memory limit: the host is out of memory, the engine is going down, or
            # somebody ended it by hand. The next run may end well.
            detail = f"{self._run.algorithm} was killed from outside after {self._duration} (SIGKILL)"
            if engine == "podman":  # whose version 4 never says so
                detail += f", or by its memory limit of {self._run.limits.memory_mib} MiB"
            return EngineUnavailable(engine, detail)
        if name:
            outcome = f"was ended by {name} after {self._duration}"
            return AlgorithmFailed(self._run.algorithm, outcome, self._last_lines)
        if reason := _CANNOT_START.get(status):
            last = self._last_lines.splitlines()
            return AlgorithmUnavailable(
                self._run.algorithm, f'{reason}. Last line: "{last[-1]}"' if last else reason
            )
        return self.by_report(f"ended with exit status {status}")


def _signal_name(number: int) -> str | None:
    try:
        return signal.Signals(number).name
    except ValueError:
        return None
