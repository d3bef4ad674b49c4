"""What Kue's own workers do by timer, and repairs of what they leave behind when they die."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dynsvc.kue.attempts import Attempts
from dynsvc.kue.connection import answering
from dynsvc.kue.ids import checked_id
from dynsvc.kue.outcomes import ActiveJob, Expired, LimboScan, Sighting

__all__ = ["TTL_EXCEEDED", "Upkeep"]

#: Kue's own text for a job that ran out of time.
TTL_EXCEEDED = "TTL exceeded"

# Kue's locks have no key head: all queues of one database share them.
_TTL_LOCK = "activeJobsTTL:lock"
_LOCK_MS = 2000

# A native worker that lives fails its own expired job within about two seconds.
_FOREIGN_GRACE_MS = 10_000
# A native worker is between taking a job from the queue and activating it for milliseconds.
_LIMBO_MS = 10_000
_PAGE = 500


class Upkeep(Attempts):
    """The timers' part of :class:`dynsvc.kue.JobStore`. Any number of processes may run them side by side."""

    def promote_due(self, limit: int = 200, types: Sequence[str] = ()) -> list[str]:
        """Put delayed jobs whose time has come into the queue, at most *limit*, and return their ids.

        Parameters
        ----------
        limit
            Jobs moved in one call; the server does nothing else meanwhile.
        types
            Only jobs of these types. Empty means all, as Kue's own timer does.
        """
        return list(self._scripts.run("promote", secrets.token_hex(8), limit, *types))

    def expire_ttl(self, types: Sequence[str], prefix: str, limit: int = 100) -> list[Expired]:
        """Fail running jobs of *types* whose ttl has run out, and return them.

        Jobs whose token begins with *prefix* and jobs that run without a worker fail at once. Those of other
        workers get ten more seconds, because a living native worker deals with its own. Entries of jobs that
        no longer run are only taken out of the index.
        """
        with self._lock(_TTL_LOCK) as held:
            if not held:
                return []
            reply = self._scripts.run("expired", prefix, _FOREIGN_GRACE_MS, limit, *types)
            expired = []
            for job_id, worker_id in zip(reply[::2], reply[1::2], strict=True):
                failed = self._fail(job_id, worker_id, TTL_EXCEEDED, TTL_EXCEEDED, None, expired_only=True)
                if not failed.is_lost:
                    expired.append(Expired(job_id, worker_id, failed))
            return expired

    def acknowledge_ttl(self, job_id: str, prefix: str) -> Expired | None:
        """Answer a native timer that found *job_id* to be out of time, within its one second.

        A job that runs under a token beginning with *prefix* is failed. One that has just ended is only
        acknowledged: without that, the timer would fail it although it is finished. Others are not touched.
        """
        reply = self._scripts.run("acknowledge", checked_id(job_id), prefix)
        if reply[0] != "running":
            return None
        failed = self._fail(job_id, reply[1], TTL_EXCEEDED, TTL_EXCEEDED, None, expired_only=False)
        return None if failed.is_lost else Expired(job_id, reply[1], failed)

    def hides_jobs(self) -> bool:
        """Say whether jobs may wait that no worker can see, from the sizes of the indices alone.

        Misses them only where as many jobs are wrongly in the index of their type.
        """
        head, client = self._scripts.head, self._scripts.client
        with answering(self._scripts.peer):
            types: Any = client.smembers(f"{head}job:types")
            with client.pipeline() as pipeline:
                pipeline.zcard(f"{head}jobs:inactive")
                for kind in types:
                    pipeline.zcard(f"{head}jobs:{kind}:inactive")
                everything, *each = pipeline.execute()
        return bool(everything != sum(each))

    def repair_limbo(self, types: Sequence[str], suspects: Mapping[str, Sighting]) -> LimboScan:
        """Put jobs back into the queue that wait but that no worker can see.

        A native worker that dies between taking a job and activating it leaves such a job. The same is true
        for a moment of every job that a living one takes, so a job must stay like this, untouched, for ten
        seconds: it is repaired by a later call. Reads all that wait; see :meth:`hides_jobs`.

        Parameters
        ----------
        types
            Only jobs of these types.
        suspects
            What the last call returned in :attr:`LimboScan.suspects`; empty at first.
        """
        repaired: list[str] = []
        sightings: dict[str, Sighting] = {}
        rank = 0
        while True:
            seen, now, *found = self._scripts.run("limbo", rank, _PAGE, *types)
            for job_id, fingerprint in zip(found[::2], found[1::2], strict=True):
                before = suspects.get(job_id)
                if before is None or before.fingerprint != fingerprint:
                    sightings[job_id] = Sighting(int(now), fingerprint)
                elif int(now) - before.first_seen_ms < _LIMBO_MS:
                    sightings[job_id] = before
                elif self._scripts.run("relist", job_id, fingerprint):
                    repaired.append(job_id)
            rank += _PAGE
            if int(seen) < _PAGE:
                return LimboScan(tuple(repaired), sightings)

    def active(self, types: Sequence[str], prefix: str = "") -> list[ActiveJob]:
        """Return the running jobs of *types* whose token begins with *prefix*.

        Read in pages; a job that moves meanwhile may be missing until the next call.
        """
        return [job for kind in dict.fromkeys(types) for job in self._active(kind, prefix)]

    def _active(self, kind: str, prefix: str) -> Iterator[ActiveJob]:
        head, client = self._scripts.head, self._scripts.client
        rank = 0
        while True:
            with answering(self._scripts.peer):
                members: Any = client.zrange(f"{head}jobs:{kind}:active", rank, rank + _PAGE - 1)
                ids = [member.partition("|")[2] or member for member in members]
                with client.pipeline(transaction=False) as pipeline:
                    for job_id in ids:
                        pipeline.hmget(f"{head}job:{job_id}", "type", "state", "workerId")
                    replies = pipeline.execute() if ids else []
            for job_id, (found, state, worker) in zip(ids, replies, strict=True):
                if found == kind and state == "active" and (worker or "").startswith(prefix):
                    yield ActiveJob(job_id, kind, worker or "")
            rank += _PAGE
            if len(members) < _PAGE:
                return

    @contextmanager
    def _lock(self, name: str) -> Iterator[bool]:
        value = secrets.token_hex(8)
        with answering(self._scripts.peer):
            held = bool(self._scripts.client.set(name, value, px=_LOCK_MS, nx=True))
        try:
            yield held
        finally:
            if held:
                self._scripts.run("unlock", name, value)
