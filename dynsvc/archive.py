"""Zip archives: an algorithm's own is unpacked without trust, ours is built the same way every time."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from dynsvc.errors import OutputMissing, OutputRefused, StorageUnavailable
from dynsvc.outputs import OutputFile, OutputLimits, collect, discard, name_problem

__all__ = ["OutputFile", "OutputLimits", "build", "collect", "unpack"]

_CHUNK_BYTES = 1 << 20
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
) -> tuple[OutputFile, ...]:
    """Unpack an algorithm's zip into *folder*, which appears complete or not at all.

    Parameters
    ----------
    zip_path
        The zip, as a path or as :func:`dynsvc.outputs.collect` found it.
    folder
        Missing or empty; afterwards it holds the files. The caller deletes it.
    algorithm
        Its name, for the errors.
    limits
        Apply to the files in the zip, by what it declares and by what really comes out.

    Returns
    -------
    tuple of OutputFile
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
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with source.open() as stream:
            files = _unpack(stream, source, partial, limits)
        partial.rename(folder)
    except _BROKEN as error:
        raise OutputRefused(
            algorithm, source.name, f"it is no complete zip ({type(error).__name__}: {error})"
        ) from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # zipfile went to an offset in front of the file
            raise OutputRefused(algorithm, source.name, "it is no complete zip (wrong offsets)") from error
        raise StorageUnavailable(str(folder), f"the zip cannot be unpacked ({error.strerror})") from error
    finally:
        discard(partial)
    return tuple(
        OutputFile(algorithm=algorithm, folder=folder, name=name, size_bytes=size_bytes)
        for name, size_bytes in sorted(files.items())
    )


def build(zip_path: Path, files: Mapping[str, Path | OutputFile | bytes]) -> str:
    """Write *files* to a zip whose bytes depend on nothing but names and contents.

    Sorted names, one fixed time and mode, fastest compression; pictures and archives are stored as they are.

    Parameters
    ----------
    zip_path
        The file to create or replace; it appears complete or not at all. The caller deletes it.
    files
        Content by name in the zip.

    Returns
    -------
    str
        SHA-256 of the zip, in hexadecimal.

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
    fd, partial_name = tempfile.mkstemp(prefix=f".{zip_path.name}-", dir=zip_path.parent)
    partial = Path(partial_name)
    try:
        with os.fdopen(fd, "w+b") as stream:
            with zipfile.ZipFile(stream, "w") as archive:
                for name in sorted(files):
                    _add(archive, name, files[name])
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        partial.chmod(0o644)
        partial.replace(zip_path)
    except OSError as error:
        raise StorageUnavailable(str(zip_path), f"the zip cannot be written ({error.strerror})") from error
    finally:
        partial.unlink(missing_ok=True)
    return digest


class _Bounded(io.BufferedReader):
    """A file that refuses to be read in large pieces: zipfile reads the table of contents in one."""

    def __init__(self, stream: BinaryIO, limit_bytes: int) -> None:
        super().__init__(io.FileIO(os.dup(stream.fileno())))
        self._limit_bytes = limit_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not -1 <= size <= self._limit_bytes:
            raise ValueError("its table of contents is too long")
        return super().read(self._limit_bytes if size == -1 else size)


def _unpack(stream: BinaryIO, source: OutputFile, folder: Path, limits: OutputLimits) -> dict[str, int]:
    table_bytes = max(limits.max_files * _TABLE_BYTES_PER_FILE, _CHUNK_BYTES)
    with _Bounded(stream, table_bytes) as bounded, zipfile.ZipFile(bounded) as archive:
        entries = archive.infolist()
        if len(entries) > limits.max_files:
            raise OutputRefused(
                source.algorithm, source.name, f"it holds more than {limits.max_files} entries"
            )
        if sum(entry.file_size for entry in entries) > limits.max_bytes:
            raise OutputRefused(
                source.algorithm, source.name, f"it unpacks to more than {limits.max_bytes} bytes"
            )
        names = [_checked(entry, source) for entry in entries]
        if len(set(names)) < len(names):
            double = next(name for name in names if names.count(name) > 1)
            raise OutputRefused(source.algorithm, f"{source.name}/{double}", "the zip holds the name twice")
        files: dict[str, int] = {}
        for entry, name in zip(entries, names, strict=True):
            target = folder / name
            try:
                if entry.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as packed, target.open("xb") as unpacked:
                    # zipfile never returns more than the declared size, and checks the sum at the end.
                    shutil.copyfileobj(packed, unpacked, _CHUNK_BYTES)
            except (FileExistsError, NotADirectoryError) as error:
                reason = "the zip holds the name as a file and as a folder"
                raise OutputRefused(source.algorithm, f"{source.name}/{name}", reason) from error
            files[name] = target.stat().st_size
            if files[name] != entry.file_size:
                raise EOFError(f"{name} has {files[name]} bytes, declared were {entry.file_size}")
    return files


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


def _add(archive: zipfile.ZipFile, name: str, content: Path | OutputFile | bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = _UNIX
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    entry.compress_type = zipfile.ZIP_STORED if name.lower().endswith(_COMPRESSED) else zipfile.ZIP_DEFLATED
    entry._compresslevel = 1  # type: ignore[attr-defined]  # noqa: SLF001  (public from Python 3.13)
    if isinstance(content, bytes):
        stream: BinaryIO = io.BytesIO(content)
        entry.file_size = len(content)
    else:
        stream = content.open() if isinstance(content, OutputFile) else content.open("rb")
        entry.file_size = os.fstat(stream.fileno()).st_size
    with stream, archive.open(entry, "w") as packed:
        shutil.copyfileobj(stream, packed, _CHUNK_BYTES)
