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
        offered = self._offered()
        taken = self._ledger.reserve(
            [(message.order_id, message.token, document) for message, document in offered.values()],
            step=FETCH_ORDER,
            window=self._settings.window,
            wait_s=self._settings.resend_s,
        )
        for position, order_id in enumerate(taken):
            message, document = offered[order_id]
            try:
                facts = {"order_id": order_id, "job_type": message.job_type}
                with span("order", message.token, facts, root=True):
                    self._send(FETCH_ORDER, document)
            except PeerUnavailable:
                # Not sent is not in flight: another bridge may have a broker.
                for unsent in taken[position:]:
                    self._ledger.release(unsent, offered[unsent][0].token)
                raise
            metrics.ORDERS_SENT.inc()
            log.info("order sent", order_id=order_id, attempt=message.token, step=FETCH_ORDER)

    def _offered(self) -> dict[str, tuple[Message, dict[str, Any]]]:
        """Return first messages, with their documents, for the orders that have a place in the window."""
        settings = self._settings
        # Orders in flight that no worker has claimed stand at the head of the queue.
        waiting = self._jobs.waiting(settings.job_types, settings.window, taken=self._ledger.leases)
        for job_id, state in waiting.dropped:
            log.warning("leftover taken out of the queue, not run", order_id=job_id, state=state or "gone")
        messages = [
            Message(order_id=job_id, job_type=job_type, token=f"{TOKEN_PREFIX}{uuid.uuid4().hex}")
            for job_id, job_type in waiting.ids
        ]
        return {message.order_id: (message, message.to_document()) for message in messages}
