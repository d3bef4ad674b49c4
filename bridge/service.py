"""The bridge as a whole: loops, subscriptions, start and stop."""

from __future__ import annotations

import time
from typing import Any

import structlog

from bridge import dispatch
from bridge.batches import BatchTimer
from bridge.intake import Intake
from bridge.listener import Listener
from bridge.loops import Loop
from bridge.outcomes import Outcomes
from bridge.status import QueueNumbers, broken, unready
from bridge.timers import KueTimers, LeaseTimer
from dynsvc import metrics
from dynsvc.errors import DynsvcError
from dynsvc.kue import TO_FOLLOW, parse_event
from dynsvc.leases import CANCELLED
from dynsvc.messages import TOKEN_PREFIX
from dynsvc.site import Site
from dynsvc.status import StatusServer, serve

__all__ = ["Bridge"]

log = structlog.get_logger(__name__)

_REPAIR_S = 10.0
#: Under load each order that ends would have the head of the queue read for one that begins.
_APART_S = 0.02
_STOP_S = 15.0


class Bridge:
    """Kue in, Celery out, outcomes back. Start it once; any number may run on the same Kue."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._status: StatusServer | None = None
        settings, jobs = site.settings, site.jobs
        timers = KueTimers(site)
        tiles = BatchTimer(site, dispatch.send, dispatch.send_batch)
        self._sender = dispatch.Sender()
        intake = Intake(settings, jobs, site.ledger, self._sender)
        self._intake = Loop("intake", intake, settings.poll_s, apart_s=_APART_S)
        self._outcomes = Loop("outcomes", Outcomes(site), settings.poll_s)
        self._loops: list[Loop] = [
            self._intake,
            Loop("leases", LeaseTimer(site, dispatch.send, tiles), min(1.0, settings.poll_s)),
            Loop("tiles", tiles, min(1.0, settings.poll_s)),
            Loop("timers", timers.promote_and_expire, 1.0),
            Loop("repair", timers.repair, _REPAIR_S),
        ]
        handlers = {jobs.channel: self._on_event, site.ledger.wake_channel: self._on_wake}
        self._listeners = [Listener(settings.orders.redis, handlers, self._intake.wake)]
        if site.loader_jobs.configured:
            self._loops.append(self._outcomes)
        if site.loader_jobs.channel and settings.annotations.redis:
            handler = {site.loader_jobs.channel: self._on_loader_event}
            self._listeners.append(Listener(settings.annotations.redis, handler, self._outcomes.wake))

    def start(self) -> None:
        """Begin to work."""
        metrics.describe("bridge", self._site.settings.host)
        metrics.REGISTRY.register(QueueNumbers(self._site, dispatch.queue_lengths))
        self._status = serve(
            self._site.settings,
            metrics.REGISTRY,
            broken=lambda: broken(self._loops),
            unready=lambda: unready(self._loops, self._listeners),
        )
        parts: list[Loop | Listener] = [*self._listeners, *self._loops]
        for part in parts:
            part.start()
        log.info(
            "bridge started",
            kue=str(self._site.settings.orders.redis),
            head=self._site.settings.kue_head,
            job_types=",".join(self._site.settings.job_types),
            window=self._site.settings.window,
        )

    @property
    def alive(self) -> bool:
        """Whether every loop still runs."""
        return all(loop.alive for loop in self._loops)

    def stop(self) -> bool:
        """Stop cleanly: present rounds end, nothing new begins. False: a round did not end in time."""
        parts: list[Loop | Listener] = [*self._listeners, *self._loops]
        for part in parts:
            part.stop()
        deadline = time.monotonic() + _STOP_S
        ended = [part.join(max(0.1, deadline - time.monotonic())) for part in parts]
        self._sender.close()
        if self._status:
            self._status.stop()
        log.info("bridge stopped", cleanly=all(ended))
        return all(ended)

    def _on_event(self, raw: Any) -> None:
        event = parse_event(raw, TO_FOLLOW)
        if event is None:
            return
        if event.is_enqueue and event.job_type in self._site.settings.job_types:
            self._intake.wake()
        elif event.is_ttl_exceeded:
            self._acknowledge(event.job_id)
        elif event.is_removed and event.job_type in self._site.settings.job_types:
            # Kue keeps nothing of it; this line is what remains.
            log.info("order removed from Kue", order_id=event.job_id)

    def _acknowledge(self, job_id: str) -> None:
        try:
            expired = self._site.jobs.acknowledge_ttl(job_id, TOKEN_PREFIX)
        except DynsvcError as error:
            log.warning("ttl not acknowledged", order_id=job_id, error=str(error))
            return
        if expired:
            log.warning("time to live exceeded", order_id=job_id, attempt=expired.worker_id)

    def _on_wake(self, raw: Any) -> None:
        word, _, told = str(raw).partition(" ")
        if word == CANCELLED:
            order_id, _, sentence = told.partition(" ")
            log.info("order cancelled", order_id=order_id, told=sentence)
        (self._outcomes if raw == "loader" else self._intake).wake()

    def _on_loader_event(self, raw: Any) -> None:
        event = parse_event(raw)
        if event is not None and (event.is_complete or event.is_failed):
            self._outcomes.wake()
