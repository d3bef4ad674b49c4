"""Algorithms as containers of the Docker engine: one for each run or kept for several, none left behind."""

from __future__ import annotations

import atexit
import os
import re
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynsvc.errors import AlgorithmUnavailable, DynsvcError, EngineUnavailable
from dynsvc.runtime import Run, RunOutcome, Seen
from workers.pool import Pool
from workers.runtimes.bounds import bounded
from workers.runtimes.container import (
    ATTEMPT_LABEL,
    DEADLINE_LABEL,
    GPU_LABEL,
    LOCK_LABEL,
    ORDER_LABEL,
    SEEN,
    WORKER_LABEL,
    container_config,
    container_name,
)
from workers.runtimes.cpus import CpuSet
from workers.runtimes.drain import Drain
from workers.runtimes.ending import Ending
from workers.runtimes.engine import Engine, engine_errors
from workers.runtimes.kept import KeptContainer, KeptContainers
from workers.runtimes.netns import NetworkHolders
from workers.runtimes.ownership import give_folders
from workers.runtimes.serving import can_be_kept
from workers.runtimes.slot import Place, is_abandoned, places_below, remove_abandoned
from workers.runtimes.stream import Stream

__all__ = ["DockerRuntime"]

_ASK_S = 0.25
#: All that is printed where Podman's init finds no program.
_PODMANS_INIT = re.compile(r"ERROR \(catatonit:\d+\): failed to exec pid1: (.*)")
#: The end of the output tells of the end at once; this is for output that never ends, or never began.
_LOOK_S = 5.0
_SETTLE_S = 0.005
_DRAIN_S = 2.0


@dataclass(frozen=True, slots=True)
class _Standing:
    """What one process keeps between runs."""

    pid: int
    place: Place
    kept: KeptContainers
    networks: NetworkHolders


class DockerRuntime:
    """Executes an algorithm as a container.

    Objects may be used by several threads and after a fork.

    Parameters
    ----------
    scratch
        The worker's data folder, where the runs' folders are. Needed with *host_scratch*, and for containers
        that are kept: their files pass through it, and the workers of a host share processors by it.
    worker_id
        A name of the worker that survives its restart: the label by which left-overs are found.
    host_scratch
        The engine host's name of *scratch*, where it cannot be found out (Docker Desktop, remote engines).
    sif_folder
        Taken so that all runtimes are made alike; the engine has its images.
    """

    name = "docker"

    def __init__(
        self,
        *,
        scratch: Path | None = None,
        worker_id: str = "",
        host_scratch: str | None = None,
        sif_folder: Path | None = None,  # noqa: ARG002
    ) -> None:
        self._worker_id = worker_id
        self._engine = Engine({scratch.resolve(): host_scratch} if scratch and host_scratch else None)
        self._places = places_below(scratch)
        self._cpus = scratch / "cpus" if scratch else None
        self._lock = threading.Lock()
        self._standing: _Standing | None = None

    def seen(self, input_dir: Path, output_dir: Path) -> Seen:  # noqa: ARG002
        """Return the folders' names inside a container, which are always the same."""
        return SEEN

    def run(self, run: Run, *, on_line: Callable[[str], None], ended: Callable[[], bool]) -> RunOutcome:
        """Execute *run* as :class:`dynsvc.runtime.Runtime` says.

        A worker that is root runs the algorithm as uid 65532, gives it the output folder and makes the input
        readable for it; any other worker runs it as itself.

        A kept container that breaks is replaced, and its run is done once more in a container of its own:
        what is wrong with the run shows there, and what was left of earlier runs does not.
        """
        if run.image is None:
            raise AlgorithmUnavailable(
                run.algorithm, "it names no image; it can only run as a program of the host"
            )
        if can_be_kept(run):
            outcome = self._stands().kept.run(run, on_line, ended)
            if outcome is not None:
                return outcome
        if ended():
            raise Ending(run, 0.0, "").by_owner()
        self._engine.api()
        user = give_folders(run)
        cpus = CpuSet(self._cpus, run.limits, self._engine.cpus)
        container = drain = None
        try:
            container, connection = self._begin(run, user, cpus.ids)
            drain = Drain(connection, on_line)
            with bounded(run, ended, output=run.output_dir) as ask:
                return self._wait(run, container, drain, ask)
        finally:
            if container:
                self._engine.remove(container)
            if drain:
                drain.close()
            cpus.close()

    def check(self) -> str:
        """Return the engine's version and what it cannot enforce."""
        api = self._engine.api()
        with engine_errors(None):
            version, info = api.version(), api.info()
        limits = {"MemoryLimit": "memory", "PidsLimit": "number of processes", "CpuCfsQuota": "CPUs"}
        missing = [limit for key, limit in limits.items() if not info.get(key)]
        name = "Podman" if self._engine.is_podman else "Docker engine"
        engine = f"{name} {version['Version']}, API {version['ApiVersion']}, {info['NCPU']} CPUs, "
        return (
            engine
            + f"{info['MemTotal'] / 2**30:.1f} GiB"
            + (f"; it does not limit: {', '.join(missing)}" if missing else "")
        )

    def has_image(self, image: str) -> bool:
        """Return whether the engine has *image*.

        Raises
        ------
        EngineUnavailable
            The engine is away (transient).
        """
        return self._engine.has_image(image)

    def identity(self, run: Run) -> str | None:
        """Return the id of the image, which is a digest of all that is in it."""
        return f"image {self._engine.image_id(run, fresh=True)}"

    def reap(self, ended: Callable[[list[tuple[str, str]]], list[bool]]) -> int:
        """Remove what dead workers left: containers whose attempt has ended, or that are past their deadline.

        A container that is kept has neither: it goes when the process is dead that kept it.

        Parameters
        ----------
        ended
            Says of each (order id, attempt) whether it has ended. It is asked about the containers of this
            runtime's *worker_id* only; a container past its deadline goes whoever started it.

        Returns
        -------
        int
            How many were removed.

        Raises
        ------
        EngineUnavailable
            The engine is away (transient).
        """
        labels = {container["Id"]: container.get("Labels") or {} for container in self._engine.managed()}
        own = [handle for handle in labels if labels[handle].get(WORKER_LABEL) == self._worker_id]
        kept = {handle for handle in own if LOCK_LABEL in labels[handle]}
        jobs = [handle for handle in own if handle not in kept]
        verdicts = ended(
            [(labels[handle].get(ORDER_LABEL, ""), labels[handle].get(ATTEMPT_LABEL, "")) for handle in jobs]
        )
        dead = {handle for handle, verdict in zip(jobs, verdicts, strict=True) if verdict}
        dead |= {handle for handle in kept if is_abandoned(labels[handle][LOCK_LABEL])}
        dead |= {handle for handle in labels if _overdue(labels[handle].get(DEADLINE_LABEL, ""))}
        removed = sum(self._engine.remove(handle) for handle in dead)
        remove_abandoned(self._places)
        return removed

    def kept(self) -> Pool[KeptContainer] | None:
        """Return the containers that this process keeps; None before the first."""
        standing = self._standing
        return standing.kept.pool if standing else None

    def close(self) -> None:
        """End what is kept, and close the connections to the engine. The object can be used again."""
        with self._lock:
            standing, self._standing = self._standing, None
        if standing and standing.pid == os.getpid():
            standing.kept.close()
            standing.networks.close()
            standing.place.close()
            atexit.unregister(self.close)
        self._engine.close()

    def _stands(self) -> _Standing:
        """Return what this process keeps: containers cannot be shared with a parent process."""
        with self._lock:
            if self._standing is None or self._standing.pid != os.getpid():
                self._engine.api()
                place = Place(self._places)
                # Containers would end with this process by themselves; their folders would not.
                atexit.register(self.close)
                self._standing = _Standing(
                    os.getpid(),
                    place,
                    KeptContainers(self._engine, place, self._worker_id, self._cpus),
                    NetworkHolders(self._engine, self._worker_id),
                )
            return self._standing

    def _begin(self, run: Run, user: str, cpuset: Collection[int]) -> tuple[str, Any]:
        """Start a container for this run alone; return it and a connection to its streams."""
        if run.gpu_ids and not run.limits.gpu_memory_mib:
            if self._standing:
                self._standing.kept.pool.free(run.gpu_ids)
            self._free_gpus(run)
        holder = None
        if run.trust_domain:
            standing = self._stands()
            holder = standing.networks.join(run, standing.place, user)
        if holder is None:
            return self._begin_in(run, user, cpuset, "none")
        try:
            return self._begin_in(run, user, cpuset, f"container:{holder}")
        except DynsvcError:
            if self._engine.running(holder):
                raise
        self._stands().networks.forget(run, holder)
        return self._begin_in(run, user, cpuset, "none")

    def _begin_in(self, run: Run, user: str, cpuset: Collection[int], network: str) -> tuple[str, Any]:
        engine = self._engine
        config = container_config(
            run,
            user=user,
            input_source=engine.paths.translate(run.input_dir),
            output_source=engine.paths.translate(run.output_dir),
            worker_id=self._worker_id,
            host_cpus=engine.cpus,
            cdi_devices=engine.cdi_devices,
            ulimits=engine.ulimits,
            network=network,
            cpuset=cpuset,
        )
        container = engine.create(run, config, container_name(run))
        connection = None
        try:
            connection = engine.attach(run, container)
            engine.start(run, container)
        except BaseException:
            engine.remove(container)
            if connection is not None:
                Stream(connection).close()
            raise
        return container, connection

    def _free_gpus(self, run: Run) -> None:
        """Remove what dead workers left on GPUs that this run alone has leased."""
        for container in self._engine.managed(role="job"):
            held = (container.get("Labels") or {}).get(GPU_LABEL, "").split(",")
            if set(held) & set(run.gpu_ids):
                self._engine.remove(container["Id"])

    def _wait(self, run: Run, container: str, drain: Drain, ended: Callable[[], bool]) -> RunOutcome:
        """Wait for the container's end or a reason to end it."""
        begin = time.monotonic()
        deadline, ask_at, look_at = begin + run.limits.timeout_s, begin, begin + _LOOK_S
        settle_s = _SETTLE_S
        while True:
            drained = drain.wait(max(0.0, min(ask_at, deadline, look_at) - time.monotonic()))
            now = time.monotonic()
            if drain.error:
                raise drain.error
            if drained or now >= look_at:
                inspected = self._inspect(run, container, ended)
                if not inspected["State"]["Running"]:
                    break
                look_at = now + _LOOK_S
            if now >= ask_at:
                if ended():
                    raise Ending(run, now - begin, drain.output.last_lines).by_owner()
                ask_at = now + _ASK_S
            if now >= deadline:
                processes = self._engine.processes(container)
                raise Ending(run, now - begin, drain.output.last_lines).by_time_limit(processes)
            if (
                drained
            ):  # the engine notices the end a little after the streams, unless they were closed early
                time.sleep(settle_s)
                settle_s = min(settle_s * 1.5, _ASK_S)
        drain.wait(_DRAIN_S)
        state, last_lines = inspected["State"], drain.output.last_lines
        duration_s = time.monotonic() - begin
        ending = Ending(run, duration_s, last_lines)
        # The flag decides even on status 0: the kernel may have taken a child whose parent did not look.
        error: DynsvcError | None
        if state["OOMKilled"]:
            error = ending.by_memory_limit()
        elif (refused := _PODMANS_INIT.fullmatch(last_lines)) and state["ExitCode"] == 1:
            error = AlgorithmUnavailable(
                run.algorithm, f"program {run.argv[0]} cannot be started: {refused[1]}"
            )
        else:
            error = ending.by_itself(state["ExitCode"], "podman" if self._engine.is_podman else "docker")
        if error:
            raise error
        executed, stated = self._engine.told(run, inspected["Image"])
        return RunOutcome(
            duration_s=duration_s,
            last_lines=last_lines,
            executed=executed,
            stated=stated,
            device="gpu" if run.limits.gpus else "cpu",
            gpus=run.gpu_ids,
        )

    def _inspect(self, run: Run, container: str, ended: Callable[[], bool]) -> dict[str, Any]:
        try:
            return self._engine.inspect(run, container)
        except EngineUnavailable:
            if ended():  # whoever took the order away removed the container as well
                raise Ending(run, 0.0, "").by_owner() from None
            raise


def _overdue(deadline: str) -> bool:
    return deadline.isdigit() and int(deadline) < time.time()
