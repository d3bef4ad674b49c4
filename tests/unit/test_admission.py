"""Runs start when they fit into their host: threads and processes, waiting, dying."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dynsvc.devices import Gpu
from dynsvc.errors import (
    AlgorithmUnavailable,
    AttemptEnded,
    DeviceUnavailable,
    OrderOverdue,
    StorageUnavailable,
)
from dynsvc.runtime import Limits, Run
from dynsvc.settings import Settings
from workers.admission import HostAdmission, Need, turn
from workers.capacity import Capacity
from workers.hostledger import Entry, HostLedger

ROOT = Path(__file__).resolve().parents[2]


def made(order_id: str = "1", **limits: Any) -> Run:
    given = {"timeout_s": 30, "memory_mib": 100, "cpus": 1, "pids": 8, "tmp_mib": 8} | limits
    return Run(
        algorithm="seg",
        version="1",
        image=None,
        argv=("seg",),
        input_dir=Path("/i"),
        output_dir=Path("/o"),
        limits=Limits(**given),
        order_id=order_id,
        attempt="a",
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(
        {
            "DYNSVC_SCRATCH": str(tmp_path / "scratch"),
            "DYNSVC_HOST_CPUS": "2",
            "DYNSVC_HOST_MEMORY_MIB": "1000",
            "DYNSVC_GPUS": "GPU-a=1000,GPU-b=1000",
        }
    )


def never() -> bool:
    return False


class Waiter(threading.Thread):
    """A run in a thread of its own, which holds what it got until told."""

    def __init__(self, admission: HostAdmission, run: Run, ended: Callable[[], bool] = never) -> None:
        super().__init__(daemon=True)
        self._admission, self._run, self._end = admission, run, ended
        self.started, self.leave = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.lines: list[str] = []
        self.admitted: Run | None = None
        self.start()

    def run(self) -> None:
        try:
            with self._admission.admit(self._run, ended=self._end, waits=self.lines.append) as admitted:
                self.admitted = admitted
                self.started.set()
                assert self.leave.wait(30)
        except Exception as error:  # noqa: BLE001
            self.error = error

    def finish(self) -> None:
        self.leave.set()
        self.join(30)
        assert not self.is_alive()
        if self.error:
            raise self.error


def waits(folder: Path, count: int) -> None:
    """Return when *count* runs are known to wait."""
    deadline = time.monotonic() + 20
    while len(list((folder / "host/waiting").glob("*"))) != count:
        assert time.monotonic() < deadline, "the run does not wait"
        time.sleep(0.01)


def test_a_run_waits_until_it_fits(settings: Settings) -> None:
    admission = HostAdmission(settings)
    with admission.admit(made(memory_mib=700), ended=never):
        other = Waiter(admission, made("2", memory_mib=400))
        waits(settings.scratch, 1)
        assert not other.started.is_set()
    assert other.started.wait(20)
    other.finish()
    assert not list((settings.scratch / "host/running").iterdir())
    assert not list((settings.scratch / "host/waiting").iterdir())


def test_cpus_count_as_memory_does(settings: Settings) -> None:
    admission = HostAdmission(settings)
    with ExitStack() as stack:
        for number in range(4):
            stack.enter_context(admission.admit(made(str(number), cpus=0.5), ended=never))
        other = Waiter(admission, made("5", cpus=0.5))
        waits(settings.scratch, 1)
        assert not other.started.is_set()
    assert other.started.wait(20)
    other.finish()


@pytest.mark.parametrize(
    ("limits", "error", "says"),
    [
        ({"cpus": 3}, AlgorithmUnavailable, "seg: it needs 3 CPUs, this host has 2 (DYNSVC_HOST_CPUS)"),
        ({"memory_mib": 1001}, AlgorithmUnavailable, "seg: it needs 1001 MiB of memory, this host has 1000"),
        ({"gpus": 3}, DeviceUnavailable, "3 GPUs is not available on this host: it has 2"),
    ],
)  # fmt: skip
def test_what_can_never_fit_is_an_error_at_once(
    settings: Settings, limits: dict[str, Any], error: type[Exception], says: str
) -> None:
    admission = HostAdmission(settings)
    with (
        admission.admit(made(cpus=2, memory_mib=1000), ended=never),
        pytest.raises(error) as caught,
        admission.admit(made("2", **limits), ended=never),
    ):
        pass
    assert str(caught.value).startswith(says)


def test_a_waiting_run_leaves_when_its_attempt_ends(settings: Settings) -> None:
    admission = HostAdmission(settings)
    stop = threading.Event()
    with admission.admit(made(memory_mib=1000), ended=never):
        other = Waiter(admission, made("2"), stop.is_set)
        waits(settings.scratch, 1)
        stop.set()
        other.join(20)
        assert isinstance(other.error, AttemptEnded)
        assert str(other.error) == "order 2: attempt ended: ended while seg waited for its turn"
        waits(settings.scratch, 0)


def test_a_wait_ends_with_the_time_of_an_order(settings: Settings) -> None:
    admission = HostAdmission(settings.model_copy(update={"order_limit_s": 0.2}))
    with (
        admission.admit(made(memory_mib=1000), ended=never),
        pytest.raises(OrderOverdue),
        admission.admit(made("2"), ended=never),
    ):
        pass


def test_a_large_run_is_not_passed_by_small_ones(settings: Settings) -> None:
    admission = HostAdmission(settings)
    small = Waiter(admission, made("1", memory_mib=200))
    assert small.started.wait(20)
    large = Waiter(admission, made("2", memory_mib=900))
    waits(settings.scratch, 1)
    later = Waiter(admission, made("3", memory_mib=200))
    waits(settings.scratch, 2)
    small.finish()
    assert large.started.wait(20)
    assert not later.started.is_set(), "it would fit beside the first one, but came after the large one"
    large.finish()
    assert later.started.wait(20)
    later.finish()


def test_a_run_that_waits_for_a_gpu_keeps_no_cpu_from_others(settings: Settings) -> None:
    admission = HostAdmission(settings)
    with admission.admit(made("1", gpus=2, cpus=0.5), ended=never):
        blocked = Waiter(admission, made("2", gpus=1, cpus=1.5))
        waits(settings.scratch, 1)
        with admission.admit(made("3", cpus=1.5), ended=never):
            assert not blocked.started.is_set()
    assert blocked.started.wait(20)
    blocked.finish()


def test_gpus_are_named_in_the_run_that_holds_them(settings: Settings) -> None:
    admission = HostAdmission(settings)
    with ExitStack() as stack:
        first = stack.enter_context(admission.admit(made("1", gpus=1), ended=never))
        second = stack.enter_context(admission.admit(made("2", gpus=1), ended=never))
        assert (first.gpu_ids, second.gpu_ids) == (("GPU-a",), ("GPU-b",))
        third = Waiter(admission, made("3", gpus=1, cpus=0.1))
        waits(settings.scratch, 1)
    assert third.started.wait(20)
    assert third.admitted is not None
    assert len(third.admitted.gpu_ids) == 1
    third.finish()


def test_parts_of_a_gpu_are_held_side_by_side(settings: Settings) -> None:
    admission = HostAdmission(settings)
    with ExitStack() as stack:
        given = {"gpus": 1, "gpu_memory_mib": 400, "cpus": 0.2}
        runs = [stack.enter_context(admission.admit(made(str(n), **given), ended=never)) for n in range(4)]
    assert [run.gpu_ids for run in runs] == [("GPU-a",), ("GPU-a",), ("GPU-b",), ("GPU-b",)]


def test_a_run_that_needs_no_gpu_gets_none(settings: Settings) -> None:
    with HostAdmission(settings).admit(made(), ended=never) as admitted:
        assert admitted.gpu_ids == ()


def test_a_host_without_gpu_says_so(settings: Settings) -> None:
    admission = HostAdmission(settings.model_copy(update={"gpus": ("none",)}))
    with (
        pytest.raises(DeviceUnavailable, match="1 GPU is not available on this host: it has no GPU"),
        admission.admit(made(gpus=1), ended=never),
    ):
        pass


HOLDER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from dynsvc.settings import Settings
from tests.unit.test_admission import made
from workers.admission import HostAdmission
with HostAdmission(Settings.load()).admit(made("9", memory_mib=1000, gpus=2), ended=lambda: False):
    print("holds", flush=True)
    time.sleep(100)
"""


def test_what_a_killed_process_held_is_free_at_once(settings: Settings) -> None:
    env = {
        "DYNSVC_SCRATCH": str(settings.scratch),
        "DYNSVC_HOST_CPUS": "2",
        "DYNSVC_HOST_MEMORY_MIB": "1000",
        "DYNSVC_GPUS": "GPU-a=1000,GPU-b=1000",
    }
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(ROOT)], env=env, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "holds\n"
        admission = HostAdmission(settings)
        other = Waiter(admission, made("2", memory_mib=1000, gpus=1))
        waits(settings.scratch, 1)
        assert not other.started.is_set()
    finally:
        holder.kill()
        holder.communicate(timeout=20)
    assert other.started.wait(20)
    other.finish()
    assert not list((settings.scratch / "host/running").iterdir()), "the dead process' entry is gone too"


def test_many_threads_never_hold_more_than_there_is(settings: Settings) -> None:
    admission = HostAdmission(settings)
    lock, now, most = threading.Lock(), 0, 0

    def one(number: int) -> None:
        nonlocal now, most
        with admission.admit(made(str(number), memory_mib=300, cpus=0.1), ended=never):
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.005)
            with lock:
                now -= 1

    threads = [threading.Thread(target=one, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (now, most) == (0, 3)


def test_a_ledger_that_cannot_be_written_is_transient(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    admission = HostAdmission(settings.model_copy(update={"host_ledger": tmp_path / "file"}))
    with pytest.raises(StorageUnavailable), admission.admit(made(), ended=never):
        pass
    assert StorageUnavailable.transient


def test_free_memory_is_measured_while_nothing_runs(settings: Settings) -> None:
    free = settings.model_copy(update={"host_memory_mib": None})
    admission = HostAdmission(free)
    with admission.admit(made(memory_mib=16), ended=never):
        noted = settings.scratch / "host/free_mib"
        measured = int(noted.read_text())
        assert 0 < measured < Capacity.of_host(None, None).total_mib
        # What a run uses must not be counted twice: while one goes on, the number stays as it was.
        noted.write_text("17")
        other = Waiter(admission, made("2", memory_mib=16))
        waits(settings.scratch, 1)
        assert noted.read_text() == "17"
    assert other.started.wait(20)
    other.finish()


def test_a_ledger_whose_folders_were_removed_goes_on(settings: Settings) -> None:
    """Where it lies below /tmp, old empty folders are removed there."""
    admission = HostAdmission(settings)
    with admission.admit(made(memory_mib=700), ended=never):
        pass
    for gone in ("host/running", "host"):
        shutil.rmtree(settings.scratch / gone)
        with admission.admit(made("1", memory_mib=700), ended=never):
            other = Waiter(admission, made("2", memory_mib=400))
            waits(settings.scratch, 1)
            assert len(admission.usage()[1]) == 1
        assert other.started.wait(20)
        other.finish()


def test_a_process_sees_its_own_runs_and_those_of_others_alike(settings: Settings) -> None:
    here, there = HostAdmission(settings), HostAdmission(settings)
    with here.admit(made("1", memory_mib=100), ended=never), there.admit(made("2"), ended=never):
        seen = [[(entry.order_id, entry.memory_mib) for entry in each.usage()[1]] for each in (here, there)]
        assert seen == [[("1", 100), ("2", 100)]] * 2
    assert here.usage()[1:] == ([], [])


def test_names_in_the_ledger_grow_also_when_the_clock_is_set_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = HostLedger(settings.host_folder)
    with ledger.locked():
        first = ledger.queue(entry(1), ledger.waiting())
        monkeypatch.setattr("workers.hostledger.time.time_ns", lambda: 5)
        second = ledger.queue(entry(2), ledger.waiting())
        assert [each.memory_mib for each in ledger.waiting()] == [1, 2]
        first.close()
        second.close()
        assert ledger.waiting() == []


# The decision alone

SMALL = Capacity(cpus=4, memory_mib=1000, total_mib=1500)


def entry(memory_mib: int, **gpus: int) -> Entry:
    return Entry(cpus=1, memory_mib=memory_mib, gpus=gpus)


def test_a_run_that_is_alone_may_use_the_reserve() -> None:
    assert turn(Need(cpus=1, memory_mib=1400), [], [], SMALL, []) == {}
    assert turn(Need(cpus=1, memory_mib=1400), [], [entry(10)], SMALL, []) is None
    assert turn(Need(cpus=1, memory_mib=1600), [], [], SMALL, []) is None


def test_what_those_before_need_is_kept_for_them() -> None:
    before = [Need(cpus=1, memory_mib=900)]
    assert turn(Need(cpus=1, memory_mib=200), before, [], SMALL, []) is None
    assert turn(Need(cpus=1, memory_mib=100), before, [], SMALL, []) == {}


def test_a_gpu_is_kept_for_who_waits_for_one() -> None:
    gpu = [Gpu(uuid="a", memory_mib=1000)]
    need = Need(cpus=1, memory_mib=1, gpus=1, gpu_memory_mib=100)
    whole = Need(cpus=1, memory_mib=1, gpus=1)
    assert turn(need, [], [entry(1, a=100)], SMALL, gpu) == {"a": 100}
    assert turn(need, [whole], [entry(1, a=100)], SMALL, gpu) is None
