"""The Celery app. ``celery -A dynsvc worker`` finds it here; its settings are in ``celeryconfig.py``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, Literal

from celery import Celery
from celery.signals import setup_logging
from kombu.exceptions import OperationalError
from kombu.utils.uuid import uuid

from dynsvc import broker, messages
from dynsvc.errors import PeerUnavailable
from dynsvc.messages import shown

__all__ = ["DRAIN", "Sender", "app", "broker_alive", "drain", "send", "send_batch"]

#: The workers' control command behind :func:`drain`.
DRAIN: Final = "dynsvc_drain"

#: Priorities go from 0 to this.
_LARGEST_PRIORITY: Final = 9
# Who sends decides what follows a failure; here a short repetition bridges a lost connection.
_PATIENCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}


class _OrdersApp(Celery):  # type: ignore[misc]
    """Celery, whose monitors see which order a task belongs to instead of its whole message."""

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send a task as Celery does."""
        options.setdefault("argsrepr", shown(args))
        return super().send_task(name, args, kwargs, **options)


broker.use()
app = _OrdersApp("dynsvc", config_source="celeryconfig", set_as_current=True)


@setup_logging.connect
def _configure_logging(**_kwargs: Any) -> None:
    # Celery leaves the root logger alone when this signal has a receiver.
    from dynsvc.logs import configure  # noqa: PLC0415  (needed only in processes that log)
    from dynsvc.settings import Settings  # noqa: PLC0415

    configure(Settings.load())


def broker_alive(timeout_s: float = 5.0) -> str:
    """Connect to the broker once.

    Returns
    -------
    str
        The broker's address, without its password.

    Raises
    ------
    PeerUnavailable
        The broker does not answer (transient).
    """
    with app.connection_for_write(connect_timeout=timeout_s) as connection:
        address = connection.as_uri()
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=timeout_s)
        except (OperationalError, *connection.connection_errors) as error:
            raise PeerUnavailable(f"broker {address}", str(error)) from error
    return str(address)


@contextmanager
def _broker_errors() -> Iterator[None]:
    try:
        yield
    except (OperationalError, *app.connection_for_write().connection_errors) as error:
        raise PeerUnavailable("broker", str(error)) from error


def send(step: str, document: dict[str, Any]) -> None:
    """Send the chain of *step* and all that follow it.

    Parameters
    ----------
    step
        Name of the first task.
    document
        Its message.

    Raises
    ------
    PeerUnavailable
        The broker did not take it (transient).
    """
    with _broker_errors(), app.producer_or_acquire() as producer:
        _publish(producer, step, document, _route(step, document))


class Sender:
    """Sends chains as :func:`send` does, over a connection of its own. For one thread."""

    def __init__(self) -> None:
        self._producer: Any = None
        #: Queues that know the connection; others are copied for each message.
        self._queues: dict[str, Any] = {}

    def __call__(self, step: str, document: dict[str, Any]) -> None:
        """Send the chain of *step*. Raises as :func:`send`."""
        try:
            with _broker_errors():
                self._send(step, document)
        except PeerUnavailable:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next message opens another one."""
        if self._producer is not None:
            self._producer.connection.release()
            self._producer = None
            self._queues.clear()

    def _send(self, step: str, document: dict[str, Any]) -> None:
        if self._producer is None:
            self._producer = app.amqp.Producer(app.connection_for_write(), auto_declare=False)
        route = _route(step, document)
        queue = route["queue"]
        if known := self._queues.get(queue.name):
            _publish(self._producer, step, document, {**route, "queue": known})
        else:
            _publish(self._producer, step, document, route)
            self._queues[queue.name] = queue.bind(self._producer.channel)


def _route(step: str, document: dict[str, Any]) -> dict[str, Any]:
    return dict(app.amqp.router.route({}, step, (document,)))


def _publish(producer: Any, step: str, document: dict[str, Any], route: dict[str, Any]) -> None:
    app.amqp.send_task_message(
        producer,
        step,
        _chain(step, document),
        priority=_priority(),
        retry=True,
        retry_policy=_PATIENCE,
        **route,
    )


def _chain(step: str, document: dict[str, Any]) -> Any:
    # A chain as Celery sends it. Its class copies each signature several times, and app.send_task() looks
    # each setting up anew: together most of what a bridge does.
    root_id, sender = uuid(), app.current_worker_task
    last_first = [
        {**_signature(name), "options": {"task_id": uuid(), "root_id": root_id}}
        for name in reversed(messages.following(step))
    ]
    args = (document,)
    return app.amqp.create_task_message(
        root_id,
        step,
        args,
        root_id=root_id,
        parent_id=sender.request.id if sender else None,
        chain=last_first or None,
        argsrepr=shown(args),
        kwargsrepr="{}",
        reply_to=app.thread_oid,
    )


@cache
def _priority() -> int:
    return int(app.conf.task_default_priority)


@cache
def _signature(step: str) -> dict[str, Any]:
    return dict(app.signature(step))


def send_batch(batch: messages.Batch) -> None:
    """Send a batch of tiles. Raises as :func:`send`."""
    # The other end of the scale from that of single regions.
    priority = _LARGEST_PRIORITY - _priority()
    with _broker_errors():
        app.signature(messages.RUN_TILES, args=(batch.to_document(),)).apply_async(
            retry=True, retry_policy=_PATIENCE, priority=priority
        )


def drain(host: str, action: Literal["begin", "end", "look"], timeout_s: float = 2.0) -> dict[str, int]:
    """Have the workers of *host* take no new step, or take them again.

    Parameters
    ----------
    host
        Their ``DYNSVC_HOST``, or the name of one worker.
    action
        ``look`` changes nothing.
    timeout_s
        How long answers are waited for; all of it, as nobody knows how many come.

    Returns
    -------
    dict
        Name of each worker of the host that answered -> number of steps that it still has.

    Raises
    ------
    PeerUnavailable
        The broker does not answer (transient).
    """
    address = broker_alive(timeout_s)
    with app.connection_for_write(connect_timeout=timeout_s) as connection:
        try:
            answers = app.control.broadcast(
                DRAIN,
                arguments={"host": host, "action": action},
                reply=True,
                timeout=timeout_s,
                connection=connection,
            )
        except (OperationalError, *connection.connection_errors) as error:
            raise PeerUnavailable(f"broker {address}", str(error)) from error
    told = {name: answer for each in answers or () for name, answer in each.items()}
    return {
        name: int(answer["steps"])
        for name, answer in told.items()
        if isinstance(answer, dict) and "steps" in answer
    }
