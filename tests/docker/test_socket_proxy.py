"""The proxy before the engine's socket: what it lets through is enough, and what it refuses has an end."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dynsvc.errors import PeerRefused
from tests.support.images import base_image
from tests.support.kept import ECHO, Keeping, eventually
from tests.support.services import missing

pytestmark = pytest.mark.docker

CONFIG = Path(__file__).parents[2] / "deploy" / "socket-proxy" / "haproxy.cfg"
SOCKET = "/var/run/docker.sock"


@contextlib.contextmanager
def proxy(folder: Path, change: Callable[[str], str]) -> Iterator[str]:
    """Run the proxy with its own configuration, changed; *folder* is all that containers may mount."""
    if shutil.which("haproxy") is None:
        missing("haproxy")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    given = CONFIG.read_text().replace("bind :2375", f"bind 127.0.0.1:{port}")
    changed = change(given)
    assert change is unchanged or changed != given
    (folder / "haproxy.cfg").write_text(changed)
    uid = os.geteuid() or 65532
    env = {"SCRATCH": str(folder), "RUN_AS": f"{uid}:{os.getegid() if os.geteuid() else uid}"}
    process = subprocess.Popen(
        ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")],
        env=os.environ | env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None
        yield f"tcp://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def unchanged(config: str) -> str:
    return config


def keeps_nothing(config: str) -> str:
    return config.replace('\\"pause\\"', '\\"(pause|kept)\\"')


def creates_nothing(config: str) -> str:
    return config.replace(" or post api_create", "")


def tells_no_memory(config: str) -> str:
    return config.replace("(json|stats)", "(json)")


@pytest.fixture
def keeping(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Keeping]:
    """A runtime behind the proxy whose configuration is changed as the test says."""
    base_image()  # this test's own connection, before the runtime's
    with proxy(tmp_path, request.param) as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        # As in a container, where the host's control groups are not seen.
        monkeypatch.setattr("workers.runtimes.engine._CGROUPS", ())
        keeping = Keeping(tmp_path)
        yield keeping
        keeping.runtime.close()
        assert keeping.containers() == []


@pytest.mark.parametrize("keeping", [unchanged], indirect=True)
def test_everything_that_a_worker_asks_for_passes(keeping: Keeping) -> None:
    assert "Docker engine" in keeping.runtime.check()
    assert not keeping.shim("true")[1].warm
    assert keeping.shim("true")[1].warm
    run, _ = keeping.warm(ECHO)
    run, outcome = keeping.warm(ECHO)
    assert outcome.warm
    assert (run.output_dir / "result").read_text().startswith("pixels ")
    pool = keeping.runtime.kept()
    assert pool
    assert None not in [held.thing.memory_used_mib() for held in pool._held]
    own = keeping.made(("sh", "-c", "cp /input/tile /output/tile"), mode="oneshot")
    keeping.go(own)
    assert (own.output_dir / "tile").read_text() == "pixels"
    assert keeping.runtime.reap(lambda attempts: [True] * len(attempts)) == 0


@pytest.mark.parametrize("keeping", [keeps_nothing], indirect=True)
@pytest.mark.parametrize("mode", ["shim", "warm"])
def test_a_kept_container_that_is_refused_is_a_container_of_its_own(keeping: Keeping, mode: str) -> None:
    for _ in range(2):
        run, outcome = (
            keeping.warm(ECHO) if mode == "warm" else keeping.shim("cp", "/input/tile", "/output/result")
        )
        assert not outcome.warm
        assert (run.output_dir / "result").read_text().startswith("pixels")
    assert keeping.containers("kept") == []


@pytest.mark.parametrize("keeping", [creates_nothing], indirect=True)
def test_a_container_that_is_refused_is_a_final_error_that_names_the_proxy(keeping: Keeping) -> None:
    with pytest.raises(PeerRefused, match=r"403 at tcp://127.0.0.1:\d+; does the proxy .* allow") as caught:
        keeping.warm(ECHO)
    assert not caught.value.transient
    assert "<" not in str(caught.value)


@pytest.mark.parametrize("keeping", [tells_no_memory], indirect=True)
def test_without_stats_containers_are_kept_and_their_memory_is_not_known(keeping: Keeping) -> None:
    keeping.warm(ECHO)
    _, outcome = keeping.warm(ECHO)
    assert outcome.warm
    pool = keeping.runtime.kept()
    assert pool
    assert [held.thing.memory_used_mib() for held in pool._held] == [None]
