"""Folders of what is kept. A container has one mounted: runs' files are put in and taken out through it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from dynsvc.errors import StorageUnavailable
from dynsvc.outputs import discard
from dynsvc.runtime import Run
from workers.runtimes.ownership import give_folders

__all__ = ["Place", "Slot", "is_abandoned", "places_below", "remove_abandoned"]

_PREFIX = "kept-"


def places_below(scratch: Path | None) -> Path:
    """Return where workers have their places: in "work", where the janitor looks for what was forgotten."""
    return (scratch or Path(tempfile.gettempdir()) / f"dynsvc-{os.getuid()}") / "work"


class Place:
    """A folder of this process, for its slots.

    Its ``lock`` is held for as long as this process lives: the kernel gives it back, whatever ends us, and
    then whoever finds the folder or a container that belongs to it knows that nobody needs them.

    Parameters
    ----------
    parent
        On the file system of the runs' folders; made if need be.
    """

    def __init__(self, parent: Path) -> None:
        with _storage_errors(parent):
            parent.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            self.lock = self.folder / "lock"
            self._fd = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def room(self, memory_mib: int) -> Path:
        """Return a new folder for a program that is kept; its name tells the others of this host its limit.

        Raises
        ------
        StorageUnavailable
            It cannot be made (transient).
        """
        with _storage_errors(self.folder):
            os.utime(self.folder)  # the janitor removes what is old
            return Path(tempfile.mkdtemp(prefix=f"{memory_mib}-", dir=self.folder))

    def elsewhere_mib(self) -> int:
        """Return the limits of what other processes of this host keep in such folders, summed up."""
        sizes: list[str] = []
        for other in self.folder.parent.glob(f"{_PREFIX}*"):
            if other != self.folder and not is_abandoned(str(other / "lock")):
                sizes += [room.name.partition("-")[0] for room in other.glob("*-*")]
        return sum(int(size) for size in sizes if size.isdigit())

    def close(self) -> None:
        """Remove the folder. What belongs to it must be gone."""
        with suppress(StorageUnavailable):  # the janitor's, later
            discard(self.folder)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Slot:
    """A folder with ``input`` and ``output``, for one kept container.

    Parameters
    ----------
    place
        Of this process.
    run
        The first run, which decides whose the files are.
    """

    def __init__(self, place: Place, run: Run) -> None:
        with _storage_errors(place.folder):
            self.folder = Path(tempfile.mkdtemp(dir=place.folder))
            self.input_dir, self.output_dir = self.folder / "input", self.folder / "output"
            self.input_dir.mkdir()
            self.output_dir.mkdir()
        self._place = place
        self.user = give_folders(self.as_seen(run))

    def as_seen(self, run: Run) -> Run:
        """Return *run* with this slot's folders."""
        return replace(run, input_dir=self.input_dir, output_dir=self.output_dir)

    def put(self, run: Run) -> None:
        """Show the run's input, and nothing of any other run.

        Raises
        ------
        StorageUnavailable
            A file cannot be linked or copied (transient).
        """
        with _storage_errors(self.folder):
            shutil.copytree(
                run.input_dir, self.input_dir, symlinks=True, copy_function=_link, dirs_exist_ok=True
            )
            os.utime(self._place.folder)  # the janitor removes what is old
        give_folders(self.as_seen(run))

    def take(self, run: Run) -> None:
        """Move what was written to the run's output folder.

        Raises
        ------
        StorageUnavailable
            A file cannot be moved (transient).
        """
        with _storage_errors(run.output_dir):
            self._move(self.output_dir, run.output_dir)

    def clear(self) -> None:
        """Take away what is left of a run.

        Raises
        ------
        StorageUnavailable
            Something cannot be removed (transient).
        """
        with _storage_errors(self.folder):
            for entry in list(self.input_dir.iterdir()):  # only this process can write here
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            if not any(self.output_dir.iterdir()):
                return
            # The program may still live and change folders while they are emptied: so first out of its sight.
            left = self.folder / "left"
            left.mkdir()
            self._move(self.output_dir, left)
        discard(left)

    def close(self) -> None:
        """Remove the folder. The container must be gone."""
        with suppress(StorageUnavailable):  # the janitor's, later
            discard(self.folder)

    @staticmethod
    def _move(source: Path, target: Path) -> None:
        with suppress(PermissionError):
            source.chmod(0o755)  # its owner may have locked it
        # Each entry as a whole, by its name, whatever it is: nothing in it is looked at or followed.
        for entry in list(source.iterdir()):
            entry.rename(target / entry.name)


def is_abandoned(lock: str) -> bool:
    """Return whether the process that made a place is gone, from the path of its lock."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno == errno.ENOENT
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def remove_abandoned(parent: Path) -> None:
    """Remove the places of processes that are gone. Their containers must be gone already."""
    for folder in parent.glob(f"{_PREFIX}*"):
        lock = folder / "lock"
        if lock.exists() and is_abandoned(str(lock)):
            with suppress(StorageUnavailable):
                discard(folder)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


@contextmanager
def _storage_errors(place: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, shutil.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageUnavailable(str(getattr(error, "filename", None) or place), reason) from error
