"""Podman's service with a store of its own, for tests: the engine's image, behind another engine's socket."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker

from tests.support.images import base_image, engine
from tests.support.services import missing

__all__ = ["Podman", "running_podman"]

START_S = 30.0


class Podman:
    """The running service."""

    def __init__(self, url: str) -> None:
        self.url = url

    def api(self) -> Any:
        return docker.APIClient(base_url=self.url, version="1.41", timeout=30)

    def containers(self, label: str) -> list[dict[str, Any]]:
        with contextlib.closing(self.api()) as api:
            return list(api.containers(all=True, filters={"label": [label]}))


@contextlib.contextmanager
def running_podman() -> Iterator[Podman]:
    """Run the service, with the image of the tests in it."""
    if absent := [name for name in ("podman", "runc", "catatonit") if shutil.which(name) is None]:
        missing(f"{', '.join(absent)}, needed for Podman's service")
    # The paths of sockets are short, so this is not the test's own folder.
    folder = Path(tempfile.mkdtemp(prefix="dynsvc-podman-"))
    own = ["podman", "--root", folder / "root", "--runroot", folder / "run", "--events-backend", "none"]
    # What runs on hosts without systemd, and with both generations of control groups.
    own += ["--runtime", "runc", "--cgroup-manager", "cgroupfs"]
    podman = Podman(f"unix://{folder / 'podman.sock'}")
    with (folder / "log").open("wb") as log:
        # Its conmon leaves a file "oom" where it is started.
        service = subprocess.Popen(
            [*own, "system", "service", "--time", "0", podman.url], stdout=log, stderr=log, cwd=folder
        )
    try:
        deadline = time.monotonic() + START_S
        while not (folder / "podman.sock").exists():
            assert service.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "podman did not start"
            time.sleep(0.05)
        with contextlib.closing(podman.api()) as api:
            for said in api.load_image(engine().get_image(base_image())):
                assert "error" not in said, said
        yield podman
    finally:
        service.terminate()
        service.wait(10)
        subprocess.run([*own, "rm", "--all", "--force"], check=False, stdout=subprocess.DEVNULL)
        subprocess.run([*own, "rmi", "--all", "--force"], check=False, stdout=subprocess.DEVNULL)
        subprocess.run(["umount", "-l", folder / "root" / "overlay"], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)
