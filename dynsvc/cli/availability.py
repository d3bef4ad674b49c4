"""Whether an algorithm could run on this host."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from dynsvc.algorithms import Algorithm
from dynsvc.devices import gpus_present
from dynsvc.errors import AlgorithmUnavailable, DeviceUnavailable, DynsvcError
from dynsvc.runtime import Runtime

__all__ = ["require", "told"]


def require(algorithm: Algorithm, runtime: Runtime) -> str:
    """Return what *runtime* would execute for *algorithm*.

    Raises
    ------
    AlgorithmUnavailable
        The image or program is missing on this host.
    DeviceUnavailable
        It wants GPUs and this host has too few.
    """
    wanted, present = algorithm.device.gpus, gpus_present()
    if wanted > present:
        raise DeviceUnavailable(f"{wanted} GPU", f"{algorithm.name} needs it, {present} found")
    if runtime.name == "process":
        return _program(algorithm)
    if algorithm.image is None:
        raise AlgorithmUnavailable(
            algorithm.name, f"its descriptor names no image, and the runtime is {runtime.name}"
        )
    # Optional in a runtime of images: without it, a missing image shows at the run.
    has_image: Callable[[str], bool] | None = getattr(runtime, "has_image", None)
    if has_image is not None and not has_image(algorithm.image):
        raise AlgorithmUnavailable(
            algorithm.name, f"image {algorithm.image} is not on this host: build or pull it"
        )
    return f"image {algorithm.image}" + ("" if has_image else " (not looked for)")


def _program(algorithm: Algorithm) -> str:
    name = algorithm.command[0]
    # Where the process runtime looks: beside our own Python first.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    program = shutil.which(name, path=path)
    if program is None:
        raise AlgorithmUnavailable(algorithm.name, f"program {name} is not on PATH of this host")
    return f"program {program}"


def told(algorithm: Algorithm, runtime: Runtime | None) -> str:
    """Return the answer of :func:`require` as one sentence, whatever it is."""
    if runtime is None:
        return "unknown: no runtime"
    try:
        return require(algorithm, runtime)
    except DynsvcError as error:
        return f"not available: {error}"
