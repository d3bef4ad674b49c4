"""What lies below HTTP requests: connections with limits, and why one of them broke.

The read time-out of a socket counts silence only. A peer that sends one byte of a header now and then is
never silent and never done; these connections end with it.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
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


@contextmanager
def _shut_down_after(connection_socket: socket.socket, limit_s: float | None) -> Iterator[None]:
    """Shut the socket down when the block runs longer than *limit_s*, and raise TimeoutError then."""
    if limit_s is None:
        yield
        return
    overran = threading.Event()

    def shut_down() -> None:
        overran.set()
        with contextlib.suppress(OSError):  # it may have been closed just now
            connection_socket.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(limit_s, shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        # Cut-off headers would pass as complete ones with an empty body.
        if overran.is_set():
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
