"""Programs on this host: what only this runtime promises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dynsvc.errors import AlgorithmUnavailable, EngineUnavailable, StorageUnavailable
from dynsvc.runtime import Limits, Run, RunOutcome
from workers.runtimes import nursery
from workers.runtimes.process import ProcessRuntime

ROOT = Path(__file__).parents[2]


def made(tmp_path: Path, *argv: str, env: dict[str, str] | None = None, **limits: Any) -> Run:
    given = {"timeout_s": 30.0, "memory_mib": 512, "cpus": 1.0, "pids": 64, "tmp_mib": 64} | limits
    for name in ("input", "output", "scratch"):
        (tmp_path / name).mkdir(exist_ok=True)
    return Run(
        algorithm="seg",
        version="1",
        image=None,
        argv=argv,
        input_dir=tmp_path / "input",
        output_dir=tmp_path / "output",
        limits=Limits(**given),
        order_id="14",
        attempt="a1",
        env=env or {},
    )


def run(tmp_path: Path, *argv: str, **options: Any) -> RunOutcome:
    runtime = ProcessRuntime(scratch=tmp_path / "scratch")
    return runtime.run(made(tmp_path, *argv, **options), on_line=lambda line: None, ended=lambda: False)


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def processes(marker: str) -> list[int]:
    """Ids of the processes with *marker* in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if marker.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def eventually(condition: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


@pytest.fixture
def marker() -> Iterator[str]:
    marker = f"987{uuid.uuid4().int % 10**9}"
    yield marker
    for pid in processes(marker):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def worker(tmp_path: Path, marker: str) -> Iterator[Callable[[float], subprocess.Popen[bytes]]]:
    """Another Python process that runs a program with a family."""
    made(tmp_path, "sh")
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from dynsvc.errors import DynsvcError
from dynsvc.runtime import Limits, Run
from workers.runtimes.process import ProcessRuntime
folder = Path({str(tmp_path)!r})
limits = Limits(timeout_s=float(sys.argv[1]), memory_mib=512, cpus=1, pids=64, tmp_mib=64)
family = "sleep {marker} & (setsid sleep {marker} &)"
argv = ("sh", "-c", f"trap '' TERM HUP; touch $HOME/file; {{family}}; echo up; sleep {marker}")
run = Run(algorithm="seg", version="1", image=None, argv=argv, input_dir=folder / "input",
          output_dir=folder / "output", limits=limits, order_id="14", attempt="a1")
try:
    runtime = ProcessRuntime(scratch=folder / "scratch")
    runtime.run(run, on_line=lambda line: print(line, flush=True), ended=lambda: False)
except DynsvcError as error:
    print(type(error).__name__, flush=True)
"""
    (tmp_path / "worker.py").write_text(program)
    process: subprocess.Popen[bytes] | None = None

    def start(timeout_s: float) -> subprocess.Popen[bytes]:
        nonlocal process
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "worker.py"), str(timeout_s)], stdout=subprocess.PIPE
        )
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        eventually(lambda: len(processes(marker)) == 4)  # the shell and three sleeps
        return process

    yield start
    assert process
    process.kill()
    process.communicate()


def test_a_killed_worker_takes_the_program_its_family_and_its_files_along(
    worker: Callable[[float], subprocess.Popen[bytes]], marker: str, tmp_path: Path
) -> None:
    worker(600).kill()
    eventually(lambda: processes(marker) == [])
    eventually(lambda: list((tmp_path / "scratch").iterdir()) == [])


def test_the_time_limit_holds_while_the_worker_is_stopped(
    worker: Callable[[float], subprocess.Popen[bytes]], marker: str
) -> None:
    process = worker(2)
    process.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: processes(marker) == [])
    finally:
        process.send_signal(signal.SIGCONT)
    assert process.stdout
    assert process.stdout.readline() == b"TimeLimitExceeded\n"


def test_the_program_is_ended_when_its_guard_is_killed(
    worker: Callable[[float], subprocess.Popen[bytes]], marker: str
) -> None:
    process = worker(600)
    (helper,) = children_of(process.pid)
    (guard,) = children_of(helper)
    os.kill(guard, signal.SIGKILL)
    assert process.stdout
    assert process.stdout.readline() == b"EngineUnavailable\n"
    # What left the program's process group has lost its keeper; two faults at once are one too many.
    eventually(lambda: len(processes(marker)) <= 1)


def test_a_run_does_not_end_with_the_helper_that_started_its_guard(
    worker: Callable[[float], subprocess.Popen[bytes]], marker: str
) -> None:
    process = worker(3)
    (helper,) = children_of(process.pid)
    os.kill(helper, signal.SIGKILL)
    assert process.stdout
    assert process.stdout.readline() == b"TimeLimitExceeded\n"
    assert processes(marker) == []


def test_a_helper_that_was_killed_is_replaced(tmp_path: Path) -> None:
    run(tmp_path, "true")
    for child in children_of(os.getpid()):
        if b"guard.py" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(child, signal.SIGKILL)
    assert run(tmp_path, "true").duration_s >= 0


def test_a_signal_to_the_workers_group_does_not_end_the_program_behind_its_back(
    worker: Callable[[float], subprocess.Popen[bytes]], marker: str
) -> None:
    process = worker(600)
    for pid in processes(marker):
        assert os.getpgid(pid) != os.getpgid(process.pid)


def test_programs_of_our_own_environment_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "bin/python3", "#!/bin/sh\nexit 9\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert run(tmp_path, "python3", "-c", "").executed == str(Path(sys.executable).parent / "python3")


def test_programs_on_the_workers_path_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = script(tmp_path / "bin/mainSegmentFeatures", '#!/bin/sh\necho "$0"\n')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert run(tmp_path, "mainSegmentFeatures").executed == str(program)


def test_a_missing_program_is_named_with_the_places_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/opt/segmentation/bin")
    with pytest.raises(AlgorithmUnavailable, match=r"program nope is not on PATH .*:/opt/segmentation/bin"):
        run(tmp_path, "nope")
    with pytest.raises(AlgorithmUnavailable, match="program /opt/nope does not exist"):
        run(tmp_path, "/opt/nope")


def test_a_relative_path_is_no_program(tmp_path: Path) -> None:
    script(tmp_path / "scratch/bin/x", "#!/bin/sh\n")
    with pytest.raises(AlgorithmUnavailable, match="neither a plain name nor an absolute path"):
        run(tmp_path, "bin/x")


def test_a_script_that_nothing_can_interpret_is_told(tmp_path: Path) -> None:
    with pytest.raises(AlgorithmUnavailable, match="interpreter in its first line"):
        run(tmp_path, str(script(tmp_path / "x", "#!/opt/no/such/interpreter\n")))
    with pytest.raises(AlgorithmUnavailable, match="neither a binary of this machine nor a script"):
        run(tmp_path, str(script(tmp_path / "y", "echo no shell reads this\n")))


def test_what_finds_libraries_is_inherited_and_gpus_are_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/itk/lib")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    outcome = run(tmp_path, "sh", "-c", 'echo "$LD_LIBRARY_PATH|$CUDA_VISIBLE_DEVICES|"')
    assert outcome.last_lines == "/opt/itk/lib||"


def test_a_crash_leaves_no_core_file_and_default_signal_handling(tmp_path: Path) -> None:
    outcome = run(tmp_path, "sh", "-c", "ulimit -c; yes | head -1; sh -c 'kill -SEGV $$'; ls | wc -l; true")
    assert outcome.last_lines.splitlines()[:2] == ["0", "y"]
    assert outcome.last_lines.splitlines()[-1] == "0"


def test_the_kernel_takes_the_program_before_the_worker(tmp_path: Path) -> None:
    assert run(tmp_path, "cat", "/proc/self/oom_score_adj").last_lines == "900"
    assert Path("/proc/self/oom_score_adj").read_text().strip() != "900"


def test_exit_status_127_says_that_a_program_was_not_found(tmp_path: Path) -> None:
    with pytest.raises(AlgorithmUnavailable, match=r"exit status 127.*unzipp: not found"):
        run(tmp_path, "sh", "-c", "unzipp x")


def test_a_scratch_folder_that_cannot_be_made_is_transient(tmp_path: Path) -> None:
    order = made(tmp_path, "true")
    (tmp_path / "file").touch()
    with pytest.raises(StorageUnavailable):
        ProcessRuntime(scratch=tmp_path / "file").run(order, on_line=print, ended=lambda: False)


def test_a_host_that_starts_no_process_is_transient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/bin/python")
    monkeypatch.setattr(nursery, "_nursery", nursery._Nursery())
    with pytest.raises(EngineUnavailable, match="no process can be started"):
        run(tmp_path, "true")
