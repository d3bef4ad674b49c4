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

__all__ = ["DRAIN", "app", "broker_alive", "drain", "send", "send_batch"]

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
def _sending() -> Iterator[None]:
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
    # A chain as Celery sends it. Its class copies each signature several times: half of what a bridge does.
    root_id = uuid()
    last_first = [
        {**_signature(name), "options": {"task_id": uuid(), "root_id": root_id}}
        for name in reversed(messages.following(step))
    ]
    with _sending():
        app.send_task(
            step,
            args=(document,),
            task_id=root_id,
            root_id=root_id,
            chain=last_first or None,
            retry=True,
            retry_policy=_PATIENCE,
        )


@cache
def _signature(step: str) -> dict[str, Any]:
    return dict(app.signature(step))


def send_batch(batch: messages.Batch) -> None:
    """Send a batch of tiles. Raises as :func:`send`."""
    # The other end of the scale from that of single regions.
    priority = _LARGEST_PRIORITY - app.conf.task_default_priority
    with _sending():
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
