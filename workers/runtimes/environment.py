"""What the process of an algorithm is given in every runtime: its argument list and variables."""

from __future__ import annotations

from collections.abc import Mapping

from dynsvc.errors import AlgorithmUnavailable, DeviceUnavailable
from dynsvc.runtime import Run

__all__ = ["RUN_IDS", "environment", "gpu_variables", "program_name"]

#: Variables that name one run; what serves several has none of them.
RUN_IDS = ("DYNSVC_ORDER", "DYNSVC_ATTEMPT")

#: Libraries count the host's processors and start as many threads, whatever the run may use.
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


def environment(run: Run, own: Mapping[str, str], *, ids: bool = True) -> dict[str, str]:
    """Return the variables of *run*: the runtime's *own*, then what its descriptor sets, then its *ids*."""
    threads = str(max(1, int(run.limits.cpus)))
    return {
        # Without it, Python programs hold their progress back until they end.
        "PYTHONUNBUFFERED": "1",
        **dict.fromkeys(_THREADS, threads),
        **own,
        **run.env,
        **(dict(zip(RUN_IDS, (run.order_id, run.attempt), strict=True)) if ids else {}),
    }


def gpu_variables(run: Run) -> dict[str, str]:
    """Return the variables that show *run* its own GPUs and no others.

    Raises
    ------
    DeviceUnavailable
        It needs GPUs and holds none: it must not run on whatever is there, and never on the CPU (permanent).
    """
    if len(run.gpu_ids) != run.limits.gpus:
        raise DeviceUnavailable(f"{run.limits.gpus} GPU", f"{len(run.gpu_ids)} were leased for the run")
    ids = ",".join(run.gpu_ids)
    if not ids:
        # CUDA's base images ask for all GPUs; a CPU run must not get one that happens to be there.
        return {"NVIDIA_VISIBLE_DEVICES": "void"}
    return {"NVIDIA_VISIBLE_DEVICES": ids, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def program_name(run: Run) -> str:
    """Return the first word of the argument list.

    Raises
    ------
    AlgorithmUnavailable
        No operating system can execute the list (permanent).
    """
    if not run.argv or not run.argv[0]:
        raise AlgorithmUnavailable(run.algorithm, "its argument list names no program")
    if any("\0" in word for word in (*run.argv, *run.env, *run.env.values())):
        raise AlgorithmUnavailable(run.algorithm, "an argument or a variable has a null character")
    return run.argv[0]
