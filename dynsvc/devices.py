"""GPUs of this host: which there are, and how much memory each has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynsvc.errors import SettingsInvalid

__all__ = ["NO_GPUS", "Gpu", "configured_gpus", "find_gpus", "gpus_present", "listed_gpus"]

#: Value of ``DYNSVC_GPUS`` for a host whose GPUs are not for algorithms.
NO_GPUS = "none"

_ID = re.compile(r"(?:GPU|MIG)-[A-Za-z0-9._/-]{1,120}|[0-9]{1,3}")
_LISTED = re.compile(r"^GPU (?P<index>\d+): (?P<name>.*?) \(UUID: (?P<uuid>GPU-[^)]+)\)")
_SLICE = re.compile(r"^\s+MIG (?P<profile>\S+)\s.*\(UUID: (?P<uuid>MIG-[^)]+)\)")
_SLICE_GIB = re.compile(r"\.(\d+)gb")
_ANSWER_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, or one slice of a GPU that MIG has divided."""

    #: ``GPU-…`` or ``MIG-…``; an index only where nobody tells the UUID.
    uuid: str
    #: None where nobody tells it: the GPU is then lent as a whole only.
    memory_mib: int | None = None


def configured_gpus(words: Sequence[str]) -> tuple[Gpu, ...]:
    """Read the setting ``DYNSVC_GPUS``: UUIDs, each with ``=`` and its memory in MiB where it is known.

    Raises
    ------
    SettingsInvalid
        A word is no UUID of NVIDIA's and no index, or is there twice.
    """
    if [word.lower() for word in words] == [NO_GPUS]:
        return ()
    gpus: dict[str, Gpu] = {}
    for word in words:
        uuid, _, memory = word.partition("=")
        if not _ID.fullmatch(uuid) or uuid in gpus or (memory and not memory.isdigit()) or word.endswith("="):
            raise SettingsInvalid("DYNSVC_GPUS", repr(word), "each once: GPU-…, MIG-… or GPU-…=40960 (MiB)")
        gpus[uuid] = Gpu(uuid=uuid, memory_mib=int(memory) if memory else None)
    return tuple(gpus.values())


def listed_gpus(listing: str, memory: str) -> tuple[Gpu, ...]:
    """Read what ``nvidia-smi`` prints. A GPU that is divided counts as its slices.

    Parameters
    ----------
    listing
        Output of ``nvidia-smi -L``.
    memory
        Output of ``nvidia-smi --query-gpu=uuid,memory.total --format=csv,noheader,nounits``; MiB.
    """
    rows = (row.partition(",") for row in memory.splitlines())
    sizes = {uuid.strip(): int(size) for uuid, _, size in rows if size.strip().isdigit()}
    whole: list[Gpu] = []
    slices: dict[str, list[Gpu]] = {}
    for line in listing.splitlines():
        if match := _LISTED.match(line):
            whole.append(Gpu(uuid=match["uuid"], memory_mib=sizes.get(match["uuid"])))
        elif (match := _SLICE.match(line)) and whole:
            size = _SLICE_GIB.search(match["profile"])
            part = Gpu(uuid=match["uuid"], memory_mib=int(size[1]) * 1024 if size else None)
            slices.setdefault(whole[-1].uuid, []).append(part)
    return tuple(gpu for each in whole for gpu in slices.get(each.uuid, [each]))


def find_gpus(configured: Sequence[str] | None, devices: Path = Path("/dev")) -> tuple[Gpu, ...]:
    """Return the GPUs of this host: as configured, else as the driver lists them, else by their device files.

    Raises
    ------
    SettingsInvalid
        The setting cannot be read.
    """
    if configured is not None:
        return configured_gpus(configured)
    indices = _indices(devices)
    if not indices:
        return ()
    # A worker in a container may have the devices and not the program.
    return _asked() or tuple(Gpu(uuid=index) for index in indices)


def gpus_present(configured: Sequence[str] | None = None, devices: Path = Path("/dev")) -> int:
    """Return the number of GPUs without asking the driver; a divided GPU counts once.

    Parameters
    ----------
    configured
        The setting ``DYNSVC_GPUS``; None reads the variable itself.
    devices
        Folder of device files.
    """
    if configured is None and (text := os.environ.get("DYNSVC_GPUS")) is not None:
        configured = [word.strip() for word in text.split(",") if word.strip()]
    return len(_indices(devices)) if configured is None else len(configured_gpus(configured))


def _indices(devices: Path) -> list[str]:
    names = (path.name.removeprefix("nvidia") for path in devices.glob("nvidia[0-9]*"))
    return sorted((name for name in names if name.isdigit()), key=int)


def _asked() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = ("--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits")
    try:
        listing, memory = (
            subprocess.run(
                [program, *options], capture_output=True, text=True, timeout=_ANSWER_S, check=True
            ).stdout
            for options in (("-L",), query)
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return listed_gpus(listing, memory)
