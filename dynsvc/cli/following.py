"""Follows one order in Kue until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console

from dynsvc.cli.progress import Display, StepClock, display
from dynsvc.errors import PeerUnavailable
from dynsvc.kue import JobStore

__all__ = ["EXIT_STATUS", "Ending", "follow", "tell"]

#: What ``watch`` and ``submit --wait`` exit with.
EXIT_STATUS = {"complete": 0, "failed": 1, "removed": 2, "running": 3}

# Twenty small reads in a second are nothing to Redis, and the times of short steps are seen well enough.
_PAUSE_S = 0.05
#: Redis may restart while we look on.
_AWAY_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an order ended, or that it still ran when the time was over."""

    state: Literal["complete", "failed", "removed", "running"]
    #: What Kue stores of the failure.
    error: str = ""
    result: Any = None
    #: Seconds between the ends of the steps, as they were seen here.
    timings_s: dict[str, float] = field(default_factory=dict)


def follow(
    jobs: JobStore,
    job_id: str,
    console: Console,
    *,
    timeout_s: float,
    check: Callable[[], None] = lambda: None,
    log: bool = True,
) -> Ending:
    """Show an order's progress and log until it ends.

    Parameters
    ----------
    timeout_s
        How long to follow it at most.
    check
        Called between two looks; raises to stop following.
    log
        Whether to print the lines of the order's log.

    Raises
    ------
    PeerUnavailable
        Redis was away for more than 30 s (transient).
    """
    clock = StepClock()
    give_up = time.monotonic() + timeout_s
    answered = time.monotonic()
    printed = 0
    with display(console) as shown:
        while time.monotonic() < give_up:
            try:
                ending = _look(jobs, job_id, shown, clock)
                if log:
                    printed = _print_log(jobs, job_id, shown, printed)
                answered = time.monotonic()
            except PeerUnavailable:
                if time.monotonic() - answered > _AWAY_S:
                    raise
                ending = None
            if ending:
                return ending
            check()
            time.sleep(_PAUSE_S)
    return Ending(state="running", timings_s=clock.timings_s)


def _look(jobs: JobStore, job_id: str, shown: Display, clock: StepClock) -> Ending | None:
    job = jobs.read(job_id)
    if job is None:
        return Ending(state="removed", timings_s=clock.timings_s)
    percent = 100 if job.is_done else min(job.progress, 99)
    clock.see(percent)
    shown.show(percent, clock)
    outcome = jobs.outcome(job_id)
    if outcome.state == "done":
        clock.see(100)
        shown.show(100, clock)
        return Ending(state="complete", result=outcome.result, timings_s=clock.timings_s)
    if outcome.state == "failed":
        return Ending(state="failed", error=outcome.error or "", timings_s=clock.timings_s)
    return None


def _print_log(jobs: JobStore, job_id: str, shown: Display, printed: int) -> int:
    lines = jobs.log_lines(job_id)
    for line in lines[printed:]:
        shown.line(line)
    return len(lines)


def tell(ending: Ending, job_id: str, console: Console) -> None:
    """Print how an order ended."""
    match ending.state:
        case "complete":
            console.print(f"order {job_id} is complete", style="green")
        case "failed":
            console.print(f"order {job_id} failed", style="red")
            console.print(ending.error or "(Kue stores no error text)")
        case "removed":
            console.print(f"order {job_id} was removed, or never was", style="yellow")
        case "running":
            console.print(f"order {job_id} has not ended in the time given; it goes on", style="yellow")
