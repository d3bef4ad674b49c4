"""Processes of this host that serve one run after the other."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace

from dynsvc.errors import DynsvcError, StorageUnavailable
from dynsvc.outputs import discard
from dynsvc.runtime import Run, RunOutcome
from workers.capacity import Capacity
from workers.pool import Pool
from workers.runtimes.bounds import Bound
from workers.runtimes.guarded import Command, Guarded
from workers.runtimes.output import Output
from workers.runtimes.serving import MEMORY_PART, SILENCE_S, key_of, serve
from workers.runtimes.slot import Place, Slot
from workers.runtimes.stream import Pipes
from workers.runtimes.talk import Conversation, Language

__all__ = ["KeptProgram", "KeptPrograms"]

#: The worker notices the time limit itself; the guard does where the worker is stopped.
_SLACK_S = 5.0


class KeptProgram:
    """One program with its pipes, started by the constructor.

    Parameters
    ----------
    run
        The first run.
    command
        Makes the command from a run, whose argument list is that of what stays, from *executed* and from its
        working folder.
    executed, stated
        What really runs, and what that says of itself, for the outcomes.
    place
        Of this process, for the working folder.
    language
        How it is spoken to.
    slotted
        Whether it sees two folders of its own, through which the files of all its runs pass. Else it is told
        the folders of each run.

    Raises
    ------
    Unusable
        It ended, or said that it will never serve.
    DynsvcError
        The run that it was started for ended meanwhile, or the host cannot start it.
    """

    def __init__(
        self,
        run: Run,
        command: Callable[..., Command],
        executed: str,
        stated: Mapping[str, str],
        place: Place,
        *,
        language: Language,
        ended: Callable[[], bool],
        slotted: bool = False,
    ) -> None:
        self.memory_mib = run.limits.memory_mib
        self.gpu_ids: Collection[str] = run.gpu_ids
        self.executed, self.stated = executed, stated
        with ExitStack() as undo:
            self._folder = place.room(self.memory_mib)
            undo.callback(self._discard)
            self._slot = Slot(place, run) if slotted else None
            if self._slot:
                undo.callback(self._slot.close)
            stays = replace(self._slot.as_seen(run) if self._slot else run, argv=language.argv(run))
            started = command(stays, executed, self._folder, kept=True)
            self._tmp = started.tmp
            limit_s = run.limits.timeout_s + _SLACK_S
            self._guarded = Guarded(started, run.limits, self._folder, limit_s, attached=True)
            undo.callback(self._guarded.close)
            self._streams = Pipes(*self._guarded.streams)
            self._conversation = Conversation(self._streams, language)
            self._conversation.wait_ready(run, ended)
            self._guarded.limit(math.inf)
            undo.pop_all()

    def alive(self) -> bool:
        """Return whether the program runs, as far as its streams tell, and its guard."""
        return self._guarded.alive() and self._streams.forget(SILENCE_S)

    def memory_used_mib(self) -> int | None:
        """Return the memory of its processes."""
        return self._guarded.memory_used_mib()

    def run(self, run: Run, output: Output, ended: Callable[[], bool]) -> tuple[float, DynsvcError | None]:
        """Have *run* done; return how long it took, in seconds, and the error that was answered.

        Raises
        ------
        Unusable
            The program is gone or broke its protocol.
        """
        if self._slot:
            self._slot.put(run)
        output_dir = self._slot.output_dir if self._slot else run.output_dir
        bound = Bound(run, ended, output=output_dir, tmp=self._tmp)
        self._guarded.limit(run.limits.timeout_s + _SLACK_S)
        try:
            duration_s, error = self._conversation.ask(run, secrets.token_hex(16), output, bound)
        finally:
            self._guarded.limit(math.inf)
        bound.told(error)
        if self._slot:
            if error is None:
                self._slot.take(run)
            self._slot.clear()
        return duration_s, error

    def close(self) -> None:
        """End the program and all that it started."""
        self._guarded.close()
        if self._slot:
            self._slot.close()
        self._discard()

    def _discard(self) -> None:
        with suppress(StorageUnavailable):  # the janitor's, later
            discard(self._folder)


class KeptPrograms:
    """The kept programs of one process.

    Parameters
    ----------
    place
        This process's folder.
    """

    def __init__(self, place: Place) -> None:
        self.pool: Pool[KeptProgram] = Pool(
            most=max(4, 2 * len(os.sched_getaffinity(0))),
            memory_mib=int(Capacity.of_host(None, None).total_mib * MEMORY_PART),
            elsewhere_mib=place.elsewhere_mib,
        )

    def run(
        self,
        run: Run,
        executed: str,
        start: Callable[[], KeptProgram],
        on_line: Callable[[str], None],
        ended: Callable[[], bool],
    ) -> RunOutcome | None:
        """Execute *run* by a kept program; None where it has to have a fresh one of its own.

        Parameters
        ----------
        executed
            What really runs: only what is the same serves.
        start
            Starts one.

        Raises
        ------
        DynsvcError
            How it ended, as :meth:`dynsvc.runtime.Runtime.run` says.
        """
        outcome = serve(self.pool, key_of(run, executed), run, start, on_line=on_line, ended=ended)
        if outcome is None:
            # What a broken program has left there is nobody's.
            discard(run.output_dir)
            run.output_dir.mkdir()
        return outcome

    def close(self) -> None:
        """End all of them."""
        self.pool.close()
