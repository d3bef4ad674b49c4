"""Choose the runtime of this host by name, or by what the host has.

A runtime is an entry point of the group ``dynsvc.runtimes``: something that, called with the keyword
arguments ``scratch`` (a folder of this host), ``worker_id`` (a name that outlives the process),
``host_scratch`` (the engine host's name of *scratch*, or None) and ``sif_folder`` (where images are that are
files, or None), gives a :class:`dynsvc.runtime.Runtime`.
"""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from dynsvc.errors import SettingsInvalid
from dynsvc.runtime import Admission, Runtime
from dynsvc.settings import Settings

__all__ = ["admission_of", "choose", "known"]

_GROUP = "dynsvc.runtimes"
_ENGINE_SOCKET = Path("/var/run/docker.sock")
_ADMISSION = "dynsvc.admission"


def known() -> list[str]:
    """Return the names of the installed runtimes."""
    return sorted(point.name for point in entry_points(group=_GROUP))


def choose(settings: Settings) -> Runtime:
    """Return the configured runtime; without one, docker where this host has an engine, else process.

    An engine that does not answer now is an engine all the same: to run without containers because of it
    would be to take an algorithm's walls away without a word.

    Raises
    ------
    SettingsInvalid
        No runtime has the configured name.
    """
    has_engine = bool(os.environ.get("DOCKER_HOST")) or _ENGINE_SOCKET.exists()
    return _load(settings.runtime or ("docker" if has_engine else "process"), settings)


def _load(name: str, settings: Settings) -> Runtime:
    points = entry_points(group=_GROUP, name=name)
    if not points:
        raise SettingsInvalid("DYNSVC_RUNTIME", repr(name), f"one of {', '.join(known())}")
    factory = next(iter(points)).load()
    return cast(
        "Runtime",
        factory(
            scratch=settings.scratch,
            worker_id=_worker_id(settings),
            host_scratch=str(settings.host_scratch) if settings.host_scratch else None,
            sif_folder=settings.sif_folder,
        ),
    )


def admission_of(settings: Settings) -> Admission:
    """Return what lets runs start on this host.

    Raises
    ------
    SettingsInvalid
        It is not installed: a distribution without its entry points.
    """
    points = entry_points(group=_ADMISSION)
    if not points:
        raise SettingsInvalid(
            "the installation", f"without {_ADMISSION}", "pip install of the whole of dynsvc"
        )
    return cast("Admission", next(iter(points)).load()(settings))


def _worker_id(settings: Settings) -> str:
    """Name this host's workers of one Kue: their leftovers are told from those of another Kue's workers."""
    server = settings.orders.redis
    kue = hashlib.sha256(f"{server} {settings.kue_head}".encode()).hexdigest()[:8]
    return f"{settings.host}:{kue}"
