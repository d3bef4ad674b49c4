"""GPUs and images on a real engine. What the NVIDIA runtime does is not looked at: no test host has one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dynsvc.errors import AlgorithmUnavailable, DeviceUnavailable
from dynsvc.runtime import Limits, Run
from tests.support.images import base_image, engine
from workers.runtimes.docker import DockerRuntime

pytestmark = pytest.mark.docker

WORKER = f"test-gpu-{uuid.uuid4().hex[:8]}"
GPU = f"GPU-fake-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def runtime() -> Iterator[DockerRuntime]:
    base_image()
    runtime = DockerRuntime(worker_id=WORKER)
    yield runtime
    runtime.close()
    for left in engine().containers(all=True, filters={"label": f"dynsvc.worker={WORKER}"}):
        engine().remove_container(left["Id"], force=True)


def made(folder: Path, *, gpus: int = 0) -> Run:
    for name in ("input", "output"):
        (folder / name).mkdir(exist_ok=True)
    limits = Limits(timeout_s=30, memory_mib=64, cpus=1, pids=16, tmp_mib=8, gpus=gpus)
    return Run(
        algorithm="seg",
        version="1",
        image=base_image(),
        argv=("sh", "-c", 'touch /output/ran; echo "$NVIDIA_VISIBLE_DEVICES"'),
        input_dir=folder / "input",
        output_dir=folder / "output",
        limits=limits,
        order_id=f"order-{WORKER}",
        attempt=uuid.uuid4().hex,
    )


def run(runtime: DockerRuntime, wanted: Run) -> str:
    return runtime.run(wanted, on_line=lambda line: None, ended=lambda: False).last_lines


def test_an_engine_without_gpus_refuses_the_leased_one(runtime: DockerRuntime, tmp_path: Path) -> None:
    if any("nvidia" in name for name in engine().info()["Runtimes"]):
        pytest.skip("this engine may have the GPU")
    with pytest.raises(DeviceUnavailable, match="GPU is not available on this host"):
        run(runtime, replace(made(tmp_path, gpus=1), gpu_ids=(GPU,)))
    assert not (tmp_path / "output/ran").exists()
    assert engine().containers(all=True, filters={"label": f"dynsvc.worker={WORKER}"}) == []


def test_a_run_without_gpus_sees_none(runtime: DockerRuntime, tmp_path: Path) -> None:
    assert run(runtime, made(tmp_path)) == "void"


def test_what_a_dead_worker_left_on_a_gpu_goes_before_the_next_run(
    runtime: DockerRuntime, tmp_path: Path
) -> None:
    labels = {"dynsvc.managed": "1", "dynsvc.role": "job", "dynsvc.worker": WORKER}
    left, other = (
        engine().create_container(base_image(), ["sleep", "60"], labels={**labels, "dynsvc.gpu": gpu})["Id"]
        for gpu in (GPU, f"{GPU}-of-another")
    )
    engine().start(left)
    with pytest.raises(DeviceUnavailable):
        run(runtime, replace(made(tmp_path, gpus=1), gpu_ids=(GPU,)))
    found = [
        each["Id"] for each in engine().containers(all=True, filters={"label": f"dynsvc.worker={WORKER}"})
    ]
    assert found == [other]


def test_an_image_is_identified_by_its_content(runtime: DockerRuntime, tmp_path: Path) -> None:
    wanted = made(tmp_path)
    told = runtime.identity(wanted)
    assert told == f"image {engine().inspect_image(base_image())['Id']}"
    alias = f"dynsvc-test/{WORKER}:1"
    engine().tag(base_image(), f"dynsvc-test/{WORKER}", "1")
    try:
        assert runtime.identity(replace(wanted, image=alias)) == told
    finally:
        engine().remove_image(alias, noprune=True)
    with pytest.raises(AlgorithmUnavailable, match="not on this host"):
        runtime.identity(replace(wanted, image=alias))
