"""Paths of this process as the engine's host knows them: they differ when the worker is in a container."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from dynsvc.errors import SettingsInvalid

__all__ = ["HostPaths", "own_container_id"]

_ROOT = re.compile(r"/containers/([0-9a-f]{64})/")
#: The engine mounts these into each container from a folder with the container's id. On a host, ids also
#: appear in the mount table, but for other places: the shared memory of the containers that run there.
_FROM_ENGINE = frozenset({"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"})


def own_container_id(mountinfo: str) -> str | None:
    """Return the id of the container this process runs in, from the text of /proc/self/mountinfo."""
    for line in mountinfo.splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[4] in _FROM_ENGINE and (found := _ROOT.search(fields[3])):
            return found[1]
    return None


class HostPaths:
    """Translates paths.

    Parameters
    ----------
    mounts
        Source by destination of the worker's own container; None for a worker on the host.
    """

    def __init__(self, mounts: Mapping[Path, str] | None) -> None:
        self._mounts = mounts

    @classmethod
    def of_container(cls, mounts: Iterable[Mapping[str, str]]) -> HostPaths:
        """Take the list ``Mounts`` of the engine's answer about the worker's own container."""
        usable = (
            mount for mount in mounts if mount.get("Type") in {"bind", "volume"} and mount.get("Source")
        )
        return cls({Path(mount["Destination"]): mount["Source"] for mount in usable})

    def translate(self, path: Path) -> str:
        """Return the host's name of the folder *path*.

        Raises
        ------
        SettingsInvalid
            The worker is in a container, and the folder is in none of its volumes (permanent).
        """
        path = path.resolve()
        if self._mounts is None:
            return str(path)
        # The longest destination is the mount that really shows the folder.
        for destination in sorted(self._mounts, key=lambda mount: len(mount.parts), reverse=True):
            if path.is_relative_to(destination):
                return str(PurePosixPath(self._mounts[destination]) / path.relative_to(destination))
        expected = (
            "a folder in a volume of the worker's container, so that its algorithms' containers can see it"
        )
        raise SettingsInvalid("DYNSVC_SCRATCH", str(path), expected)
