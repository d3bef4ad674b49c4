"""A trivial container, by girder-worker's docker_run task and by whole orders of dynsvc: cold and warm.

girder-worker runs as it is published, in an environment of its own, with RabbitMQ. There is no Girder, so it
reports to nobody. Its task ends with the container; an order of dynsvc comes from Kue, fetches a region, runs
the container, checks, packs and uploads the result. Image, engine, host and number of slots are the same.
dynsvc gives a container no network; girder-worker runs with that option too. The engine alone (create, start,
wait, remove) is the floor of a cold run.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import docker

from benchmarks.peer import installed, versions
from benchmarks.report import arguments, machine, spread, table, written
from benchmarks.rig import Rig, Side
from dynsvc import templates
from tests.support.hospital import Program
from tests.support.rabbitmq import running_rabbitmq

__all__ = ["main"]

NAME = "girderworker"
PEER = "girder-worker"
IMAGE = "python:3.11-slim-bookworm"
_PACKAGES = ("girder-worker==5.0.21", "girder-client==5.0.21", "celery==5.7.0", "docker==7.2.0")
_VERSIONS = ("girder-worker", "celery", "kombu", "docker")

#: The same little file by the same shell, or by a program that stays.
_TRIVIAL = "echo done > /output/done.txt"
_STAYING = """
def work(request, progress):
    with open(request["output_dir"] + "/done.txt", "w") as file:
        file.write("done")
serve(work)
"""
_DESCRIPTOR = """
schema = 1
name = "{name}"
title = "Writes a small file"
version = "1"
image = "{image}"
command = ["sh", "-c", "{trivial}"]
default_mpp = 0.25
{run}
[limits]
timeout_s = 60
memory_mib = 128
cpus = 0.5
pids = 32
[outputs]
required = ["done.txt"]
include_input = false
"""


def describe(folder: Path) -> None:
    """Write the algorithms ``cold`` and ``warm``."""
    helper = (Path(templates.__file__).parent / "dynsvc_warm.py").read_text()
    staying = json.dumps(["python3", "-c", helper + _STAYING])
    runs = {"cold": "", "warm": f'[run]\nmode = "warm"\ncommand_warm = {staying}\n'}
    for name, run in runs.items():
        (folder / name).mkdir()
        text = _DESCRIPTOR.format(name=name, image=IMAGE, trivial=_TRIVIAL, run=run)
        (folder / name / "algorithm.toml").write_text(text)


class Girder:
    """girder-worker and who sends it tasks."""

    def __init__(self, python: Path, env: dict[str, str], folder: Path) -> None:
        output = folder / "girder"
        output.mkdir()
        task = {
            "image": IMAGE,
            "entrypoint": ["sh"],
            "arguments": ["-c", _TRIVIAL],
            "folder": str(output),
        }
        self._result = output / "done.txt"
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("girder_sender.py")), json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
            cwd=folder,
        )
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # girder-worker's log goes to stdout too.
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise AssertionError("the sender of girder-worker's tasks has ended")

    def run(self, count: int, *, together: bool, **options: str) -> list[float]:
        assert self._process.stdin is not None
        self._result.unlink(missing_ok=True)
        self._process.stdin.write(
            json.dumps({"count": count, "together": together, "options": options}) + "\n"
        )
        self._process.stdin.flush()
        took_s: list[float] = self._answer()["took_s"]
        if self._result.read_text() != "done\n":
            raise AssertionError("girder-worker's container wrote nothing")
        return took_s

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


@contextmanager
def girder(python: Path, url: str, slots: int, rig: Rig) -> Iterator[Girder]:
    folder = rig.folder
    env = {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "TMPDIR": str(folder / "tmp"),
        # Only where this runs as root: it reads pickles, and refuses.
        "C_FORCE_ROOT": "1",
        "GIRDER_WORKER_BROKER": url,
        "GIRDER_WORKER_BACKEND": "rpc://",
    }
    argv = [str(python), "-m", "celery", "-A", "girder_worker.app", "worker", "-c", str(slots), "-l", "INFO"]
    worker = Program("girder", argv, env, folder)
    try:
        worker.wait_for(" ready.")
        sender = Girder(python, env, folder)
        try:
            yield sender
        finally:
            sender.stop()
    except BaseException:
        print(f"==> girder-worker\n{worker.log[-3000:]}", file=sys.stderr)
        raise
    finally:
        worker.stop()


class Orders:
    """Orders through Kue."""

    def __init__(self, rig: Rig, side: Side, algorithm: str) -> None:
        self._rig, self._side, self._algorithm = rig, side, algorithm

    def run(self, count: int, *, together: bool) -> list[float]:
        return [self._ended(count)] if together else [self._ended(1) for _ in range(count)]

    def _ended(self, count: int) -> float:
        """Order *count* times; return the seconds until Kue has the last one complete."""
        rig, kind = self._rig, self._side.job_type
        before, began_s = rig.ended(kind), time.time()
        ids = [rig.kue.post_job(kind, rig.ordering(self._algorithm)) for _ in range(count)]
        rig.until(lambda: rig.ended(kind) >= before + count, 120)
        # By the clock of Redis, on this machine: looking takes a while.
        return (
            max(float(rig.client.hget(f"q:job:{each}", "updated_at") or 0) for each in ids) / 1000 - began_s
        )


class Engine:
    """The engine alone."""

    def __init__(self, folder: Path, network: str) -> None:
        self._api = docker.APIClient(version="auto", **docker.utils.kwargs_from_env())
        (folder / "engine").mkdir(exist_ok=True)
        binds = [f"{folder / 'engine'}:/output"]
        self._host = self._api.create_host_config(binds=binds, network_mode=network)

    def run(self, count: int, *, together: bool) -> list[float]:
        if together:
            raise AssertionError("one at a time only")
        took_s = []
        for _ in range(count):
            began = time.perf_counter()
            made = self._api.create_container(IMAGE, ["sh", "-c", _TRIVIAL], host_config=self._host)["Id"]
            self._api.start(made)
            status = self._api.wait(made)["StatusCode"]
            self._api.remove_container(made)
            took_s.append(time.perf_counter() - began)
            if status:
                raise AssertionError("the container failed")
        return took_s


def measured(
    sides: dict[str, Callable[..., list[float]]], rounds: int, singles: int, batch: int
) -> dict[str, dict[str, list[float]]]:
    """Return seconds of single runs and runs per second of batches, of each side."""
    found: dict[str, dict[str, list[float]]] = {name: {"single_s": [], "per_s": []} for name in sides}
    for each in range(rounds + 1):
        for name in random.Random(each).sample(list(sides), len(sides)):
            # A warm program is over in milliseconds.
            many = 5 if "warm" in name else 1
            took_s = sides[name](singles * many, together=False)
            if not each:
                continue  # the first round starts what is kept
            found[name]["single_s"] += took_s
            if not name.startswith("engine"):
                (all_s,) = sides[name](batch * many, together=True)
                found[name]["per_s"].append(batch * many / all_s)
            print(f"round {each}: {name:<26} {1000 * median(took_s):8.1f} ms", file=sys.stderr)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = arguments(NAME, __doc__)
    parser.add_argument("--python", type=Path, help="Python with girder-worker; default: a new environment")
    parser.add_argument("--slots", type=int, default=2, help="of each worker")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--singles", type=int, default=6, help="one at a time in each round; warm 5 times that"
    )
    parser.add_argument("--batch", type=int, default=12, help="at once in each round; warm 5 times that")
    given = parser.parse_args(argv)
    facts: dict[str, Any] = {"machine": machine(), "slots": given.slots, "image": IMAGE}
    with Rig() as rig, running_rabbitmq() as rabbit:
        python = given.python.absolute() if given.python else installed(rig.folder / "venv", _PACKAGES)
        facts["peer"] = versions(python, _VERSIONS)
        print(*(f"{name} {version}" for name, version in facts["peer"].items()), sep=", ")
        describe(rig.folder / "algorithms")
        with (
            girder(python, rabbit.url, given.slots, rig) as peer,
            rig.dynsvc(1, given.slots, DYNSVC_RUNTIME="docker") as side,
        ):
            sides = {
                PEER: peer.run,
                f"{PEER}, no network": partial(peer.run, network_mode="none"),
                "dynsvc, cold": Orders(rig, side, "cold").run,
                "dynsvc, warm": Orders(rig, side, "warm").run,
                "engine": Engine(rig.folder, "default").run,
                "engine, no network": Engine(rig.folder, "none").run,
            }
            runs = measured(sides, given.rounds, given.singles, given.batch)
    rows = []
    for name, each in runs.items():
        single = [1000 * took_s for took_s in each["single_s"]]
        rows.append([name, spread(single), spread(each["per_s"]) if each["per_s"] else ""])
    table(["side", "one at a time, ms (range)", f"per second, {given.slots} slots"], rows)
    single = {name: median(each["single_s"]) for name, each in runs.items()}
    speed = {name: median(each["per_s"]) for name, each in runs.items() if each["per_s"]}
    facts["ratios"] = {}
    for kind in ("cold", "warm"):
        ours = f"dynsvc, {kind}"
        for peer_name in (PEER, f"{PEER}, no network"):
            facts["ratios"][f"time of one, {peer_name} / {ours}"] = single[peer_name] / single[ours]
            facts["ratios"][f"runs/s, {ours} / {peer_name}"] = speed[ours] / speed[peer_name]
    for name in (f"{PEER}, no network", "dynsvc, cold"):
        own_ms = 1000 * (single[name] - single["engine, no network"])
        facts["ratios"][f"ms beyond the engine without network, {name}"] = own_ms
    for name, value in facts["ratios"].items():
        print(f"{name}: {value:.2f}")
    facts["runs"] = runs
    written(NAME, given.json, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
