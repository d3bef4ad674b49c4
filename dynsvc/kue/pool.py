"""A pool of connections that does little but hand them out."""

from __future__ import annotations

import os
from collections import deque
from typing import Any

import redis

__all__ = ["Pool"]


class Pool(redis.ConnectionPool):
    """Its connections stay in use as seen by the client's own pool, which only makes and closes them.

    That one keeps accounts of each change of hands, for metrics and for passwords that change. We have
    neither, and they take a third of a round trip.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: deque[Any] = deque()

    def get_connection(self, *_args: Any, **_kwargs: Any) -> Any:
        """Return a connection that is ready to send a command."""
        try:
            connection = self._idle.pop()
        except IndexError:
            return super().get_connection()
        if connection.pid != os.getpid():
            # A fork's: its parent may be using it.
            return self.get_connection()
        try:
            connection.connect()
            if _spent(connection):
                connection.disconnect()
                connection.connect()
        except BaseException:
            self.release(connection)
            raise
        return connection

    def release(self, connection: Any) -> None:
        """Take a connection back."""
        self._idle.append(connection)


def _spent(connection: Any) -> bool:
    # What can be read is its end, or what somebody no longer waits for.
    try:
        return bool(connection.can_read())
    except (redis.ConnectionError, redis.TimeoutError, OSError):
        return True
