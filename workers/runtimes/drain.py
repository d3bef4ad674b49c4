"""Reads what a container prints, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from workers.runtimes.output import Output
from workers.runtimes.stream import Frames

__all__ = ["Drain"]

_READ_BYTES = 1 << 16
_JOIN_S = 2.0


class Drain:
    """Empties a connection to its end: a container whose output nobody reads stops.

    Parameters
    ----------
    connection
        Attached to a container without a terminal; closed by :meth:`close`.
    on_line
        Called with each line from the thread. When it raises, reading ends and :attr:`error` is set.
    """

    def __init__(self, connection: Any, on_line: Callable[[str], None]) -> None:
        self.output = Output(on_line)
        self.error: Exception | None = None
        self._connection = connection
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="container-output", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Return whether the output is at its end, after at most *timeout_s*."""
        return self._ended.wait(timeout_s)

    def close(self) -> None:
        """End the thread. To be called when the container is gone: its output is then at its end."""
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            return  # it still waits for the engine, and ends with it
        # The SDK hangs the HTTP response, which owns the socket, on what it gives us.
        response = getattr(self._connection, "_response", None)
        for owner in (response, self._connection):
            if owner is not None:
                owner.close()

    def _run(self) -> None:
        try:
            self._read()
        except Exception as error:  # noqa: BLE001
            self.error = error  # for the thread that waits
        finally:
            self._ended.set()

    def _read(self) -> None:
        receive = getattr(self._connection, "recv", None) or self._connection.read
        frames = Frames()
        while data := _received(receive):
            for stream, piece in frames.feed(data):
                self.output.feed(piece, stream)
        self.output.finish()


def _received(receive: Callable[[int], bytes]) -> bytes:
    try:
        return receive(_READ_BYTES)
    except OSError:
        return b""  # the engine broke off; the container's state tells what that means
