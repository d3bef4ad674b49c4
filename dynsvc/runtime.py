"""The runtime port: what executes an algorithm, seen from the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

__all__ = ["Admission", "Identifying", "Keep", "Limits", "Run", "RunOutcome", "Runtime", "Seen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one run may use. A runtime that cannot enforce one says so in :meth:`Runtime.check`."""

    timeout_s: float
    memory_mib: int
    cpus: float
    pids: int
    #: Size of /tmp inside a container, or of the working folder of a program.
    tmp_mib: int
    #: Number of GPUs, exclusively; 0 for a CPU run.
    gpus: int = 0
    #: Memory on one GPU, shared with other runs that fit; 0 for whole GPUs.
    gpu_memory_mib: int = 0
    network: bool = False
    #: What it may write to its output folder.
    output_bytes: int = 4 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The folders of a run as the algorithm sees them, for its argument list."""

    input_dir: str
    output_dir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How long a container that serves several runs is kept."""

    #: Unused for longer than this, it is stopped.
    idle_s: float = 300.0
    #: Replaced after this many runs.
    max_uses: int = 1000
    #: Replaced when its memory has grown by more than this since its first run.
    max_growth_mib: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of an algorithm."""

    algorithm: str
    version: str
    #: Container image, or None for an algorithm that is only a program.
    image: str | None
    #: Argument list; its first element is the program. Nothing in it ever reaches a shell.
    argv: tuple[str, ...]
    #: Folders of this host. Input is read only for the algorithm; output is empty at start.
    input_dir: Path
    output_dir: Path
    limits: Limits
    order_id: str
    attempt: str
    #: GPUs that were leased for this run, by UUID; as many as its limits say.
    gpu_ids: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    #: ``oneshot``: a process of its own for this run. ``shim``: the same command, in a container kept for it.
    #: ``warm``: one message to a program that stays. A runtime without containers runs ``shim`` as
    #: ``oneshot``.
    mode: Literal["oneshot", "shim", "warm"] = "oneshot"
    #: Argument list of the program that stays, for ``warm``; *argv* still does the one run, without any pool.
    argv_warm: tuple[str, ...] = ()
    #: What a warm program is told beside its folders: parameters, region, mpp, ids. JSON values.
    request: Mapping[str, Any] = field(default_factory=dict)
    #: Runs of different trust domains never share a container; one that names none shares with nobody.
    trust_domain: str = ""
    #: When a kept container is replaced.
    keep: Keep = Keep()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How a run ended that was not ended by an error of ours: exit status 0."""

    duration_s: float
    #: The last lines of stdout and stderr together.
    last_lines: str
    #: The image's content digest, or the program's path: what really ran.
    executed: str
    #: What the image says of its origin and its libraries: labels.
    stated: Mapping[str, str] = field(default_factory=dict)
    device: Literal["cpu", "gpu"] = "cpu"
    #: GPUs that the run held, by UUID.
    gpus: tuple[str, ...] = ()
    #: Whether a container that was there already did it.
    warm: bool = False


class Runtime(Protocol):
    """Executes algorithms on this host."""

    #: ``docker``, ``process``, …
    name: str

    def seen(self, input_dir: Path, output_dir: Path) -> Seen:
        """Return the names under which an algorithm sees the two folders."""
        ...

    def run(self, run: Run, *, on_line: Callable[[str], None], ended: Callable[[], bool]) -> RunOutcome:
        """Execute *run* and wait for its end.

        Parameters
        ----------
        run
            What to execute.
        on_line
            Called with each line of output, without its newline, from any thread, while the algorithm runs.
        ended
            Asked every 0.25 s; when true, the algorithm is killed and :class:`AttemptEnded` is raised.

        Raises
        ------
        AlgorithmFailed
            Non-zero exit status, signal; its subclasses :class:`OutOfMemory` and :class:`TimeLimitExceeded`.
        AlgorithmUnavailable
            No such image or program, or it cannot be started.
        DeviceUnavailable
            GPUs were asked for and cannot be had.
        EngineUnavailable
            The engine is away (transient).
        AttemptEnded
            *ended* became true; nothing of the run is left on the host.
        """
        ...

    def check(self) -> str:
        """Return one line about the runtime's state and version, or raise the error that a run would meet."""
        ...


@runtime_checkable
class Identifying(Protocol):
    """A runtime that can tell before a run what exactly it would execute."""

    def identity(self, run: Run) -> str | None:
        """Return a text that changes with what *run* would execute; None where nothing tells.

        Raises
        ------
        AlgorithmUnavailable
            There is no such image or program (permanent).
        EngineUnavailable
            The engine is away (transient).
        """
        ...


class Admission(Protocol):
    """Lets runs start that fit into this host beside those that run already."""

    def admit(
        self, run: Run, *, ended: Callable[[], bool], waits: Callable[[str], None]
    ) -> AbstractContextManager[Run]:
        """Wait until *run* fits; within the block it holds what it needs, and its GPUs are named in it.

        Parameters
        ----------
        run
            What is to be executed; its limits are its need.
        ended
            Asked while it waits.
        waits
            Told once, as a sentence, what it waits for, where that is not over at once.

        Raises
        ------
        AlgorithmUnavailable
            It needs more CPUs or memory than this host has (permanent).
        DeviceUnavailable
            It needs a GPU that this host has not (permanent).
        AttemptEnded
            *ended* became true.
        StorageUnavailable
            The host's ledger cannot be read or written (transient).
        """
        ...
