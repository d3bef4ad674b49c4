"""What follows when tiles are begun, done or given back: the next batches, and at the end the merge."""

from __future__ import annotations

import structlog

from dynsvc import messages
from dynsvc.celery import send, send_batch
from dynsvc.errors import PeerUnavailable
from dynsvc.site import Site
from workers.insist import insist

__all__ = ["send_batches", "settle"]

log = structlog.get_logger(__name__)


def send_batches(here: Site, order_id: str, token: str, begun: str = "") -> None:
    """Send as many batches of an order as may wait.

    Parameters
    ----------
    begun
        Name of a batch that waits no more.
    """
    settings = here.settings
    batches = insist(
        lambda: here.spread.batches(
            order_id,
            token,
            begun=begun,
            waiting=settings.batches_waiting,
            wait_s=settings.resend_s,
            batch_s=settings.batch_s,
        )
    )
    for batch in batches:
        try:
            send_batch(batch)
        except PeerUnavailable as error:
            # A bridge sends it again when its lease has run out.
            log.warning("batch not sent", batch=batch.batch, error=str(error))


def settle(here: Site, order_id: str, token: str) -> None:
    """Send the merge, when all tiles are done and nobody has sent it."""
    message = insist(
        lambda: here.spread.settle(order_id, token, step=messages.MERGE_TILES, wait_s=here.settings.resend_s)
    )
    if message is None:
        return
    log.info("all tiles done")
    try:
        send(messages.MERGE_TILES, message)
    except PeerUnavailable as error:
        log.warning("merge not sent", error=str(error))
