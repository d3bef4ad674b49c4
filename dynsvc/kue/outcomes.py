"""What the store answers: the head of the queue, and what became of attempts, jobs and repairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["ActiveJob", "Counts", "Expired", "Failed", "LimboScan", "Outcome", "Sighting", "Waiting"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """The head of the queue."""

    #: ``(job id, type)``, first the one to run first.
    ids: tuple[tuple[str, str], ...] = ()
    #: ``(job id, state in its hash)`` of entries that were taken out of the index because no worker must run
    #: them; the state is empty where the job itself is gone.
    dropped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """What became of an attempt that failed."""

    #: ``lost``: the attempt no longer owned the job and nothing was written. ``retrying``: another attempt
    #: follows. ``final``: none does.
    outcome: Literal["lost", "retrying", "final"]
    #: Milliseconds until the job may be promoted; 0 where it waits already.
    delay_ms: int = 0
    attempts_made: int = 0

    @property
    def is_lost(self) -> bool:
        """Nothing was written."""
        return self.outcome == "lost"

    @property
    def is_final(self) -> bool:
        """The job will not run again by itself."""
        return self.outcome == "final"


@dataclass(frozen=True, slots=True)
class Expired:
    """A job that was failed because its ttl had run out."""

    job_id: str
    worker_id: str
    failed: Failed


@dataclass(frozen=True, slots=True)
class ActiveJob:
    """A running job."""

    job_id: str
    type: str
    worker_id: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """A waiting job that no worker can see, and when that was first noticed."""

    first_seen_ms: int
    #: Changes whenever anybody touches the job.
    fingerprint: str


@dataclass(frozen=True, slots=True)
class LimboScan:
    """One search for waiting jobs that no worker can see."""

    #: Ids that were put back into the queue.
    repaired: tuple[str, ...] = ()
    #: To be given to the next search.
    suspects: Mapping[str, Sighting] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended, or that it has not."""

    state: Literal["done", "failed", "pending", "unknown"]
    error: str | None = None
    #: Decoded; None where nothing was returned or it is not JSON.
    result: Any = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of jobs, taken from the indices as Kue's own statistics are."""

    waiting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    delayed: int = 0
