"""The artifact store: files that steps hand to each other, complete or not there at all.

A store is an fsspec URI. A folder of this host is the default; several hosts need one that all of them see.
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from pydantic import BaseModel, ConfigDict, Field

from dynsvc.errors import (
    ArtifactCorrupt,
    ArtifactMissing,
    DynsvcError,
    SettingsInvalid,
    StorageUnavailable,
)
from dynsvc.files import complete, copied, measured, moved, published
from dynsvc.measured import Measured
from dynsvc.outputs import discard

__all__ = ["Artifact", "ArtifactStore", "Swept"]

_KEY = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,200}(?:/(?!\.)[A-Za-z0-9._-]{1,200})*")


class Artifact(BaseModel):
    """A stored file: what a task's message carries instead of the bytes."""

    model_config = ConfigDict(frozen=True)

    key: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep removed, and what is left."""

    removed: int
    files: int
    size_bytes: int


class ArtifactStore:
    """Files by key. A key is a relative name with slashes, made of letters, digits, dot, dash, underscore.

    Objects of this class hold no connection: they may be used by several threads and after a fork.

    Parameters
    ----------
    uri
        An fsspec URI or a path.

    Raises
    ------
    SettingsInvalid
        The URI's scheme is unknown or its driver is not installed.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        #: For people and errors: without login, password or query.
        self.place = re.sub(r"//[^/@]*@", "//", uri).partition("?")[0]
        try:
            filesystem, root = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            expected = "a folder or a URI that an installed fsspec driver opens"
            raise SettingsInvalid("DYNSVC_ARTIFACTS", self.place, f"{expected} ({error})") from error
        self._root = str(root).rstrip("/")
        self._is_folder = "file" in _protocols(filesystem)

    def put(
        self,
        path: Path,
        key: str,
        *,
        give: bool = False,
        measured_as: Measured | None = None,
    ) -> Artifact:
        """Store a copy of the file *path* under *key*; what was there under it is replaced.

        A file that is already there with the same bytes is left alone. In a folder the file appears complete
        or not at all, and survives a power cut from then on; other stores are as good as their driver's
        upload, and :meth:`get` notices the rest.

        Parameters
        ----------
        give
            The file is the store's from now on and may be gone afterwards: in a folder on the same file
            system it only gets another name.
        measured_as
            What the caller measured while it wrote the file; else it is read once more.

        Raises
        ------
        StorageUnavailable
            The file cannot be read, or the store takes no more (transient).
        """
        target = self._path(key)
        with self._errors(key):
            if self._is_folder:
                found = moved(path, target, measured_as) if give else _in_use(path, Path(target))
                found = found or published(path, target)
            else:
                found = self._uploaded(path, target, measured_as or measured(path))
        return Artifact(key=key, sha256=found.sha256, size_bytes=found.size_bytes)

    def get(self, artifact: Artifact, dest: Path) -> Path:
        """Write a copy of *artifact* to the file *dest*, which appears complete and right or not at all.

        Raises
        ------
        ArtifactMissing
            The store has no such file (permanent: another host's store, or swept).
        ArtifactCorrupt
            The store's bytes are not the ones that were put (permanent).
        StorageUnavailable
            The store does not answer, or *dest* cannot be written (transient).
        """
        source = self._path(artifact.key)
        with self._errors(artifact.key):
            try:
                stream = self._opened(source)
            except FileNotFoundError as error:
                raise ArtifactMissing(artifact.key, self.place) from error
            with stream, complete(dest, lasting=False) as fd:
                _check(artifact, copied(stream, fd))
        return dest

    def in_place(self, artifact: Artifact) -> Path | None:
        """Return the stored file itself, for reading only; None where the store is no folder.

        Raises as :meth:`get`.
        """
        if not self._is_folder:
            return None
        path = self._path(artifact.key)
        with self._errors(artifact.key):
            try:
                found = measured(path)
            except FileNotFoundError as error:
                raise ArtifactMissing(artifact.key, self.place) from error
        _check(artifact, found)
        return Path(path)

    def find(self, key: str) -> Artifact | None:
        """Return what is stored under *key*, measured now, or None. In a folder it counts as used.

        Raises
        ------
        StorageUnavailable
            The store does not answer (transient).
        """
        path = self._path(key)
        with self._errors(key):
            try:
                with self._opened(path) as stream:
                    found = copied(stream)
                if self._is_folder:
                    os.utime(path)
            except (FileNotFoundError, IsADirectoryError):
                return None
        return Artifact(key=key, sha256=found.sha256, size_bytes=found.size_bytes)

    def exists(self, key: str) -> bool:
        """Return whether a file is stored under *key*.

        Raises
        ------
        StorageUnavailable
            The store does not answer (transient).
        """
        path = self._path(key)
        with self._errors(key):
            return Path(path).is_file() if self._is_folder else bool(self._filesystem().isfile(path))

    def delete(self, prefix: str) -> None:
        """Remove the file with the key *prefix* and all files whose keys begin with ``prefix/``.

        Raises
        ------
        StorageUnavailable
            The store does not answer (transient).
        """
        path = self._path(prefix.rstrip("/"))
        with self._errors(prefix), suppress(FileNotFoundError):
            if self._is_folder:
                discard(path)
            else:
                self._filesystem().rm(path, recursive=True)

    def sweep(self, older_than_s: float) -> Swept:
        """Remove all files stored longer ago than that, left-overs of broken writes included.

        Raises
        ------
        StorageUnavailable
            The store does not answer (transient).
        """
        limit = time.time() - older_than_s
        removed = files = size_bytes = 0
        with self._errors("sweep"):
            filesystem = self._filesystem()
            for path, told in filesystem.find(self._root, detail=True).items():
                with suppress(FileNotFoundError):  # another host sweeps as well
                    if _changed_s(filesystem, path, told) < limit:
                        filesystem.rm_file(path)
                        removed += 1
                    else:
                        files += 1
                        size_bytes += told.get("size") or 0
            if self._is_folder:
                _prune(Path(self._root), limit)
        return Swept(removed=removed, files=files, size_bytes=size_bytes)

    def _filesystem(self) -> Any:
        # fsspec keeps one instance per process and drops it after a fork, when its connections are not ours.
        return fsspec.core.url_to_fs(self._uri, use_listings_cache=False)[0]

    def _path(self, key: str) -> str:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no artifact key")
        return f"{self._root}/{key}"

    def _opened(self, path: str) -> BinaryIO:
        if self._is_folder:
            return cast(BinaryIO, io.FileIO(path))
        return cast(BinaryIO, self._filesystem().open(path, "rb"))

    def _uploaded(self, path: Path, target: str, found: Measured) -> Measured:
        """Have the driver store *path* where *target* is not the same file already."""
        filesystem = self._filesystem()
        with suppress(FileNotFoundError, IsADirectoryError):
            if filesystem.size(target) == found.size_bytes:
                with filesystem.open(target, "rb") as stream:
                    if copied(stream) == found:
                        return found
        filesystem.put_file(str(path), target)
        return found

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Turn a driver's exceptions into ours."""
        try:
            yield
        except DynsvcError:
            raise
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StorageUnavailable(self.place, f"artifact {key}: {reason}") from error
        except Exception as error:
            if self._is_folder:
                raise  # not the driver's: an error in the program
            # Drivers have trees of their own. Their text may hold signed URLs, so only the class is told.
            raise StorageUnavailable(self.place, f"artifact {key}: {type(error).__name__}") from error


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _changed_s(filesystem: Any, path: str, told: Mapping[str, Any]) -> float:
    """Return when a file was last changed, seconds since the epoch; from the listing where that tells it."""
    at = told.get("mtime") or told.get("LastModified") or filesystem.modified(path)
    return float(at.timestamp() if hasattr(at, "timestamp") else at)


def _in_use(path: Path, target: Path) -> Measured | None:
    """Return what *path* is if the file *target* is the same, which counts as used then; else None."""
    with suppress(FileNotFoundError, IsADirectoryError):
        if target.stat().st_size == path.stat().st_size:
            found = measured(target)
            if found == measured(path):
                os.utime(target)  # sweep() goes by age, and somebody needs it now
                return found
    return None


def _check(artifact: Artifact, found: Measured) -> None:
    if found.size_bytes != artifact.size_bytes:
        raise ArtifactCorrupt(artifact.key, f"{found.size_bytes} bytes", f"{artifact.size_bytes} bytes")
    if found.sha256 != artifact.sha256:
        raise ArtifactCorrupt(artifact.key, f"SHA-256 {found.sha256}", f"SHA-256 {artifact.sha256}")


def _prune(folder: Path, limit: float) -> None:
    """Remove folders that are empty and were last changed before *limit* (seconds since the epoch)."""
    for found, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # not empty, or removed by another host
            if found != str(folder) and Path(found).stat().st_mtime < limit:
                Path(found).rmdir()
