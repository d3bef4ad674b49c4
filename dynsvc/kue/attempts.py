"""What a worker does with a job: begin it, report, end it. Each write is one script behind a guard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynsvc.errors import PeerUnavailable
from dynsvc.kue.backoff import next_backoff
from dynsvc.kue.connection import answering, exchange
from dynsvc.kue.encoding import is_truthy, log_line, stringify, valid_text
from dynsvc.kue.ids import checked_id
from dynsvc.kue.jobs import Job, job_from_hash
from dynsvc.kue.outcomes import Failed
from dynsvc.kue.scripts import Call, Scripts

__all__ = ["LOG_LINES", "Attempts"]

#: Lines kept for one job. Kue never trims a log, and its page loads all of it.
LOG_LINES = 2000
_LOG_FULL = f"… the log ends here: {LOG_LINES} lines are kept"

# A retry's delay is computed from fields that somebody may change at the same moment; then it is done again.
_RACES = 10


class Attempts:
    """The worker's part of :class:`dynsvc.kue.JobStore`.

    A *token* is unique to one attempt at a job; it is stored as the job's worker id. The attempt owns the job
    as long as the job runs under its token. A write of an attempt that lost its job changes nothing.
    """

    _scripts: Scripts

    def claim(self, job_id: str, types: Sequence[str], token: str) -> Job | None:
        """Begin the waiting job *job_id* and return it as it is then.

        Return None where it cannot be had: gone, not of *types*, not waiting, or just taken by another
        worker. A job that runs under *token* already is returned again, without a second beginning.
        """
        reply = self._scripts.run("claim", checked_id(job_id), _checked_token(token), *types)
        return _job(job_id, reply) if reply else None

    def claim_next(self, job_type: str, token: str) -> Job | None:
        """Begin the first waiting job of *job_type*, or return None where none waits."""
        reply = self._scripts.run("claim_next", job_type, _checked_token(token))
        return _job(reply[0], reply[1]) if reply else None

    def owns(self, job_id: str, token: str) -> bool:
        """Return whether the attempt still owns the job. Cheap; writes nothing."""
        return self.owns_each([(job_id, token)])[0]

    def owns_each(self, attempts: Sequence[tuple[str, str]]) -> list[bool]:
        """Return for each ``(job id, token)`` whether that attempt still owns its job, in one round trip."""
        if not attempts:
            return []
        keys = [f"{self._scripts.head}job:{checked_id(job_id)}" for job_id, _ in attempts]
        with answering(self._scripts.peer):
            replies = exchange(
                self._scripts.client, [("HMGET", key, "type", "state", "workerId") for key in keys]
            )
        return [
            bool(kind) and state == "active" and (worker or "") == token
            for (_, token), (kind, state, worker) in zip(attempts, replies, strict=True)
        ]

    def progressing(
        self,
        job_id: str,
        token: str,
        percent: float,
        data: Any = None,
        log: Sequence[str] = (),
        *,
        backwards: bool = False,
    ) -> Call:
        """Return the call that reports progress and renews the job's ttl.

        Its reply is 1, or 0 where the attempt lost its job.

        Parameters
        ----------
        job_id, token
            The attempt.
        percent
            0 to 100; fractions are cut off.
        data
            JSON value for those who listen; None for none.
        log
            Lines to append to the job's log (see :meth:`log`).
        backwards
            Whether the stored progress may become smaller, as at the beginning of another attempt.
            Otherwise a smaller *percent* repeats the stored one.
        """
        # NaN fails both comparisons and becomes 0.
        whole = int(min(100.0, percent)) if percent > 0 else 0
        stored = "1" if is_truthy(data) else ""
        options = ("1" if backwards else "", stringify(data), stored, LOG_LINES, _LOG_FULL)
        lines = [log_line(line) for line in log]
        return Call(self._scripts, "progress", (checked_id(job_id), token, whole, *options, *lines))

    def log(self, job_id: str, token: str, lines: Sequence[str]) -> bool:
        """Append lines to the job's log. Return False where the attempt lost its job.

        Lines are cut, and characters that Kue's page would take for HTML are replaced, see
        :func:`dynsvc.kue.encoding.log_line`. A log that has :data:`LOG_LINES` lines grows no further.
        """
        cleaned = [log_line(line) for line in lines]
        return bool(self._scripts.run("log", checked_id(job_id), token, LOG_LINES, _LOG_FULL, *cleaned))

    def complete(self, job_id: str, token: str, result: Any = None) -> bool:
        """End the job well. Return False where the attempt lost its job.

        Parameters as for :meth:`completing`.
        """
        return bool(self.completing(job_id, token, result).run())

    def completing(self, job_id: str, token: str, result: Any = None) -> Call:
        """Return the call of :meth:`complete`; its reply is 1, or 0 where the attempt lost its job.

        Parameters
        ----------
        job_id, token
            The attempt. The same call again returns 1 again, unless the job is one that disappears when it
            is complete.
        result
            JSON value; what JavaScript takes for false is announced but not stored.
        """
        stored = "1" if is_truthy(result) else ""
        return Call(self._scripts, "complete", (checked_id(job_id), token, stringify(result), stored))

    def fail(
        self, job_id: str, token: str, error_text: str, *, message: str, log_line_text: str | None = None
    ) -> Failed:
        """End the attempt badly; the job's own attempts and backoff decide what follows.

        Parameters
        ----------
        job_id, token
            The attempt. The same call again returns the same outcome again.
        error_text
            Stored with the job. Its first line is what people see in lists; it is cleaned as a log line is.
        message
            One sentence without the error's name, for those who listen.
        log_line_text
            Line for the job's log; the first line of *error_text* by default.
        """
        return self._fail(job_id, token, error_text, message, log_line_text, expired_only=False)

    def _fail(
        self, job_id: str, token: str, error_text: str, message: str, line: str | None, *, expired_only: bool
    ) -> Failed:
        checked_id(job_id)
        first, *rest = valid_text(error_text).split("\n", 1)
        error_text = "\n".join([log_line(first), *rest])
        line = log_line(first if line is None else line)
        texts = (error_text, stringify(error_text), stringify(message), line)
        for _ in range(_RACES):
            with answering(self._scripts.peer):
                fields: Any = self._scripts.client.hmget(
                    f"{self._scripts.head}job:{job_id}", ["backoff", "delay", "attempts"]
                )
            backoff, delay, attempts = (field or "" for field in fields)
            made = int(attempts) + 1 if attempts.isascii() and attempts.isdigit() else 1
            plan = next_backoff(backoff, delay, made)
            mode = ("now", "", "")
            if plan is not None:
                mode = ("later", plan.delay_text or "", "" if plan.delay_ms is None else str(plan.delay_ms))
            reply = self._scripts.run(
                "fail", job_id, token, *texts, backoff, delay, attempts, *mode, "1" if expired_only else ""
            )
            if reply[0] == "lost":
                return Failed("lost")
            if reply[0] != "changed":
                return Failed(reply[0], delay_ms=int(reply[1]), attempts_made=int(reply[2]))
        raise PeerUnavailable(self._scripts.peer, f"job {job_id} changed {_RACES} times while it was failed")

    def requeue(self, job_id: str, token: str, log_line_text: str = "") -> bool:
        """Put the job back into the queue without counting the attempt.

        Return False where the attempt lost its job. An empty *log_line_text* writes no line.
        """
        return bool(self._scripts.run("requeue", checked_id(job_id), token, log_line(log_line_text)))


def _checked_token(token: str) -> str:
    if not token:
        raise ValueError("an attempt's token must not be empty")
    return token


def _job(job_id: str, reply: list[str]) -> Job | None:
    return job_from_hash(job_id, dict(zip(reply[::2], reply[1::2], strict=True)))
