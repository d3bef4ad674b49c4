"""Containers: what only this runtime promises, on a real engine."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import sysconfig
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dynsvc.errors import (
    AlgorithmFailed,
    AlgorithmUnavailable,
    AttemptEnded,
    EngineUnavailable,
    SettingsInvalid,
)
from dynsvc.outputs import discard
from dynsvc.runtime import Limits, Run, RunOutcome
from tests.support.images import awkward_image, base_image, engine
from workers.runtimes.container import container_name
from workers.runtimes.docker import DockerRuntime

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
WORKER = f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def runtime() -> Iterator[DockerRuntime]:
    base_image()
    runtime = DockerRuntime(worker_id=WORKER)
    yield runtime
    left = engine().containers(all=True, filters={"label": f"dynsvc.worker={WORKER}"})
    runtime.reap(all_ended)
    runtime.close()
    assert left == []


def made(folder: Path, *argv: str, image: str | None = None, attempt: str = "a1", **limits: Any) -> Run:
    given = {"timeout_s": 30.0, "memory_mib": 256, "cpus": 1.5, "pids": 64, "tmp_mib": 16} | limits
    for name in ("input", "output"):
        (folder / name).mkdir(exist_ok=True)
    return Run(
        algorithm="seg",
        version="1",
        image=image or base_image(),
        argv=argv,
        input_dir=folder / "input",
        output_dir=folder / "output",
        limits=Limits(**given),
        order_id=f"order-{WORKER}",
        attempt=attempt,
    )


def go(runtime: DockerRuntime, run: Run) -> RunOutcome:
    return runtime.run(run, on_line=lambda line: None, ended=lambda: False)


def shell(runtime: DockerRuntime, folder: Path, program: str, **options: Any) -> RunOutcome:
    return go(runtime, made(folder, "sh", "-c", program, **options))


def eventually(condition: Callable[[], Any], within_s: float = 20) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def containers(label: str = f"dynsvc.worker={WORKER}") -> list[dict[str, Any]]:
    return list(engine().containers(all=True, filters={"label": label}))


# Isolation, as the engine reports it of a running container


@pytest.fixture(scope="module")
def inspected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The engine's own description of a container while it runs, from an image with other wishes."""
    folder = tmp_path_factory.mktemp("run")
    seen: dict[str, Any] = {}
    runtime = DockerRuntime(worker_id=WORKER)
    run = made(folder, "sh", "-c", "echo up; sleep 600", image=awkward_image(), attempt="inspected")

    def on_line(line: str) -> None:
        seen.update(engine().inspect_container(container_name(run)), folder=folder)

    with pytest.raises(AttemptEnded):
        runtime.run(run, on_line=on_line, ended=lambda: bool(seen))
    runtime.close()
    assert containers() == []
    return seen


def test_the_container_ran_exactly_our_arguments(inspected: dict[str, Any]) -> None:
    assert inspected["State"]["Running"]
    assert [inspected["Path"], *inspected["Args"]] == ["sh", "-c", "echo up; sleep 600"]
    assert inspected["Config"]["Healthcheck"]["Test"] == ["NONE"]
    assert not inspected["Config"]["Tty"]
    assert not inspected["Config"]["OpenStdin"]


def test_the_running_container_has_the_declared_isolation(inspected: dict[str, Any]) -> None:
    host = inspected["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert list(inspected["NetworkSettings"]["Networks"]) == ["none"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] is None
    assert host["Privileged"] is False
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Init"] is True
    assert host["PidsLimit"] == 64
    assert host["Memory"] == host["MemorySwap"] == 256 * 2**20
    assert host["NanoCpus"] == min(1_500_000_000, (os.cpu_count() or 1) * 10**9)
    largest = (4 << 30) + (1 << 20)
    assert host["Ulimits"] == [
        {"Name": "core", "Hard": 0, "Soft": 0},
        {"Name": "fsize", "Hard": largest, "Soft": largest},
    ]
    assert host["Tmpfs"] == {"/tmp": "rw,exec,nosuid,nodev,size=16m,mode=1777"}
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}}
    assert host["Binds"] is None
    assert host["Devices"] in (None, [])
    assert host["DeviceRequests"] in (None, [])
    assert host["PidMode"] == ""
    assert host["IpcMode"] == "private"
    assert host["AutoRemove"] is False
    assert host["OomScoreAdj"] == 500
    uid = os.geteuid() or 65532
    gid = os.getegid() if os.geteuid() else 65532
    assert inspected["Config"]["User"] == f"{uid}:{gid}"


def test_the_running_container_sees_two_folders_and_nothing_else(inspected: dict[str, Any]) -> None:
    mounts = {
        mount["Destination"]: (mount["Type"], mount["Source"], mount["RW"]) for mount in inspected["Mounts"]
    }
    assert mounts == {
        "/input": ("bind", str(inspected["folder"] / "input"), False),
        "/output": ("bind", str(inspected["folder"] / "output"), True),
    }


def test_the_running_container_is_labelled_for_its_order_and_its_end(inspected: dict[str, Any]) -> None:
    labels = inspected["Config"]["Labels"]
    images = engine().inspect_image(awkward_image())["Config"]["Labels"]
    assert {name: value for name, value in labels.items() if name not in {"dynsvc.deadline", *images}} == {
        "dynsvc.managed": "1",
        "dynsvc.worker": WORKER,
        "dynsvc.role": "job",
        "dynsvc.order": f"order-{WORKER}",
        "dynsvc.attempt": "inspected",
    }
    assert 0 < int(labels["dynsvc.deadline"]) - time.time() < 30 + 60 + 60
    assert inspected["Name"].startswith(f"/dynsvc-order-{WORKER}-")


def test_the_images_own_variables_do_not_win(inspected: dict[str, Any]) -> None:
    env = dict(line.split("=", 1) for line in inspected["Config"]["Env"])
    assert env["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert env["OMP_NUM_THREADS"] == "1"


# Isolation, as an algorithm finds it


def test_there_is_no_network(runtime: DockerRuntime, tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        program = (
            "import os, socket\n"
            "print(sorted(os.listdir('/sys/class/net')))\n"
            f"for host in ('172.17.0.1', '127.0.0.1'):\n"
            f"  try: socket.create_connection((host, {port}), 3); print('connected')\n"
            f"  except OSError as error: print(type(error).__name__)\n"
        )
        lines = go(runtime, made(tmp_path, "python3", "-c", program)).last_lines.splitlines()
    assert "lo" in lines[0]
    assert "eth0" not in lines[0]
    assert "connected" not in lines


@pytest.mark.parametrize("path", ["/x", "/usr/bin/x", "/input/x", "/etc/passwd", "/var/tmp/x"])
def test_nothing_but_output_and_tmp_can_be_written(runtime: DockerRuntime, tmp_path: Path, path: str) -> None:
    with pytest.raises(AlgorithmFailed, match=r"Read-only file system|Permission denied"):
        shell(runtime, tmp_path, f"echo x > {path}")


def test_the_input_cannot_be_changed(runtime: DockerRuntime, tmp_path: Path) -> None:
    run = made(tmp_path, "sh", "-c", "rm -f /input/tile; chmod 777 /input/tile; echo x >> /input/tile; true")
    (run.input_dir / "tile").write_bytes(b"pixels")
    go(runtime, run)
    assert (run.input_dir / "tile").read_bytes() == b"pixels"


def test_tmp_has_a_size(runtime: DockerRuntime, tmp_path: Path) -> None:
    outcome = shell(runtime, tmp_path, "head -c 50000000 /dev/zero > /tmp/x || stat -c %s /tmp/x")
    assert int(outcome.last_lines.splitlines()[-1]) <= 16 * 2**20


def test_programs_have_no_rights_and_cannot_get_any(runtime: DockerRuntime, tmp_path: Path) -> None:
    outcome = shell(runtime, tmp_path, "grep -E 'Cap(Eff|Bnd)|NoNewPrivs' /proc/self/status; id -u; id -G")
    found = outcome.last_lines.replace("\t", "").splitlines()
    assert found[:3] == ["CapEff:0000000000000000", "CapBnd:0000000000000000", "NoNewPrivs:1"]
    assert int(found[3]) != 0
    assert "0" not in found[4].split()


def test_a_worker_can_read_and_delete_what_an_algorithm_hid(runtime: DockerRuntime, tmp_path: Path) -> None:
    run = made(
        tmp_path, "sh", "-c", "umask 077; mkdir -p /output/a/b; echo x > /output/a/b/c; chmod 0 /output/a/b"
    )
    go(runtime, run)
    if os.geteuid() == 0:
        assert (run.output_dir / "a/b/c").stat().st_uid == 65532
    discard(run.output_dir)
    assert not run.output_dir.exists()


def test_private_input_of_root_is_readable_for_the_algorithm(runtime: DockerRuntime, tmp_path: Path) -> None:
    run = made(tmp_path, "cat", "/input/deep/tile")
    (run.input_dir / "deep").mkdir(mode=0o700)
    (run.input_dir / "deep/tile").write_text("pixels")
    (run.input_dir / "deep/tile").chmod(0o600)
    (run.input_dir / "deep/secret").symlink_to("/etc/shadow")
    before = stat.S_IMODE(Path("/etc/shadow").stat().st_mode)
    assert go(runtime, run).last_lines == "pixels"
    assert stat.S_IMODE(Path("/etc/shadow").stat().st_mode) == before


def test_the_engines_proxy_settings_do_not_reach_the_algorithm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base_image()
    proxies = {"proxies": {"default": {"httpProxy": "http://user:hunter2@proxy:3128"}}}
    (tmp_path / "config.json").write_text(json.dumps(proxies))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    runtime = DockerRuntime(worker_id=WORKER)
    assert "hunter2" not in shell(runtime, tmp_path, "env").last_lines
    runtime.close()


# What ran, and what cannot run


def test_the_image_that_ran_is_told_by_its_content(runtime: DockerRuntime, tmp_path: Path) -> None:
    assert shell(runtime, tmp_path, "true").executed == engine().inspect_image(base_image())["Id"]


def test_what_the_image_states_of_its_libraries_is_told(runtime: DockerRuntime, tmp_path: Path) -> None:
    stated = {"dynsvc.library.numpy": "2.4.6", "org.opencontainers.image.revision": "abc"}
    assert shell(runtime, tmp_path, "true", image=awkward_image()).stated == stated
    assert shell(runtime, tmp_path, "true").stated == {}


def test_a_missing_image_is_named_with_what_to_do(runtime: DockerRuntime, tmp_path: Path) -> None:
    with pytest.raises(AlgorithmUnavailable, match="docker pull example/none:9"):
        shell(runtime, tmp_path, "true", image="example/none:9")


@pytest.mark.parametrize("image", ["Not A Name", "a:b:c", ""])
def test_a_name_that_no_image_can_have_is_permanent(
    runtime: DockerRuntime, tmp_path: Path, image: str
) -> None:
    run = made(tmp_path, "true")
    object.__setattr__(run, "image", image)
    with pytest.raises(AlgorithmUnavailable):
        go(runtime, run)


def test_an_algorithm_without_an_image_is_not_run(runtime: DockerRuntime, tmp_path: Path) -> None:
    run = made(tmp_path, "true")
    object.__setattr__(run, "image", None)
    with pytest.raises(AlgorithmUnavailable, match="names no image"):
        go(runtime, run)


def test_a_folder_that_the_engine_cannot_see_is_a_wrong_setting(tmp_path: Path) -> None:
    base_image()
    runtime = DockerRuntime(scratch=tmp_path, worker_id=WORKER, host_scratch="/nonexistent/host")
    with pytest.raises(SettingsInvalid, match="/nonexistent/host/"):
        shell(runtime, tmp_path, "true")
    runtime.close()
    assert not Path("/nonexistent").exists()
    assert containers() == []


@pytest.mark.parametrize("address", ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:9"])
def test_an_engine_that_is_away_is_transient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    run = made(tmp_path, "true")
    monkeypatch.setenv("DOCKER_HOST", address)
    for call in (
        lambda: DockerRuntime().check(),
        lambda: go(DockerRuntime(), run),
        lambda: DockerRuntime().reap(all_ended),
    ):
        with pytest.raises(EngineUnavailable, match="is the engine running") as caught:
            call()
        assert caught.value.transient
        assert address in str(caught.value)


def test_a_listener_that_is_no_engine_is_transient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(EngineUnavailable):
            DockerRuntime().check()


def test_the_engine_is_named_by_the_check(runtime: DockerRuntime) -> None:
    assert engine().version()["Version"] in runtime.check()


# What crashes leave


def left_over(folder: Path, *, deadline: float, worker: str = WORKER, name: str | None = None) -> str:
    labels = {"dynsvc.managed": "1", "dynsvc.worker": worker, "dynsvc.deadline": str(int(deadline))}
    config = {"Image": base_image(), "Entrypoint": ["sleep"], "Cmd": ["600"], "Labels": labels}
    container = engine().create_container_from_config(
        config | {"HostConfig": {"NetworkMode": "none"}}, name=name
    )
    engine().start(container["Id"])
    return str(container["Id"])


def test_what_a_crash_left_of_this_attempt_is_replaced(runtime: DockerRuntime, tmp_path: Path) -> None:
    run = made(tmp_path, "echo", "second", attempt="crashed")
    left_over(tmp_path, deadline=time.time() + 600, name=container_name(run))
    assert go(runtime, run).last_lines == "second"
    assert containers() == []


def test_a_strangers_container_is_never_removed(runtime: DockerRuntime, tmp_path: Path) -> None:
    run = made(tmp_path, "true", attempt="stranger")
    config = {"Image": base_image(), "Entrypoint": ["true"], "HostConfig": {"NetworkMode": "none"}}
    stranger = engine().create_container_from_config(config, name=container_name(run))["Id"]
    try:
        with pytest.raises(EngineUnavailable, match="already in use"):
            go(runtime, run)
        runtime.reap(all_ended)
        assert engine().inspect_container(stranger)["Id"] == stranger
    finally:
        engine().remove_container(stranger, force=True)


def all_ended(attempts: list[tuple[str, str]]) -> list[bool]:
    return [True] * len(attempts)


def none_ended(attempts: list[tuple[str, str]]) -> list[bool]:
    return [False] * len(attempts)


def test_left_overs_whose_attempt_has_ended_are_reaped_and_those_of_others_stay(
    runtime: DockerRuntime, tmp_path: Path
) -> None:
    other = f"other-{WORKER}"
    mine = left_over(tmp_path, deadline=time.time() + 600)
    others = left_over(tmp_path, deadline=time.time() + 600, worker=other)
    try:
        assert runtime.reap(all_ended) == 1
        found = {container["Id"] for container in containers("dynsvc.managed=1")}
        assert mine not in found
        assert others in found
    finally:
        engine().remove_container(others, force=True)


def test_containers_past_their_deadline_are_reaped_whoever_started_them(
    runtime: DockerRuntime, tmp_path: Path
) -> None:
    other = f"other-{WORKER}"
    overdue = left_over(tmp_path, deadline=time.time() - 1, worker=other)
    mine = left_over(tmp_path, deadline=time.time() + 600)
    try:
        runtime.reap(none_ended)
        found = {container["Id"] for container in containers("dynsvc.managed=1")}
        assert overdue not in found
        assert mine in found
    finally:
        engine().remove_container(mine, force=True)


def test_a_container_that_somebody_removed_may_be_run_again(runtime: DockerRuntime, tmp_path: Path) -> None:
    run = made(tmp_path, "sh", "-c", "echo up; sleep 600", attempt="removed")

    def on_line(line: str) -> None:
        engine().remove_container(container_name(run), force=True)

    with pytest.raises(EngineUnavailable) as caught:
        runtime.run(run, on_line=on_line, ended=lambda: False)
    assert caught.value.transient


def test_a_container_that_was_removed_with_its_order_is_no_failure(
    runtime: DockerRuntime, tmp_path: Path
) -> None:
    run = made(tmp_path, "sh", "-c", "echo up; sleep 600", attempt="cancelled")
    gone: list[None] = []

    def on_line(line: str) -> None:
        gone.append(None)
        engine().remove_container(container_name(run), force=True)

    with pytest.raises(AttemptEnded):
        runtime.run(run, on_line=on_line, ended=lambda: bool(gone))


def test_a_worker_in_a_container_shares_its_volume_with_the_algorithm(tmp_path: Path) -> None:
    """The engine knows the folders by other names than the worker does."""
    if sys.version_info[:2] != (3, 11) or engine().base_url != "http+docker://localhost":
        pytest.skip("the image has Python 3.11 and needs the engine's socket")
    program = f"""
from pathlib import Path
from dynsvc.runtime import Limits, Run
from workers.runtimes.docker import DockerRuntime
folder = Path("/data/orders/14")
for name in ("input", "output"):
    (folder / name).mkdir(parents=True)
(folder / "input/tile").write_text("pixels")
runtime = DockerRuntime(worker_id={WORKER!r})
run = Run(algorithm="seg", version="1", image={base_image()!r}, argv=("cp", "/input/tile", "/output/result"),
          input_dir=folder / "input", output_dir=folder / "output", order_id="order-{WORKER}",
          attempt="nested", limits=Limits(timeout_s=30, memory_mib=128, cpus=1, pids=32, tmp_mib=16))
runtime.run(run, on_line=print, ended=lambda: False)
print("result:", (folder / "output/result").read_text())
runtime.close()
"""
    volume = f"dynsvc-{WORKER}"
    engine().create_volume(volume)
    packages = sysconfig.get_path("purelib")
    command = ["docker", "run", "--rm", "--network=none", "--hostname=custom", "-v", f"{volume}:/data"]
    command += ["-v", "/var/run/docker.sock:/var/run/docker.sock", "-v", f"{packages}:/packages:ro"]
    command += [
        "-v",
        f"{ROOT}:/dynsvc:ro",
        "-e",
        "PYTHONPATH=/dynsvc:/packages",
        "-e",
        "PYTHONDONTWRITEBYTECODE=1",
    ]
    try:
        done = subprocess.run(
            [*command, base_image(), "python3", "-c", program],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "result: pixels"
    finally:
        engine().remove_volume(volume, force=True)
    assert containers() == []
