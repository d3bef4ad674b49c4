"""Files of our own folders: measured in one reading, written so that they appear complete or not at all.

Names are taken as they come, text or ``Path``: each order makes a dozen files, and objects for their names
cost more than what is done with them.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from dynsvc.measured import Measured

__all__ = [
    "complete",
    "copied",
    "created",
    "fresh_folder",
    "measured",
    "moved",
    "published",
    "write",
]

#: Python asks for all of it however small a file is, and gives it back.
_CHUNK_BYTES = 1 << 18
_PARTIAL = ".partial-"
_NEW, _MODE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666

Done = TypeVar("Done")
Name = str | Path


def copied(source: io.RawIOBase | BinaryIO, target: int | None = None) -> Measured:
    """Read *source* to its end, write it to the open file *target* if given, and measure it."""
    digest, size_bytes = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        size_bytes += len(chunk)
        if target is not None:
            write(target, chunk)
    return Measured(digest.hexdigest(), size_bytes)


def measured(path: Name) -> Measured:
    """Read the file *path* and measure it."""
    with io.FileIO(path) as stream:
        return copied(stream)


def fresh_folder(parent: Path, prefix: str) -> Path:
    """Make a folder of our own with a name that nobody else has; *parent* too, where it is missing."""
    folder = f"{parent}/{prefix}{secrets.token_hex(8)}"
    _in_folder(folder, lambda: os.mkdir(folder, 0o700))
    return Path(folder)


def created(path: Path, content: bytes) -> Measured:
    """Write a new file into a folder of the caller's own, and measure it. After an error there is none."""
    fd = os.open(path, _NEW, _MODE)
    try:
        try:
            write(fd, content)
        finally:
            os.close(fd)
    except BaseException:
        path.unlink()
        raise
    return Measured.of(content)


@contextmanager
def complete(path: Name, *, lasting: bool, folder_too: bool = True) -> Iterator[int]:
    """Open a new file that gets the name *path* when the block ends well, and is removed otherwise.

    With *folder_too* the folder is made where it is missing. With *lasting*, the file's bytes survive a power
    cut from then on. Working copies need not.
    """
    partial = os.path.join(os.path.dirname(path), f"{_PARTIAL}{secrets.token_hex(8)}")

    def opened() -> int:
        return os.open(partial, _NEW, _MODE)

    fd = _in_folder(partial, opened) if folder_too else opened()
    try:
        try:
            yield fd
            if lasting:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(partial, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def published(path: Name, target: Name) -> Measured:
    """Write a lasting copy of the file *path* to *target*."""
    with io.FileIO(path) as source, complete(target, lasting=True) as fd:
        found = copied(source, fd)
    _sync(os.path.dirname(target))
    return found


def moved(path: Name, target: Name, known: Measured | None) -> Measured | None:
    """Give the file *path* the name *target*, for good; None where that is on another file system.

    Parameters
    ----------
    known
        What was measured while the file was written; else it is read.
    """
    found = known or measured(path)
    _sync(path)
    try:
        _in_folder(target, lambda: os.replace(path, target))
    except OSError as error:
        if error.errno == errno.EXDEV:
            return None
        raise
    _sync(os.path.dirname(target))
    return found


def write(fd: int, content: bytes) -> None:
    """Write all of *content* to an open file."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _in_folder(path: Name, do: Callable[[], Done]) -> Done:
    """Do what needs the folder of *path*, which is seldom missing, and made then."""
    for _ in range(2):  # a sweep may remove the empty folder in between
        try:
            return do()
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
    return do()


def _sync(path: Name) -> None:
    """Have a file's bytes, or a folder's names, survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
