"""What an algorithm left in its output folder: looked at without trust, opened without following links."""

from __future__ import annotations

import io
import itertools
import os
import secrets
import stat
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from dynsvc.errors import OutputMissing, OutputRefused, StorageUnavailable

__all__ = [
    "MemoryFile",
    "OutputFile",
    "OutputLimits",
    "ResultFile",
    "collect",
    "discard",
    "measure",
    "name_problem",
]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Each level costs one open file while the tree is walked.
_MAX_DEPTH = 16
#: While a run goes on, it may have more than it may leave.
_LIVE_DEPTH = 64
_LIVE_ENTRIES = 100_000
_MAX_NAME = 1024
#: Where none is told, Python asks the system whether the file is a terminal.
_BUFFER_BYTES = 1 << 16
#: What Linux file systems take.
_MAX_PART_BYTES = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLimits:
    """How much an algorithm may leave, unpacked."""

    max_bytes: int
    max_files: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """One regular file below *folder*."""

    algorithm: str
    folder: Path
    #: Relative to *folder*, with slashes.
    name: str
    size_bytes: int

    @property
    def path(self) -> Path:
        """The file's path. Whoever opens it while the algorithm may still run should use :meth:`open`."""
        return self.folder / self.name

    def open(self) -> BinaryIO:
        """Open the file for reading. No component of its name is followed if it has become a link.

        Raises
        ------
        OutputRefused
            The name is no regular file any more (permanent).
        """
        try:
            return os.fdopen(_open_beneath(self.folder, self.name), "rb", buffering=_BUFFER_BYTES)
        except OSError as error:
            raise OutputRefused(
                self.algorithm, self.name, f"it cannot be opened ({error.strerror})"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFile:
    """One file of a small zip, held in memory."""

    algorithm: str
    #: Relative, with slashes.
    name: str
    content: bytes

    @property
    def size_bytes(self) -> int:
        """Its size."""
        return len(self.content)

    def open(self) -> BinaryIO:
        """Open it for reading."""
        return io.BytesIO(self.content)


#: A file of a result.
ResultFile = OutputFile | MemoryFile


def name_problem(name: str) -> str | None:
    """Return why *name* cannot be the relative name of a file in a result, or None where it can."""
    if not name or name.startswith("/"):
        return "its name is not relative"
    if any(part in {"", ".", ".."} for part in name.split("/")):
        return "its name does not stay in the folder"
    if "\\" in name or not name.isprintable():
        return "its name has a backslash, a control character or bytes that are not UTF-8"
    if len(name) > _MAX_NAME or any(len(part.encode()) > _MAX_PART_BYTES for part in name.split("/")):
        return "its name is too long"
    return None


def collect(folder: Path, algorithm: str, limits: OutputLimits) -> tuple[OutputFile, ...]:
    """Return the files below *folder*, sorted by name.

    Folders themselves are not reported. Nothing is opened but folders, and no link is followed.

    Parameters
    ----------
    folder
        The output folder of a run that has ended.
    algorithm
        Its name, for the errors.
    limits
        What is taken at most.

    Raises
    ------
    OutputMissing
        There is no folder (permanent).
    OutputRefused
        Something in it is no regular file, has a name that cannot travel or is over a limit (permanent).
    """
    found: list[OutputFile] = []
    total_bytes = 0
    # Names of each file with several, by (device, inode): all of them must be inside the folder.
    linked: dict[tuple[int, int], list[str]] = {}
    links: dict[tuple[int, int], int] = {}
    try:
        top = os.open(folder, _FOLDER)
    except OSError as error:
        raise OutputMissing(algorithm, "a folder of results", f"none ({error.strerror})") from error
    with _closing(top), closing(_walk(top, "", 1, algorithm)) as entries:
        for count, (name, status) in enumerate(entries, start=1):
            if count > limits.max_files:
                raise OutputRefused(
                    algorithm, name, f"there are more than {limits.max_files} files and folders"
                )
            if problem := name_problem(name):
                raise OutputRefused(algorithm, name, problem)
            if stat.S_ISDIR(status.st_mode):
                continue
            if not stat.S_ISREG(status.st_mode):
                raise OutputRefused(algorithm, name, f"it is {_kind(status.st_mode)}")
            total_bytes += status.st_size
            if total_bytes > limits.max_bytes:
                raise OutputRefused(algorithm, name, f"with it there are more than {limits.max_bytes} bytes")
            if status.st_nlink > 1:
                inode = status.st_dev, status.st_ino
                linked.setdefault(inode, []).append(name)
                links[inode] = status.st_nlink
            found.append(OutputFile(algorithm=algorithm, folder=folder, name=name, size_bytes=status.st_size))
    for inode, names in linked.items():
        if len(names) < links[inode]:
            raise OutputRefused(algorithm, names[0], "it is a hard link to a file outside the folder")
    return tuple(sorted(found, key=lambda file: file.name))


def measure(folder: Path, algorithm: str) -> int:
    """Return how many bytes of the disk *folder* takes while its run goes on. No link is followed.

    Raises
    ------
    OutputRefused
        It cannot be measured: nested too deep, too many entries, a folder that nobody may read (permanent).
    """
    try:
        top = os.open(folder, _FOLDER)
    except OSError:
        return 0  # the run is over, and somebody has removed it
    total_bytes = 0
    with _closing(top):
        for count, status in enumerate(_living(top, PurePosixPath(), algorithm)):
            if count > _LIVE_ENTRIES:
                reason = f"it has more than {_LIVE_ENTRIES} files and folders"
                raise OutputRefused(algorithm, "its folder", reason)
            total_bytes += status.st_blocks * 512
    return total_bytes


def _living(at: int, above: PurePosixPath, algorithm: str) -> Iterator[os.stat_result]:
    """Yield the status of every entry below *at*; what vanishes meanwhile is left out."""
    with os.scandir(at) as entries:
        for entry in entries:
            try:
                status = os.stat(entry.name, dir_fd=at, follow_symlinks=False)
                inner = os.open(entry.name, _FOLDER, dir_fd=at) if stat.S_ISDIR(status.st_mode) else None
            except PermissionError as error:
                raise OutputRefused(
                    algorithm, str(above / entry.name), "the folder cannot be read"
                ) from error
            except OSError:
                continue
            yield status
            if inner is None:
                continue
            with _closing(inner):
                if len(above.parts) + 1 >= _LIVE_DEPTH:
                    reason = f"folders are nested deeper than {_LIVE_DEPTH}"
                    raise OutputRefused(algorithm, str(above), reason)
                yield from _living(inner, above / entry.name, algorithm)


def discard(folder: str | Path) -> None:
    """Remove *folder* and everything in it, whatever an algorithm made of it. A missing folder is fine.

    What has its name and is no folder is removed as it is: a link, not what it leads to.

    Raises
    ------
    StorageUnavailable
        Something cannot be removed (transient).
    """
    # Folders are moved up to the top before they are emptied, so that depth costs neither stack nor open
    # files. The algorithm cannot know the names they get there.
    names = (f".{secrets.token_hex(8)}-{number}" for number in itertools.count())
    try:
        if _removed(folder):
            return
        with _closing(_open_folder(str(folder), None)) as top:
            while _empty(top, top, names):
                pass
        os.rmdir(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageUnavailable(str(folder), f"it cannot be removed ({error.strerror})") from error


def _removed(folder: str | Path) -> bool:
    """Remove what is no folder, or an empty one, and say whether it was: most folders are empty by then."""
    try:
        os.rmdir(folder)
    except NotADirectoryError:
        os.unlink(folder)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def _empty(at: int, top: int, names: Iterator[str]) -> bool:
    """Remove what is in the folder *at*; folders of its folders move to *top*. True if there were any."""
    with os.scandir(at) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    moved = False
    for name, is_folder in listed:
        if not is_folder:
            os.unlink(name, dir_fd=at)
            continue
        with _closing(_open_folder(name, at)) as inner:
            if at == top:
                moved |= _empty(inner, top, names)
                os.rmdir(name, dir_fd=at)
            else:
                os.rename(name, next(names), src_dir_fd=at, dst_dir_fd=top)
                moved = True
    return moved


def _open_folder(name: str, at: int | None) -> int:
    """Open a folder; one of ours that was made unreadable is made readable first."""
    try:
        fd = os.open(name, _FOLDER, dir_fd=at)
    except PermissionError:
        os.chmod(name, stat.S_IRWXU, dir_fd=at)
        fd = os.open(name, _FOLDER, dir_fd=at)
    if os.geteuid() != 0 and os.fstat(fd).st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.fchmod(fd, stat.S_IRWXU)
    return fd


def _walk(
    at: int, above: str, depth: int, algorithm: str
) -> Generator[tuple[str, os.stat_result], None, None]:
    """Yield every entry below the open folder *at*, a folder before what is in it.

    Parameters
    ----------
    above
        In front of each name: where the folder is, with a slash.
    depth
        Of the entries.
    """
    with os.scandir(at) as entries:
        for entry in entries:
            name = above + entry.name
            status = os.stat(entry.name, dir_fd=at, follow_symlinks=False)
            yield name, status
            if not stat.S_ISDIR(status.st_mode):
                continue
            if depth >= _MAX_DEPTH:
                raise OutputRefused(algorithm, name, f"folders are nested deeper than {_MAX_DEPTH}")
            try:
                inner = os.open(entry.name, _FOLDER, dir_fd=at)
            except OSError as error:
                raise OutputRefused(
                    algorithm, name, f"the folder cannot be read ({error.strerror})"
                ) from error
            with _closing(inner):
                yield from _walk(inner, f"{name}/", depth + 1, algorithm)


def _open_beneath(folder: Path, name: str) -> int:
    at = os.open(folder, _FOLDER)
    *above, last = name.split("/")
    for part in above:
        with _closing(at):
            at = os.open(part, _FOLDER, dir_fd=at)
    with _closing(at):
        # Without O_NONBLOCK, opening a pipe that took the file's place would wait for a writer.
        fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(0, "no regular file")
    return fd


class _closing:  # noqa: N801 - as contextlib.closing, for an open folder
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._fd)


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((kind for test, kind in kinds if test(mode)), "no regular file")
