"""The demo's child processes: watched while they run, gone afterwards with all that they started."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dynsvc.demo.processes import Processes, tail, wait_for_line
from dynsvc.errors import AlgorithmUnavailable, PeerUnavailable

ENV = {"PATH": os.defpath}
LIMIT_S = 20.0


def runs(pid: int) -> bool:
    """Whether the process exists and is not only waiting to be waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_gone(pid: int) -> None:
    give_up = time.monotonic() + LIMIT_S
    while runs(pid):
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_what_a_program_started_ends_with_it(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        script = "sleep 1000 & echo child $! ready; wait"
        log = processes.start("parent", ["sh", "-c", script], env=ENV, cwd=tmp_path)
        wait_for_line(processes, log, "ready", LIMIT_S)
        child = int(log.read_text().split()[1])
        assert runs(child)
    assert_gone(child)


def test_a_child_that_outlives_its_parent_ends_too(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        script = "trap '' TERM; sleep 1000 & echo child $! ready"
        log = processes.start("parent", ["sh", "-c", script], env=ENV, cwd=tmp_path)
        with pytest.raises(PeerUnavailable, match="parent: ended by status 0; its log: "):
            wait_for_line(processes, log, "never written", LIMIT_S)
        child = int(log.read_text().split()[1])
        assert runs(child)
    assert_gone(child)


def test_a_program_that_is_not_ready_in_time_is_named_with_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        log = processes.start("slow", ["sleep", "1000"], env=ENV, cwd=tmp_path)
        with pytest.raises(PeerUnavailable, match=r"slow: not ready after 0\.1 s"):
            wait_for_line(processes, log, "ready", 0.1)


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, pytest.raises(AlgorithmUnavailable, match="no-such-program"):
        processes.start("x", ["no-such-program"], env=ENV, cwd=tmp_path)


def test_the_tail_of_a_log_is_its_last_lines_and_of_none_is_nothing(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("".join(f"{number}\n" for number in range(100)))
    assert tail(log, 2) == "98\n99"
    assert tail(tmp_path / "b.log") == ""
