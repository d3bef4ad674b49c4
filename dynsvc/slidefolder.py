"""Slides in a folder of this host, and paths that never leave it."""

from __future__ import annotations

from pathlib import Path

from dynsvc.errors import SlideAmbiguous, SlideNotFound, StorageUnavailable
from dynsvc.slides import Slide

__all__ = ["FileLocator", "is_plain_path", "resolve_local"]

_LOCATION_CHARACTERS = 1024


class FileLocator:
    """Finds slides in a folder of this host. A case id is a file's path in it, with or without its suffix."""

    def __init__(self, root: Path) -> None:
        self.peer = f"slides folder {root}"
        self._root = root

    def locate(self, case_id: str, location: str | None = None) -> Slide:
        """Return the slide at *location* in the folder, or the one that *case_id* names.

        Raises
        ------
        SlideNotFound, SlideAmbiguous
            No file, or several, or one outside the folder (permanent).
        """
        try:
            path = resolve_local(self._root, location or case_id)
        except SlideNotFound:
            if location:
                raise
            path = self._by_stem(case_id)
        return Slide(case_id=case_id, origin="file", location=str(path))

    def check(self) -> str:
        """Return one line about the folder.

        Raises
        ------
        StorageUnavailable
            It cannot be listed (transient).
        """
        try:
            count = sum(1 for _ in self._root.iterdir())
        except OSError as error:
            raise StorageUnavailable(self.peer, error.strerror or str(error)) from error
        return f"{self.peer} has {count} entries"

    def _by_stem(self, case_id: str) -> Path:
        if "/" in case_id:
            raise SlideNotFound(self.peer, case_id)
        try:
            found = sorted(path for path in self._root.iterdir() if path.is_file() and path.stem == case_id)
        except OSError as error:
            raise StorageUnavailable(self.peer, error.strerror or str(error)) from error
        if not found:
            raise SlideNotFound(self.peer, case_id)
        if len(found) > 1:
            raise SlideAmbiguous(self.peer, case_id, len(found))
        return resolve_local(self._root, found[0].name)


def resolve_local(root: Path, location: str) -> Path:
    """Return the file *location* in the folder *root*: links followed, and never outside.

    An absolute location is taken as a path of this host where it lies in *root*, and else as a path below it:
    the image server's ``/data/images/x.svs`` may be this host's ``/mnt/slides/data/images/x.svs``.

    Raises
    ------
    SlideNotFound
        There is no such file in the folder (permanent). The text does not tell what lies outside.
    """
    peer = f"slides folder {root}"
    if not is_plain_path(location):
        raise SlideNotFound(peer, location)
    folder = root.resolve()
    for candidate in (folder / location, folder / location.lstrip("/")):
        try:
            path = candidate.resolve(strict=True)
        except (OSError, RuntimeError):
            continue
        if path.is_relative_to(folder) and not path.is_dir():
            return path
    raise SlideNotFound(peer, location)


def is_plain_path(location: str) -> bool:
    """Say whether *location* is a path and nothing else: no URL, no way up, no control characters."""
    return (
        0 < len(location) <= _LOCATION_CHARACTERS
        and location.isprintable()
        and "://" not in location
        and not location.startswith("//")
        and "\\" not in location
        and not {"..", "."} & set(location.split("/"))
        and not location.endswith("/")
    )
