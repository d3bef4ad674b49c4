"""The whole worker side of Kue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import redis

from dynsvc.kue.connection import answering
from dynsvc.kue.encoding import is_truthy, stringify
from dynsvc.kue.ids import checked_id, is_job_id
from dynsvc.kue.jobs import Job, decoded, job_from_hash
from dynsvc.kue.outcomes import Counts, Outcome, Waiting
from dynsvc.kue.scripts import Scripts
from dynsvc.kue.upkeep import Upkeep

__all__ = ["PRIORITIES", "JobStore"]

#: Kue's names for priorities; smaller numbers run first.
PRIORITIES: Mapping[str, int] = {"low": 10, "normal": 0, "medium": -5, "high": -10, "critical": -15}

# A native worker that will try a job again shows it as failed for some milliseconds.
_SETTLED_MS = 5000
_PAGE = 50


class JobStore(Upkeep):
    """Jobs in one Kue.

    Every method may raise :class:`~dynsvc.errors.PeerUnavailable` (no connection or no answer; the write may
    have happened nevertheless; transient) and :class:`~dynsvc.errors.PeerRefused` (wrong password, missing
    rights; permanent). Methods with a *job_id* raise ValueError for a text that is no job id, except
    :meth:`read` and :meth:`outcome`.
    """

    def __init__(self, client: redis.Redis, head: str = "q:", *, peer: str = "the orders' Redis") -> None:
        """Use *client*, which must decode replies; the caller closes it. Nothing is sent yet.

        *head* is what Kue's keys begin with: ``q:``, or ``{q}:`` where Kue uses ioredis. *peer* is the
        server's name in errors.
        """
        self._scripts = Scripts(client, head, peer)

    @property
    def channel(self) -> str:
        """Where events are published."""
        return f"{self._scripts.head}events"

    def read(self, job_id: str) -> Job | None:
        """Return the job, or None where there is none, where it is half written, or where the id is none."""
        if not is_job_id(job_id):
            return None
        with answering(self._scripts.peer):
            fields: Any = self._scripts.client.hgetall(f"{self._scripts.head}job:{job_id}")
        return job_from_hash(job_id, fields)

    def log_lines(self, job_id: str) -> list[str]:
        """Return the job's log."""
        with answering(self._scripts.peer):
            lines: Any = self._scripts.client.lrange(
                f"{self._scripts.head}job:{checked_id(job_id)}:log", 0, -1
            )
        return list(lines)

    def newest(self, limit: int = 500) -> Iterator[Job]:
        """Yield the *limit* jobs created last, the newest first; they are read while it is iterated."""
        head, client, peer = self._scripts.head, self._scripts.client, self._scripts.peer
        with answering(peer):
            last: Any = client.get(f"{head}ids")
        newest = int(last) if last and is_job_id(last) else 0
        for start in range(newest, max(0, newest - limit), -_PAGE):
            ids = [str(number) for number in range(start, max(0, start - _PAGE, newest - limit), -1)]
            with answering(peer), client.pipeline(transaction=False) as pipeline:
                for job_id in ids:
                    pipeline.hgetall(f"{head}job:{job_id}")
                hashes = pipeline.execute()
            yield from filter(None, map(job_from_hash, ids, hashes))

    def waiting(self, types: Sequence[str], limit: int, *, taken: str = "") -> Waiting:
        """Return the first *limit* waiting jobs of all *types* in the order in which they are to run.

        Entries of the queue that no worker must run are taken out of it and reported: the job is gone, or
        has a state of its own, as the original service wrote it.

        Parameters
        ----------
        taken
            Name of a sorted set of job ids beside Kue's keys. They are passed over, and with them it is
            *limit* jobs.
        """
        kinds = list(dict.fromkeys(types))
        if limit < 1 or not kinds:
            return Waiting()
        waiting, dropped = self._scripts.run("waiting", limit, taken, *kinds)
        return Waiting(_pairs(waiting), _pairs(dropped))

    def outcome(self, job_id: str) -> Outcome:
        """Return how a job ended, or that it has not; ``unknown`` where there is no such job."""
        if not is_job_id(job_id):
            return Outcome("unknown")
        with answering(self._scripts.peer), self._scripts.client.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(f"{self._scripts.head}job:{job_id}")
            pipeline.time()
            fields, (seconds, microseconds) = pipeline.execute()
        job = job_from_hash(job_id, fields)
        if job is None:
            return Outcome("unknown")
        if job.is_done:
            return Outcome("done", result=decoded(job.result_text))
        if job.is_failed:
            now_ms = int(seconds) * 1000 + int(microseconds) // 1000
            passing = job.attempts_left > 0 and now_ms - (job.failed_at_ms or 0) < _SETTLED_MS
            return Outcome("pending") if passing else Outcome("failed", error=job.error)
        if job.is_waiting or job.is_running or job.is_delayed:
            return Outcome("pending")
        return Outcome("unknown")

    def create(
        self,
        job_type: str,
        data: Any,
        *,
        priority: str | int = "normal",
        attempts: int = 1,
        backoff: Mapping[str, Any] | bool | None = None,
        ttl_ms: int | None = None,
        delay_ms: int | None = None,
        remove_on_complete: bool = False,
    ) -> str:
        """Save a new job as Kue's own ``save`` does, at once instead of step by step, and return its id.

        Parameters
        ----------
        job_type
            The job's type.
        data
            JSON value; what JavaScript takes for false becomes an empty object.
        priority
            One of :data:`PRIORITIES` or a number; smaller runs first.
        attempts
            How often the job may be tried, at least once.
        backoff
            ``{"type": "fixed" | "exponential", "delay": ms, "maxDelay": ms}``, True for the job's own
            delay, or None for retries at once.
        ttl_ms
            Longest time between two reports of progress.
        delay_ms
            Time before the job enters the queue.
        remove_on_complete
            Whether the job disappears when it ends well.

        Raises
        ------
        ValueError
            An argument is out of its range.
        """
        if not job_type:
            raise ValueError("a job needs a type")
        level = PRIORITIES.get(priority) if isinstance(priority, str) else priority
        if level is None:
            raise ValueError(f"priority {priority!r:.40} is none of {', '.join(PRIORITIES)}")
        if attempts < 1:
            raise ValueError(f"attempts is {attempts}, expected at least 1")
        return str(
            self._scripts.run(
                "create",
                job_type,
                stringify(data if is_truthy(data) else {}),
                level,
                attempts,
                delay_ms if delay_ms and delay_ms > 0 else "",
                ttl_ms if ttl_ms and ttl_ms > 0 else "",
                stringify(backoff) if backoff is not None and backoff is not False else "",
                "true" if remove_on_complete else "",
            )
        )

    def remove(self, job_id: str) -> bool:
        """Delete the job and every trace of it. Return False where there was none."""
        return bool(self._scripts.run("remove", checked_id(job_id)))

    def counts(self, types: Sequence[str]) -> Counts:
        """Return the numbers of jobs of *types* in each state."""
        states = ("inactive", "active", "complete", "failed", "delayed")
        kinds = list(dict.fromkeys(types))
        with answering(self._scripts.peer), self._scripts.client.pipeline(transaction=False) as pipeline:
            for state in states:
                for kind in kinds:
                    pipeline.zcard(f"{self._scripts.head}jobs:{kind}:{state}")
            sizes = pipeline.execute()
        return Counts(*(sum(sizes[i * len(kinds) : (i + 1) * len(kinds)]) for i in range(len(states))))

    def oldest_waiting_ms(self, types: Sequence[str]) -> int | None:
        """Return how long ago the oldest waiting job of *types* was created; None where none waits."""
        age_ms = int(self._scripts.run("oldest", *types))
        return None if age_ms < 0 else age_ms


def _pairs(flat: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple(zip(flat[::2], flat[1::2], strict=True))
