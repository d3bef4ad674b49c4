"""Zip archives: an algorithm's own is unpacked without trust, ours is built the same way every time."""

from __future__ import annotations

import errno
import io
import itertools
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from dynsvc.errors import OutputMissing, OutputRefused, StorageUnavailable
from dynsvc.files import created, measured
from dynsvc.measured import Measured
from dynsvc.outputs import (
    MemoryFile,
    OutputFile,
    OutputLimits,
    ResultFile,
    collect,
    discard,
    name_problem,
)

__all__ = ["OutputFile", "OutputLimits", "ResultFile", "build", "collect", "unpack"]

_CHUNK_BYTES = 1 << 20
#: A zip that is no larger, packed and unpacked, is handled in memory: by each of a worker's slots.
_MEMORY_BYTES = 8 << 20
#: The table of contents is read in one piece; this much of it is granted for each file that is allowed.
_TABLE_BYTES_PER_FILE = 512
_EPOCH = (1980, 1, 1, 0, 0, 0)
#: Compressing these again costs time and gains nothing.
_COMPRESSED = (".jpg", ".jpeg", ".png", ".zip", ".gz", ".webp", ".jp2", ".bz2", ".xz", ".zst")
_UNIX = 3
_BROKEN = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    UnicodeError,
    ValueError,
)


def unpack(
    zip_path: Path | OutputFile, folder: Path, algorithm: str, limits: OutputLimits
) -> tuple[ResultFile, ...]:
    """Unpack an algorithm's zip: a small one into memory, any other into *folder*.

    Parameters
    ----------
    zip_path
        The zip, as a path or as :func:`dynsvc.outputs.collect` found it.
    folder
        Missing or empty. It appears complete or not at all, and the caller deletes it.
    algorithm
        Its name, for the errors.
    limits
        Apply to the files in the zip, by what it declares and by what really comes out.

    Returns
    -------
    tuple of ResultFile
        The files, sorted by name; none for a zip without entries.

    Raises
    ------
    OutputMissing
        There is no such file, or it is empty (permanent).
    OutputRefused
        It is damaged, encrypted or over a limit, or an entry is no plain file below the folder (permanent).
    StorageUnavailable
        The files cannot be written (transient).
    """
    source = zip_path
    if not isinstance(source, OutputFile):
        size_bytes = source.stat().st_size if source.is_file() else 0
        source = OutputFile(
            algorithm=algorithm, folder=source.parent, name=source.name, size_bytes=size_bytes
        )
    if source.size_bytes == 0:
        raise OutputMissing(algorithm, f"a zip {source.name}", "none or an empty one")
    try:
        with source.open() as stream:
            files = _unpack(stream, source, folder, limits)
    except _BROKEN as error:
        raise OutputRefused(
            algorithm, source.name, f"it is no complete zip ({type(error).__name__}: {error})"
        ) from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # zipfile went to an offset in front of the file
            raise OutputRefused(algorithm, source.name, "it is no complete zip (wrong offsets)") from error
        raise StorageUnavailable(str(folder), f"the zip cannot be unpacked ({error.strerror})") from error
    return tuple(sorted(files, key=lambda file: file.name))


def build(zip_path: Path, files: Mapping[str, Path | ResultFile | bytes]) -> Measured:
    """Write *files* to a zip whose bytes depend on nothing but names and contents.

    Sorted names, one fixed time and mode, fastest compression; pictures and archives are stored as they are.

    Parameters
    ----------
    zip_path
        The file to create, in a folder of the caller's own; after an error there is none.
    files
        Content by name in the zip.

    Returns
    -------
    Measured
        What the zip is.

    Raises
    ------
    OutputRefused
        A file of an algorithm is no regular file any more (permanent).
    StorageUnavailable
        The zip cannot be written (transient).
    ValueError
        A name that no zip should carry: an error in the calling program.
    """
    for name in files:
        if problem := name_problem(name):
            raise ValueError(f"{name!r} cannot be in a zip: {problem}")
    try:
        if sum(map(_size_bytes, files.values())) <= _MEMORY_BYTES:
            memory = io.BytesIO()
            _write(memory, files)
            return created(zip_path, memory.getvalue())
        stream = zip_path.open("xb")
        try:
            with stream:
                _write(stream, files)
        except BaseException:
            zip_path.unlink()
            raise
        return measured(zip_path)
    except OSError as error:
        raise StorageUnavailable(str(zip_path), f"the zip cannot be written ({error.strerror})") from error


def _size_bytes(content: Path | ResultFile | bytes) -> int:
    if isinstance(content, bytes):
        return len(content)
    return content.stat().st_size if isinstance(content, Path) else content.size_bytes


def _write(stream: BinaryIO, files: Mapping[str, Path | ResultFile | bytes]) -> None:
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(files):
            _add(archive, name, files[name])


class _Bounded:
    """A file that refuses to be read in large pieces: zipfile reads the table of contents in one."""

    def __init__(self, stream: BinaryIO, limit_bytes: int) -> None:
        self._stream, self._limit_bytes = stream, limit_bytes
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1) -> bytes:
        if not -1 <= size <= self._limit_bytes:
            raise ValueError("its table of contents is too long")
        return self._stream.read(self._limit_bytes if size == -1 else size)


def _unpack(stream: BinaryIO, source: OutputFile, folder: Path, limits: OutputLimits) -> Sequence[ResultFile]:
    small = source.size_bytes <= _MEMORY_BYTES
    if small:
        packed = stream.read(source.size_bytes + 1)
        small = len(packed) <= source.size_bytes
    if small:
        stream = io.BytesIO(packed)
    else:
        table_bytes = max(limits.max_files * _TABLE_BYTES_PER_FILE, _CHUNK_BYTES)
        stream = cast(BinaryIO, _Bounded(stream, table_bytes))
    with zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
        if len(entries) > limits.max_files:
            raise OutputRefused(
                source.algorithm, source.name, f"it holds more than {limits.max_files} entries"
            )
        size_bytes = sum(entry.file_size for entry in entries)
        if size_bytes > limits.max_bytes:
            raise OutputRefused(
                source.algorithm, source.name, f"it unpacks to more than {limits.max_bytes} bytes"
            )
        named = {_checked(entry, source): entry for entry in entries}
        _check_places(entries, source)
        if small and size_bytes <= _MEMORY_BYTES:
            return [
                MemoryFile(algorithm=source.algorithm, name=name, content=_content(archive, entry))
                for name, entry in named.items()
                if not entry.is_dir()
            ]
        return _to_disk(archive, named, source, folder)


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as packed:
        # One byte more than declared: zipfile gives none, and checks the sum when it comes to the end.
        content = packed.read(entry.file_size + 1)
    _check_size(entry, len(content))
    return content


def _to_disk(
    archive: zipfile.ZipFile, named: Mapping[str, zipfile.ZipInfo], source: OutputFile, folder: Path
) -> Sequence[ResultFile]:
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, entry in named.items():
            target = partial / name
            if entry.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as packed, target.open("xb") as unpacked:
                # zipfile never returns more than the declared size, and checks the sum at the end.
                shutil.copyfileobj(packed, unpacked, _CHUNK_BYTES)
            _check_size(entry, target.stat().st_size)
        partial.rename(folder)
    finally:
        discard(partial)
    return [
        OutputFile(algorithm=source.algorithm, folder=folder, name=name, size_bytes=entry.file_size)
        for name, entry in named.items()
        if not entry.is_dir()
    ]


def _check_size(entry: zipfile.ZipInfo, size_bytes: int) -> None:
    if size_bytes != entry.file_size:
        raise EOFError(f"{entry.filename} has {size_bytes} bytes, declared were {entry.file_size}")


def _check_places(entries: Sequence[zipfile.ZipInfo], source: OutputFile) -> None:
    """Refuse a name that stands for two things."""
    # Sorted with a slash behind each, what lies in a folder follows the folder.
    places = sorted((entry.orig_filename.removesuffix("/") + "/", entry.is_dir()) for entry in entries)
    for (place, is_folder), (following, _) in itertools.pairwise(places):
        if following == place:
            reason = "the zip holds the name twice"
        elif following.startswith(place) and not is_folder:
            reason = "the zip holds the name as a file and as a folder"
        else:
            continue
        raise OutputRefused(source.algorithm, f"{source.name}/{place[:-1]}", reason)


def _checked(entry: zipfile.ZipInfo, source: OutputFile) -> str:
    """Return the entry's name without the slash at a folder's end."""
    name = entry.orig_filename.removesuffix("/")
    mode = entry.external_attr >> 16
    expected = stat.S_IFREG if name == entry.orig_filename else stat.S_IFDIR
    reason = name_problem(name)
    if stat.S_IFMT(mode) not in {0, expected}:
        reason = "it is packed as a link or another special file"
    elif entry.flag_bits & 0x1:
        reason = "it is encrypted"
    elif entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        reason = f"it is packed by method {entry.compress_type}, expected stored or deflated"
    if reason:
        raise OutputRefused(source.algorithm, f"{source.name}/{name}", reason)
    return name


def _add(archive: zipfile.ZipFile, name: str, content: Path | ResultFile | bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = _UNIX
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    entry.compress_type = zipfile.ZIP_STORED if name.lower().endswith(_COMPRESSED) else zipfile.ZIP_DEFLATED
    entry._compresslevel = 1  # type: ignore[attr-defined]  # noqa: SLF001  (public from Python 3.13)
    if isinstance(content, MemoryFile):
        content = content.content
    if isinstance(content, bytes):
        entry.file_size = len(content)
        with archive.open(entry, "w") as packed:
            packed.write(content)
        return
    with content.open() if isinstance(content, OutputFile) else content.open("rb") as stream:
        entry.file_size = os.fstat(stream.fileno()).st_size
        with archive.open(entry, "w") as packed:
            shutil.copyfileobj(stream, packed, _CHUNK_BYTES)
