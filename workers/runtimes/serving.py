"""Runs that are given to something that is kept, where there is something that can take them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Protocol, TypeVar

import structlog

from dynsvc.errors import DynsvcError
from dynsvc.runtime import Run, RunOutcome
from workers.pool import Kept, Pool, Unusable
from workers.runtimes.output import Output
from workers.runtimes.shim import Shim, can_shim
from workers.runtimes.talk import Language
from workers.runtimes.warm import Warm

__all__ = ["MEMORY_PART", "SILENCE_S", "Serving", "can_be_kept", "key_of", "language_of", "serve"]

log = structlog.get_logger(__name__)

#: The part of the memory that may be promised to what mostly waits.
MEMORY_PART = 0.5
#: Output between two runs belongs to neither. A program that prints without end serves no further run.
SILENCE_S = 0.02


def can_be_kept(run: Run) -> bool:
    """Return whether *run* may go to something kept: who names no trust domain shares with nobody."""
    if not run.trust_domain:
        return False
    return bool(run.argv_warm) if run.mode == "warm" else run.mode == "shim" and can_shim(run)


def key_of(run: Run, executed: str) -> Hashable:
    """Return what something kept must have in common with *run* to do it; *executed* is what really runs."""
    argv = run.argv_warm if run.mode == "warm" else ()
    env = tuple(sorted(run.env.items()))
    return (run.mode, executed, argv, run.limits, env, run.trust_domain, run.gpu_ids)


def language_of(run: Run) -> Language:
    """Return how a container that is kept for *run* is spoken to."""
    return Shim() if run.mode == "shim" else Warm()


class Serving(Kept, Protocol):
    """Something kept that does runs."""

    #: What really runs: the image's digest, or the program's path.
    executed: str
    #: What it says of its origin and its libraries.
    stated: Mapping[str, str]

    def run(self, run: Run, output: Output, ended: Callable[[], bool]) -> tuple[float, DynsvcError | None]:
        """Have *run* done; return how long it took, in seconds, and the error that was answered.

        Raises
        ------
        Unusable
            It is gone or broke its protocol.
        """
        ...


S = TypeVar("S", bound=Serving)


def serve(
    pool: Pool[S],
    key: Hashable,
    run: Run,
    start: Callable[[], S],
    *,
    on_line: Callable[[str], None],
    ended: Callable[[], bool],
) -> RunOutcome | None:
    """Execute *run* by something of *pool*; None where it has to have something fresh of its own.

    Parameters
    ----------
    key, start
        As :meth:`workers.pool.Pool.borrow` takes them.

    Raises
    ------
    DynsvcError
        How it ended, as :meth:`dynsvc.runtime.Runtime.run` says.
    """
    try:
        held = pool.borrow(key, run.keep, run.limits.memory_mib, start, run.gpu_ids)
        if held is None:
            return None
        output, usable, warm = Output(on_line), False, held.uses > 0
        try:
            duration_s, error = held.thing.run(run, output, ended)
            usable = True
        finally:
            pool.give_back(held, usable=usable)
    except Unusable as unusable:
        log.warning("run goes to a fresh start", order_id=run.order_id, reason=str(unusable))
        return None
    if error:
        raise error
    return RunOutcome(
        duration_s=duration_s,
        last_lines=output.last_lines,
        executed=held.thing.executed,
        stated=held.thing.stated,
        device="gpu" if run.limits.gpus else "cpu",
        gpus=run.gpu_ids,
        warm=warm,
    )
