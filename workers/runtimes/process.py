"""Algorithms that are programs on this host.

For workers that run inside an algorithm's own image, and for hosts without a container engine. A program is
held to its time, memory and number of processes, and everything it started dies with it, with its attempt
and with the worker. It is not kept from the network or from files: run only programs that you trust.
"""

from __future__ import annotations

import atexit
import math
import os
import re
import select
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import structlog

from dynsvc.errors import (
    AlgorithmUnavailable,
    DynsvcError,
    EngineUnavailable,
    StorageUnavailable,
)
from dynsvc.outputs import discard
from dynsvc.runtime import Run, RunOutcome, Seen
from workers.runtimes.ending import Ending
from workers.runtimes.environment import environment, gpu_variables, program_name
from workers.runtimes.guarded import Guarded
from workers.runtimes.output import Output
from workers.runtimes.programs import KeptPrograms, can_be_kept
from workers.runtimes.slot import Place, remove_abandoned

__all__ = ["ProcessRuntime"]

log = structlog.get_logger(__name__)

_ASK_S = 0.25
_READ_BYTES = 1 << 16
_DRAIN_S = 1.0
_INTERPRETER = re.compile(
    r"(python|pypy|perl|ruby|node|java|julia|octave|matlab|lua|php)[0-9.]*|R|Rscript|(ba|da|z|k)?sh|busybox|env"
)
#: The only variables of the worker that a program inherits: what finds programs and libraries, and language.
_INHERITED = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class _Standing:
    """What one process keeps between runs."""

    pid: int
    place: Place
    kept: KeptPrograms


class ProcessRuntime:
    """Executes an algorithm as a process of this host.

    Objects may be used by several threads and after a fork.

    Parameters
    ----------
    scratch
        Where each run gets a working folder for its time; the system's temporary folder by default. The
        workers of a host must have the same, so that they know of each other's kept programs.
    worker_id, host_scratch
        Taken so that all runtimes are made alike; processes end with their worker, and see our own folders.
    """

    name = "process"

    def __init__(
        self,
        *,
        scratch: Path | None = None,
        worker_id: str = "",
        host_scratch: str | None = None,  # noqa: ARG002
    ) -> None:
        self._scratch = scratch
        self._worker_id = worker_id
        # The janitor looks into "work" for what has been forgotten.
        self._places = (scratch or Path(tempfile.gettempdir()) / f"dynsvc-{os.getuid()}") / "work"
        self._lock = threading.Lock()
        self._standing: _Standing | None = None

    def seen(self, input_dir: Path, output_dir: Path) -> Seen:
        """Return the folders as they are: the program shares our file system."""
        return Seen(input_dir=str(input_dir.absolute()), output_dir=str(output_dir.absolute()))

    def run(self, run: Run, *, on_line: Callable[[str], None], ended: Callable[[], bool]) -> RunOutcome:
        """Execute *run* as :class:`dynsvc.runtime.Runtime` says. Its image is not looked at.

        A kept program that breaks is replaced, and its run is done once more by a program of its own.
        """
        env = _environment(run)
        program = _resolve(run, env["PATH"])
        if ended():
            raise Ending(run, 0.0, "").by_owner()
        if can_be_kept(run):
            stays = _resolve(replace(run, argv=run.argv_warm), env["PATH"])
            outcome = self._stands().kept.run(run, stays, env, on_line, ended)
            if outcome is not None:
                return outcome
        if run.gpu_ids and not run.limits.gpu_memory_mib and self._standing:
            self._standing.kept.pool.free(run.gpu_ids)
        try:
            if self._scratch is not None:
                self._scratch.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="dynsvc-run-", dir=self._scratch))
        except OSError as error:
            place = str(self._scratch or tempfile.gettempdir())
            raise StorageUnavailable(place, f"no working folder: {error.strerror}") from error
        try:
            env |= {"HOME": str(folder), "TMPDIR": str(folder)} | dict(run.env)
            with _Watched(run, program, env, folder) as watched:
                return watched.wait(Output(on_line), ended)
        finally:
            try:
                discard(folder)
            except StorageUnavailable as error:  # how the run ended matters more
                log.warning("working_folder_left", order_id=run.order_id, error=str(error))

    def identity(self, run: Run) -> str | None:
        """Return path, size and time of the program; None for an interpreter: its script may be anything."""
        program = Path(_resolve(run, _search_path())).resolve()
        if _INTERPRETER.fullmatch(program.name):
            return None
        found = program.stat()
        return f"program {program} {found.st_size} {found.st_mtime_ns}"

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

    def check(self) -> str:
        """Return what this runtime is and what it cannot enforce."""
        return f"programs on this host ({os.cpu_count()} CPUs); network and files are not fenced off"

    def _stands(self) -> _Standing:
        """Return what this process keeps: programs cannot be shared with a parent process."""
        with self._lock:
            if self._standing is None or self._standing.pid != os.getpid():
                place = Place(self._places)
                # Programs would end with this process by themselves; their folders would not.
                atexit.register(self.close)
                kept = KeptPrograms(place, lambda run: self.seen(run.input_dir, run.output_dir))
                self._standing = _Standing(os.getpid(), place, kept)
            return self._standing


class _Watched:
    """A run by a guarded program of its own; leaving the block ends it."""

    def __init__(self, run: Run, program: str, env: dict[str, str], folder: Path) -> None:
        self._run, self._program = run, program
        self._begin = time.monotonic()
        self._guarded = Guarded(run, program, env, folder, run.limits.timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._guarded.close()

    def wait(self, output: Output, ended: Callable[[], bool]) -> RunOutcome:
        """Drain the output until the guard has reported the end, asking *ended* meanwhile."""
        poll = select.poll()
        printed, status = self._guarded.stdout.fileno(), self._guarded.status.fileno()
        open_fds = {printed, status}
        for fd in open_fds:
            poll.register(fd, select.POLLIN)
        ask_at = time.monotonic()
        stop_at = math.inf
        while open_fds and (now := time.monotonic()) < stop_at:
            if now >= ask_at:
                if ended():
                    raise self._ending(output).by_owner()
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
        return self._outcome(output)

    def _outcome(self, output: Output) -> RunOutcome:
        report = self._guarded.report()
        if report.errno:
            raise _start_error(self._run, self._program, report.errno)
        if not report.ended:
            self._guarded.kill_group()
            detail = f"the process that guards the program was killed. {output.last_lines[-500:]}"
            raise EngineUnavailable("process", detail.strip())
        ending = Ending(self._run, report.duration_s, output.last_lines)
        error: DynsvcError | None
        match report.reason:
            case "time":
                error = ending.by_time_limit()
            case "memory":
                error = ending.by_memory_limit()
            case "processes":
                error = ending.by_process_limit()
            case _:
                error = ending.by_itself(report.status, "process")
        if error:
            raise error
        return RunOutcome(
            duration_s=report.duration_s,
            last_lines=output.last_lines,
            executed=self._program,
            device="gpu" if self._run.limits.gpus else "cpu",
            gpus=self._run.gpu_ids,
        )

    def _ending(self, output: Output) -> Ending:
        return Ending(self._run, time.monotonic() - self._begin, output.last_lines)


def _environment(run: Run) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    inherited.setdefault("LANG", "C.UTF-8")
    # There is no container that hides the other GPUs, so CUDA is told itself. Empty: it sees none.
    inherited |= {**gpu_variables(run), "CUDA_VISIBLE_DEVICES": ",".join(run.gpu_ids)}
    return environment(run, **inherited, PATH=_search_path())


def _search_path() -> str:
    """Programs of our own environment come first: it need not be activated for them to be found."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _resolve(run: Run, path: str) -> str:
    """Return the absolute path of the program."""
    name = program_name(run)
    if "/" in name and not Path(name).is_absolute():
        raise AlgorithmUnavailable(
            run.algorithm, f"program {name} is neither a plain name nor an absolute path"
        )
    program = shutil.which(name, path=path)
    if program is None and Path(name).is_file():
        raise AlgorithmUnavailable(run.algorithm, f"program {name} is not executable")
    if program is None:
        where = "does not exist" if "/" in name else f"is not on PATH ({path})"
        raise AlgorithmUnavailable(run.algorithm, f"program {name} {where}")
    return str(Path(program).absolute())


def _start_error(run: Run, program: str, number: int) -> DynsvcError:
    if number in {11, 12}:  # EAGAIN, ENOMEM
        return EngineUnavailable("process", f"no process can be started: {os.strerror(number)}")
    reason = os.strerror(number)
    if number == 2:  # the file itself was found
        reason = "the interpreter in its first line does not exist"
    elif number == 8:
        reason = "it is neither a binary of this machine nor a script with #! in its first line"
    return AlgorithmUnavailable(run.algorithm, f"program {program} cannot be started: {reason}")
