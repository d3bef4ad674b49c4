"""GPU orders on hosts whose GPUs are only configured: queues, exclusive leases, errors. No GPU is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.hospital import Hospital, eventually
from tests.support.orders import v4

DESCRIPTOR = """\
schema = 1
name = "gpu-{name}"
title = "Needs a GPU"
version = "1"
default_mpp = 0.25
command = ["gpu-program", "{{output_dir}}"]

[limits]
memory_mib = 64
cpus = 0.1
{limits}

[device]
kind = "gpu"
gpus = 1

[outputs]
required = ["seen.txt"]
"""

#: Says which GPU it has, and whether anybody else has it too.
PROGRAM = """#!/bin/sh
echo "$CUDA_VISIBLE_DEVICES $NVIDIA_VISIBLE_DEVICES" > "$1/seen.txt"
mkdir "FOLDER/in-use-$CUDA_VISIBLE_DEVICES" || echo overlap >> FOLDER/overlaps
echo "$CUDA_VISIBLE_DEVICES" >> FOLDER/used
while [ -e FOLDER/hold ]; do sleep 0.05; done
# Two that share a GPU share this folder too.
rmdir "FOLDER/in-use-$CUDA_VISIBLE_DEVICES" || true
"""


def with_gpu_algorithms(site: Hospital) -> dict[str, str]:
    folder = site.folder / "algorithms"
    for name, limits in (("whole", ""), ("shared", "gpu_memory_mib = 4000")):
        (folder / name).mkdir(parents=True)
        (folder / name / "algorithm.toml").write_text(DESCRIPTOR.format(name=name, limits=limits))
    site.install("gpu-program", PROGRAM.replace("FOLDER", str(site.folder)))
    return {"DYNSVC_ALGORITHMS": str(folder), "DYNSVC_DEFAULT_ALGORITHM": "gpu-whole"}


def order(site: Hospital, algorithm: str) -> str:
    return site.kue.post_job("analysisJob", v4(algorithm=algorithm, x=10, y=20, w=64, h=48))


def job(site: Hospital, order_id: str) -> dict[str, Any]:
    found: dict[str, Any] = site.kue.get(f"/job/{order_id}")
    return found


def used(folder: Path) -> list[str]:
    path = folder / "used"
    return path.read_text().split() if path.exists() else []


def test_a_second_order_waits_for_the_one_gpu(site: Hospital) -> None:
    env = with_gpu_algorithms(site)
    (site.folder / "hold").touch()
    site.start_worker("-c", "4", DYNSVC_GPUS="GPU-fake-1", **env)
    site.start_bridge()
    order_ids = [order(site, "gpu-whole") for _ in range(3)]
    eventually(lambda: used(site.folder), what="one of them runs")
    waiting = site.folder / "tmp"
    eventually(lambda: len(list(waiting.glob("*/host/waiting/*"))) == 2, what="two wait for their turn")
    assert used(site.folder) == ["GPU-fake-1"]
    (site.folder / "hold").unlink()
    site.wait_ended(*order_ids)
    assert [job(site, order_id)["state"] for order_id in order_ids] == ["complete"] * 3
    assert used(site.folder) == ["GPU-fake-1"] * 3
    assert not (site.folder / "overlaps").exists()


def test_two_workers_of_a_host_share_its_gpus(site: Hospital) -> None:
    env = with_gpu_algorithms(site) | {"DYNSVC_GPUS": "GPU-fake-1=10000,MIG-fake-2=10000"}
    (site.folder / "hold").touch()
    site.start_worker("-c", "2", **env)
    site.start_worker("-c", "2", **env)
    site.start_bridge()
    order_ids = [order(site, "gpu-whole") for _ in range(2)]
    eventually(lambda: len(used(site.folder)) == 2, what="both run")
    assert sorted(used(site.folder)) == ["GPU-fake-1", "MIG-fake-2"]
    order_ids += [order(site, "gpu-shared") for _ in range(2)]
    (site.folder / "hold").unlink()
    site.wait_ended(*order_ids)
    ended = [job(site, order_id) for order_id in order_ids]
    assert [found["state"] for found in ended] == ["complete"] * 4, [found.get("error") for found in ended]


def test_a_host_without_a_gpu_takes_no_gpu_order(site: Hospital) -> None:
    env = with_gpu_algorithms(site)
    site.start_worker(DYNSVC_GPUS="none", **env)
    site.start_bridge()
    order_id = order(site, "gpu-whole")
    with site.redis.client(db=1) as broker:
        eventually(lambda: broker.llen("gpu") == 1, what="the step waits in the queue gpu")
    assert job(site, order_id)["state"] == "active"
    # A host with a GPU that comes later does it.
    site.start_worker("-Q", "gpu,io", DYNSVC_GPUS="GPU-fake-1", **env)
    site.wait_ended(order_id)
    assert job(site, order_id)["state"] == "complete"


def test_a_gpu_that_is_not_there_is_an_error_and_never_a_run_on_the_cpu(site: Hospital) -> None:
    env = with_gpu_algorithms(site)
    # Somebody has this host take GPU work although it has no GPU.
    site.start_worker("-Q", "io,cpu,gpu", DYNSVC_GPUS="none", **env)
    site.start_bridge()
    order_id = order(site, "gpu-whole")
    site.wait_ended(order_id)
    error = job(site, order_id)["error"]
    assert error.startswith("DeviceUnavailable: 1 GPU is not available on this host: it has no GPU")
    assert not used(site.folder)


def test_more_memory_than_any_gpu_has_is_an_error(site: Hospital) -> None:
    env = with_gpu_algorithms(site)
    site.start_worker(DYNSVC_GPUS="GPU-fake-1=2000", **env)
    site.start_bridge()
    order_id = order(site, "gpu-shared")
    site.wait_ended(order_id)
    assert (
        "1 GPU with 4000 MiB is not available on this host: the largest has 2000"
        in job(site, order_id)["error"]
    )
