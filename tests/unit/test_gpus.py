"""GPUs of a host: found, configured, lent."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynsvc.devices import Gpu, configured_gpus, find_gpus, gpus_present, listed_gpus
from dynsvc.errors import DeviceUnavailable, SettingsInvalid
from dynsvc.settings import Settings
from workers.gpus import WHOLE, assign, require_gpus

# As nvidia-smi prints them; one GPU is divided by MIG.
LISTING = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-5f1c2a7d-0b11-4a7e-9d4c-1c2f3a4b5c6d)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-9a8b7c6d-0b11-4a7e-9d4c-1c2f3a4b5c6d)
  MIG 3g.40gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1g.10gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
"""
MEMORY = """\
GPU-5f1c2a7d-0b11-4a7e-9d4c-1c2f3a4b5c6d, 81920
GPU-9a8b7c6d-0b11-4a7e-9d4c-1c2f3a4b5c6d, 81920
"""
A, B = Gpu(uuid="GPU-a", memory_mib=40960), Gpu(uuid="GPU-b", memory_mib=16384)


def test_a_divided_gpu_counts_as_its_slices() -> None:
    assert listed_gpus(LISTING, MEMORY) == (
        Gpu(uuid="GPU-5f1c2a7d-0b11-4a7e-9d4c-1c2f3a4b5c6d", memory_mib=81920),
        Gpu(uuid="MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", memory_mib=40960),
        Gpu(uuid="MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb", memory_mib=10240),
    )


def test_output_that_is_no_list_names_no_gpu() -> None:
    assert listed_gpus("No devices were found\n", "") == ()
    assert listed_gpus("GPU 0: X (UUID: GPU-1)\n", "GPU-1, [N/A]\n") == (Gpu(uuid="GPU-1"),)


def test_gpus_are_configured_by_uuid_with_memory_where_it_is_known() -> None:
    settings = Settings.load({"DYNSVC_GPUS": "GPU-a=40960, MIG-b"})
    assert settings.gpus is not None
    assert configured_gpus(settings.gpus) == (Gpu(uuid="GPU-a", memory_mib=40960), Gpu(uuid="MIG-b"))
    assert find_gpus(settings.gpus) == configured_gpus(settings.gpus)


@pytest.mark.parametrize("words", [("GPU-a", "GPU-a"), ("all",), ("GPU-a=",), ("GPU-a=4G",), ("-1",)])
def test_what_is_no_gpu_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(SettingsInvalid, match="DYNSVC_GPUS"):
        configured_gpus(words)


def test_device_files_tell_where_nobody_else_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYNSVC_GPUS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert find_gpus(None, tmp_path) == (Gpu(uuid="0"), Gpu(uuid="1"))
    assert gpus_present(None, tmp_path) == 2


def test_the_driver_is_asked_where_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia0").touch()
    program = tmp_path / "nvidia-smi"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = -L ]; then printf %s "{LISTING}"; else printf %s "{MEMORY}"; fi\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert [gpu.uuid[:5] for gpu in find_gpus(None, tmp_path)] == ["GPU-5", "MIG-c", "MIG-c"]
    program.write_text("#!/bin/sh\necho no driver >&2; exit 9\n")
    assert find_gpus(None, tmp_path) == (Gpu(uuid="0"),)


def test_the_setting_decides_whether_a_host_takes_gpu_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNSVC_GPUS", "GPU-a,GPU-b")
    assert gpus_present(None, tmp_path) == 2
    monkeypatch.setenv("DYNSVC_GPUS", "none")
    (tmp_path / "nvidia0").touch()
    assert gpus_present(None, tmp_path) == 0
    assert gpus_present(("GPU-a",), tmp_path) == 1


def test_whole_gpus_are_lent_to_one_run_only() -> None:
    assert assign(1, 0, [A, B], []) == {"GPU-a": WHOLE}
    assert assign(1, 0, [A, B], [{"GPU-a": WHOLE}]) == {"GPU-b": WHOLE}
    assert assign(2, 0, [A, B], [{"GPU-a": WHOLE}]) is None
    assert assign(2, 0, [A, B], []) == {"GPU-a": WHOLE, "GPU-b": WHOLE}
    # A part of it in use: not whole any more.
    assert assign(2, 0, [A, B], [{"GPU-a": 100}]) is None


def test_memory_of_one_gpu_is_shared_by_runs_that_fit() -> None:
    held: list[dict[str, int]] = []
    for _ in range(2):
        lent = assign(1, 16384, [A], held)
        assert lent == {"GPU-a": 16384}
        held.append(lent)
    assert assign(1, 16384, [A], held) is None
    assert assign(1, 8192, [A], held) == {"GPU-a": 8192}


def test_a_part_is_taken_where_the_least_is_left() -> None:
    assert assign(1, 8192, [A, B], []) == {"GPU-b": 8192}
    assert assign(1, 8192, [A, B], [{"GPU-a": 8192}, {"GPU-b": 16000}]) == {"GPU-a": 8192}


def test_a_gpu_of_unknown_memory_is_lent_as_a_whole() -> None:
    unknown = Gpu(uuid="0")
    assert assign(1, 8192, [unknown], []) == {"0": WHOLE}
    assert assign(1, 8192, [unknown], [{"0": WHOLE}]) is None


@pytest.mark.parametrize(
    ("count", "memory_mib", "gpus", "says"),
    [
        (1, 0, (), "1 GPU is not available on this host: it has no GPU"),
        (3, 0, (A, B), "3 GPUs is not available on this host: it has 2: GPU-a, GPU-b"),
        (1, 50000, (A, B), "1 GPU with 50000 MiB is not available on this host: the largest has 40960 MiB"),
    ],
)
def test_what_the_host_does_not_have_is_an_error(
    count: int, memory_mib: int, gpus: tuple[Gpu, ...], says: str
) -> None:
    with pytest.raises(DeviceUnavailable) as caught:
        require_gpus(count, memory_mib, gpus)
    assert str(caught.value).startswith(says)


def test_what_the_host_has_is_none() -> None:
    require_gpus(1, 0, (B,))
    require_gpus(2, 16384, (A, B))
    require_gpus(1, 99999, (Gpu(uuid="0"),))
