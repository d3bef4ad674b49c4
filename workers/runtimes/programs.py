"""Programs of this host that serve one run after the other: ``warm`` ones."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import replace

from dynsvc.errors import DynsvcError, StorageUnavailable
from dynsvc.outputs import discard
from dynsvc.runtime import Run, RunOutcome, Seen
from workers.capacity import Capacity
from workers.pool import Pool, Unusable
from workers.runtimes.environment import RUN_IDS
from workers.runtimes.guarded import Guarded
from workers.runtimes.output import Output
from workers.runtimes.serving import MEMORY_PART, serve
from workers.runtimes.slot import Place
from workers.runtimes.stream import Pipes
from workers.runtimes.talk import Conversation
from workers.runtimes.warm import Warm

__all__ = ["KeptProgram", "KeptPrograms", "can_be_kept"]

#: Output between two runs belongs to neither. A program that prints without end serves no further run.
_SILENCE_S = 0.02
#: The worker notices the time limit itself; the guard does where the worker is stopped.
_SLACK_S = 5.0


def can_be_kept(run: Run) -> bool:
    """Return whether *run* may go to a kept program: who names no trust domain shares with nobody."""
    return run.mode == "warm" and bool(run.argv_warm and run.trust_domain)


class KeptProgram:
    """One program with its pipes, started by the constructor.

    Parameters
    ----------
    run
        The first run, with the argument list of the program that stays.
    program, env
        As :class:`workers.runtimes.guarded.Guarded` takes them.
    place
        Of this process, for the program's working folder.
    seen
        How the program names the folders of a run.

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
        program: str,
        env: dict[str, str],
        place: Place,
        *,
        seen: Callable[[Run], Seen],
        ended: Callable[[], bool],
    ) -> None:
        self.memory_mib = run.limits.memory_mib
        self.gpu_ids: Collection[str] = run.gpu_ids
        self.executed = program
        with ExitStack() as undo:
            self._folder = place.room(self.memory_mib)
            undo.callback(self._discard)
            own = {name: text for name, text in env.items() if name not in RUN_IDS}
            own |= {"HOME": str(self._folder), "TMPDIR": str(self._folder)} | dict(run.env)
            limit_s = run.limits.timeout_s + _SLACK_S
            self._guarded = Guarded(run, program, own, self._folder, limit_s, attached=True)
            undo.callback(self._guarded.close)
            assert self._guarded.stdin  # noqa: S101  (it is attached)
            assert self._guarded.stderr  # noqa: S101
            self._streams = Pipes(self._guarded.stdin, self._guarded.stdout, self._guarded.stderr)
            self._conversation = Conversation(self._streams, Warm(seen))
            output = Output(lambda _line: None)
            try:
                self._conversation.wait_ready(run, output, ended)
            except Unusable as error:
                raise Unusable(f"{error}; {output.last_lines[-500:]}") from error
            self._guarded.limit(math.inf)
            undo.pop_all()

    def alive(self) -> bool:
        """Return whether the program runs, as far as its streams tell, and its guard."""
        return self._guarded.alive() and self._streams.forget(_SILENCE_S)

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
        self._guarded.limit(run.limits.timeout_s + _SLACK_S)
        try:
            return self._conversation.ask(run, secrets.token_hex(16), output, ended)
        finally:
            self._guarded.limit(math.inf)

    def close(self) -> None:
        """End the program and all that it started."""
        self._guarded.close()
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
    seen
        How programs name the folders of a run.
    """

    def __init__(self, place: Place, seen: Callable[[Run], Seen]) -> None:
        self._place, self._seen = place, seen
        self.pool: Pool[KeptProgram] = Pool(
            most=max(4, 2 * len(os.sched_getaffinity(0))),
            memory_mib=int(Capacity.of_host(None, None).total_mib * MEMORY_PART),
            elsewhere_mib=place.elsewhere_mib,
        )

    def run(
        self,
        run: Run,
        program: str,
        env: dict[str, str],
        on_line: Callable[[str], None],
        ended: Callable[[], bool],
    ) -> RunOutcome | None:
        """Execute *run* by a kept program; None where it has to have a fresh one of its own.

        Raises
        ------
        DynsvcError
            How it ended, as :meth:`dynsvc.runtime.Runtime.run` says.
        """
        stays = replace(run, argv=run.argv_warm)
        domain = (run.argv_warm, run.limits, tuple(sorted(run.env.items())), run.trust_domain, run.gpu_ids)
        outcome = serve(
            self.pool,
            (program, domain),
            run,
            lambda: KeptProgram(stays, program, env, self._place, seen=self._seen, ended=ended),
            on_line=on_line,
            ended=ended,
        )
        if outcome is None:
            # What a broken program has left there is nobody's.
            discard(run.output_dir)
            run.output_dir.mkdir()
        return outcome

    def close(self) -> None:
        """End all of them."""
        self.pool.close()
