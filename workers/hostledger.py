"""The ledger of one host: a folder with one locked file for each run that holds something or waits."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path

from dynsvc.errors import StorageUnavailable

__all__ = ["Entry", "HostLedger"]

#: The ledger's lock is held for milliseconds.
_LOCK_S = 30.0
_PAUSE_S = 0.002
_NUMBER_BYTES = 32


@dataclass(slots=True, kw_only=True)
class Entry:
    """What one run holds, or waits for. Whoever made it keeps its file locked until :meth:`close`."""

    cpus: float
    memory_mib: int
    #: UUID -> MiB, 0 for the whole GPU.
    gpus: dict[str, int] = field(default_factory=dict)
    wanted_gpus: int = 0
    wanted_gpu_memory_mib: int = 0
    #: For people who look into the folder.
    order_id: str = ""
    algorithm: str = ""
    #: Name of its file; waiting runs sort by it in the order in which they came.
    name: str = ""
    _path: str = ""
    _fd: int = -1

    @property
    def open(self) -> bool:
        """Whether this process made it and has not given back what it holds."""
        return bool(self._path)

    def close(self) -> None:
        """Give back what it holds."""
        if self._path:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            # The lock goes with the last descriptor; this is the only one.
            os.close(self._fd)
            self._path = ""


_WRITTEN = tuple(each.name for each in fields(Entry) if not each.name.startswith("_"))


class HostLedger:
    """Face of the folder. Nothing in it outlives the processes that wrote it.

    Parameters
    ----------
    folder
        On a file system of this host; made by its first use.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running, self._waiting = str(folder / "running"), str(folder / "waiting")
        self._lock_file = str(folder / "lock")
        #: Of this process, by path. They live as long as it does: no lock has to be asked for.
        self._own: dict[str, Entry] = {}
        # A file's lock can only be asked for again and again; threads wait for each other first.
        self._turn = threading.Lock()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other processes and threads from the ledger.

        Raises
        ------
        StorageUnavailable
            The folder cannot be used, or somebody held the lock for 30 s (transient).
        """
        deadline = time.monotonic() + _LOCK_S
        if not self._turn.acquire(timeout=_LOCK_S):
            raise self._not_free()
        try:
            with self._errors():
                fd = _opened(self._lock_file, os.O_RDWR | os.O_CREAT)
            try:
                while not _lock(fd):
                    if time.monotonic() > deadline:
                        raise self._not_free()
                    time.sleep(_PAUSE_S)
                with self._errors():
                    yield
            finally:
                os.close(fd)
        finally:
            self._turn.release()

    def _not_free(self) -> StorageUnavailable:
        return StorageUnavailable(str(self._folder), f"its lock was not free for {_LOCK_S:g} s")

    def running(self) -> list[Entry]:
        """Return who holds something. To be called while it is locked, as all that follows."""
        return self._living(self._running)

    def waiting(self) -> list[Entry]:
        """Return who waits, the longest first."""
        return self._living(self._waiting)

    def hold(self, entry: Entry, beside: Sequence[Entry]) -> Entry:
        """Write what a run holds from now on, beside all that is :meth:`running`."""
        return self._write(entry, self._running, beside)

    def queue(self, entry: Entry, behind: Sequence[Entry]) -> Entry:
        """Write what a run waits for, behind all that is :meth:`waiting`."""
        return self._write(entry, self._waiting, behind)

    def remembered_mib(self) -> int | None:
        """Return the free memory as it was when no run went on, or None where nobody looked."""
        try:
            with (self._folder / "free_mib").open("rb", buffering=0) as stream:
                return int(stream.read(_NUMBER_BYTES))
        except (OSError, ValueError):
            return None

    def remember_mib(self, free_mib: int) -> None:
        """Write down the free memory."""
        partial = self._folder / ".free_mib"
        partial.write_text(str(free_mib), encoding="ascii")
        partial.replace(self._folder / "free_mib")

    def _write(self, entry: Entry, folder: str, others: Sequence[Entry]) -> Entry:
        last = max((int(other.name) for other in others), default=0)
        # A name is never given twice, also after the last file is gone: a number that only grows.
        entry.name = f"{max(last + 1, time.time_ns()):020d}"
        path = f"{folder}/{entry.name}"
        fd = _opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        fcntl.flock(fd, fcntl.LOCK_EX)
        document = {name: getattr(entry, name) for name in _WRITTEN}
        os.write(fd, json.dumps({**document, "pid": os.getpid()}).encode())
        entry._path, entry._fd = path, fd  # noqa: SLF001
        self._own = {path: own for path, own in self._own.items() if own.open} | {path: entry}
        return entry

    def _living(self, folder: str) -> list[Entry]:
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            return []
        found = (self._entry(f"{folder}/{name}") for name in names)
        return [entry for entry in found if entry is not None]

    def _entry(self, path: str) -> Entry | None:
        """Return an entry, or None where nobody holds it any more; its file is gone then."""
        own = self._own.get(path)
        if own is not None and own.open:
            return own
        with suppress(FileNotFoundError):  # closed in this moment: closing needs no lock
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _lock(fd, shared=True):
                    os.unlink(path)
                    return None
                document = json.loads(os.read(fd, 1 << 16))
            finally:
                os.close(fd)
            document.pop("pid")
            return Entry(**document)
        return None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = str(error.filename or self._folder)
            raise StorageUnavailable(place, f"host's ledger: {error.strerror or error}") from error


def _opened(path: str, flags: int) -> int:
    """Open or make a file; its folder is made where it is missing."""
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _lock(fd: int, *, shared: bool = False) -> bool:
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
