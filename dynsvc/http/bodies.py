"""Bodies of HTTP answers: read with a deadline and a size limit, into memory or into a file."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from urllib3 import BaseHTTPResponse

from dynsvc.errors import PeerRefused, StorageUnavailable
from dynsvc.http.answers import Answer
from dynsvc.http.connections import NoAnswerError

__all__ = ["beginning", "limited", "storage", "store"]

_CHUNK_BYTES = 64 * 1024


def _chunks(raw: BaseHTTPResponse, deadline: float) -> Iterator[bytes]:
    """Yield the body as it arrives: waiting for full blocks would let a slow peer outlast the deadline."""
    while chunk := raw.read1(_CHUNK_BYTES, decode_content=False):
        if time.monotonic() > deadline:
            raise NoAnswerError("the answer was not complete in time")
        yield chunk


def beginning(raw: BaseHTTPResponse, deadline: float, max_bytes: int) -> bytes:
    """Return the first *max_bytes* of a body, or a little more."""
    body = b""
    for chunk in _chunks(raw, deadline):
        body += chunk
        if len(body) >= max_bytes:
            break
    return body


def limited(
    peer: str, raw: BaseHTTPResponse, answer: Answer, deadline: float, max_bytes: int
) -> Iterator[bytes]:
    """Yield the body of a success, and refuse one of more than *max_bytes*.

    Raises
    ------
    PeerRefused
        The body is too long, or encoded (permanent).
    NoAnswerError
        The body did not end, or ended early.
    """
    encoding = raw.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise PeerRefused(
            peer, f"answered with a body in the encoding {answer.clean(encoding)}, expected none"
        )
    announced = raw.headers.get("Content-Length", "")
    if announced.isascii() and announced.isdigit() and int(announced) > max_bytes:
        raise PeerRefused(peer, f"answered {announced} bytes, expected at most {max_bytes}")
    received = 0
    for chunk in _chunks(raw, deadline):
        received += len(chunk)
        if received > max_bytes:
            raise PeerRefused(peer, f"answered more than {max_bytes} bytes")
        yield chunk
    # An answer that was cut off within its headers looks like this.
    if not received and not announced and "Transfer-Encoding" not in raw.headers and answer.status == 200:
        raise NoAnswerError("the connection broke off before the answer's body")


def store(chunks: Iterator[bytes], dest: Path) -> None:
    """Write *chunks* to *dest*, which appears complete or not at all.

    Raises
    ------
    StorageUnavailable
        *dest* cannot be written (transient).
    """
    part = dest.with_name(f".{dest.name}.{uuid.uuid4().hex}.part")
    with storage(part):
        file = part.open("xb", buffering=0)
    try:
        with file:
            for chunk in chunks:
                with storage(part):
                    file.write(chunk)
        with storage(dest):
            part.replace(dest)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn errors of the block's file operations on *path* into StorageUnavailable."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(str(path.parent), f"{path.name}: {error.strerror or error}") from error
