"""An HTTP server that lies on purpose: truncated, endless, slow and wrong answers, on a raw socket."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

#: What is done with one request: gets the connection, and an event that is set when the server stops.
Behaviour = Callable[[socket.socket, threading.Event], None]


def answer(
    body: bytes = b"{}", *, status: str = "200 OK", media_type: str = "application/json", **headers: str
) -> Behaviour:
    """Answer honestly. Underscores in names of *headers* stand for hyphens."""
    lines = {"Content-Type": media_type, "Content-Length": str(len(body))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return raw(f"HTTP/1.1 {status}\r\n{head}Connection: close\r\n\r\n".encode() + body)


def raw(data: bytes) -> Behaviour:
    """Send *data* as it is and close."""

    def behave(connection: socket.socket, stopped: threading.Event) -> None:
        connection.sendall(data)

    return behave


def truncated(body: bytes, missing: int = 10, media_type: str = "image/jpeg") -> Behaviour:
    """Announce *missing* bytes more than are sent."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {len(body) + missing}\r\n\r\n"
    return raw(head.encode() + body)


def broken_chunks() -> Behaviour:
    """Break off within a chunked body."""
    return raw(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc")


def cut_headers() -> Behaviour:
    """Break off within the headers."""
    return raw(b"HTTP/1.1 200 OK\r\nContent-Ty")


def endless(chunk: bytes = b"x" * 65536, every_s: float = 0.0, *, length: int | None = None) -> Behaviour:
    """Send *chunk* for ever, one every *every_s* seconds; *length* is announced."""
    announced = "" if length is None else f"Content-Length: {length}\r\n"

    def behave(connection: socket.socket, stopped: threading.Event) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n{announced}\r\n".encode())
        while not stopped.wait(every_s):
            connection.sendall(chunk)

    return behave


def dripping_headers(every_s: float = 0.05) -> Behaviour:
    """Send a header that never ends, byte by byte."""

    def behave(connection: socket.socket, stopped: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Patience: ")
        while not stopped.wait(every_s):
            connection.sendall(b"x")

    return behave


def stalled() -> Behaviour:
    """Take the request and say nothing."""

    def behave(connection: socket.socket, stopped: threading.Event) -> None:
        stopped.wait(60)

    return behave


def reset() -> Behaviour:
    """Take the whole request and reset the connection."""

    def behave(connection: socket.socket, stopped: threading.Event) -> None:
        # Closing with a linger time of zero sends RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return behave


def html_as_picture() -> Behaviour:
    """Answer as iipsrv does outside a slide: status 200, image/jpeg, and a page."""
    return answer(b"<html><body><h1>400 Bad Request</h1></body></html>", media_type="image/jpeg")


def busy(status: str = "503 Service Unavailable", **headers: str) -> Behaviour:
    """Answer that this is no good time."""
    return answer(b"busy", status=status, media_type="text/plain", **headers)


class MisbehavingServer:
    """Treats one connection after the other by the given behaviours; the last one is repeated.

    Parameters
    ----------
    behaviours
        What is done with the first, second, … request.
    reads_body
        Whether the whole request is read first; else only its headers.
    tls
        With what connections are encrypted, if they are.
    """

    def __init__(
        self, behaviours: Iterable[Behaviour], *, reads_body: bool = True, tls: ssl.SSLContext | None = None
    ) -> None:
        self._behaviours = list(behaviours)
        self._tls = tls
        self._reads_body = reads_body
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        #: Head and body of each request.
        self.requests: list[tuple[str, bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def stop(self) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in [self._acceptor, *self._threads]:
            thread.join(timeout=10)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), self._ready(connection) as connection:
            head, body = self._request(connection)
            if not head:
                return
            with self._lock:
                behave = self._behaviours[min(len(self.requests), len(self._behaviours) - 1)]
                self.requests.append((head, body))
            behave(connection, self._stopped)

    def _ready(self, connection: socket.socket) -> socket.socket:
        connection.settimeout(10)
        return self._tls.wrap_socket(connection, server_side=True) if self._tls else connection

    def _request(self, connection: socket.socket) -> tuple[str, bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            received = connection.recv(65536)
            if not received:
                return "", b""
            data += received
        head, _, body = data.partition(b"\r\n\r\n")
        text = head.decode("latin-1")
        length = next(
            (
                int(line.split(":")[1])
                for line in text.splitlines()
                if line.lower().startswith("content-length:")
            ),
            0,
        )
        while self._reads_body and len(body) < length:
            received = connection.recv(65536)
            if not received:
                break
            body += received
        return text, body


@contextmanager
def misbehaving(
    *behaviours: Behaviour, reads_body: bool = True, tls: ssl.SSLContext | None = None
) -> Iterator[MisbehavingServer]:
    """Run a server that treats its requests by *behaviours*; the last one is repeated."""
    server = MisbehavingServer(behaviours, reads_body=reads_body, tls=tls)
    try:
        yield server
    finally:
        server.stop()
