"""Delivery to a folder."""

from __future__ import annotations

import hashlib
import re
import shutil
import uuid
from pathlib import Path

from dynsvc.errors import StorageUnavailable
from dynsvc.sinks import Delivery, Receipt

__all__ = ["DirectorySink"]

_NAME_CHARACTERS = 100


class DirectorySink:
    """Keeps zips as ``FOLDER/ORDER_ID/EXECUTION_ID.zip``. A repeated delivery replaces the file by itself."""

    def __init__(self, folder: Path) -> None:
        self.peer = f"results folder {folder}"
        self._folder = folder

    def deliver(self, delivery: Delivery) -> Receipt:
        """Copy the zip; the copy appears complete or not at all.

        Raises
        ------
        StorageUnavailable
            The zip cannot be read, or the folder not be written (transient).
        """
        folder = self._folder / _file_name(delivery.order_id)
        target = folder / f"{_file_name(delivery.execution_id)}.zip"
        part = folder / f".{uuid.uuid4().hex}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(delivery.zip_path, part)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise StorageUnavailable(self.peer, f"{target.name}: {error.strerror or error}") from error
        return Receipt(place=str(target))

    def check(self) -> str:
        """Return one line about the folder, after writing to it.

        Raises
        ------
        StorageUnavailable
            It cannot be written (transient).
        """
        probe = self._folder / f".{uuid.uuid4().hex}.part"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            probe.touch(exist_ok=False)
            probe.unlink()
        except OSError as error:
            raise StorageUnavailable(self.peer, error.strerror or str(error)) from error
        return f"{self.peer} can be written"


def _file_name(identifier: str) -> str:
    """Return *identifier* as a file name: unchanged where that is safe, and else with a digest."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", identifier).lstrip(".")[:_NAME_CHARACTERS]
    if safe and safe == identifier:
        return safe
    return f"{safe}-{hashlib.sha256(identifier.encode()).hexdigest()[:8]}"
