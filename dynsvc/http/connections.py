"""What lies below HTTP requests: connections with limits, and why one of them broke.

The read time-out of a socket counts silence only. A peer that sends one byte of a header now and then is
never silent and never done; these connections end with it.
"""

from __future__ import annotations

import contextlib
import http.client
import math
import socket
import threading
import time

from urllib3 import exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager
from urllib3.response import HTTPResponse

__all__ = ["NoAnswerError", "broken", "limited_connections"]

#: The first of these found in an error's chain names its reason; the most telling come first.
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (exceptions.NameResolutionError, "the host name is not known"),
    (ConnectionRefusedError, "connection refused"),
    (exceptions.ProxyError, "the proxy does not answer"),
    (exceptions.SSLError, "no TLS connection: its certificate or protocol was not accepted"),
    (http.client.IncompleteRead, "the answer is truncated"),
    (exceptions.InvalidChunkLength, "the answer is truncated"),
    (exceptions.NewConnectionError, "no connection"),
    (TimeoutError, "the peer was too slow"),
)


class NoAnswerError(Exception):
    """One attempt brought no complete answer. Does not leave the HTTP client."""


class _Watch:
    """Shuts sockets down whose time has run out. One thread serves all connections of a process.

    Almost every answer comes in time: the thread wakes when the oldest of those was due that it saw waiting,
    and not for each of them.
    """

    def __init__(self) -> None:
        self._waiting: set[_Watched] = set()
        self._wakes_at = math.inf
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None

    def begin(self, watched: _Watched) -> None:
        """Shut *watched* down at its deadline, if it has not ended until then."""
        with self._lock:
            # A forked process has no thread yet, and what its parent waits for is not its own.
            if self._thread is None or not self._thread.is_alive():
                self._waiting = {watched}
                self._wakes_at = watched.deadline
                self._thread = threading.Thread(target=self._run, name="http-watch", daemon=True)
                self._thread.start()
                return
            self._waiting.add(watched)
            if watched.deadline < self._wakes_at:
                self._wakes_at = watched.deadline
                self._changed.notify()

    def end(self, watched: _Watched) -> None:
        """Wait no longer."""
        with self._lock:
            self._waiting.discard(watched)

    def _run(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for watched in [watched for watched in self._waiting if watched.deadline <= now]:
                    self._waiting.discard(watched)
                    watched.overran = True
                    with contextlib.suppress(OSError):  # it may have been closed just now
                        watched.socket.shutdown(socket.SHUT_RDWR)
                self._wakes_at = min((watched.deadline for watched in self._waiting), default=math.inf)
                self._changed.wait(None if self._wakes_at == math.inf else self._wakes_at - now)


class _Watched:
    """A socket that waits for an answer."""

    __slots__ = ("deadline", "overran", "socket")

    def __init__(self, connection_socket: socket.socket, limit_s: float) -> None:
        self.socket = connection_socket
        self.deadline = time.monotonic() + limit_s
        self.overran = False


_watch = _Watch()


class _Limited:
    """A connection whose read time-out also limits the headers of an answer as a whole."""

    sock: socket.socket
    timeout: float | None

    def getresponse(self) -> HTTPResponse:
        if self.timeout is None:
            return super().getresponse()  # type: ignore[misc,no-any-return]
        watched = _Watched(self.sock, self.timeout)
        _watch.begin(watched)
        try:
            return super().getresponse()  # type: ignore[misc,no-any-return]
        finally:
            _watch.end(watched)
            # Cut-off headers would pass as complete ones with an empty body.
            if watched.overran:
                raise TimeoutError("the headers of the answer did not end in time")


class _Fresh(_Limited):
    """A connection for one request: its pool takes it for dropped afterwards."""

    is_connected = False


class _Connection(_Limited, HTTPConnection):  # type: ignore[misc]
    pass


class _SecureConnection(_Limited, HTTPSConnection):  # type: ignore[misc]
    pass


class _FreshConnection(_Fresh, HTTPConnection):  # type: ignore[misc]
    pass


class _FreshSecureConnection(_Fresh, HTTPSConnection):  # type: ignore[misc]
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _FreshPool(HTTPConnectionPool):
    ConnectionCls = _FreshConnection


class _FreshSecurePool(HTTPSConnectionPool):
    ConnectionCls = _FreshSecureConnection


def limited_connections(pools: PoolManager, *, fresh: bool) -> None:
    """Make *pools* open connections whose read time-out also limits the headers of an answer as a whole.

    With *fresh*, no connection is used for a second request.
    """
    pools.pool_classes_by_scheme = (
        {"http": _FreshPool, "https": _FreshSecurePool} if fresh else {"http": _Pool, "https": _SecurePool}
    )


def broken(error: BaseException) -> str:
    """Return why a connection failed, by the classes in *error*'s chain: their texts hold whole URLs."""
    chain: list[BaseException] = []
    pending: list[object] = [error]
    while pending:
        found = pending.pop()
        if isinstance(found, BaseException) and found not in chain:
            chain.append(found)
            pending += [*found.args, getattr(found, "reason", None), found.__cause__, found.__context__]
    for kind, reason in _REASONS:
        if any(isinstance(found, kind) for found in chain):
            return reason
    return "the connection broke off"
