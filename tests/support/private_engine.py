"""A Docker engine of one's own, which may be killed: the machine's own engine never notices it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker

from tests.support.services import missing

__all__ = ["PrivateEngine", "add_image", "programs_with_libraries", "running_engine"]

START_S = 60.0
#: What the containers of these tests consist of.
_PROGRAMS = ("sh", "env", "cat", "cp", "sleep")


class PrivateEngine:
    """``dockerd`` and ``containerd`` in a network of their own, with all their files in one folder.

    In a network of its own, the engine cannot touch the bridge and the packet filter of the other one.
    """

    def __init__(self) -> None:
        # The paths of sockets are short, so this is not the test's own folder.
        self.folder = Path(tempfile.mkdtemp(prefix="dynsvc-engine-"))
        self.socket = self.folder / "docker.sock"
        self._containerd_socket = self.folder / "containerd.sock"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def api(self) -> Any:
        return docker.APIClient(base_url=self.url, version="1.41", timeout=30)

    def start(self) -> PrivateEngine:
        """Start what does not run, and wait until the engine answers."""
        config = self.folder / "containerd.toml"
        config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        self._begin(
            "containerd",
            *("--config", config, "--root", self.folder / "images", "--state", self.folder / "state"),
            *("--address", self._containerd_socket),
        )
        self._wait(self._containerd_socket.exists, "containerd")
        self._begin(
            "dockerd",
            *("--containerd", self._containerd_socket, "--host", self.url, "--log-level", "warn"),
            *("--data-root", self.folder / "data", "--exec-root", self.folder / "exec"),
            *("--pidfile", self.folder / "pid", "--bridge=none", "--iptables=false"),
        )
        self._wait(self._answers, "dockerd")
        return self

    def _begin(self, program: str, *options: object) -> None:
        process = self._processes.get(program)
        if process is not None and process.poll() is None:
            return
        with (self.folder / f"{program}.log").open("ab") as log:
            self._processes[program] = subprocess.Popen(
                ["unshare", "--net", program, *map(str, options)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait(self, ready: Any, program: str) -> None:
        deadline = time.monotonic() + START_S
        while not ready():
            if self._processes[program].poll() is not None or time.monotonic() > deadline:
                log = (self.folder / f"{program}.log").read_text(errors="replace")[-3000:]
                raise AssertionError(f"{program} did not start: {log}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, docker.errors.DockerException):
            # The client leaves its socket open where nobody listens.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
            with contextlib.closing(self.api()) as api:
                return bool(api.ping())
        return False

    def kill(self, *, everything: bool = False) -> None:
        """SIGKILL the engine; with *everything* also containerd and its shims, as a crash of a host does."""
        for process in [self._processes["dockerd"], *([self._processes["containerd"]] if everything else [])]:
            process.kill()
            process.wait(10)
        if everything:
            for pid in self._shims():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        # What a dead process leaves must not be taken for a living one's.
        for path in (self.folder / "pid", self.socket, *([self._containerd_socket] if everything else [])):
            path.unlink(missing_ok=True)

    def _shims(self) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes()
                if b"containerd-shim" in words and os.fsencode(self._containerd_socket) in words:
                    found.append(int(path.parent.name))
        return found

    def add_image(self, image: str, programs: Mapping[str, str], files: Mapping[str, bytes]) -> None:
        with contextlib.closing(self.api()) as api:
            add_image(api, image, programs, files)

    def containers(self, **labels: str) -> list[dict[str, Any]]:
        """Return all containers that have the labels, running or not."""
        wanted = [f"dynsvc.{name}={value}" for name, value in labels.items()]
        with contextlib.closing(self.api()) as api:
            return list(api.containers(all=True, filters={"label": wanted}))

    def close(self) -> None:
        """End the engine and all that it started."""
        with contextlib.suppress(AssertionError, OSError, docker.errors.DockerException):
            self.start()
            with contextlib.closing(self.api()) as api:
                for container in api.containers(all=True):
                    api.remove_container(container["Id"], force=True)
        for name in ("dockerd", "containerd"):
            process = self._processes.get(name)
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(10)
        for pid in self._shims():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for mount in re.findall(rf"^\S+ ({re.escape(str(self.folder))}/\S+)", _mounts(), re.MULTILINE):
            subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def _mounts() -> str:
    return Path("/proc/self/mounts").read_text()


def programs_with_libraries(programs: Iterable[str]) -> dict[str, str]:
    """Return what an image needs of this host, by its name in the image."""
    found = {f"bin/{program}": shutil.which(program) or "" for program in programs}
    for path in list(found.values()):
        listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        found |= {library.lstrip("/"): library for library in re.findall(r"(/\S+\.so\S*)", listed)}
    return found


def add_image(api: Any, image: str, programs: Mapping[str, str], files: Mapping[str, bytes]) -> None:
    """Make an image of this host's own shell, with scripts in ``/bin`` and files in ``/``."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, path in sorted(programs_with_libraries(_PROGRAMS).items()):
            archive.add(os.path.realpath(path), name, recursive=False)
        given = {f"bin/{each}": (text.encode(), 0o755) for each, text in programs.items()}
        given |= {each: (content, 0o644) for each, content in files.items()}
        for each, (content, mode) in given.items():
            entry = tarfile.TarInfo(each)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    api.import_image_from_data(stream.getvalue(), repository=image, tag="latest")


@contextlib.contextmanager
def running_engine() -> Iterator[PrivateEngine]:
    """Run an engine of one's own."""
    absent = [name for name in ("dockerd", "containerd", "unshare") if shutil.which(name) is None]
    if absent or os.geteuid() != 0:
        missing(f"{', '.join(absent) or 'root'}, needed for a container engine of the test's own")
    engine = PrivateEngine()
    try:
        yield engine.start()
    finally:
        engine.close()
