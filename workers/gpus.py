"""Which GPUs a run gets: whole ones for it alone, or a part of the memory of one that others use too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dynsvc.devices import Gpu
from dynsvc.errors import DeviceUnavailable

__all__ = ["WHOLE", "assign", "require_gpus", "share"]

#: Stands for all of a GPU's memory.
WHOLE = 0


def share(gpu: Gpu, memory_mib: int) -> int:
    """Return what a run that asks for *memory_mib* takes of *gpu*: that, or the whole of it."""
    return WHOLE if gpu.memory_mib is None else memory_mib


def require_gpus(count: int, memory_mib: int, gpus: Sequence[Gpu]) -> None:
    """Check that this host could ever lend *count* GPUs with *memory_mib* each (0: whole ones).

    Raises
    ------
    DeviceUnavailable
        It could not (permanent).
    """
    wanted = "1 GPU" if count == 1 else f"{count} GPUs"
    if not gpus:
        raise DeviceUnavailable(wanted, "it has no GPU (DYNSVC_GPUS, or nvidia-smi -L)")
    if len(gpus) < count:
        raise DeviceUnavailable(wanted, f"it has {len(gpus)}: {', '.join(gpu.uuid for gpu in gpus)}")
    large = [gpu for gpu in gpus if gpu.memory_mib is None or gpu.memory_mib >= memory_mib]
    if len(large) < count:
        largest = max(gpu.memory_mib or 0 for gpu in gpus)
        raise DeviceUnavailable(f"{wanted} with {memory_mib} MiB", f"the largest has {largest} MiB")


def assign(
    count: int, memory_mib: int, gpus: Sequence[Gpu], held: Iterable[Mapping[str, int]]
) -> dict[str, int] | None:
    """Choose GPUs for a run.

    Parameters
    ----------
    count, memory_mib
        What it needs; memory in MiB on each, 0 for whole GPUs.
    gpus
        Those of this host.
    held
        Of each run that goes on: UUID -> MiB, or :data:`WHOLE`.

    Returns
    -------
    dict or None
        UUID -> MiB or :data:`WHOLE`; None where it does not fit now. A part of a GPU is taken where the least
        is left, so that whole GPUs stay free.
    """
    taken: dict[str, list[int]] = {}
    for shares in held:
        for uuid, part in shares.items():
            taken.setdefault(uuid, []).append(part)
    fitting: list[tuple[int, int, str, int]] = []
    for position, gpu in enumerate(gpus):
        wanted, parts = share(gpu, memory_mib) if memory_mib else WHOLE, taken.get(gpu.uuid, [])
        if wanted == WHOLE:
            # A GPU that is too small is no less so as a whole; one of unknown size is lent on trust.
            room = 0 if not parts and (gpu.memory_mib is None or gpu.memory_mib >= memory_mib) else -1
        else:
            room = -1 if WHOLE in parts else (gpu.memory_mib or 0) - sum(parts) - wanted
        if room >= 0:
            fitting.append((room, position, gpu.uuid, wanted))
    if len(fitting) < count:
        return None
    return {uuid: wanted for _, _, uuid, wanted in sorted(fitting)[:count]}
