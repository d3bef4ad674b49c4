"""The container of one run, as the engine's API takes it: what it sees and what it may not do."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from dynsvc.runtime import Run, Seen
from workers.runtimes.bounds import file_bytes
from workers.runtimes.environment import RUN_IDS, environment, gpu_variables, program_name

__all__ = [
    "ATTEMPT_LABEL",
    "DEADLINE_LABEL",
    "GPU_LABEL",
    "LOCK_LABEL",
    "MANAGED_LABEL",
    "MEMORY_LABEL",
    "ORDER_LABEL",
    "ROLE_LABEL",
    "SEEN",
    "WORKER_LABEL",
    "container_config",
    "container_name",
    "device_requests",
    "holder_config",
    "kept_config",
]

SEEN = Seen(input_dir="/input", output_dir="/output")
MANAGED_LABEL = "dynsvc.managed"
WORKER_LABEL = "dynsvc.worker"
DEADLINE_LABEL = "dynsvc.deadline"
ORDER_LABEL = "dynsvc.order"
GPU_LABEL = "dynsvc.gpu"
ATTEMPT_LABEL = "dynsvc.attempt"
#: ``job``: one run. ``kept``: one run after the other. ``pause``: holds a network that runs join.
ROLE_LABEL = "dynsvc.role"
#: A file that is locked for as long as the process lives that keeps the container.
LOCK_LABEL = "dynsvc.lock"
MEMORY_LABEL = "dynsvc.memory-mib"
#: A container is an orphan this long after its time limit: its worker would have removed it.
_GRACE_S = 60.0
_MIB = 1 << 20
_CDI_GPU = "nvidia.com/gpu="


def container_name(run: Run) -> str:
    """Return the name under which the container of *run* is found again after a crash."""
    order = re.sub(r"[^A-Za-z0-9_.-]+", "-", run.order_id)[:40]
    return f"dynsvc-{order}-{hashlib.sha256(run.attempt.encode()).hexdigest()[:10]}"


def device_requests(run: Run, cdi_devices: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return the engine's device requests for the GPUs of *run*: by CDI where it knows all of them so."""
    if not run.gpu_ids:
        return []
    names = [f"{_CDI_GPU}{uuid}" for uuid in run.gpu_ids]
    if all(name in cdi_devices for name in names):
        return [{"Driver": "cdi", "DeviceIDs": names}]
    # Never a count: that would be the first GPUs, whoever uses them.
    return [{"DeviceIDs": list(run.gpu_ids), "Capabilities": [["gpu"]]}]


def container_config(
    run: Run,
    *,
    user: str,
    input_source: str,
    output_source: str,
    worker_id: str,
    host_cpus: int,
    cdi_devices: Collection[str] = (),
    network: str = "none",
    cpuset: Collection[int] = (),
    ulimits: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the body of the engine's ``POST /containers/create``.

    Parameters
    ----------
    run
        What to execute; its image is set.
    user
        ``uid:gid`` of the program.
    input_source, output_source
        The run's folders as the engine's host names them.
    worker_id
        Who removes the container after a crash.
    host_cpus
        The engine refuses more than it has.
    cdi_devices
        Names of the devices that the engine knows by CDI.
    network
        For a run without network: ``none``, or ``container:`` and the id of one that has none either.
    cpuset
        The processors that it shares with no other run, if it has any.
    ulimits
        More of them, which the engine wants to be told.
    """
    limits = run.limits
    own = {"HOME": "/tmp", "TMPDIR": "/tmp"}  # noqa: S108  (the container's own)
    own |= gpu_variables(run)
    return {
        "Image": run.image,
        # Both are set, so that nothing of the image's ENTRYPOINT and CMD comes between.
        "Entrypoint": [program_name(run)],
        "Cmd": list(run.argv[1:]),
        "Env": [f"{name}={value}" for name, value in environment(run, own).items()],
        "User": user,
        "Healthcheck": {"Test": ["NONE"]},
        "AttachStdout": True,
        "AttachStderr": True,
        "Labels": {
            MANAGED_LABEL: "1",
            WORKER_LABEL: worker_id,
            DEADLINE_LABEL: str(math.ceil(time.time() + limits.timeout_s + _GRACE_S)),
            ROLE_LABEL: "job",
            ORDER_LABEL: run.order_id,
            ATTEMPT_LABEL: run.attempt,
            **({GPU_LABEL: ",".join(run.gpu_ids)} if run.gpu_ids else {}),
        },
        "HostConfig": {
            "NetworkMode": "default" if limits.network else network,
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            # Without an init, a program that dies by a signal ends with status 0.
            "Init": True,
            "PidsLimit": limits.pids,
            "Memory": limits.memory_mib * _MIB,
            "MemorySwap": limits.memory_mib * _MIB,
            "NanoCpus": int(min(limits.cpus, host_cpus) * 1e9),
            "CpusetCpus": ",".join(map(str, sorted(cpuset))),
            # If the host runs out of memory, the kernel shall take the algorithm, not the worker.
            "OomScoreAdj": 500,
            "Ulimits": [
                {"Name": name, "Soft": most, "Hard": most}
                for name, most in {"core": 0, "fsize": file_bytes(limits), **ulimits}.items()
            ],
            "Tmpfs": {"/tmp": f"rw,exec,nosuid,nodev,size={limits.tmp_mib}m,mode=1777"},  # noqa: S108
            # Never volumes by "Binds": they create a missing folder on the host, owned by root.
            "Mounts": [
                {"Type": "bind", "Source": input_source, "Target": SEEN.input_dir, "ReadOnly": True},
                {"Type": "bind", "Source": output_source, "Target": SEEN.output_dir},
            ],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
            "DeviceRequests": device_requests(run, cdi_devices),
        },
    }


def _with_stdin(config: dict[str, Any]) -> dict[str, Any]:
    """Return *config* for a container that reads messages; its stdin ends with the connection."""
    return config | {"OpenStdin": True, "StdinOnce": True, "AttachStdin": True}


def kept_config(run: Run, *, lock: str, argv: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """Return the body for a container that serves one run after the other.

    It may do exactly what a container of a single run may. It goes by itself when it ends, and it ends with
    its stdin: so nothing of it outlives the worker.

    Parameters
    ----------
    run
        The first run.
    lock
        Path of a file that is locked while the worker lives.
    argv
        What the container executes.
    options
        As :func:`container_config` takes them.
    """
    config = _with_stdin(container_config(run, **options))
    own = {WORKER_LABEL, MANAGED_LABEL, GPU_LABEL}
    labels = {name: value for name, value in config["Labels"].items() if name in own}
    labels |= {ROLE_LABEL: "kept", LOCK_LABEL: lock, MEMORY_LABEL: str(run.limits.memory_mib)}
    env = [word for word in config["Env"] if word.partition("=")[0] not in RUN_IDS]
    # What it prints is read while it runs; the engine's own copy would hold the messages of all runs.
    host = config["HostConfig"] | {"AutoRemove": True, "LogConfig": {"Type": "none", "Config": {}}}
    changed = {"Entrypoint": [argv[0]], "Cmd": list(argv[1:]), "Env": env, "Labels": labels}
    return config | changed | {"HostConfig": host}


def holder_config(run: Run, *, lock: str, user: str, worker_id: str) -> dict[str, Any]:
    """Return the body for a container that only holds a network without any interface but its loopback."""
    return _with_stdin(
        {
            "Image": run.image,
            "Entrypoint": ["cat"],
            "Cmd": [],
            "User": user,
            "Healthcheck": {"Test": ["NONE"]},
            "AttachStdout": True,
            "AttachStderr": True,
            "Env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "Labels": {MANAGED_LABEL: "1", WORKER_LABEL: worker_id, ROLE_LABEL: "pause", LOCK_LABEL: lock},
            "HostConfig": {
                "NetworkMode": "none",
                "ReadonlyRootfs": True,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "Init": True,
                "AutoRemove": True,
                "PidsLimit": 8,
                "Memory": 32 * _MIB,
                "MemorySwap": 32 * _MIB,
                "LogConfig": {"Type": "none", "Config": {}},
            },
        }
    )
