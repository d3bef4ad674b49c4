"""Bodies of HTTP answers: read into memory, with a deadline and a size limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from urllib3 import BaseHTTPResponse

from dynsvc.errors import PeerRefused
from dynsvc.http.connections import NoAnswerError

__all__ = ["beginning", "complete"]

_CHUNK_BYTES = 64 * 1024


def _chunks(raw: BaseHTTPResponse, deadline: float) -> Iterator[bytes]:
    """Yield the body as it arrives: waiting for full blocks would let a slow peer outlast the deadline."""
    while chunk := raw.read1(_CHUNK_BYTES, decode_content=False):
        if time.monotonic() > deadline:
            raise NoAnswerError("the answer was not complete in time")
        yield chunk
        if raw.length_remaining == 0:  # one more reading would only find that out
            return


def beginning(raw: BaseHTTPResponse, deadline: float, max_bytes: int) -> bytes:
    """Return the first *max_bytes* of a body, or a little more."""
    body = b""
    for chunk in _chunks(raw, deadline):
        body += chunk
        if len(body) >= max_bytes:
            break
    return body


def complete(
    peer: str, raw: BaseHTTPResponse, clean: Callable[[str], str], deadline: float, max_bytes: int
) -> bytes:
    """Return the body of a success, and refuse one of more than *max_bytes*.

    Parameters
    ----------
    clean
        Makes a text of the peer's fit for an error.

    Raises
    ------
    PeerRefused
        The body is too long, or encoded (permanent).
    NoAnswerError
        The body did not end, or ended early.
    """
    encoding = raw.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise PeerRefused(peer, f"answered with a body in the encoding {clean(encoding)}, expected none")
    announced = raw.length_remaining
    if announced is not None and announced > max_bytes:
        raise PeerRefused(peer, f"answered {announced} bytes, expected at most {max_bytes}")
    received, chunks = 0, []
    for chunk in _chunks(raw, deadline):
        received += len(chunk)
        if received > max_bytes:
            raise PeerRefused(peer, f"answered more than {max_bytes} bytes")
        chunks.append(chunk)
    # An answer that was cut off within its headers looks like this.
    if not received and announced is None and "Transfer-Encoding" not in raw.headers and raw.status == 200:
        raise NoAnswerError("the connection broke off before the answer's body")
    return b"".join(chunks)
