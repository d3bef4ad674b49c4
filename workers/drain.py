"""Draining: the workers of a host take no new step, and go on with those that they have.

``dynsvc drain`` sends the command to all workers; those of the host follow it. A worker that starts again is
not draining.
"""

from __future__ import annotations

from typing import Any

import structlog
from celery.worker import state as worker_state
from celery.worker.control import control_command

from dynsvc.celery import DRAIN
from workers.tasks import site

__all__ = ["draining"]

log = structlog.get_logger(__name__)

_draining = False
#: The queues that were taken before.
_taken: list[str] = []


def draining() -> bool:
    """Return whether this worker takes no new step."""
    return _draining


@control_command(name=DRAIN)
def _drain(state: Any, host: str, action: str) -> dict[str, Any] | None:
    """Begin to drain, end it, or only look; None from workers of other hosts."""
    global _draining  # noqa: PLW0603  (one worker is one process)
    if host not in {site().settings.host, state.hostname, state.hostname.partition("@")[2]}:
        return None
    consumer = state.consumer
    if action != "look" and _draining != (action == "begin"):
        _draining = action == "begin"
        change = consumer.cancel_task_queue if _draining else consumer.add_task_queue
        if _draining:
            _taken[:] = [queue.name for queue in consumer.task_consumer.queues]
        for queue in _taken:
            consumer.call_soon(change, queue)
        log.info("drains" if _draining else "takes steps again", host=host)
    return {"draining": _draining, "steps": len(worker_state.reserved_requests)}
