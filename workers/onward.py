"""The short way: the next step of an order runs at once where its message would come anyway.

Where this worker takes the queue of the next step, it begins that step itself instead of sending it a
message, under the lease that it has. The ledger hears of it with the lease's next renewal, or never where
the order is done sooner: what it promises does not depend on it. A worker that is lost ends the attempt
whichever step it was at, and a step that is handed back is told before.

What changes: an order keeps its slot until its last step here, so that it is finished before another one
begins in that slot; and the first task of a chain seems to last until then. For monitors each step has a task
of its own, under the id that its message would have had.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from celery import Task
from celery.worker import state

from dynsvc import messages
from dynsvc.messages import Message

__all__ = ["following", "monitored", "watched_by"]

#: The dispatcher of this worker's events; None before it is ready, and where nobody is to be told.
_consumer: Any = None


def watched_by(consumer: Any) -> None:
    """Tell monitors of steps through *consumer*, the worker's own."""
    global _consumer  # noqa: PLW0603  (one worker is one process)
    _consumer = consumer


def _stopping() -> bool:
    return any(told is not None and told is not False for told in (state.should_stop, state.should_terminate))


def following(task: Task, message: Message) -> tuple[str, str] | None:
    """Take the next step out of the chain of *task*, if it may run here; else its message will be sent.

    Parameters
    ----------
    message
        Of the next step.

    Returns
    -------
    tuple of str or None
        Name of the step and id of its task.
    """
    chain = task.request.chain
    if not chain or _stopping():
        return None
    name = chain[-1]["task"]
    queue = messages.queue_of(name, message.plan.device if message.plan else None)
    if queue not in task.app.amqp.queues.consume_from:
        return None
    return name, chain.pop()["options"]["task_id"]


def monitored(task: Task, name: str, task_id: str, message: Message) -> AbstractContextManager[None]:
    """Tell monitors, where there are any, of a step that runs without a message of its own."""
    return _monitored(task, name, task_id, message) if _listening() else nullcontext()


@contextmanager
def _monitored(task: Task, name: str, task_id: str, message: Message) -> Iterator[None]:
    began = time.monotonic()
    _tell(
        "task-received",
        uuid=task_id,
        name=name,
        args=messages.shown((message.to_document(),)),
        kwargs="{}",
        root_id=task.request.root_id,
        parent_id=task.request.id,
        retries=0,
        eta=None,
        expires=None,
    )
    _tell("task-started", uuid=task_id)
    try:
        yield
    except BaseException as error:
        _tell("task-failed", uuid=task_id, exception=repr(error)[:1000], traceback="")
        raise
    _tell("task-succeeded", uuid=task_id, result="", runtime=time.monotonic() - began)


def _listening() -> bool:
    dispatcher = getattr(_consumer, "event_dispatcher", None)
    if dispatcher is None or not dispatcher.enabled:
        return False
    # A worker's own heartbeats are always sent; those of tasks are a group that a monitor asks for.
    return not dispatcher.groups or "task" in dispatcher.groups


def _tell(kind: str, **fields: Any) -> None:
    if _listening():
        _consumer.event_dispatcher.send(kind, **fields)
