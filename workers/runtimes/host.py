"""What runtimes have in common whose algorithms are processes of this host, each under its guard."""

from __future__ import annotations

import atexit
import math
import os
import select
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import structlog

from dynsvc.errors import AlgorithmUnavailable, DynsvcError, EngineUnavailable, StorageUnavailable
from dynsvc.files import fresh_folder
from dynsvc.outputs import discard
from dynsvc.runtime import Run, RunOutcome, Seen
from workers.runtimes.bounds import bounded
from workers.runtimes.ending import Ending
from workers.runtimes.environment import program_name
from workers.runtimes.guarded import Command, Guarded
from workers.runtimes.output import Output
from workers.runtimes.programs import KeptProgram, KeptPrograms
from workers.runtimes.slot import Place, places_below, remove_abandoned

__all__ = ["HostRuntime"]

log = structlog.get_logger(__name__)

_PREFIX = "dynsvc-run-"
_ASK_S = 0.25
_READ_BYTES = 1 << 16
_DRAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class _Standing:
    """What one process keeps between runs."""

    pid: int
    place: Place
    kept: KeptPrograms


class HostRuntime(ABC):
    """Executes an algorithm as processes of this host.

    Objects may be used by several threads and after a fork.

    Parameters
    ----------
    scratch
        Where each run gets a working folder for its time; the system's temporary folder by default. The
        workers of a host must have the same, so that they know of each other's kept programs.
    """

    name: str

    def __init__(self, *, scratch: Path | None) -> None:
        self._scratch = scratch or Path(tempfile.gettempdir())
        self._places = places_below(scratch)
        self._lock = threading.Lock()
        self._standing: _Standing | None = None

    @abstractmethod
    def seen(self, input_dir: Path, output_dir: Path) -> Seen:
        """Return the names under which an algorithm sees the two folders."""

    @abstractmethod
    def check(self) -> str:
        """Return what this runtime is and what it cannot enforce."""

    @abstractmethod
    def _executed(self, run: Run) -> str:
        """Return what really runs: a program's path, or an image's digest."""

    def _stated(self, run: Run) -> Mapping[str, str]:  # noqa: ARG002
        """Return what an image says of its origin and its libraries."""
        return {}

    @abstractmethod
    def _command(self, run: Run, executed: str, folder: Path, *, kept: bool) -> Command:
        """Return how *run* is started in its working *folder*; one that is kept serves others after it."""

    @abstractmethod
    def _keeps(self, run: Run) -> bool:
        """Return whether *run* may go to something kept."""

    @abstractmethod
    def _keep(self, run: Run, executed: str, place: Place, ended: Callable[[], bool]) -> KeptProgram:
        """Start what is kept, for *run* and others."""

    def start_error(self, run: Run, command: Command, number: int) -> DynsvcError:
        """Return the error for a command that the host did not start."""
        reason = os.strerror(number)
        if number in {11, 12}:  # EAGAIN, ENOMEM
            return EngineUnavailable(self.name, f"no process can be started: {reason}")
        return AlgorithmUnavailable(run.algorithm, f"program {command.program} cannot be started: {reason}")

    def ended_by_itself(self, ending: Ending, status: int, last_lines: str) -> DynsvcError | None:  # noqa: ARG002
        """Return the error for a program that ended by itself; None for a success."""
        return ending.by_itself(status, self.name)

    def run(self, run: Run, *, on_line: Callable[[str], None], ended: Callable[[], bool]) -> RunOutcome:
        """Execute *run* as :class:`dynsvc.runtime.Runtime` says.

        A kept program that breaks is replaced, and its run is done once more by a program of its own.
        """
        program_name(run)
        executed = self._executed(run)
        if ended():
            raise Ending(run, 0.0, "").by_owner()
        if self._keeps(run):
            standing = self._stands()
            stays = self._executed(replace(run, argv=run.argv_warm)) if run.mode == "warm" else executed
            outcome = standing.kept.run(
                run, stays, lambda: self._keep(run, stays, standing.place, ended), on_line, ended
            )
            if outcome is not None:
                return outcome
        stated = self._stated(run)
        if run.gpu_ids and not run.limits.gpu_memory_mib and self._standing:
            self._standing.kept.pool.free(run.gpu_ids)
        try:
            folder = fresh_folder(self._scratch, _PREFIX)
        except OSError as error:
            raise StorageUnavailable(str(self._scratch), f"no working folder: {error.strerror}") from error
        try:
            command = self._command(run, executed, folder, kept=False)
            with (
                bounded(run, ended, output=run.output_dir, tmp=command.tmp) as ask,
                _Watched(run, command, folder) as watched,
            ):
                last_lines, duration_s = watched.wait(Output(on_line), ask, self)
        finally:
            _remove(run, folder)
        return RunOutcome(
            duration_s=duration_s,
            last_lines=last_lines,
            executed=executed,
            stated=stated,
            device="gpu" if run.limits.gpus else "cpu",
            gpus=run.gpu_ids,
        )

    def reap(self, ended: Callable[[list[tuple[str, str]]], list[bool]]) -> int:  # noqa: ARG002
        """Remove the folders of dead workers. Their programs are gone already; so it returns 0."""
        remove_abandoned(self._places)
        return 0

    def close(self) -> None:
        """End what is kept. The object can be used again."""
        with self._lock:
            standing, self._standing = self._standing, None
        if standing and standing.pid == os.getpid():
            standing.kept.close()
            standing.place.close()
            atexit.unregister(self.close)

    def _stands(self) -> _Standing:
        """Return what this process keeps: programs cannot be shared with a parent process."""
        with self._lock:
            if self._standing is None or self._standing.pid != os.getpid():
                place = Place(self._places)
                # Programs would end with this process by themselves; their folders would not.
                atexit.register(self.close)
                self._standing = _Standing(os.getpid(), place, KeptPrograms(place))
            return self._standing


def _remove(run: Run, folder: Path) -> None:
    try:
        discard(folder)
    except StorageUnavailable as error:  # how the run ended matters more
        log.warning("working_folder_left", order_id=run.order_id, error=str(error))


class _Watched:
    """A run by a guarded program of its own; leaving the block ends it."""

    def __init__(self, run: Run, command: Command, folder: Path) -> None:
        self._run, self._command = run, command
        self._begin = time.monotonic()
        self._guarded = Guarded(command, run.limits, folder, run.limits.timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._guarded.close()

    def wait(self, output: Output, ended: Callable[[], bool], runtime: HostRuntime) -> tuple[str, float]:
        """Drain the output until the guard has reported the end, asking *ended* meanwhile.

        Returns
        -------
        tuple
            The last lines, and how long the program ran in seconds.
        """
        poll = select.poll()
        printed, status = self._guarded.streams[0], self._guarded.status
        open_fds = {printed, status}
        for fd in open_fds:
            poll.register(fd, select.POLLIN)
        ask_at = time.monotonic()
        stop_at = math.inf
        while open_fds and (now := time.monotonic()) < stop_at:
            if now >= ask_at:
                if ended():
                    raise Ending(self._run, now - self._begin, output.last_lines).by_owner()
                ask_at = now + _ASK_S
            for fd, _ in poll.poll(_ASK_S * 1000):
                if fd == status:
                    goes_on = self._guarded.listen()
                else:
                    data = os.read(fd, _READ_BYTES)
                    output.feed(data)
                    goes_on = bool(data)
                if goes_on:
                    continue
                poll.unregister(fd)
                open_fds.discard(fd)
                if fd == status:
                    # Nothing of the program is left, or its guard was killed: what is in the pipe is all.
                    stop_at = now + _DRAIN_S
        output.finish()
        return self._outcome(output.last_lines, runtime)

    def _outcome(self, last_lines: str, runtime: HostRuntime) -> tuple[str, float]:
        report = self._guarded.report()
        if report.errno:
            raise runtime.start_error(self._run, self._command, report.errno)
        if not report.ended:
            self._guarded.kill_group()
            detail = f"the process that guards the program was killed. {last_lines[-500:]}"
            raise EngineUnavailable(runtime.name, detail.strip())
        ending = Ending(self._run, report.duration_s, last_lines)
        error: DynsvcError | None
        match report.reason:
            case "time":
                error = ending.by_time_limit()
            case "memory":
                error = ending.by_memory_limit()
            case "processes":
                error = ending.by_process_limit()
            case _:
                error = runtime.ended_by_itself(ending, report.status, last_lines)
        if error:
            raise error
        return last_lines, report.duration_s
