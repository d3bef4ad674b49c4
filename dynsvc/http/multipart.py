"""A form with one file, as the body of an HTTP request that is read from disk while it is sent."""

from __future__ import annotations

import io
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["Form"]

_CHUNK_BYTES = 64 * 1024


class Form:
    """The body of a ``multipart/form-data`` request. Can be sent once; closes its file as a context manager.

    Parameters
    ----------
    fields
        The form's text fields.
    file_field, path, media_type
        The form's file field, the file, and what it is.
    longest_s
        Reading the body to its end later than this raises TimeoutError.
    """

    def __init__(
        self, fields: Mapping[str, str], file_field: str, path: Path, media_type: str, *, longest_s: float
    ) -> None:
        boundary = f"dynsvc-{secrets.token_hex(16)}"
        self.content_type = f"multipart/form-data; boundary={boundary}"
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        ]
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(file_field)}"; '
            f'filename="{_quoted(path.name)}"\r\nContent-Type: {media_type}\r\n\r\n'
        )
        self._head = "".join(parts).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._file = io.FileIO(path)
        self._file_bytes = os.fstat(self._file.fileno()).st_size
        self._deadline = time.monotonic() + longest_s
        #: True once the last byte was handed over: the peer may have the whole form.
        self.sent_completely = False

    def __enter__(self) -> Form:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._head) + self._file_bytes + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        # What goes before and after the file travels with its first and last bytes.
        chunk, left = self._head, self._file_bytes
        while left:
            if time.monotonic() > self._deadline:
                raise TimeoutError("the peer takes the form too slowly")
            read = self._file.read(min(_CHUNK_BYTES, left))
            if not read:
                raise OSError(f"the file became shorter by {left} bytes while it was sent")
            left -= len(read)
            chunk += read
            if left:
                yield chunk
                chunk = b""
        yield chunk + self._tail
        # Asked for more: all that was yielded was taken. What failed before lacks at least its last byte.
        self.sent_completely = True


def _quoted(text: str) -> str:
    """Escape *text* for a quoted header parameter, the way browsers do."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
