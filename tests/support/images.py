"""Small images, built on this machine for the tests that need a real engine."""

from __future__ import annotations

import functools
import io
import tarfile
from typing import Any

import docker
from docker.utils import kwargs_from_env

from tests.support.services import missing

__all__ = ["BASE_IMAGE", "awkward_image", "base_image", "engine"]

BASE_IMAGE = "python:3.11-slim-bookworm"
_AWKWARD = "dynsvc-test-awkward:latest"
#: What the images of this field carry: an entry point of their own, and a wish for all GPUs.
_AWKWARD_DOCKERFILE = f"""\
FROM {BASE_IMAGE}
ENV NVIDIA_VISIBLE_DEVICES=all OMP_NUM_THREADS=64
LABEL dynsvc.library.numpy="2.4.6" org.opencontainers.image.revision="abc" maintainer="somebody"
ENTRYPOINT ["/bin/echo", "the image's entry point"]
CMD ["the image's command"]
HEALTHCHECK --interval=1s CMD ["true"]
"""


@functools.cache
def engine() -> Any:
    """A client of the engine; the test is skipped at home, and fails in CI, where none answers."""
    try:
        return docker.APIClient(version="auto", **kwargs_from_env())
    except docker.errors.DockerException as error:
        return missing(f"a Docker engine ({error})")


@functools.cache
def base_image() -> str:
    """An image with Python and a shell."""
    try:
        engine().inspect_image(BASE_IMAGE)
    except docker.errors.ImageNotFound:
        missing(f"image {BASE_IMAGE}")
    return BASE_IMAGE


@functools.cache
def awkward_image() -> str:
    """An image whose own settings must not come between us and the algorithm."""
    base_image()
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        content = _AWKWARD_DOCKERFILE.encode()
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    context.seek(0)
    for step in engine().build(fileobj=context, custom_context=True, tag=_AWKWARD, rm=True, decode=True):
        assert "error" not in step, step
    return _AWKWARD
