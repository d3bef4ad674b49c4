"""Kombu's Redis transport, with one client for a channel instead of a new one for each message.

Kombu 5.7 makes a client each time it takes note of a message and each time it acknowledges one. Both are as
cheap as what they do; a client is not, since it copies its table of commands.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

__all__ = ["Transport", "use"]


class _Channel(redis.Channel):
    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        create: Any = super()._create_client
        if asynchronous:
            return create(asynchronous=True)
        # After a disconnection the channel has another pool.
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = create()
        return self._kept


class Transport(redis.Transport):
    """Kombu's, with our channels."""

    Channel = _Channel


def use() -> None:
    """Have URLs with ``redis`` and ``rediss`` opened by this transport."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{Transport.__name__}"
