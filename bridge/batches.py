"""Orders in tiles: batches that were lost, and orders that nobody drives on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import structlog

from bridge.intake import Send
from bridge.overdue import OverdueLeases
from dynsvc import messages, metrics
from dynsvc.errors import OrderOverdue, WorkerLost
from dynsvc.leases import Entry
from dynsvc.messages import Batch
from dynsvc.site import Site

__all__ = ["RESEND_LONGEST_S", "BatchTimer"]

log = structlog.get_logger(__name__)

#: Batches looked at in one round.
_LIMIT: Final = 1000
#: Longest time between two sendings of a message that waits for a worker.
RESEND_LONGEST_S: Final = 300.0


class BatchTimer:
    """Sends lost batches again, and gives the tiles of lost workers to others."""

    def __init__(self, site: Site, send: Send, send_batch: Callable[[Batch], None]) -> None:
        self._site, self._send, self._send_batch = site, send, send_batch
        self._overdue = OverdueLeases(site.spread.leases, lambda entry: bool(entry.runner))

    def __call__(self) -> None:
        """Look once at the batches whose lease has run out."""
        lost, waiting = self._overdue.look(_LIMIT)
        for entry in lost:
            self._lost(entry)
        for entry in waiting:
            self._send_again(entry)

    def nudge(self, entry: Entry) -> None:
        """Drive an order on of which nothing was heard: send what waits to be sent, or end what has ended."""
        site, settings = self._site, self._site.settings
        order_id, token = entry.order_id, entry.token
        if not site.jobs.owns(order_id, token):
            site.ledger.release(order_id, token)
            log.info("order in tiles is nobody's any more")
            return
        if time.time() > entry.message.get("expires_at_s", math.inf):
            self._fail(order_id, token, OrderOverdue(order_id, messages.RUN_TILES, settings.order_limit_s))
            return
        self._send_batches(order_id, token)
        merge = site.spread.settle(order_id, token, step=messages.MERGE_TILES, wait_s=settings.resend_s)
        if merge is not None:
            self._send(messages.MERGE_TILES, merge)

    def _send_batches(self, order_id: str, token: str) -> None:
        settings = self._site.settings
        batches = self._site.spread.batches(
            order_id,
            token,
            waiting=settings.batches_waiting,
            wait_s=settings.resend_s,
            batch_s=settings.batch_s,
        )
        for batch in batches:
            self._send_batch(batch)

    def _send_again(self, entry: Entry) -> None:
        self._send_batch(Batch.model_validate(entry.message))
        sends = self._site.spread.leases.sent_again(
            entry, wait_s=self._site.settings.resend_s, longest_s=RESEND_LONGEST_S
        )
        if sends:
            metrics.message_resent(entry.step)
            log.info("batch sent again", batch=entry.order_id, sends=sends)

    def _lost(self, entry: Entry) -> None:
        batch = Batch.model_validate(entry.message)
        site, settings = self._site, self._site.settings
        tile = site.spread.batch_lost(entry)
        metrics.worker_lost(entry.step)
        log.warning("worker lost", batch=entry.order_id, runner=entry.runner, tile=tile)
        if tile is not None:
            # The tile may be what killed the worker.
            verdict = site.spread.tile_failed(
                batch.order_id, batch.token, tile, tries=settings.infrastructure_retries + 1, hole=False
            )
            if verdict == "failed":
                self._fail(
                    batch.order_id,
                    batch.token,
                    WorkerLost(batch.order_id, f"tile {tile}", settings.lease_s),
                )
                return
        self._send_batches(batch.order_id, batch.token)

    def _fail(self, order_id: str, token: str, error: OrderOverdue | WorkerLost) -> None:
        failed = self._site.jobs.fail(order_id, token, error.headline, message=str(error))
        metrics.attempt_ended(None, failed.outcome, error.headline)
        self._site.ledger.release(order_id, token)
        log.warning("order failed", error=str(error))
