"""Whose the files of a run are: the algorithm must be able to write them and the worker to delete them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from dynsvc.errors import StorageUnavailable
from dynsvc.runtime import Run

__all__ = ["give_folders"]

#: A user that no host has files of. Algorithms are never root.
_UID = _GID = 65532


def give_folders(run: Run) -> str:
    """Prepare the folders of *run*, and return the ``uid:gid`` that its container runs as.

    A worker that is not root runs algorithms as itself. Root, which may delete anybody's files, gives the
    output folder away and lets everybody read the input.

    Raises
    ------
    StorageUnavailable
        The file system does not let root do so: a network share, for example (transient).
    """
    if os.geteuid():
        return f"{os.geteuid()}:{os.getegid()}"
    try:
        os.chown(run.output_dir, _UID, _GID)
        for folder, _, files in os.walk(run.input_dir):
            for path in (Path(folder), *(Path(folder, file) for file in files)):
                mode = path.lstat().st_mode
                if stat.S_ISDIR(mode):
                    path.chmod(stat.S_IMODE(mode) | 0o055)
                elif stat.S_ISREG(mode):
                    path.chmod(stat.S_IMODE(mode) | 0o044)
    except OSError as error:
        raise StorageUnavailable(str(run.output_dir), f"it cannot be given away: {error.strerror}") from error
    return f"{_UID}:{_GID}"
