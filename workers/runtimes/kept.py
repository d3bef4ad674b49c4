"""Containers that serve one run after the other: ``warm`` programs, and legacy ones behind the ``shim``."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path

from dynsvc.errors import DynsvcError
from dynsvc.runtime import Run, RunOutcome
from workers.pool import Pool, Unusable
from workers.runtimes.bounds import Bound
from workers.runtimes.container import LOCK_LABEL, MEMORY_LABEL, kept_config
from workers.runtimes.cpus import CpuSet
from workers.runtimes.engine import Engine
from workers.runtimes.output import Output
from workers.runtimes.serving import MEMORY_PART, SILENCE_S, key_of, language_of, serve
from workers.runtimes.slot import Place, Slot
from workers.runtimes.stream import Stream
from workers.runtimes.talk import Conversation

__all__ = ["KeptContainer", "KeptContainers"]


class KeptContainer:
    """One container with its streams and folders, started by the constructor.

    Raises
    ------
    Unusable
        It cannot be started, ended, or said that it will never serve.
    DynsvcError
        The run that it was started for ended meanwhile.
    """

    def __init__(
        self,
        engine: Engine,
        run: Run,
        place: Place,
        *,
        worker_id: str,
        cpus: Path | None,
        ended: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self.stated: Mapping[str, str] = {}
        self.memory_mib = run.limits.memory_mib
        self.gpu_ids: Collection[str] = run.gpu_ids
        language = language_of(run)
        with ExitStack() as undo:
            self.slot = Slot(place, run)
            undo.callback(self.slot.close)
            self._cpus = CpuSet(cpus, run.limits, engine.cpus)
            undo.callback(self._cpus.close)
            config = kept_config(
                run,
                lock=str(place.lock),
                argv=language.argv(run),
                user=self.slot.user,
                input_source=engine.paths.translate(self.slot.input_dir),
                output_source=engine.paths.translate(self.slot.output_dir),
                worker_id=worker_id,
                host_cpus=engine.cpus,
                cdi_devices=engine.cdi_devices,
                ulimits=engine.ulimits,
                cpuset=self._cpus.ids,
            )
            try:
                self.container = engine.create(run, config, None)
                undo.callback(engine.remove, self.container)
                self._stream = Stream(engine.attach(run, self.container, stdin=True))
                undo.callback(self._stream.close)
                engine.start(run, self.container)
            except DynsvcError as error:
                # Whether the engine, or a proxy before it, only minds that it is kept shows at once: the run
                # gets a container of its own, or the final error of that one.
                raise Unusable(f"it cannot be started: {error}") from error
            self._conversation = Conversation(self._stream, language)
            self._conversation.wait_ready(run, ended)
            self.executed, self.stated = engine.told(run, engine.image_id(run))
            undo.pop_all()

    def alive(self) -> bool:
        """Return whether the container runs, as far as its streams tell."""
        return self._stream.forget(SILENCE_S)

    def memory_used_mib(self) -> int | None:
        """Return the memory of its processes."""
        return self._engine.memory_used_mib(self.container)

    def run(self, run: Run, output: Output, ended: Callable[[], bool]) -> tuple[float, DynsvcError | None]:
        """Have *run* done; return how long it took, in seconds, and the error that was answered.

        Its files are then where it wants them.

        Raises
        ------
        Unusable
            The container is gone or broke its protocol.
        """
        self.slot.put(run)
        bound = Bound(run, ended, output=self.slot.output_dir)
        duration_s, error = self._conversation.ask(run, secrets.token_hex(16), output, bound)
        bound.told(error)
        if error is None:
            self.slot.take(run)
        self.slot.clear()
        return duration_s, error

    def close(self) -> None:
        """End and remove the container."""
        self._engine.remove(self.container)
        self._stream.close()
        self._cpus.close()
        self.slot.close()


class KeptContainers:
    """The kept containers of one process.

    Parameters
    ----------
    engine
        Where they run.
    place
        This process's folder for their slots.
    worker_id
        By which left-overs are found.
    cpus
        Folder of the processors' locks, or None.
    """

    def __init__(self, engine: Engine, place: Place, worker_id: str, cpus: Path | None) -> None:
        self._engine, self._place, self._worker_id, self._cpus = engine, place, worker_id, cpus
        engine.api()
        self.pool: Pool[KeptContainer] = Pool(
            most=max(4, 2 * engine.cpus),
            memory_mib=int(engine.memory_mib * MEMORY_PART),
            elsewhere_mib=self._elsewhere_mib,
        )

    def run(self, run: Run, on_line: Callable[[str], None], ended: Callable[[], bool]) -> RunOutcome | None:
        """Execute *run* in a kept container; None where it has to have a fresh one of its own.

        Raises
        ------
        DynsvcError
            How it ended, as :meth:`dynsvc.runtime.Runtime.run` says.
        """
        return serve(
            self.pool,
            key_of(run, self._engine.image_id(run)),
            run,
            lambda: KeptContainer(
                self._engine, run, self._place, worker_id=self._worker_id, cpus=self._cpus, ended=ended
            ),
            on_line=on_line,
            ended=ended,
        )

    def close(self) -> None:
        """End all of them."""
        self.pool.close()

    def _elsewhere_mib(self) -> int:
        """Return what other processes of this host keep: they share its memory and not this pool."""
        own = str(self._place.lock)
        labels = [each.get("Labels") or {} for each in self._engine.managed(role="kept")]
        sizes = [each.get(MEMORY_LABEL, "") for each in labels if each.get(LOCK_LABEL) != own]
        return sum(int(size) for size in sizes if size.isdigit())
