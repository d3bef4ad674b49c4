"""The parts that runtimes share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dynsvc.errors import AlgorithmFailed, AlgorithmUnavailable, EngineUnavailable, SettingsInvalid
from dynsvc.runtime import Limits, Run
from workers.runtimes.container import container_config, container_name
from workers.runtimes.ending import Ending
from workers.runtimes.hostpath import HostPaths, own_container_id
from workers.runtimes.labels import stated
from workers.runtimes.output import Output


def made(
    *, order_id: str = "14", attempt: str = "a1", gpus: int = 0, cpus: float = 4.0, network: bool = False
) -> Run:
    limits = Limits(timeout_s=60, memory_mib=512, cpus=cpus, pids=64, tmp_mib=64, gpus=gpus, network=network)
    return Run(
        algorithm="seg",
        version="1",
        image="seg:1",
        argv=("seg", "-i", "x"),
        input_dir=Path("/i"),
        output_dir=Path("/o"),
        limits=limits,
        order_id=order_id,
        attempt=attempt,
    )


def test_only_labels_of_origin_and_libraries_are_told_and_they_are_cut() -> None:
    labels = {"maintainer": "x", "dynsvc.library.b": "y" * 1000, "org.opencontainers.image.source": "z"}
    assert stated(labels) == {"dynsvc.library.b": "y" * 200, "org.opencontainers.image.source": "z"}
    assert len(stated({f"dynsvc.library.{n}": "1" for n in range(500)})) == 100
    assert stated(None) == stated(["x"]) == {}


# Output


def fed(*pieces: bytes) -> tuple[list[str], Output]:
    lines: list[str] = []
    output = Output(lines.append)
    for piece in pieces:
        output.feed(piece)
    output.finish()
    return lines, output


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ((b"a\nb\n",), ["a", "b"]),
        ((b"a", b"b\nc"), ["ab", "c"]),  # a line in two pieces; the last without its end
        ((b"a\r\nb\r", b"\nc"), ["a", "b", "c"]),  # an end in two pieces
        ((b"\n\n  \n",), []),  # blank
        (("ü".encode()[:1], "ü".encode()[1:]), ["ü"]),  # a character in two pieces
        ((b"\xff\n",), ["\ufffd"]),
        ((b"\x1b[1mbold\x1b[0m\x07\tx",), ["[1mbold[0m\tx"]),
        ((b"x" * 1999, b"yzz", b"z\nnext"), ["x" * 1999 + "y…", "next"]),
        ((b"x" * 2000 + b"\n",), ["x" * 2000]),
    ],
)
def test_bytes_become_lines(pieces: tuple[bytes, ...], expected: list[str]) -> None:
    assert fed(*pieces)[0] == expected


def test_streams_do_not_mix_within_a_line() -> None:
    lines: list[str] = []
    output = Output(lines.append)
    output.feed(b"segmen", 1)
    output.feed(b"warning\n", 2)
    output.feed(b"ted\nrest", 1)
    output.finish()
    assert lines == ["warning", "segmented", "rest"]


def test_last_lines_have_a_limit_in_lines_and_in_characters() -> None:
    assert fed(*(b"%d\n" % n for n in range(1000)))[1].last_lines.splitlines() == [
        str(n) for n in range(800, 1000)
    ]
    many = fed(*(b"x" * 1500 + b"\n" for _ in range(200)))[1].last_lines
    assert 30_000 < len(many) <= 32_000


# Ending


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (1, AlgorithmFailed, 'seg ended with exit status 1 after 2.5 s. Last line: "bad"'),
        (255, AlgorithmFailed, 'seg ended with exit status 255 after 2.5 s. Last line: "bad"'),
        (-11, AlgorithmFailed, 'seg was ended by SIGSEGV after 2.5 s. Last line: "bad"'),
        (
            139,
            AlgorithmFailed,
            'seg was ended by SIGSEGV after 2.5 s. Last line: "bad"',
        ),  # as an init reports it
        (-9, EngineUnavailable, "here: seg was killed from outside after 2.5 s (SIGKILL)"),
        (137, EngineUnavailable, "here: seg was killed from outside after 2.5 s (SIGKILL)"),
        (125, AlgorithmUnavailable, 'seg: it could not be started (exit status 125). Last line: "bad"'),
        (
            126,
            AlgorithmUnavailable,
            'seg: its program cannot be executed (exit status 126). Last line: "bad"',
        ),
        (
            127,
            AlgorithmUnavailable,
            'seg: its program, or one that it calls, was not found (exit status 127). Last line: "bad"',
        ),
    ],
)
def test_a_status_becomes_an_error(status: int, kind: type[Exception], text: str) -> None:
    error = Ending(made(), 2.5, "good\nbad").by_itself(status, "here")
    assert type(error) is kind
    assert str(error) == text


def test_status_zero_is_no_error() -> None:
    assert Ending(made(), 1, "").by_itself(0, "here") is None


# HostPaths

_ID = "0123456789abcdef" * 4
_IN_A_CONTAINER = f"""\
700 699 0:50 / / rw - overlay overlay rw
701 700 8:1 /var/lib/docker/containers/{_ID}/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw
702 700 8:1 /var/lib/docker/containers/{_ID}/hostname /etc/hostname rw - ext4 /dev/sda1 rw
"""
_ON_A_HOST = f"""\
25 1 8:1 / / rw - ext4 /dev/sda1 rw
90 25 0:60 / /var/lib/docker/containers/{_ID}/mounts/shm rw - tmpfs shm rw
91 25 0:61 / /etc/hostname rw - tmpfs tmpfs rw
"""


def test_a_worker_knows_whether_it_is_in_a_container() -> None:
    assert own_container_id(_IN_A_CONTAINER) == _ID
    assert own_container_id(_ON_A_HOST) is None  # another container's shared memory
    assert own_container_id("") is None


def test_paths_are_translated_by_the_mount_that_shows_them() -> None:
    paths = HostPaths.of_container(
        [
            {"Type": "volume", "Source": "/var/lib/docker/volumes/data/_data", "Destination": "/data"},
            {"Type": "bind", "Source": "/srv/fast", "Destination": "/data/scratch"},
            {"Type": "tmpfs", "Source": "", "Destination": "/run"},
        ]
    )
    assert paths.translate(Path("/data/orders/14")) == "/var/lib/docker/volumes/data/_data/orders/14"
    assert paths.translate(Path("/data/scratch/14/input")) == "/srv/fast/14/input"
    assert paths.translate(Path("/data")) == "/var/lib/docker/volumes/data/_data"
    for elsewhere in ("/database/x", "/run/x", "/data/../etc"):
        with pytest.raises(SettingsInvalid, match="in a volume"):
            paths.translate(Path(elsewhere))


def test_paths_of_a_worker_on_the_host_are_its_own(tmp_path: Path) -> None:
    assert HostPaths(None).translate(tmp_path / "a/../b") == str(tmp_path / "b")


# Containers


def config(run: Run) -> dict[str, object]:
    return container_config(
        run, user="1:1", input_source="/i", output_source="/o", worker_id="w", host_cpus=2
    )


def test_names_of_containers_are_valid_and_differ_by_attempt() -> None:
    assert container_name(made()) == container_name(made())
    assert container_name(made()) != container_name(made(attempt="a2"))
    assert container_name(made(order_id="../ä b:" * 30)).startswith("dynsvc-..-")
    assert len(container_name(made(order_id="x" * 300))) < 64


def test_gpus_are_asked_for_or_hidden() -> None:
    ids = ("GPU-1", "GPU-2")
    cpu, gpu = config(made()), config(replace(made(gpus=2), gpu_ids=ids))
    assert "NVIDIA_VISIBLE_DEVICES=void" in cpu["Env"]  # type: ignore[operator]
    assert cpu["HostConfig"]["DeviceRequests"] == []  # type: ignore[index]
    assert "NVIDIA_VISIBLE_DEVICES=GPU-1,GPU-2" in gpu["Env"]  # type: ignore[operator]
    wanted = [{"DeviceIDs": ["GPU-1", "GPU-2"], "Capabilities": [["gpu"]]}]
    assert gpu["HostConfig"]["DeviceRequests"] == wanted  # type: ignore[index]
    assert gpu["Labels"]["dynsvc.gpu"] == "GPU-1,GPU-2"  # type: ignore[index]


def test_the_network_must_be_declared() -> None:
    assert config(made())["HostConfig"]["NetworkMode"] == "none"  # type: ignore[index]
    assert config(made(network=True))["HostConfig"]["NetworkMode"] == "default"  # type: ignore[index]


def test_more_cpus_than_the_host_has_are_not_asked_for() -> None:
    assert config(made(cpus=4))["HostConfig"]["NanoCpus"] == 2_000_000_000  # type: ignore[index]
    assert config(made(cpus=0.5))["HostConfig"]["NanoCpus"] == 500_000_000  # type: ignore[index]
