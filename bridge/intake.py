"""Kue in: take the first waiting orders into the window and send a chain for each."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import structlog

from dynsvc import metrics
from dynsvc.errors import PeerUnavailable
from dynsvc.kue import JobStore
from dynsvc.leases import Ledger
from dynsvc.messages import FETCH_ORDER, TOKEN_PREFIX, Message
from dynsvc.settings import Settings
from dynsvc.tracing import span

__all__ = ["Intake", "Send"]

log = structlog.get_logger(__name__)

Send = Callable[[str, dict[str, Any]], None]


class Intake:
    """Hands waiting orders to Celery, the most urgent first, never more than the window at a time.

    The jobs stay in Kue's queue until a worker claims them, so that re-prioritising or removing a waiting
    job works. What is claimed meanwhile, or sent twice, is sorted out by the claim.
    """

    def __init__(self, settings: Settings, jobs: JobStore, ledger: Ledger, send: Send) -> None:
        self._settings, self._jobs, self._ledger, self._send = settings, jobs, ledger, send

    def __call__(self) -> None:
        """Fill the window once."""
        window = self._settings.window
        in_flight, unclaimed = self._ledger.occupied()
        if in_flight >= window:
            return
        new = self._new(unclaimed, window - in_flight)
        offered = {message.order_id: message for message in new}
        taken = self._ledger.reserve(
            [(message.order_id, message.token, message.to_document()) for message in new],
            step=FETCH_ORDER,
            window=window,
            wait_s=self._settings.resend_s,
        )
        for position, order_id in enumerate(taken):
            message = offered[order_id]
            try:
                facts = {"order_id": order_id, "job_type": message.job_type}
                with span("order", message.token, facts, root=True):
                    self._send(FETCH_ORDER, message.to_document())
            except PeerUnavailable:
                # Not sent is not in flight: another bridge may have a broker.
                for unsent in taken[position:]:
                    self._ledger.release(unsent, offered[unsent].token)
                raise
            metrics.ORDERS_SENT.inc()
            log.info("order sent", order_id=order_id, attempt=message.token, step=FETCH_ORDER)

    def _new(self, unclaimed: int, free: int) -> list[Message]:
        """Return first messages for orders that wait and are not in flight, the most urgent first.

        Orders in flight that no worker has claimed stand at the head of the queue: nearly always those that
        none has begun, at most a window full.
        """
        window = self._settings.window
        for limit in sorted({min(unclaimed + free, window), window}):
            waiting = self._jobs.waiting(self._settings.job_types, limit)
            for job_id, state in waiting.dropped:
                log.warning(
                    "leftover taken out of the queue, not run", order_id=job_id, state=state or "gone"
                )
            held = self._ledger.holds([job_id for job_id, _ in waiting.ids])
            new = [
                Message(order_id=job_id, job_type=job_type, token=f"{TOKEN_PREFIX}{uuid.uuid4().hex}")
                for (job_id, job_type), in_flight in zip(waiting.ids, held, strict=True)
                if not in_flight
            ]
            if len(new) >= free or len(waiting.ids) < limit:
                break
        return new
