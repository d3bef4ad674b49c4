"""Algorithms that are programs on this host.

For workers that run inside an algorithm's own image, and for hosts without a container engine. A program is
held to its time, memory and number of processes, and everything it started dies with it, with its attempt
and with the worker. It is not kept from the network or from files: run only programs that you trust.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from dynsvc.errors import AlgorithmUnavailable, DynsvcError
from dynsvc.runtime import Run, Seen
from workers.runtimes.environment import environment, gpu_variables, program_name
from workers.runtimes.guarded import Command
from workers.runtimes.host import HostRuntime
from workers.runtimes.programs import KeptProgram
from workers.runtimes.serving import can_be_kept
from workers.runtimes.slot import Place
from workers.runtimes.warm import Warm

__all__ = ["ProcessRuntime"]

_INTERPRETER = re.compile(
    r"(python|pypy|perl|ruby|node|java|julia|octave|matlab|lua|php)[0-9.]*|R|Rscript|(ba|da|z|k)?sh|busybox|env"
)
_OURS = str(Path(sys.executable).parent)
#: The only variables of the worker that a program inherits: what finds programs and libraries, and language.
_INHERITED = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH")


class ProcessRuntime(HostRuntime):
    """Executes an algorithm as a process of this host. Its image is not looked at.

    Parameters
    ----------
    scratch
        As :class:`workers.runtimes.host.HostRuntime` takes it.
    worker_id, host_scratch, sif_folder
        Taken so that all runtimes are made alike; processes end with their worker, and see our own folders.
    """

    name = "process"

    def __init__(
        self,
        *,
        scratch: Path | None = None,
        worker_id: str = "",  # noqa: ARG002
        host_scratch: str | None = None,  # noqa: ARG002
        sif_folder: Path | None = None,  # noqa: ARG002
    ) -> None:
        super().__init__(scratch=scratch)

    def seen(self, input_dir: Path, output_dir: Path) -> Seen:
        """Return the folders as they are: the program shares our file system."""
        return Seen(input_dir=str(input_dir.absolute()), output_dir=str(output_dir.absolute()))

    def identity(self, run: Run) -> str | None:
        """Return path, size and time of the program; None for an interpreter: its script may be anything."""
        program = Path(_resolve(run)).resolve()
        if _INTERPRETER.fullmatch(program.name):
            return None
        found = program.stat()
        return f"program {program} {found.st_size} {found.st_mtime_ns}"

    def check(self) -> str:
        """Return what this runtime is and what it cannot enforce."""
        return f"programs on this host ({os.cpu_count()} CPUs); network and files are not fenced off"

    def _executed(self, run: Run) -> str:
        return _resolve(run)

    def _command(self, run: Run, executed: str, folder: Path, *, kept: bool) -> Command:
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        inherited.setdefault("LANG", "C.UTF-8")
        # There is no container that hides the other GPUs, so CUDA is told itself. Empty: it sees none.
        inherited |= {**gpu_variables(run), "CUDA_VISIBLE_DEVICES": ",".join(run.gpu_ids)}
        own = {"HOME": str(folder), "TMPDIR": str(folder), "PATH": _search_path()}
        env = environment(run, inherited | own, ids=not kept)
        return Command(executed, run.argv, env, folder)

    def _keeps(self, run: Run) -> bool:
        return run.mode == "warm" and can_be_kept(run)

    def _keep(self, run: Run, executed: str, place: Place, ended: Callable[[], bool]) -> KeptProgram:
        language = Warm(lambda each: self.seen(each.input_dir, each.output_dir))
        return KeptProgram(run, self._command, executed, {}, place, language=language, ended=ended)

    def start_error(self, run: Run, command: Command, number: int) -> DynsvcError:
        """Return the error for a program that the host did not start."""
        reason = {
            2: "the interpreter in its first line does not exist",  # the file itself was found
            8: "it is neither a binary of this machine nor a script with #! in its first line",
        }.get(number)
        if reason is None:
            return super().start_error(run, command, number)
        return AlgorithmUnavailable(run.algorithm, f"program {command.program} cannot be started: {reason}")


def _search_path() -> str:
    """Programs of our own environment come first: it need not be activated for them to be found."""
    return os.pathsep.join([_OURS, os.environ.get("PATH", os.defpath)])


def _resolve(run: Run) -> str:
    """Return the absolute path of the program."""
    name, path = program_name(run), run.env.get("PATH", _search_path())
    if "/" in name and not name.startswith("/"):
        raise AlgorithmUnavailable(
            run.algorithm, f"program {name} is neither a plain name nor an absolute path"
        )
    program = shutil.which(name, path=path)
    if program is None and Path(name).is_file():
        raise AlgorithmUnavailable(run.algorithm, f"program {name} is not executable")
    if program is None:
        where = "does not exist" if "/" in name else f"is not on PATH ({path})"
        raise AlgorithmUnavailable(run.algorithm, f"program {name} {where}")
    return os.path.abspath(program)  # noqa: PTH100 - text for text
