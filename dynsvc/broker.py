"""Kombu's Redis transport, with less work for each message.

Kombu 5.7 makes a client each time it takes note of a message and each time it acknowledges one. Both are as
cheap as what they do; a client is not, since it copies its table of commands. And each is a transaction,
which redis-py takes long to put together.
"""

from __future__ import annotations

from functools import cached_property
from time import time
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.transport.virtual import QoS
from kombu.utils.json import dumps

from dynsvc.kue.connection import exchange
from dynsvc.kue.pool import Pool

__all__ = ["Transport", "use"]


class _QoS(redis.QoS):
    """Keeps what is not acknowledged where Kombu does, and as it does.

    The index has an entry before the message is there, and until it is gone. Who looks for messages that were
    not acknowledged drops an entry without one, so that the two commands need no transaction around them.
    """

    def append(self, message: Any, delivery_tag: str) -> None:
        index, kept = self._keys
        sent = message.delivery_info
        noted = dumps([message._raw, sent["exchange"], sent["routing_key"]])  # noqa: SLF001 - its only name
        self._exchange(("ZADD", index, str(time()), delivery_tag), ("HSET", kept, delivery_tag, noted))
        QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        index, kept = self._keys
        self._exchange(("HDEL", kept, delivery_tag), ("ZREM", index, delivery_tag))
        QoS.ack(self, delivery_tag)

    @cached_property
    def _keys(self) -> tuple[str, str]:
        prefix = self.channel.global_keyprefix
        return f"{prefix}{self.unacked_index_key}", f"{prefix}{self.unacked_key}"

    def _exchange(self, *commands: tuple[str, ...]) -> None:
        with self.channel.conn_or_acquire() as client:
            exchange(client, commands)


class _Channel(redis.Channel):
    QoS = _QoS
    _kept: Any = None

    def _get_pool(self, asynchronous: bool = False) -> Any:
        make: Any = super()._get_pool
        pool = make(asynchronous)
        # Those that are waited on by the event loop are not handed from one to the other.
        return pool if asynchronous else Pool(pool.connection_class, **pool.connection_kwargs)

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
