"""What a container costs one region: kept warm, behind the shim, cold, by ``exec``, and the engine bare.

``python -m benchmarks.containers [--rounds 24] [--json FILE]``. All variants run the same light numpy program
(3 MB of pixels in, 1 MB of mask out) under the same limits, in rounds, each round in random order. Times are
medians in milliseconds. The bare variants use the engine's API alone, with the same container settings.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
from docker.utils import kwargs_from_env

from dynsvc import templates
from dynsvc.runtime import Limits, Run
from workers.runtimes.container import container_config
from workers.runtimes.docker import DockerRuntime
from workers.runtimes.ownership import give_folders
from workers.runtimes.stream import Stream

__all__ = ["main"]

BASE = "python:3.11-slim-bookworm"
IMAGE = "dynsvc-benchmark:numpy"
SIDE_PX = 1000
WORKER = f"benchmark-{os.getpid()}"
LIMITS = Limits(timeout_s=60, memory_mib=256, cpus=1, pids=64, tmp_mib=16)

PROGRAM = """
import numpy
def work(request, progress):
    if request.get("nothing"):
        return
    pixels = numpy.fromfile("/input/tile", dtype=numpy.uint8).reshape(-1, 3)
    grey = pixels @ numpy.array([0.299, 0.587, 0.114])
    (grey < grey.mean()).astype(numpy.uint8).tofile("/output/mask")
"""
ONCE = ("python3", "-c", PROGRAM + "work({}, None)\n")


def serving() -> tuple[str, ...]:
    helper = (Path(templates.__file__).parent / "dynsvc_warm.py").read_text()
    return ("python3", "-c", f"{helper}\n{PROGRAM}\nserve(work)\n")


def build(api: Any) -> None:
    """Make the image once: the base image and numpy."""
    if any(IMAGE in (image["RepoTags"] or ()) for image in api.images(IMAGE)):
        return
    context, content = io.BytesIO(), f"FROM {BASE}\nRUN pip install --no-cache-dir numpy\n".encode()
    with tarfile.open(fileobj=context, mode="w") as archive:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    context.seek(0)
    for step in api.build(fileobj=context, custom_context=True, tag=IMAGE, rm=True, decode=True):
        if "error" in step:
            sys.exit(f"{IMAGE} cannot be built: {step['error']}")


class Bench:
    """All variants, as functions that do one region."""

    def __init__(self, folder: Path, api: Any, undo: ExitStack) -> None:
        self._api, self._undo = api, undo
        self.runtime = DockerRuntime(scratch=folder / "scratch", worker_id=WORKER)
        undo.callback(self.runtime.close)
        input_dir, output_dir = folder / "input", folder / "output"
        for each in (input_dir, output_dir):
            each.mkdir()
        (input_dir / "tile").write_bytes(random.Random(7).randbytes(SIDE_PX * SIDE_PX * 3))
        self.run = Run(
            algorithm="threshold",
            version="1",
            image=IMAGE,
            argv=ONCE,
            argv_warm=serving(),
            input_dir=input_dir,
            output_dir=output_dir,
            limits=LIMITS,
            order_id="benchmark",
            attempt="benchmark",
            trust_domain="benchmark",
        )
        self._config = container_config(
            self.run,
            user=give_folders(self.run),
            input_source=str(input_dir),
            output_source=str(output_dir),
            worker_id=WORKER,
            host_cpus=int(api.info()["NCPU"]),
        )
        self._by_runtime(mode="warm")
        (kept,) = api.containers(filters={"label": [f"dynsvc.worker={WORKER}", "dynsvc.role=kept"]})
        # The same processor, if the kept one is pinned: on a busy host they are not alike.
        cpus = api.inspect_container(kept["Id"])["HostConfig"]["CpusetCpus"]
        self._line = self._attached(serving(), cpus)
        while not any(b"ready" in piece for _, piece in self._line.receive(10) or []):
            pass
        self._idle = self._started({"Entrypoint": ["sleep"], "Cmd": ["infinity"]})
        self._network = self._started({"Entrypoint": ["sleep"], "Cmd": ["infinity"]})

    def variants(self) -> dict[str, Callable[[], None]]:
        return {
            "warm": lambda: self._by_runtime(mode="warm"),
            "json line": lambda: self._ask({}),
            "warm, no work": lambda: self._by_runtime(mode="warm", request={"nothing": True}),
            "json line, no work": lambda: self._ask({"nothing": True}),
            "shim": lambda: self._by_runtime(mode="shim"),
            "shim, true": lambda: self._by_runtime(mode="shim", argv=("true",)),
            "docker exec": self._exec,
            "cold": lambda: self._by_runtime(mode="oneshot"),
            "bare cold, joined network": lambda: self._bare(f"container:{self._network}"),
            "cold, network of its own": lambda: self._by_runtime(mode="oneshot", trust_domain=""),
            "bare cold, network none": lambda: self._bare("none"),
        }

    def clear(self) -> None:
        for path in self.run.output_dir.iterdir():
            path.unlink()

    def _by_runtime(self, **change: Any) -> None:
        self.runtime.run(replace(self.run, **change), on_line=lambda _line: None, ended=lambda: False)

    def _ask(self, request: dict[str, Any]) -> None:
        self._line.send(json.dumps(request | {"id": "a"}).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"}\n"):
            answer += b"".join(piece for _, piece in self._line.receive(60) or [])

    def _exec(self) -> None:
        made = self._api.exec_create(self._idle, list(ONCE))
        self._api.exec_start(made["Id"])
        if self._api.exec_inspect(made["Id"])["ExitCode"]:
            sys.exit("docker exec failed")

    def _bare(self, network: str) -> None:
        host = self._config["HostConfig"] | {"NetworkMode": network}
        container = self._api.create_container_from_config(self._config | {"HostConfig": host})["Id"]
        self._api.start(container)
        status = self._api.wait(container)["StatusCode"]
        self._api.remove_container(container)
        if status:
            sys.exit("the bare container failed")

    def _started(self, change: dict[str, Any]) -> str:
        container = str(self._api.create_container_from_config(self._config | change)["Id"])
        self._undo.callback(self._api.remove_container, container, force=True)
        self._api.start(container)
        return container

    def _attached(self, argv: tuple[str, ...], cpus: str) -> Stream:
        host = self._config["HostConfig"] | {"CpusetCpus": cpus}
        change: dict[str, Any] = {"Entrypoint": [argv[0]], "Cmd": list(argv[1:]), "HostConfig": host}
        change |= {"OpenStdin": True, "StdinOnce": True}
        container = str(self._api.create_container_from_config(self._config | change)["Id"])
        self._undo.callback(self._api.remove_container, container, force=True)
        params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        stream = Stream(self._api.attach_socket(container, params=params))
        self._undo.callback(stream.close)
        self._api.start(container)
        return stream


def measured(bench: Bench, rounds: int) -> dict[str, list[float]]:
    variants = bench.variants()
    times: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants)
    shuffle = random.Random(7).shuffle
    for number in range(rounds + 2):  # the first two start what is kept
        shuffle(order)
        for name in order:
            # A call that is over in milliseconds is repeated, after one that brings it back into the caches.
            fast = name.startswith(("warm", "json line"))
            for _ in range(6 if fast else 1):
                bench.clear()
                begin = time.perf_counter()
                variants[name]()
                taken = time.perf_counter() - begin
                if number >= 2:
                    times[name].append(taken)
    return times


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.containers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args(argv)
    api = docker.APIClient(version="auto", **kwargs_from_env())
    build(api)
    folder = Path(tempfile.mkdtemp(prefix="dynsvc-benchmark-"))
    with ExitStack() as undo:
        undo.callback(api.close)
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        times = measured(Bench(folder, api, undo), given.rounds)
    ms = {name: statistics.median(each) * 1000 for name, each in times.items()}
    goals = {
        "warm, times faster than cold": ms["cold"] / ms["warm"],
        "warm, times faster than cold with a network of its own": ms["cold, network of its own"] / ms["warm"],
        "warm, times faster than docker exec": ms["docker exec"] / ms["warm"],
        "shim, times faster than cold": ms["cold"] / ms["shim"],
        "own ms per warm call over a JSON line": ms["warm"] - ms["json line"],
        "own ms per warm call over a JSON line, no work": ms["warm, no work"] - ms["json line, no work"],
        "cold over bare": ms["cold"] / ms["bare cold, joined network"] - 1,
        "cold over bare, network of its own": ms["cold, network of its own"] / ms["bare cold, network none"]
        - 1,
    }
    print(f"{'variant':<28}{'median ms':>10}{'tiles/s':>10}{'p95 ms':>10}")
    for name, each in times.items():
        p95 = sorted(each)[int(len(each) * 0.95)] * 1000
        print(f"{name:<28}{ms[name]:>10.2f}{1000 / ms[name]:>10.1f}{p95:>10.2f}")
    for name, value in goals.items():
        print(f"{name}: {value:.1%}" if name.startswith("cold over") else f"{name}: {value:.2f}")
    if given.json:
        host = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
        version = docker.APIClient(version="auto", **kwargs_from_env())
        host["engine"] = version.version()["Version"]
        version.close()
        document = {"rounds": given.rounds, "host": host, "median_ms": ms, "derived": goals, "seconds": times}
        given.json.write_text(json.dumps(document, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
