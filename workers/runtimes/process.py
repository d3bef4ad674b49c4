"""Algorithms that are programs on this host.

For workers that run inside an algorithm's own image, and for hosts without a container engine. A program is
held to its time, memory and number of processes, and everything it started dies with it, with its attempt
and with the worker. It is not kept from the network or from files: run only programs that you trust.
"""

from __future__ import annotations

import marshal
import math
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import structlog

from dynsvc.errors import (
    AlgorithmUnavailable,
    DynsvcError,
    EngineUnavailable,
    StorageUnavailable,
)
from dynsvc.outputs import discard
from dynsvc.runtime import Run, RunOutcome, Seen
from workers.runtimes import guard
from workers.runtimes.ending import Ending
from workers.runtimes.environment import environment, gpu_variables, program_name
from workers.runtimes.output import Output

__all__ = ["ProcessRuntime"]

log = structlog.get_logger(__name__)

_ASK_S = 0.25
_READ_BYTES = 1 << 16
#: The guard answers within milliseconds; killing a large family takes it up to 10 s.
_GUARD_S = 15.0
_DRAIN_S = 1.0
_INTERPRETER = re.compile(
    r"(python|pypy|perl|ruby|node|java|julia|octave|matlab|lua|php)[0-9.]*|R|Rscript|(ba|da|z|k)?sh|busybox|env"
)
#: The only variables of the worker that a program inherits: what finds programs and libraries, and language.
_INHERITED = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH")


class ProcessRuntime:
    """Executes an algorithm as a process of this host.

    Parameters
    ----------
    scratch
        Where each run gets a working folder for its time; the system's temporary folder by default.
    worker_id, host_scratch
        Taken so that all runtimes are made alike; processes need no reaping, and see our own folders.
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

    def seen(self, input_dir: Path, output_dir: Path) -> Seen:
        """Return the folders as they are: the program shares our file system."""
        return Seen(input_dir=str(input_dir.absolute()), output_dir=str(output_dir.absolute()))

    def run(self, run: Run, *, on_line: Callable[[str], None], ended: Callable[[], bool]) -> RunOutcome:
        """Execute *run* as :class:`dynsvc.runtime.Runtime` says. Its image is not looked at."""
        env = _environment(run)
        program = _resolve(run, env["PATH"])
        if ended():
            raise Ending(run, 0.0, "").by_owner()
        try:
            if self._scratch is not None:
                self._scratch.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="dynsvc-run-", dir=self._scratch))
        except OSError as error:
            place = str(self._scratch or tempfile.gettempdir())
            raise StorageUnavailable(place, f"no working folder: {error.strerror}") from error
        try:
            env |= {"HOME": str(folder), "TMPDIR": str(folder)} | dict(run.env)
            with _Guarded(run, program, env, folder) as guarded:
                return guarded.wait(Output(on_line), ended)
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

    def check(self) -> str:
        """Return what this runtime is and what it cannot enforce."""
        return f"programs on this host ({os.cpu_count()} CPUs); network and files are not fenced off"


class _Guarded:
    """A running program with its guard; leaving the block ends both."""

    def __init__(self, run: Run, program: str, env: dict[str, str], folder: Path) -> None:
        self._run, self._program = run, program
        self._begin = time.monotonic()
        self._pid: int | None = None
        self._said = b""
        status, status_end = os.pipe()
        self._status = os.fdopen(status, "rb", buffering=0)
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", guard.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(status_end,),
                cwd=folder,
                env={"LANG": "C.UTF-8"},
                start_new_session=True,  # a signal to the worker's group must not reach it
            )
        except OSError as error:
            self._status.close()
            raise EngineUnavailable("process", f"no process can be started: {error.strerror}") from error
        finally:
            os.close(status_end)
        assert self._guard.stdin  # noqa: S101  (for the type checker)
        assert self._guard.stdout  # noqa: S101
        self._hold: IO[bytes] = self._guard.stdin
        self._printed: IO[bytes] = self._guard.stdout
        order = {
            "program": program,
            "argv": list(run.argv),
            "env": env,
            "pipe": status_end,
            "scratch": str(folder),
            "timeout_s": run.limits.timeout_s,
            "memory_kib": run.limits.memory_mib * 1024,
            "pids": run.limits.pids,
        }
        with suppress(BrokenPipeError):  # then the guard said why, and wait() tells
            self._hold.write(marshal.dumps(order))
            self._hold.flush()

    def __enter__(self) -> _Guarded:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with suppress(BrokenPipeError):
            self._hold.close()  # the guard kills all that is left
        try:
            self._guard.wait(_GUARD_S)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
            self._kill_group()
        self._status.close()
        self._printed.close()

    def wait(self, output: Output, ended: Callable[[], bool]) -> RunOutcome:
        """Drain the output until the guard has reported the end, asking *ended* meanwhile."""
        poll = select.poll()
        streams = {self._printed.fileno(): self._printed, self._status.fileno(): self._status}
        for fd in streams:
            poll.register(fd, select.POLLIN)
        ask_at = time.monotonic()
        stop_at = math.inf
        while streams and (now := time.monotonic()) < stop_at:
            if now >= ask_at:
                if ended():
                    raise self._ending(output).by_owner()
                ask_at = now + _ASK_S
            for fd, _ in poll.poll(_ASK_S * 1000):
                data = os.read(fd, _READ_BYTES)
                if not data:
                    poll.unregister(fd)
                    del streams[fd]
                    if fd == self._status.fileno():
                        # Nothing of the program is left, or its guard was killed: what is in the pipe is all.
                        stop_at = now + _DRAIN_S
                elif fd == self._printed.fileno():
                    output.feed(data)
                else:
                    self._said += data
                    self._note_pid()
        output.finish()
        return self._outcome(output)

    def _note_pid(self) -> None:
        words = self._said.split()
        if self._pid is None and len(words) >= 2 and words[0] == b"started":
            self._pid = int(words[1])

    def _outcome(self, output: Output) -> RunOutcome:
        words = self._said.decode().split()
        if words[:1] == ["failed"]:
            raise _start_error(self._run, self._program, int(words[1]))
        if words[2:3] != ["ended"]:
            self._kill_group()
            detail = f"the process that guards the program was killed. {output.last_lines[-500:]}"
            raise EngineUnavailable("process", detail.strip())
        status, reason, duration_s = int(words[3]), words[4], float(words[5])
        ending = Ending(self._run, duration_s, output.last_lines)
        error: DynsvcError | None
        match reason:
            case "time":
                error = ending.by_time_limit()
            case "memory":
                error = ending.by_memory_limit()
            case "processes":
                error = ending.by_process_limit()
            case _:
                error = ending.by_itself(status, "process")
        if error:
            raise error
        return RunOutcome(
            duration_s=duration_s,
            last_lines=output.last_lines,
            executed=self._program,
            device="gpu" if self._run.limits.gpus else "cpu",
            gpus=self._run.gpu_ids,
        )

    def _ending(self, output: Output) -> Ending:
        return Ending(self._run, time.monotonic() - self._begin, output.last_lines)

    def _kill_group(self) -> None:
        """End the program where its guard cannot: it was killed itself."""
        if self._pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, 9)


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
