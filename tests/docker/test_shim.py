"""Legacy command lines in a container that stays; on a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dynsvc.errors import (
    AlgorithmFailed,
    AlgorithmUnavailable,
    AttemptEnded,
    OutOfMemory,
    TimeLimitExceeded,
)
from tests.support.images import engine
from tests.support.kept import Keeping

pytestmark = pytest.mark.docker

AWKWARD = (
    "",
    " ",
    "a b",
    "-n",
    "--",
    "*",
    "$(touch /output/evaluated)",
    "`touch /output/evaluated`",
    "; touch /output/evaluated #",
    "'\"\\",
    "trailing backslash\\",
    "\ttab ",
    "line\nline\n\n",
    "\n",
    ".",
    "ac",
    "µm \udcff",
    "x" * 5000,
)


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[Keeping]:
    keeping = Keeping(tmp_path)
    keeping.shim("true")  # the container is there
    yield keeping
    keeping.runtime.close()
    left = keeping.containers()
    for container in left:
        engine().remove_container(container["Id"], force=True)
    assert left == []


def test_arguments_arrive_as_they_are(keeping: Keeping) -> None:
    program = "import os, sys; open('/output/got', 'wb').write(b'\\0'.join(map(os.fsencode, sys.argv[1:])))"
    run, outcome = keeping.shim("python3", "-c", program, *AWKWARD)
    assert outcome.warm
    got = (run.output_dir / "got").read_bytes().split(b"\0")
    assert got == [word.encode(errors="surrogateescape") for word in AWKWARD]
    assert [path.name for path in run.output_dir.iterdir()] == ["got"]


def test_each_run_is_a_process_of_its_own_with_its_own_files(keeping: Keeping) -> None:
    seen = 'echo "$DYNSVC_ORDER" $$; ls /input /output; cat /input/tile > /output/result'
    for text in ("one", "two"):
        keeping.lines.clear()
        run, outcome = keeping.shim("sh", "-c", seen, text=text)
        assert outcome.warm
        assert (run.output_dir / "result").read_text() == text
        order, process = keeping.lines[0].split()
        assert order == run.order_id
        assert int(process) > 7
        assert keeping.lines[1:] == ["/input:", "tile", "/output:"]
    assert len(keeping.containers()) == 1


def test_both_streams_are_the_log_in_order_also_without_a_last_newline(keeping: Keeping) -> None:
    _, outcome = keeping.shim("sh", "-c", "echo one; echo two >&2; printf three")
    assert outcome.last_lines == "one\ntwo\nthree"


def test_stdin_is_empty_and_not_the_next_message(keeping: Keeping) -> None:
    _, outcome = keeping.shim("sh", "-c", "wc -c")
    assert outcome.last_lines.strip() == "0"


def test_an_exit_status_is_the_runs_and_the_container_goes_on(keeping: Keeping) -> None:
    with pytest.raises(AlgorithmFailed, match=r"exit status 3 .* Last line: \"no tissue\""):
        keeping.shim("sh", "-c", "touch /output/half; echo no tissue; exit 3")
    with pytest.raises(AlgorithmFailed, match="SIGSEGV"):
        keeping.shim("sh", "-c", "kill -SEGV $$")
    with pytest.raises(AlgorithmUnavailable, match="no-such-program"):
        keeping.shim("no-such-program")
    _, outcome = keeping.shim("ls", "/output")
    assert outcome.warm
    assert outcome.last_lines == ""


def test_nothing_outlives_its_run(keeping: Keeping) -> None:
    stray = (
        "touch /tmp/stray /tmp/.stray; mkdir /tmp/..stray; (trap '' TERM HUP; setsid sleep 600) & sleep 0.05"
    )
    keeping.shim("sh", "-c", stray)
    look = "ls -A /tmp; for each in /proc/[0-9]*; do tr '\\0' ' ' < $each/cmdline; echo; done"
    _, outcome = keeping.shim("sh", "-c", look)
    assert outcome.warm
    assert "stray" not in outcome.last_lines
    assert "sleep 600" not in outcome.last_lines


def test_a_program_that_takes_all_memory_is_told_apart(keeping: Keeping) -> None:
    with pytest.raises(OutOfMemory, match="128 MiB"):
        keeping.shim("python3", "-c", "bytearray(1 << 30)")
    _, outcome = keeping.shim("true")
    assert not outcome.warm


def test_time_limit_and_cancelling_end_the_container(keeping: Keeping) -> None:
    with pytest.raises(TimeLimitExceeded):
        keeping.shim("sleep", "600", timeout_s=1.0)
    run = keeping.made(("sh", "-c", "echo up; sleep 600"), mode="shim")
    with pytest.raises(AttemptEnded):
        keeping.go(run, ended=lambda: "up" in keeping.lines)
    assert keeping.containers() == []


def test_a_program_that_kills_the_loop_is_run_by_itself(keeping: Keeping) -> None:
    """It kills its parent: in a container of its own that is the init, which nobody can kill."""
    run, outcome = keeping.shim("sh", "-c", "kill -9 $PPID; echo done > /output/result; sleep 0.1")
    assert not outcome.warm
    assert (run.output_dir / "result").read_text() == "done\n"
