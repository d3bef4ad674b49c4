"""Subscriptions. What they bring are hints: every loop works without them, only later."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import redis
import structlog

from dynsvc.errors import DynsvcError
from dynsvc.kue import answering, connect
from dynsvc.retry import backoff_s
from dynsvc.settings import RedisServer

__all__ = ["Listener"]

log = structlog.get_logger(__name__)

#: Pauses while the server is away.
_FIRST_S, _CAP_S = 0.5, 10.0


class Listener:
    """Subscribes to channels of one Redis and hands each message on, for as long as it takes.

    Parameters
    ----------
    server
        The Redis to listen to.
    handlers
        Channel -> what to do with a message. Called in the listener's thread; must be quick.
    on_connect
        Called after each (re)connection: whatever was published before is lost.
    """

    def __init__(
        self,
        server: RedisServer,
        handlers: Mapping[str, Callable[[Any], None]],
        on_connect: Callable[[], None],
    ) -> None:
        self._server, self._handlers, self._on_connect = server, dict(handlers), on_connect
        self._stopped = threading.Event()
        #: Whether the subscription stands.
        self.connected = False
        self._thread = threading.Thread(target=self._run, name=f"listen {server}", daemon=True)

    @property
    def server(self) -> RedisServer:
        """The Redis that is listened to."""
        return self._server

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; returns at once."""
        self._stopped.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end. False: it still runs."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            client = connect(self._server, name="dynsvc-bridge-events")
            try:
                with answering(f"Redis {self._server}"):
                    self._listen(client)
                failures = 0
            except DynsvcError as error:
                failures += 1
                pause_s = backoff_s(failures, first_s=_FIRST_S, cap_s=_CAP_S)
                log.warning("subscription lost", error=str(error), next_in_s=round(pause_s, 2))
                self._stopped.wait(pause_s)
            finally:
                self.connected = False
                client.close()

    def _listen(self, client: redis.Redis) -> None:
        with client.pubsub(ignore_subscribe_messages=True) as subscription:
            subscription.subscribe(*self._handlers)
            self.connected = True
            self._on_connect()
            while not self._stopped.is_set():
                message = subscription.get_message(timeout=1.0)
                if message and message.get("channel") in self._handlers:
                    self._handlers[message["channel"]](message.get("data"))
