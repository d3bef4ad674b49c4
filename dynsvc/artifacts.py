"""The artifact store: files that steps hand to each other, complete or not there at all.

A store is an fsspec URI. A folder of this host is the default; several hosts need one that all of them see.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from pydantic import BaseModel, ConfigDict, Field

from dynsvc.errors import (
    ArtifactCorrupt,
    ArtifactMissing,
    DynsvcError,
    SettingsInvalid,
    StorageUnavailable,
)

__all__ = ["Artifact", "ArtifactStore", "Swept"]

_CHUNK_BYTES = 1 << 20
_KEY = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,200}(?:/(?!\.)[A-Za-z0-9._-]{1,200})*")
_PARTIAL = ".partial-"


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

    def put(self, path: Path, key: str, *, give: bool = False) -> Artifact:
        """Store a copy of the file *path* under *key*; what was there under it is replaced.

        With *give* the file is the store's from now on and may be gone afterwards: in a folder on the same
        file system it only gets another name.

        A file that is already there with the same bytes is left alone. In a folder the file appears complete
        or not at all; other stores are as good as their driver's upload, and :meth:`get` notices the rest.

        Raises
        ------
        StorageUnavailable
            The file cannot be read, or the store takes no more (transient).
        """
        target = self._path(key)
        with self._errors(key):
            filesystem = self._filesystem()
            known = self._known(filesystem, path, target)
            if known is None and self._is_folder:
                sha256, size_bytes = (_moved(path, Path(target)) if give else None) or _publish(
                    path, Path(target)
                )
            elif known is None:
                sha256, size_bytes = _measured(path)
                filesystem.put_file(str(path), target)
            else:
                sha256, size_bytes = known
        return Artifact(key=key, sha256=sha256, size_bytes=size_bytes)

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
                stream = self._filesystem().open(source, "rb")
            except FileNotFoundError as error:
                raise ArtifactMissing(artifact.key, self.place) from error
            with stream:
                _receive(stream, dest, artifact)
        return dest

    def in_place(self, artifact: Artifact) -> Path | None:
        """Return the stored file itself, for reading only; None where the store is no folder.

        Raises as :meth:`get`.
        """
        if not self._is_folder:
            return None
        path = Path(self._path(artifact.key))
        with self._errors(artifact.key):
            try:
                found = _measured(path)
            except FileNotFoundError as error:
                raise ArtifactMissing(artifact.key, self.place) from error
        _check(artifact, *found)
        return path

    def find(self, key: str) -> Artifact | None:
        """Return what is stored under *key*, measured now, or None. In a folder it counts as used.

        Raises
        ------
        StorageUnavailable
            The store does not answer (transient).
        """
        path = self._path(key)
        with self._errors(key):
            filesystem = self._filesystem()
            try:
                with filesystem.open(path, "rb") as stream:
                    sha256, size_bytes = _copied(stream, None)
                if self._is_folder:
                    os.utime(path)
            except (FileNotFoundError, IsADirectoryError):
                return None
        return Artifact(key=key, sha256=sha256, size_bytes=size_bytes)

    def exists(self, key: str) -> bool:
        """Return whether a file is stored under *key*.

        Raises
        ------
        StorageUnavailable
            The store does not answer (transient).
        """
        path = self._path(key)
        with self._errors(key):
            return bool(self._filesystem().isfile(path))

    def delete(self, prefix: str) -> None:
        """Remove the file with the key *prefix* and all files whose keys begin with ``prefix/``.

        Raises
        ------
        StorageUnavailable
            The store does not answer (transient).
        """
        path = self._path(prefix.rstrip("/"))
        with self._errors(prefix), suppress(FileNotFoundError):
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

    def _known(self, filesystem: Any, path: Path, target: str) -> tuple[str, int] | None:
        """Return digest and size of *path* if the same bytes are stored already, else None."""
        try:
            if filesystem.size(target) != path.stat().st_size:
                return None
            with filesystem.open(target, "rb") as stream:
                found = _copied(stream, None)
            if found != _measured(path):
                return None
            if self._is_folder:
                os.utime(target)  # sweep() goes by age, and somebody needs it now
        except (FileNotFoundError, IsADirectoryError):
            return None
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


def _measured(path: Path) -> tuple[str, int]:
    with path.open("rb") as stream:
        return _copied(stream, None)


def _copied(source: BinaryIO, target: BinaryIO | None) -> tuple[str, int]:
    """Read *source* to its end, write it to *target* if given; return SHA-256 and size in bytes."""
    digest, size_bytes = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        size_bytes += len(chunk)
        if target is not None:
            target.write(chunk)
    return digest.hexdigest(), size_bytes


@contextmanager
def _complete(path: Path, *, lasting: bool) -> Iterator[BinaryIO]:
    """Open a new file that gets the name *path* when the block ends well, and is removed otherwise.

    With *lasting*, its bytes survive a power cut from then on. Working copies need not.
    """
    partial = path.with_name(f"{_PARTIAL}{secrets.token_hex(8)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        try:
            stream = partial.open("xb")
        except FileNotFoundError:  # a sweep removed the empty folder in between
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = partial.open("xb")
        with stream:
            yield stream
            if lasting:
                stream.flush()
                os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _publish(path: Path, target: Path) -> tuple[str, int]:
    with path.open("rb") as source, _complete(target, lasting=True) as stream:
        measured = _copied(source, stream)
    _sync_folder(target.parent)
    return measured


def _moved(path: Path, target: Path) -> tuple[str, int] | None:
    """Give the file *path* the name *target*, or return None where that is on another file system."""
    with path.open("rb") as stream:
        measured = _copied(stream, None)
        os.fsync(stream.fileno())
    for _ in range(2):  # a sweep may remove the empty folder in between
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.replace(target)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno == errno.EXDEV:
                return None
            raise
        _sync_folder(target.parent)
        return measured
    return None


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)  # the names, too, survive a power cut
    finally:
        os.close(fd)


def _receive(stream: BinaryIO, dest: Path, artifact: Artifact) -> None:
    with _complete(dest, lasting=False) as target:
        _check(artifact, *_copied(stream, target))


def _check(artifact: Artifact, sha256: str, size_bytes: int) -> None:
    if size_bytes != artifact.size_bytes:
        found, expected = f"{size_bytes} bytes", f"{artifact.size_bytes} bytes"
        raise ArtifactCorrupt(artifact.key, found, expected)
    if sha256 != artifact.sha256:
        raise ArtifactCorrupt(artifact.key, f"SHA-256 {sha256}", f"SHA-256 {artifact.sha256}")


def _prune(folder: Path, limit: float) -> None:
    """Remove folders that are empty and were last changed before *limit* (seconds since the epoch)."""
    for found, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # not empty, or removed by another host
            if found != str(folder) and Path(found).stat().st_mtime < limit:
                Path(found).rmdir()
