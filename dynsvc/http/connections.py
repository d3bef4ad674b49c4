"""What lies below HTTP requests: connections with limits, and why one of them broke.

The read time-out of a socket counts silence only. A peer that sends one byte of a header now and then is
never silent and never done; these connections end with it.
"""

from __future__ import annotations

import contextlib
import heapq
import http.client
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from urllib3 import exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager
from urllib3.response import HTTPResponse

__all__ = ["NoAnswerError", "broken", "limit_headers"]

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

    Almost every answer comes in time, so what is watched is only written down; an entry that is done with is
    dropped when its time has come.
    """

    def __init__(self) -> None:
        self._due: list[tuple[float, int, _Watched]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def begin(self, watched: _Watched, limit_s: float) -> None:
        """Shut *watched* down in *limit_s*, if it has not ended until then."""
        deadline = time.monotonic() + limit_s
        with self._changed:
            heapq.heappush(self._due, (deadline, next(self._numbers), watched))
            # A forked process has no thread yet.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="http-watch", daemon=True)
                self._thread.start()
            elif self._due[0][2] is watched:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or (rest_s := self._due[0][0] - time.monotonic()) > 0:
                    self._changed.wait(rest_s if self._due else None)
                watched = heapq.heappop(self._due)[2]
            watched.run_out()


class _Watched:
    """A socket that waits for an answer."""

    def __init__(self, connection_socket: socket.socket) -> None:
        self._socket: socket.socket | None = connection_socket
        self._lock = threading.Lock()
        self.overran = False

    def run_out(self) -> None:
        """Shut the socket down, if it still waits."""
        with self._lock:
            if self._socket is not None:
                self.overran = True
                with contextlib.suppress(OSError):  # it may have been closed just now
                    self._socket.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Wait no longer."""
        with self._lock:
            self._socket = None


_watch = _Watch()


@contextmanager
def _shut_down_after(connection_socket: socket.socket, limit_s: float | None) -> Iterator[None]:
    """Shut the socket down when the block runs longer than *limit_s*, and raise TimeoutError then."""
    if limit_s is None:
        yield
        return
    watched = _Watched(connection_socket)
    _watch.begin(watched, limit_s)
    try:
        yield
    finally:
        watched.end()
        # Cut-off headers would pass as complete ones with an empty body.
        if watched.overran:
            raise TimeoutError("the headers of the answer did not end in time")


class _Connection(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        with _shut_down_after(self.sock, self.timeout):
            return super().getresponse()


class _SecureConnection(HTTPSConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        with _shut_down_after(self.sock, self.timeout):
            return super().getresponse()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def limit_headers(pools: PoolManager) -> None:
    """Make *pools* open connections whose read time-out also limits the headers of an answer as a whole."""
    pools.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}


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
