"""Files of our own folders: measured in one reading, written so that they appear complete or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

__all__ = [
    "Measured",
    "complete",
    "copied",
    "created",
    "fresh_folder",
    "make_lasting",
    "measured",
    "moved",
    "published",
]

#: Python asks for all of it however small a file is, and gives it back.
_CHUNK_BYTES = 1 << 18
_PARTIAL = ".partial-"
_NEW, _MODE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666

Done = TypeVar("Done")


class Measured(NamedTuple):
    """What tells a file's bytes from all others."""

    #: In hexadecimal.
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, content: bytes) -> Measured:
        """Measure bytes in memory."""
        return cls(hashlib.sha256(content).hexdigest(), len(content))


def copied(source: io.RawIOBase | BinaryIO, target: int | None = None) -> Measured:
    """Read *source* to its end, write it to the open file *target* if given, and measure it."""
    digest, size_bytes = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        size_bytes += len(chunk)
        if target is not None:
            _write(target, chunk)
    return Measured(digest.hexdigest(), size_bytes)


def measured(path: Path) -> Measured:
    """Read the file *path* and measure it."""
    with io.FileIO(path) as stream:
        return copied(stream)


def fresh_folder(parent: Path, prefix: str) -> Path:
    """Make a folder of our own with a name that nobody else has; *parent* too, where it is missing."""
    folder = f"{parent}/{prefix}{secrets.token_hex(8)}"
    _in_folder(parent, lambda: os.mkdir(folder, 0o700))  # noqa: PTH102 - as often as there are orders
    return Path(folder)


def created(path: Path, content: bytes) -> Measured:
    """Write a new file into a folder of the caller's own, and measure it. After an error there is none."""
    fd = os.open(path, _NEW, _MODE)
    try:
        try:
            _write(fd, content)
        finally:
            os.close(fd)
    except BaseException:
        path.unlink()
        raise
    return Measured.of(content)


@contextmanager
def complete(path: Path, *, lasting: bool) -> Iterator[int]:
    """Open a new file that gets the name *path* when the block ends well, and is removed otherwise.

    The folder is made where it is missing. With *lasting*, the file's bytes survive a power cut from then on.
    Working copies need not.
    """
    folder = path.parent
    partial = f"{folder}/{_PARTIAL}{secrets.token_hex(8)}"
    fd = _in_folder(folder, lambda: os.open(partial, _NEW, _MODE))
    try:
        try:
            yield fd
            if lasting:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(partial, path)  # noqa: PTH105 - as often as there are orders
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)  # noqa: PTH108
        raise


def published(path: Path, target: Path) -> Measured:
    """Write a lasting copy of the file *path* to *target*."""
    with io.FileIO(path) as source, complete(target, lasting=True) as fd:
        found = copied(source, fd)
    _sync(target.parent)
    return found


def moved(path: Path, target: Path, known: Measured | None, *, lasting: bool) -> Measured | None:
    """Give the file *path* the name *target*; None where that is on another file system.

    Parameters
    ----------
    known
        What was measured while the file was written; else it is read.
    lasting
        It survives a power cut from then on.
    """
    found = known or measured(path)
    if lasting:
        _sync(path)
    try:
        _in_folder(target.parent, lambda: os.replace(path, target))  # noqa: PTH105
    except OSError as error:
        if error.errno == errno.EXDEV:
            return None
        raise
    if lasting:
        _sync(target.parent)
    return found


def make_lasting(path: Path) -> None:
    """Have the file *path* and its name survive a power cut from now on."""
    _sync(path)
    _sync(path.parent)


def _write(fd: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _in_folder(folder: Path, do: Callable[[], Done]) -> Done:
    """Do what needs *folder*, which is seldom missing, and made then."""
    for _ in range(2):  # a sweep may remove the empty folder in between
        try:
            return do()
        except FileNotFoundError:
            folder.mkdir(parents=True, exist_ok=True)
    return do()


def _sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
