"""The container engine's API, as far as runs need it; its library's exceptions end here."""

from __future__ import annotations

import os
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import structlog
from docker.utils import kwargs_from_env

from dynsvc.errors import (
    AlgorithmUnavailable,
    DeviceUnavailable,
    DynsvcError,
    EngineUnavailable,
    PeerRefused,
    SettingsInvalid,
)
from dynsvc.runtime import Run
from workers.runtimes.container import MANAGED_LABEL
from workers.runtimes.hostpath import HostPaths, own_container_id
from workers.runtimes.labels import stated

__all__ = ["Engine", "engine_errors"]

log = structlog.get_logger(__name__)

_API_S = 60
_MIB = 1 << 20
#: A tag may be moved to another image; a kept container goes on with the old one for at most so long.
_IMAGE_S = 10.0
#: Where the kernel tells what a container uses; control groups 1, then 2 with either driver.
_CGROUPS = (
    "/sys/fs/cgroup/memory/docker/{}/memory.stat",
    "/sys/fs/cgroup/system.slice/docker-{}.scope/memory.stat",
    "/sys/fs/cgroup/docker/{}/memory.stat",
)


class Engine:
    """One process's connections to the engine, opened by their first use; also after a fork.

    Parameters
    ----------
    override
        Folder of the worker -> its name on the engine's host, where that cannot be found out.
    """

    def __init__(self, override: dict[Path, str] | None = None) -> None:
        self._override = override
        self._lock = threading.Lock()
        self._client: tuple[int, Any] | None = None
        self._images: dict[str, tuple[float, str]] = {}
        self.paths = HostPaths(None)
        self.cpus = 0
        self.memory_mib = 0
        #: Of Docker's version, ``20`` of ``20.10.24``; a large number for one that tells none.
        self.major = 0
        #: Podman leaves GPUs out of a container without a word, and counts its versions by itself.
        self.is_podman = False
        #: What Podman has to be told; see :func:`_own_limits`.
        self.ulimits: dict[str, int] = {}
        #: Names of the devices that it knows by CDI.
        self.cdi_devices: frozenset[str] = frozenset()

    def api(self) -> Any:
        """Return this process's client: connections cannot be shared with a parent process.

        Raises
        ------
        EngineUnavailable
            The engine is away (transient).
        """
        with self._lock:
            if self._client is None or self._client[0] != os.getpid():
                with engine_errors(None):
                    _try_socket(_address())
                    options = kwargs_from_env()
                    api = docker.APIClient(**options, version="auto", timeout=_API_S)
                    self._client = os.getpid(), api
                    info = api.info()
                    parts = api.version().get("Components") or []
                    self.is_podman = any("Podman" in part.get("Name", "") for part in parts)
                    self.ulimits = _own_limits() if self.is_podman else {}
                    self.cpus, self.memory_mib = int(info["NCPU"]), int(info["MemTotal"]) // _MIB
                    version = re.match(r"\d+", str(info.get("ServerVersion", "")))
                    self.major = int(version[0]) if version and not self.is_podman else 1 << 16
                    listed = info.get("DiscoveredDevices") or []
                    self.cdi_devices = frozenset(each["ID"] for each in listed if each["Source"] == "cdi")
                    self.paths = self._find_paths(api)
            return self._client[1]

    def close(self) -> None:
        """Close the connections. The object can be used again."""
        with self._lock:
            if self._client and self._client[0] == os.getpid():
                self._client[1].close()
            self._client = None

    def create(self, run: Run, config: dict[str, Any], name: str | None) -> str:
        """Make a container and return its id. One of ours that has the name already is removed.

        Raises
        ------
        DeviceUnavailable
            It is for GPUs, and the engine would start it without any (permanent).
        """
        api = self.api()
        if run.limits.gpus and self.is_podman:
            raise DeviceUnavailable(f"{run.limits.gpus} GPU", "Podman's API gives containers none")
        with engine_errors(run):
            try:
                return str(api.create_container_from_config(config, name=name)["Id"])
            except docker.errors.NotFound as error:
                raise _no_image(run) from error
            except docker.errors.APIError as error:
                if error.status_code != 409 or name is None:
                    raise
            # The name is taken by what a crash left of this very attempt.
            if (api.inspect_container(name)["Config"]["Labels"] or {}).get(MANAGED_LABEL) == "1":
                self.remove(name)
            return str(api.create_container_from_config(config, name=name)["Id"])

    def attach(self, run: Run, container: str, *, stdin: bool = False) -> Any:
        """Return a connection to the container's streams."""
        with engine_errors(run):
            params = {"stdout": 1, "stderr": 1, "stream": 1} | ({"stdin": 1} if stdin else {})
            return self.api().attach_socket(container, params=params)

    def start(self, run: Run, container: str) -> None:
        """Start the container."""
        with engine_errors(run):
            self.api().start(container)

    def inspect(self, run: Run | None, container: str) -> dict[str, Any]:
        """Return what the engine knows of the container."""
        with engine_errors(run):
            return dict(self.api().inspect_container(container))

    def running(self, container: str) -> bool:
        """Return whether the container is there and runs."""
        try:
            return bool(self.inspect(None, container)["State"]["Running"])
        except EngineUnavailable:
            return False

    def memory_used_mib(self, container: str) -> int | None:
        """Return the memory of a container's processes and of its /tmp, or None where nobody tells."""
        stats: dict[str, Any] | None = None
        for pattern in _CGROUPS:
            with suppress(OSError, ValueError):
                lines = Path(pattern.format(container)).read_text(encoding="ascii").splitlines()
                stats = dict(line.split() for line in lines)
                break
        else:
            # Not our host, or hidden from us. The engine looks once a second only, and lets us wait for it.
            with suppress(docker.errors.DockerException, OSError, DynsvcError):
                stats = self.api().stats(container, stream=False, one_shot=True)["memory_stats"].get("stats")
        stats = stats or {}
        # Names of control groups 1, then 2. The cache of files is not counted: it costs nobody anything.
        private, shared = (
            stats.get("total_rss", stats.get("anon")),
            stats.get("total_shmem", stats.get("shmem")),
        )
        return None if private is None else (int(private) + int(shared or 0)) // _MIB

    def processes(self, container: str) -> int | None:
        """Return how many processes and threads a container has, or None where nobody tells."""
        with suppress(docker.errors.DockerException, OSError, DynsvcError):
            found = self.api().stats(container, stream=False, one_shot=True).get("pids_stats") or {}
            return int(found["current"]) if "current" in found else None
        return None

    def managed(self, **labels: str) -> list[dict[str, Any]]:
        """Return the engine's list of our containers, running or not, that have the *labels*."""
        wanted = [f"{MANAGED_LABEL}=1", *(f"dynsvc.{name}={value}" for name, value in labels.items())]
        with engine_errors(None):
            return list(self.api().containers(all=True, filters={"label": wanted}))

    def has_image(self, image: str) -> bool:
        """Return whether the engine has *image*."""
        api = self.api()
        with engine_errors(None):
            try:
                api.inspect_image(image)
            except docker.errors.NotFound:
                return False
        return True

    def image_id(self, run: Run, *, fresh: bool = False) -> str:
        """Return the id of the run's image, at most 10 s old if it need not be *fresh*."""
        image = run.image or ""
        known = self._images.get(image)
        if known and not fresh and time.monotonic() - known[0] < _IMAGE_S:
            return known[1]
        api = self.api()
        with engine_errors(run):
            try:
                found = str(api.inspect_image(image)["Id"])
            except docker.errors.NotFound as error:
                raise _no_image(run) from error
        self._images[image] = time.monotonic(), found
        return found

    def told(self, run: Run, image_id: str) -> tuple[str, dict[str, str]]:
        """Return the registry's digest of an image, or its id where it was built here, and what it states."""
        with engine_errors(run), suppress(docker.errors.NotFound):  # untagged and removed meanwhile
            found = self.api().inspect_image(image_id)
            digests = found.get("RepoDigests") or [image_id]
            return str(digests[0]), stated((found.get("Config") or {}).get("Labels"))
        return image_id, {}

    def remove(self, container: str) -> bool:
        """Kill and remove a container; what cannot be removed now is left to the janitor."""
        try:
            self.api().remove_container(container, force=True, v=True)
        except docker.errors.NotFound:
            return False
        except (docker.errors.DockerException, OSError, DynsvcError) as error:
            if getattr(error, "status_code", None) == 409 and "already in progress" in str(error):
                return False  # it ended by itself, and the engine removes it
            log.warning("container_left", container=container[:12], error=type(error).__name__)
            return False
        return True

    def _find_paths(self, api: Any) -> HostPaths:
        if self._override:
            return HostPaths(self._override)
        own_id = own_container_id(Path("/proc/self/mountinfo").read_text())
        if own_id is None:
            return HostPaths(None)
        try:
            return HostPaths.of_container(api.inspect_container(own_id)["Mounts"])
        except docker.errors.NotFound:  # in a container of another engine: the names can only be the same
            return HostPaths(None)


@contextmanager
def engine_errors(run: Run | None) -> Iterator[None]:
    """Turn the SDK's exceptions into ours."""
    try:
        yield
    except DynsvcError:
        raise
    except docker.errors.APIError as error:
        text = str(error.explanation or error).strip()
        # The engine has one status for everything it cannot do, so its words must tell.
        if (
            run
            and run.limits.gpus
            and any(word in text for word in ("device driver", "CDI device", "nvidia"))
        ):
            raise DeviceUnavailable("GPU", text) from error
        if "bind source path does not exist" in text:
            raise SettingsInvalid(
                "DYNSVC_SCRATCH", text, "a folder that the engine's host has as well"
            ) from error
        if error.status_code == 403:
            # An engine has no such answer; it is that of a proxy before it.
            hint = "does the proxy before it allow what deploy/socket-proxy/haproxy.cfg allows?"
            raise PeerRefused("docker", f"403 at {_address()}; {hint} {_words(text)}") from error
        if run and error.status_code == 400:
            raise AlgorithmUnavailable(run.algorithm, text) from error
        raise EngineUnavailable("docker", text) from error
    except (docker.errors.DockerException, OSError) as error:
        # Connection errors of the SDK's HTTP library are OSErrors; so it need not be imported here.
        detail = f"no answer at {_address()} ({error}); is the engine running, and may this user use it?"
        raise EngineUnavailable("docker", detail) from error


def _own_limits() -> dict[str, int]:
    """Return this process's own hard limits, as the best guess at what the engine may give.

    Untold, Podman gives its containers a million of each, and starts none where its host forbids that.
    """
    processes = int(Path("/proc/sys/kernel/pid_max").read_text(encoding="ascii"))
    most = {"nofile": (resource.RLIMIT_NOFILE, 1 << 20), "nproc": (resource.RLIMIT_NPROC, processes)}
    own = {name: (resource.getrlimit(number)[1], bound) for name, (number, bound) in most.items()}
    return {name: bound if hard < 0 else min(hard, bound) for name, (hard, bound) in own.items()}


def _no_image(run: Run) -> AlgorithmUnavailable:
    hint = f"image {run.image} is not on this host; docker pull {run.image}, or build it"
    return AlgorithmUnavailable(run.algorithm, hint)


def _words(text: str) -> str:
    """Return what a proxy's page says, on one line."""
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())[:200]


def _address() -> str:
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def _try_socket(address: str) -> None:
    """Raise OSError where nobody listens. The SDK would leave its socket open then."""
    if address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_API_S)
            connection.connect(address.removeprefix("unix://"))
