"""One run of an algorithm on this host: admitted, executed, and where the descriptor allows it once more."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import structlog

from dynsvc import metrics
from dynsvc.errors import AlgorithmUnavailable, OutOfMemory
from dynsvc.outputs import discard
from dynsvc.runtime import Admission, Run, RunOutcome, Runtime

__all__ = ["Executed", "Owner", "execute"]

log = structlog.get_logger(__name__)


class Owner(Protocol):
    """For whom it runs: an attempt, seen from here."""

    def ended(self) -> bool:
        """Say whether nobody wants the result any more."""
        ...

    def note(self, **facts: object) -> None:
        """Keep facts for who asks later what happened."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """A run that ended well."""

    #: As it was executed: with its GPUs, and with the memory limit that sufficed.
    run: Run
    outcome: RunOutcome
    #: How long it waited for its turn, seconds; both turns where it was run twice.
    waited_s: float


def execute(
    run: Run,
    runtime: Runtime,
    admission: Admission,
    owner: Owner,
    *,
    on_line: Callable[[str], None],
    say: Callable[[str], None],
    memory_retry: bool,
) -> Executed:
    """Wait until *run* fits into the host, execute it, and once more with twice the memory where that failed.

    Parameters
    ----------
    on_line
        Called with each line of output.
    say
        Called with sentences for the order's log.
    memory_retry
        Whether a run that was ended by its memory limit is tried again with twice as much.

    Raises
    ------
    OutOfMemory
        Also where twice the memory is more than this host has: the first run's error then.
    """
    once = partial(_once, runtime=runtime, admission=admission, owner=owner, on_line=on_line, say=say)
    try:
        return once(run)
    except OutOfMemory as error:
        if not memory_retry:
            raise
        first = error
    log.info("tried again with more memory", algorithm=run.algorithm, memory_mib=2 * run.limits.memory_mib)
    say(f"{first}; tried once more with {2 * run.limits.memory_mib} MiB")
    discard(run.output_dir)
    run.output_dir.mkdir()
    larger = replace(run, limits=replace(run.limits, memory_mib=2 * run.limits.memory_mib))
    try:
        return once(larger)
    except AlgorithmUnavailable as refused:
        # The host has not so much. What the order failed of is its first limit.
        raise first from refused


def _once(
    run: Run,
    *,
    runtime: Runtime,
    admission: Admission,
    owner: Owner,
    on_line: Callable[[str], None],
    say: Callable[[str], None],
) -> Executed:
    device, began = "gpu" if run.limits.gpus else "cpu", time.monotonic()
    with admission.admit(run, ended=owner.ended, waits=say) as admitted:
        waited_s = time.monotonic() - began
        metrics.run_admitted(run.algorithm, device, waited_s)
        owner.note(
            runtime=runtime.name,
            image=run.image,
            argv=list(run.argv),
            mode=run.mode,
            cpus=run.limits.cpus,
            memory_mib=run.limits.memory_mib,
            pids=run.limits.pids,
            tmp_mib=run.limits.tmp_mib,
            timeout_s=run.limits.timeout_s,
            network=run.limits.network,
            gpus=list(admitted.gpu_ids),
            waited_s=round(waited_s, 3),
        )
        with metrics.run(run.algorithm, device):
            outcome = runtime.run(admitted, on_line=on_line, ended=owner.ended)
    metrics.run_done(run.algorithm, device, outcome.duration_s, warm=outcome.warm)
    owner.note(executed=outcome.executed, warm=outcome.warm, last_lines=outcome.last_lines[-2000:])
    return Executed(run=admitted, outcome=outcome, waited_s=waited_s)
