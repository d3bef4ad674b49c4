"""How steps end: noted in the trace, left to others, or with an error that ends the attempt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from celery.exceptions import Ignore

from dynsvc import metrics
from dynsvc.errors import AlgorithmFailed, DynsvcError
from dynsvc.messages import Message
from dynsvc.site import Site
from workers.attempts import LeasedAttempt
from workers.insist import insist

__all__ = ["error_details", "fail", "left", "traced"]

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


@contextmanager
def traced(attempt: LeasedAttempt) -> Iterator[Callable[[], None]]:
    """Note a step's begin and how it ended. What it gives notes a good end before the block has ended."""
    began = time.monotonic()
    open_ends = [attempt.step]

    def ended(outcome: str = "done") -> None:
        if open_ends:
            took_s = time.monotonic() - began
            metrics.step_ended(open_ends.pop(), outcome, took_s)
            attempt.note(event="ended", took_s=round(took_s, 3), outcome=outcome)

    attempt.note(event="began")
    try:
        with metrics.step(attempt.step):
            yield ended
    except DynsvcError as error:
        ended(error.headline)
        raise
    except Ignore as left_alone:
        ended(f"left: {left_alone}")
        raise
    except BaseException as error:
        ended(f"InternalError: {type(error).__name__}: {error}")
        raise
    ended()
