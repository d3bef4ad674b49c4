"""Send chains to Celery. The only module of the bridge that knows Celery."""

from __future__ import annotations

from kombu.connection import Connection
from kombu.exceptions import ChannelError, OperationalError

from dynsvc import messages
from dynsvc.celery import Sender, app, send, send_batch
from dynsvc.errors import PeerUnavailable

__all__ = ["Sender", "queue_lengths", "send", "send_batch"]

#: How long the broker may take to answer a question.
_ASK_S = 3.0


def queue_lengths() -> dict[str, int]:
    """Return how many messages wait in each queue that steps are sent to.

    Raises
    ------
    PeerUnavailable
        The broker does not answer (transient).
    """
    with app.connection_for_read(connect_timeout=_ASK_S) as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=_ASK_S)
            return {name: _length(connection, name) for name in (messages.IO, messages.CPU, messages.GPU)}
        except (OperationalError, *connection.connection_errors) as error:
            raise PeerUnavailable("broker", str(error)) from error


def _length(connection: Connection, name: str) -> int:
    try:
        with connection.channel() as channel:
            return int(channel.queue_declare(queue=name, passive=True).message_count)
    except (ChannelError, *connection.channel_errors):
        # No such queue: a Redis list that is empty, or a queue that no worker has asked for yet.
        return 0
