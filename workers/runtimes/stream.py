"""The streams of a program that is talked to: what is written to its stdin, what comes from the other two."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

__all__ = ["Frames", "LineTooLong", "Lines", "Pipes", "Stream", "Streams"]

_READ_BYTES = 1 << 16
_SEND_S = 10.0
#: A line that is longer than this is no message.
_LINE_BYTES = 1 << 20
#: The engine puts it before each piece: number of the stream, three unused bytes, length of the piece.
_HEADER = struct.Struct(">BxxxL")


class Frames:
    """Takes apart what the engine has put together from stdout and stderr."""

    def __init__(self) -> None:
        self._header, self._stream, self._left = b"", 1, 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the pieces in *data*, each with the number of its stream: 1 stdout, 2 stderr."""
        while data:
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                yield self._stream, piece
                continue
            wanted = _HEADER.size - len(self._header)
            self._header, data = self._header + data[:wanted], data[wanted:]
            if len(self._header) == _HEADER.size:
                self._stream, self._left = _HEADER.unpack(self._header)
                self._header = b""


class LineTooLong(Exception):
    """A line has no end within 1 MiB."""


class Lines:
    """Splits a byte stream at newlines."""

    def __init__(self) -> None:
        self._begun = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that *data* ends.

        Raises
        ------
        LineTooLong
            A line grew beyond 1 MiB.
        """
        *ended, begun = data.split(b"\n")
        if ended:
            ended[0] = bytes(self._begun) + ended[0]
            self._begun.clear()
        self._begun += begun
        if len(self._begun) > _LINE_BYTES or any(len(line) > _LINE_BYTES for line in ended):
            raise LineTooLong
        return ended


class Streams(ABC):
    """The way to a program's stdin, and from its stdout and stderr."""

    ended = False

    @abstractmethod
    def send(self, data: bytes) -> bool:
        """Write to the program's stdin; return whether all was taken within 10 s."""

    @abstractmethod
    def receive(self, timeout_s: float) -> list[tuple[int, bytes]] | None:
        """Return the next pieces of stdout (1) and stderr (2): none after *timeout_s*, None at the end."""

    def forget(self, limit_s: float) -> bool:
        """Drop what has come unasked; return whether the streams go on and are silent within *limit_s*."""
        until = time.monotonic() + limit_s
        while pieces := self.receive(0):
            if time.monotonic() > until:
                return False
        return pieces is not None


class Stream(Streams):
    """A connection to a container's stdin, stdout and stderr.

    Parameters
    ----------
    connection
        As the engine's library gives it, for a container without a terminal; closed by :meth:`close`.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._socket: socket.socket = getattr(connection, "_sock", connection)
        self._socket.settimeout(_SEND_S)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._frames = Frames()

    def send(self, data: bytes) -> bool:
        """Write to the container's stdin; return whether all was taken within 10 s."""
        try:
            self._socket.sendall(data)
        except OSError:
            self.ended = True
        return not self.ended

    def receive(self, timeout_s: float) -> list[tuple[int, bytes]] | None:
        """Return the next pieces of stdout (1) and stderr (2): none after *timeout_s*, None at the end."""
        if self.ended:
            return None
        if not self._poll.poll(max(0.0, timeout_s) * 1000):
            return []
        try:
            data = self._socket.recv(_READ_BYTES)
        except OSError:
            data = b""  # the engine broke off; the container's state tells what that means
        if not data:
            self.ended = True
            return None
        return list(self._frames.feed(data))

    def close(self) -> None:
        """Close the connection, which ends the container's stdin. May be called again."""
        self.ended = True
        # The SDK hangs the HTTP response, which owns the socket, on what it gives us.
        for owner in (getattr(self._connection, "_response", None), self._connection):
            if owner is not None:
                owner.close()


class Pipes(Streams):
    """The pipes of a program on this host, which are closed by whoever made them."""

    def __init__(self, stdout: int, stderr: int, stdin: int) -> None:
        self._stdin = stdin
        os.set_blocking(self._stdin, False)
        self._numbers = {stdout: 1, stderr: 2}
        self._poll, self._room = select.poll(), select.poll()
        for fd in self._numbers:
            self._poll.register(fd, select.POLLIN)
        self._room.register(self._stdin, select.POLLOUT)

    def send(self, data: bytes) -> bool:
        """Write to the program's stdin; return whether all was taken within 10 s."""
        until, left = time.monotonic() + _SEND_S, memoryview(data)
        while left and not self.ended:
            self._room.poll(max(0.0, until - time.monotonic()) * 1000)
            try:
                left = left[os.write(self._stdin, left) :]
            except OSError:  # full still, or nobody reads it any more
                self.ended = True
        return not self.ended

    def receive(self, timeout_s: float) -> list[tuple[int, bytes]] | None:
        """Return the next pieces of stdout (1) and stderr (2): none after *timeout_s*, None at the end."""
        if self.ended:
            return None
        pieces: list[tuple[int, bytes]] = []
        for fd, _ in self._poll.poll(max(0.0, timeout_s) * 1000):
            number, data = self._numbers[fd], os.read(fd, _READ_BYTES)
            if data:
                pieces.append((number, data))
                continue
            self._poll.unregister(fd)
            self.ended = self.ended or number == 1
        return None if self.ended and not pieces else pieces
