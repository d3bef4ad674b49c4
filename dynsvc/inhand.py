"""Files of an order that a worker keeps in hand while it goes on with the order itself."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from dynsvc.artifacts import Artifact, ArtifactStore
from dynsvc.errors import DynsvcError, StorageUnavailable
from dynsvc.files import fresh_folder, measured
from dynsvc.identifiers import safe_name
from dynsvc.measured import Measured
from dynsvc.outputs import discard

__all__ = ["InHand", "remove_folder", "working_folder"]

log = structlog.get_logger(__name__)


def working_folder(scratch: Path, order_id: str) -> Path:
    """Make a folder for work on an order. What is left of it is swept by its age.

    Raises
    ------
    StorageUnavailable
        It cannot be made (transient).
    """
    parent = scratch / "work"
    try:
        return fresh_folder(parent, f"{safe_name(order_id)}-")
    except OSError as error:
        raise StorageUnavailable(str(parent), error.strerror or str(error)) from error


def remove_folder(folder: Path) -> None:
    """Remove a working folder with all that is in it: files of the algorithm's user, links that it made."""
    try:
        discard(folder)
    except DynsvcError as error:
        # The work is done, and must not be done again for that.
        log.warning("working folder not removed", folder=str(folder), error=str(error))


class InHand:
    """Files that steps in one worker hand to each other, in a folder of this host.

    Nearly all files of an order are read once, at once, by the process that made them. The artifact store
    gets those that another worker goes on with. What is in hand is lost with the worker; but so is its
    attempt at the order, and the next one begins anew.

    Parameters
    ----------
    scratch
        Below it the folder is made, once it is needed.
    order_id
        Part of its name.
    """

    def __init__(self, scratch: Path, order_id: str) -> None:
        self._scratch, self._order_id = scratch, order_id
        self._folder: Path | None = None
        self._paths: dict[str, Path] = {}

    def folder(self) -> Path:
        """Return the folder; it lasts until :meth:`close`.

        Raises
        ------
        StorageUnavailable
            It cannot be made (transient).
        """
        if self._folder is None:
            self._folder = working_folder(self._scratch, self._order_id)
        return self._folder

    def keep(self, path: Path, key: str, known: Measured | None = None) -> Artifact:
        """Take a file in hand, as the artifact *key*.

        Parameters
        ----------
        path
            In :meth:`folder`, or in another working folder: then it is moved.
        known
            What was measured while it was written; else it is read once more.

        Raises
        ------
        OSError
            The disk is full or away.
        """
        folder, kept = self.folder(), path
        if path.parent != folder:
            kept = folder / path.name
            os.replace(path, kept)  # noqa: PTH105 - as often as there are orders
        sha256, size_bytes = known or measured(kept)
        self._paths[key] = kept
        return Artifact(key=key, sha256=sha256, size_bytes=size_bytes)

    def path_of(self, artifact: Artifact) -> Path | None:
        """Return the file of an artifact that is in hand, for reading only; else None."""
        return self._paths.get(artifact.key)

    def put_away(self, artifact: Artifact, store: ArtifactStore) -> None:
        """Have the store hold *artifact*, if it is in hand: it is no longer then.

        Raises
        ------
        StorageUnavailable
            The store takes no more (transient).
        """
        path = self._paths.get(artifact.key)
        if path is not None:
            known = Measured(artifact.sha256, artifact.size_bytes)
            store.put(path, artifact.key, give=True, measured_as=known)
            del self._paths[artifact.key]

    def close(self) -> None:
        """Remove what is in hand."""
        if self._folder is not None:
            remove_folder(self._folder)
            self._folder = None
            self._paths.clear()
