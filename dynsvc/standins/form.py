"""Reading a ``multipart/form-data`` body, as much of it as the stand-ins meet."""

from __future__ import annotations

import re
from email.message import Message

__all__ = ["FormInvalidError", "read_form"]


class FormInvalidError(Exception):
    """The body is no complete form."""


def read_form(content_type: str, body: bytes) -> dict[str, tuple[str | None, bytes]]:
    """Return the form's fields: name to file name, which is None for a text field, and content.

    Raises
    ------
    FormInvalidError
        The body is no complete form.
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise FormInvalidError("not multipart/form-data")
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    if len(parts) < 2 or parts[-1].strip() != b"--":
        raise FormInvalidError("the form's end is missing")
    fields: dict[str, tuple[str | None, bytes]] = {}
    for part in parts[1:-1]:
        head, found, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'[; ]name="([^"]*)"', head)
        file_name = re.search(rb'filename="([^"]*)"', head)
        if not found or name is None:
            raise FormInvalidError("a part has no name")
        fields[name[1].decode()] = (file_name[1].decode() if file_name else None, content)
    return fields
