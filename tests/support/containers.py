"""``mainSegmentFeatures`` as an image of a private engine."""

from __future__ import annotations

from tests.support.hospital import ROOT, Hospital
from tests.support.private_engine import PrivateEngine
from workers.runtimes.container import LOCK_LABEL
from workers.runtimes.slot import is_abandoned

__all__ = ["IMAGE", "ContainerSegmenter", "light_descriptor"]

IMAGE = "dynsvc-test-segmenter"


def light_descriptor(site: Hospital, image: str = "") -> dict[str, str]:
    """Write a descriptor of pathomics for a program that needs next to nothing; return its setting."""
    given = (ROOT / "algorithms" / "pathomics" / "algorithm.toml").read_text()
    given = given.replace("memory_mib = 4096", "memory_mib = 64").replace("cpus = 1", "cpus = 0.1")
    if image:
        given = given.replace('"sbubmi/pathomics_analysis:latest"', f'"{image}"')
    path = site.folder / "algorithms" / "pathomics" / "algorithm.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(given)
    return {"DYNSVC_ALGORITHMS": str(path.parent.parent)}


class ContainerSegmenter:
    """The copying segmenter in containers of *engine*, which are seen."""

    def __init__(self, site: Hospital, engine: PrivateEngine) -> None:
        site.install_copying_segmenter()
        self._ready = (site.folder / "ready.zip").read_bytes()
        self._engine = engine
        self.env = {
            "DYNSVC_RUNTIME": "docker",
            "DOCKER_HOST": engine.url,
            **light_descriptor(site, f"{IMAGE}:latest"),
        }
        self.install("")

    def install(self, before: str) -> None:
        """Make the image, with a program that does *before* (shell) before it writes its result."""
        script = f'#!/bin/sh\nwhile [ "$1" != -z ]; do shift; done\n{before}\nexec cp /ready.zip "$2"\n'
        self._engine.add_image(IMAGE, {"mainSegmentFeatures": script}, {"ready.zip": self._ready})

    def living(self) -> list[str]:
        """Return all containers, running or not, but those that a living worker keeps for later runs."""
        return [
            container["Id"]
            for container in self._engine.containers()
            if is_abandoned(container["Labels"].get(LOCK_LABEL, "/nowhere"))
        ]

    def running(self) -> list[str]:
        """Return the containers of runs that go on."""
        found = self._engine.containers(role="job")
        return [container["Id"] for container in found if container["State"] == "running"]
