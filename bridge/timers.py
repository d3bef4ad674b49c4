"""What nobody else would notice: leases that ran out, jobs whose time came, leftovers of crashes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager

import structlog

from bridge.batches import RESEND_LONGEST_S, BatchTimer
from bridge.intake import Send
from bridge.overdue import OverdueLeases
from dynsvc import metrics
from dynsvc.errors import LoaderFailed, OrderOverdue, WorkerLost
from dynsvc.kue import Sighting
from dynsvc.leases import AWAIT_LOADER, AWAIT_TILES, Entry
from dynsvc.messages import TOKEN_PREFIX
from dynsvc.site import Site

__all__ = ["KueTimers", "LeaseTimer"]

log = structlog.get_logger(__name__)

#: All waiting jobs are read at least this often, in search of those that no worker can see.
_LOOK_S = 600.0


class LeaseTimer:
    """Sends lost messages again, and ends the attempts of lost workers."""

    def __init__(self, site: Site, send: Send, tiles: BatchTimer) -> None:
        self._site, self._send, self._tiles = site, send, tiles
        # The loader's own job counts as work, too: it may be lost, and nothing is sent again for it.
        self._overdue = OverdueLeases(
            site.ledger, lambda entry: bool(entry.runner) or entry.step == AWAIT_LOADER
        )

    def __call__(self) -> None:
        """Look once at the leases that have run out."""
        lost, waiting = self._overdue.look(self._site.settings.window)
        for entry in lost:
            with _named(entry):
                self._end(entry)
        for entry in waiting:
            with _named(entry):
                if entry.step == AWAIT_TILES:
                    self._tiles.nudge(entry)
                else:
                    self._send_again(entry)

    def _send_again(self, entry: Entry) -> None:
        settings = self._site.settings
        if time.time() > entry.message.get("expires_at_s", math.inf):
            late = OrderOverdue(entry.order_id, f"the wait for {entry.step}", settings.order_limit_s)
            failed = self._site.jobs.fail(entry.order_id, entry.token, late.headline, message=str(late))
            metrics.attempt_ended(_algorithm(entry), failed.outcome, late.headline)
            self._site.ledger.release(entry.order_id, entry.token)
            log.warning("order overdue", error=str(late))
            return
        self._send(entry.step, entry.message)
        sends = self._site.ledger.sent_again(entry, wait_s=settings.resend_s, longest_s=RESEND_LONGEST_S)
        if sends:
            metrics.message_resent(entry.step)
            log.info("message sent again", sends=sends)

    def _end(self, entry: Entry) -> None:
        settings, jobs, ledger = self._site.settings, self._site.jobs, self._site.ledger
        losses = ledger.take_lost(
            entry, f"bridge:{entry.due_ms}", lease_s=settings.lease_s, keep_s=settings.keep_s
        )
        if not losses:
            return
        if entry.step == AWAIT_LOADER:
            late = LoaderFailed(entry.loader_job_id, f"no outcome within {settings.loader_timeout_s:g} s")
            failed = jobs.fail(entry.order_id, entry.token, late.headline, message=str(late))
            metrics.attempt_ended(_algorithm(entry), failed.outcome, late.headline)
            ledger.release(entry.order_id, entry.token)
            log.warning("the loader gave no outcome", error=str(late))
            return
        metrics.worker_lost(entry.step)
        lost = WorkerLost(entry.order_id, entry.step, settings.lease_s)
        again = losses <= settings.infrastructure_retries
        if again:
            line = f"{lost.headline}; tried again ({losses} of {settings.infrastructure_retries})"
            outcome = "retrying" if jobs.requeue(entry.order_id, entry.token, line) else "lost"
        else:
            outcome = jobs.fail(entry.order_id, entry.token, lost.headline, message=str(lost)).outcome
        metrics.attempt_ended(_algorithm(entry), outcome, lost.headline)
        ledger.release(entry.order_id, entry.token, keep_losses=again)
        log.warning("worker lost", runner=entry.runner, again=again)


def _named(entry: Entry) -> AbstractContextManager[object]:
    """Have every line of the log say whose it is."""
    return structlog.contextvars.bound_contextvars(
        order_id=entry.order_id, attempt=entry.token, step=entry.step
    )


def _algorithm(entry: Entry) -> str | None:
    plan = entry.message.get("plan")
    return str(plan["algorithm"]) if plan else None


class KueTimers:
    """Kue's own timers, which otherwise run only in native workers, and the repair of what crashes left."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._suspects: Mapping[str, Sighting] = {}
        self._orphans: set[tuple[str, str]] = set()
        self._birth = ""
        self._look_at = 0.0

    def promote_and_expire(self) -> None:
        """Put delayed jobs whose time has come into the queue; fail running jobs whose ttl has run out."""
        types, jobs = self._site.settings.job_types, self._site.jobs
        for job_id in jobs.promote_due(types=types):
            log.info("delayed order promoted", order_id=job_id)
        for expired in jobs.expire_ttl(types, TOKEN_PREFIX):
            log.warning("time to live exceeded", order_id=expired.job_id, attempt=expired.worker_id)

    def repair(self) -> None:
        """Give back waiting jobs that no worker can see, and running jobs of ours that nobody runs."""
        settings, jobs, ledger = self._site.settings, self._site.jobs, self._site.ledger
        birth = ledger.birth()
        if self._birth not in {"", birth}:
            log.error("Kue's Redis has lost its data: orders placed before are gone, place them again")
        self._birth = birth
        self._repair_limbo()
        active = [(job.job_id, job.worker_id) for job in jobs.active(settings.job_types, TOKEN_PREFIX)]
        held = ledger.holds([job_id for job_id, _ in active])
        unheld = {job for job, in_flight in zip(active, held, strict=True) if not in_flight}
        # Twice in a row: between the two look-ups an attempt may end or begin.
        for job_id, token in unheld & self._orphans:
            lost = WorkerLost(job_id, "an unknown step", settings.lease_s)
            if jobs.requeue(job_id, token, f"{lost.headline}; nothing is known of the attempt, tried again"):
                log.warning("orphaned order put back into the queue", order_id=job_id, attempt=token)
        self._orphans = unheld

    def _repair_limbo(self) -> None:
        jobs, now = self._site.jobs, time.monotonic()
        # Of a long queue the look costs a lot, and there is nearly never anything to see.
        if not self._suspects and now < self._look_at and not jobs.hides_jobs():
            return
        self._look_at = now + _LOOK_S
        scan = jobs.repair_limbo(self._site.settings.job_types, self._suspects)
        self._suspects = scan.suspects
        for job_id in scan.repaired:
            log.warning("order put back into the queue: no worker could see it", order_id=job_id)
