"""How steps end that do not end well: left to others, or with an error that ends the attempt."""

from __future__ import annotations

import structlog
from celery.exceptions import Ignore

from dynsvc import metrics
from dynsvc.errors import AlgorithmFailed, DynsvcError
from dynsvc.messages import Message
from dynsvc.site import Site
from workers.attempts import insist

__all__ = ["error_details", "fail", "left"]

log = structlog.get_logger(__name__)


def left(reason: str) -> Ignore:
    """Return what ends a task without result, successor and traceback; its message is done with."""
    log.info("message left", reason=reason)
    return Ignore(reason)


def error_details(error: DynsvcError) -> str:
    """Return what an error tells beside its sentence: the algorithm's last lines."""
    return error.last_lines if isinstance(error, AlgorithmFailed) else ""


def fail(here: Site, message: Message, headline: str, sentence: str, details: str) -> None:
    """End the attempt with an error."""
    text = f"{headline}\n{details}".rstrip()
    failed = insist(lambda: here.jobs.fail(message.order_id, message.token, text, message=sentence))
    insist(lambda: here.ledger.release(message.order_id, message.token))
    metrics.attempt_ended(message.algorithm, failed.outcome, headline)
    log.warning("attempt failed", error=headline, outcome=failed.outcome)
