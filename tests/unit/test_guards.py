"""Guards: each serves one run after the other, and nothing of one run reaches the next."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dynsvc.errors import AlgorithmFailed, AlgorithmUnavailable, TimeLimitExceeded
from tests.unit.test_process_runtime import ROOT, children_of, eventually, made, run
from workers.runtimes import nursery
from workers.runtimes.bounds import file_bytes
from workers.runtimes.process import ProcessRuntime


def guard_of(tmp_path: Path, **limits: Any) -> int:
    """Id of the guard that a run had."""
    return int(run(tmp_path, "sh", "-c", "echo $PPID", **limits).last_lines)


def test_a_guard_serves_one_run_after_the_other(tmp_path: Path) -> None:
    first = guard_of(tmp_path)
    with pytest.raises(TimeLimitExceeded):
        run(tmp_path, "sh", "-c", "(setsid sleep 60 &); sleep 60", timeout_s=0.2)
    with pytest.raises(AlgorithmFailed):
        run(tmp_path, "sh", "-c", "sleep 60 & exit 3")
    assert guard_of(tmp_path) == first
    assert children_of(first) == []
    assert Path(f"/proc/{first}/cwd").readlink() == Path("/")


def test_a_guard_serves_only_runs_with_the_same_limit_of_files(tmp_path: Path) -> None:
    """Nobody without rights can raise it again."""
    small, large = guard_of(tmp_path, output_bytes=300 << 20), guard_of(tmp_path, output_bytes=400 << 20)
    assert small != large
    for mib, guard in ((300, small), (400, large)):
        outcome = run(tmp_path, "bash", "-c", "echo $PPID; ulimit -Hf", output_bytes=mib << 20)
        assert outcome.last_lines.split() == [str(guard), str((mib + 1) * 1024)]


def test_runs_at_the_same_time_have_a_guard_each(tmp_path: Path) -> None:
    order = made(tmp_path, "sh", "-c", f"echo $PPID; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done")
    guards: list[str] = []
    with ThreadPoolExecutor() as pool:
        runtime = ProcessRuntime(scratch=tmp_path / "scratch")
        futures = [
            pool.submit(runtime.run, order, on_line=guards.append, ended=lambda: False) for _ in range(3)
        ]
        eventually(lambda: len(guards) == 3)
        (tmp_path / "go").touch()
        for future in futures:
            future.result()
    assert len(set(guards)) == 3
    assert str(guard_of(tmp_path)) in guards


def test_a_guard_keeps_no_file_of_a_run_open(tmp_path: Path) -> None:
    guard = guard_of(tmp_path)
    before = sorted(Path(f"/proc/{guard}/fd").iterdir())
    for _ in range(5):
        assert guard_of(tmp_path) == guard
    with pytest.raises(AlgorithmUnavailable):
        run(tmp_path, "/etc/passwd")
    assert sorted(Path(f"/proc/{guard}/fd").iterdir()) == before


def test_a_program_has_no_open_file_but_its_three(tmp_path: Path) -> None:
    outcome = run(tmp_path, "ls", "/proc/self/fd")
    assert outcome.last_lines.split() == ["0", "1", "2", "3"]  # the last is that of the listing


def test_a_free_guard_that_was_killed_is_replaced(tmp_path: Path) -> None:
    guard = guard_of(tmp_path)
    os.kill(guard, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{guard}").exists())
    assert guard_of(tmp_path) != guard


def test_a_guard_that_cannot_end_everything_serves_no_other_run(tmp_path: Path) -> None:
    program = """
import ctypes, socket, sys
from workers.runtimes import guard
guard._KILL_S = 0.0
guard._guard(ctypes.CDLL(None), socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
"""
    line, end = socket.socketpair()
    size = file_bytes(made(tmp_path, "true", output_bytes=500 << 20).limits)
    argv = [sys.executable, "-c", program, str(end.fileno()), str(size)]
    with end, subprocess.Popen(argv, cwd=ROOT, pass_fds=[end.fileno()]) as process:
        end.close()
        nursery.keep(nursery.Guard(process.pid, line, size))
        left = run(tmp_path, "sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $! $PPID", output_bytes=500 << 20)
        sleeper, guard = map(int, left.last_lines.split())
        assert guard == process.pid
        assert guard_of(tmp_path, output_bytes=500 << 20) != guard
        assert process.wait(20) == 0
    with suppress(ProcessLookupError):
        os.kill(sleeper, signal.SIGKILL)


def test_only_so_many_guards_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery, "_FREE", 2)
    monkeypatch.setattr(nursery, "_nursery", nursery._Nursery())
    guards = [guard_of(tmp_path, output_bytes=mib << 20) for mib in (100, 101, 102)]
    eventually(lambda: not Path(f"/proc/{guards[0]}").exists())
    again = [guard_of(tmp_path, output_bytes=mib << 20) for mib in (102, 101)]
    assert again == [guards[2], guards[1]]
    nursery._nursery.close()
    eventually(lambda: not any(Path(f"/proc/{guard}").exists() for guard in guards))


def test_a_forked_child_has_guards_of_its_own_and_holds_none_of_its_parent(tmp_path: Path) -> None:
    guard = guard_of(tmp_path)
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.write(writes, str(guard_of(tmp_path)).encode())
            time.sleep(60)
        os._exit(1)
    try:
        other = int(os.read(reads, 100))
        assert other != guard
        assert guard_of(tmp_path) == guard
        nursery._nursery.close()
        eventually(lambda: not Path(f"/proc/{guard}").exists())  # although the child lives
        assert Path(f"/proc/{other}").exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reads)
        os.close(writes)
    eventually(lambda: not Path(f"/proc/{other}").exists())


def test_arguments_and_variables_may_be_as_large_as_the_system_takes(tmp_path: Path) -> None:
    """An order of that size does not go to the guard at once."""
    env = {f"PART_{number}": "x" * 100_000 for number in range(15)}
    outcome = run(tmp_path, "sh", "-c", "echo ${#PART_14} ${#1}", "sh", "y" * 100_000, env=env)
    assert outcome.last_lines == "100000 100000"


def test_children_of_every_thread_are_counted(tmp_path: Path) -> None:
    program = """
import os, threading, time
def work():
    for _ in range(9):
        if os.fork() == 0: time.sleep(60)
    time.sleep(60)
threading.Thread(target=work).start()
"""
    with pytest.raises(AlgorithmFailed, match="its limit of 8 processes"):
        run(tmp_path, "python3", "-c", program, pids=8)


def test_pages_of_files_do_not_count_as_memory(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(200 << 20))
    program = """
import mmap, sys, time
with open(sys.argv[1], "rb") as file:
    pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    print(sum(pages[at] for at in range(0, len(pages), 4096)))
    time.sleep(0.3)
"""
    assert run(tmp_path, "python3", "-c", program, str(tmp_path / "large"), memory_mib=100).last_lines == "0"
