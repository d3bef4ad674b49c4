"""Warm programs of this host: started once, told of each run, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynsvc.errors import AlgorithmFailed, AlgorithmUnavailable, AttemptEnded, OutOfMemory, TimeLimitExceeded
from dynsvc.runtime import Keep, Limits, Run, RunOutcome
from tests.support.kept import eventually, serving
from workers.runtimes import nursery
from workers.runtimes.process import ProcessRuntime

ROOT = Path(__file__).parents[2]
#: Copies its input and tells who it is.
ECHO = """
import os
def work(request, progress):
    print("works on", request["order_id"])
    progress(0.5)
    with open(request["output_dir"] + "/result", "w") as result:
        result.write(open(request["input"]).read() + f" {os.getpid()}")
"""


class Host:
    """A runtime with folders for runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lines = folder, list[str]()
        self.runtime = ProcessRuntime(scratch=folder / "scratch")
        self._count = 0

    def made(
        self, argv: tuple[str, ...], argv_warm: tuple[str, ...], text: str = "pixels", **more: Any
    ) -> Run:
        self._count += 1
        folder = self.folder / f"run-{self._count}"
        for name in ("input", "output"):
            (folder / name).mkdir(parents=True)
        (folder / "input" / "tile").write_text(text)
        limits = {name: more.pop(name) for name in ("timeout_s", "memory_mib") if name in more}
        given: dict[str, Any] = {"trust_domain": "hospital", "keep": Keep(), "mode": "warm"} | more
        return Run(
            algorithm="seg",
            version="1",
            image=None,
            argv=argv,
            argv_warm=argv_warm,
            input_dir=folder / "input",
            output_dir=folder / "output",
            limits=Limits(
                **({"timeout_s": 20, "memory_mib": 128, "cpus": 1, "pids": 64, "tmp_mib": 1} | limits)
            ),
            order_id=f"order-{self._count}",
            attempt=f"attempt-{self._count}",
            **given,
        )

    def go(self, run: Run, *, ended: Callable[[], bool] = lambda: False) -> RunOutcome:
        return self.runtime.run(run, on_line=self.lines.append, ended=ended)

    def warm(self, program: str, **options: Any) -> tuple[Run, RunOutcome]:
        """Run *program* kept; by itself it only writes that it is."""
        run = self.made(("sh", "-c", "exit 1"), serving(program), **options)
        fresh = self.folder / f"run-{self._count}" / "output"
        run = replace(run, argv=("sh", "-c", f"ls {fresh}; printf once > {fresh}/result"))
        return run, self.go(run)

    def left(self) -> list[str]:
        return [path.name for path in (self.folder / "scratch" / "work").glob("*")]

    @property
    def recycled(self) -> Any:
        assert self.runtime._standing
        return self.runtime._standing.kept.pool.recycled

    def held(self) -> list[int]:
        """Ids of the programs that are kept."""
        assert self.runtime._standing
        pool = self.runtime._standing.kept.pool
        return [held.thing._guarded._guard.pid for held in pool._held]


def result(run: Run) -> str:
    return (run.output_dir / "result").read_text()


def children() -> set[str]:
    """Ids of what this process and the helper that starts guards have started, but it and free guards."""
    ours = nursery._nursery
    helper = str(ours._helper._process.pid) if ours._helper else ""
    tasks = [*Path("/proc/self/task").iterdir(), *Path(f"/proc/{helper or 'self'}/task").iterdir()]
    found: set[str] = set()
    for task in tasks:
        with suppress(OSError):  # a thread may end meanwhile
            found.update((task / "children").read_text().split())
    return found - {helper} - {str(free.pid) for free in ours._free}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    before = children()
    host = Host(tmp_path)
    yield host
    host.runtime.close()
    assert host.left() == []
    eventually(lambda: children() <= before)  # the helper takes the guard's status a moment later


def test_one_program_does_one_run_after_the_other(host: Host) -> None:
    first, outcome = host.warm(ECHO, text="one")
    second, again = host.warm(ECHO, text="two", request={"parameters": {"r": 1.5}})
    assert not outcome.warm
    assert again.warm
    assert again.executed == outcome.executed
    assert Path(again.executed).name == "python3"
    one, process = result(first).split()
    assert (one, result(second)) == ("one", f"two {process}")
    assert again.last_lines == f"works on {second.order_id}\n<filter-progress>0.5000</filter-progress>"


def test_other_limits_variables_or_trust_domains_need_another_program(host: Host) -> None:
    host.warm(ECHO)
    for other in ({"memory_mib": 100}, {"env": {"MODEL": "b"}}, {"trust_domain": "other"}):
        _, outcome = host.warm(ECHO, **other)
        assert not outcome.warm
    run, _ = host.warm(ECHO, trust_domain="")
    assert result(run) == "once"


def test_variables_are_the_runs_and_none_names_one_run(host: Host) -> None:
    program = """
import os
def work(request, progress):
    names = "DYNSVC_ORDER", "DYNSVC_ATTEMPT", "MODEL", "HOME", "CUDA_VISIBLE_DEVICES"
    open(request["output_dir"] + "/result", "w").write(repr([os.environ.get(name) for name in names]))
"""
    run, _ = host.warm(program, env={"MODEL": "b"})
    assert result(run).startswith("[None, None, 'b', '" + str(host.folder / "scratch"))
    assert result(run).endswith(", '']")


def test_a_reported_error_is_the_runs_and_the_program_goes_on(host: Host) -> None:
    program = """
def work(request, progress):
    if open(request["input"]).read() == "empty":
        raise ValueError("no tissue")
"""
    host.warm(program)
    with pytest.raises(AlgorithmFailed, match=r"reported an error \(ValueError: no tissue\)"):
        host.warm(program, text="empty")
    assert host.warm(program)[1].warm


@pytest.mark.parametrize(
    "part",
    [
        pytest.param("os._exit(3)", id="exits"),
        pytest.param("os.kill(os.getpid(), signal.SIGSEGV)", id="crashes"),
        pytest.param("x = bytearray(b'x' * (200 << 20)); time.sleep(60)", id="takes-all-memory"),
        pytest.param("[os.fork() for _ in range(9)]; time.sleep(60)", id="forks"),
        pytest.param('os.write(1, b\'{"id":"other","ok":true}\\n\')', id="answers-another-request"),
        pytest.param("os.write(1, b'x' * (2 << 20))", id="never-ends-a-line"),
    ],
)
def test_a_run_whose_program_broke_is_done_again_in_an_empty_folder(host: Host, part: str) -> None:
    program = f"""
import os, signal, time
def work(request, progress):
    open(request["output_dir"] + "/half", "w").close()
    {part}
"""
    run, outcome = host.warm(program)
    assert result(run) == "once"
    assert outcome.last_lines == ""
    assert not outcome.warm
    assert host.held() == []
    assert host.recycled.broken == 1


def test_what_fails_by_itself_too_is_reported_from_there(host: Host) -> None:
    eater = "x = bytearray(b'x' * (200 << 20))\nimport time; time.sleep(60)"
    program = "def work(request, progress):\n    " + eater.replace("\n", "\n    ")
    with pytest.raises(OutOfMemory, match="128 MiB"):
        host.go(host.made(("python3", "-c", eater), serving(program)))


def test_a_program_that_never_serves_is_run_by_itself(host: Host) -> None:
    for warm in (("false",), ("echo", '{"type":"ready","protocol":2}')):
        run = host.made(("true",), warm)
        assert not host.go(run).warm
    with pytest.raises(AlgorithmUnavailable, match="no-such-program"):
        host.go(host.made(("true",), ("no-such-program",)))


def test_the_time_limit_ends_the_program_and_not_the_next_run(host: Host) -> None:
    program = (
        "import time\ndef work(request, progress):\n    time.sleep(float(open(request['input']).read()))"
    )
    host.warm(program, text="0", timeout_s=1.0)
    with pytest.raises(TimeLimitExceeded, match="1 s"):
        host.warm(program, text="600", timeout_s=1.0)
    assert host.held() == []
    assert not host.warm(program, text="0", timeout_s=1.0)[1].warm


def test_a_program_that_waits_for_runs_has_no_time_limit(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.runtimes.programs._SLACK_S", 0.0)
    host.warm(ECHO, timeout_s=1.0)
    time.sleep(1.5)  # longer than the limit that its guard had for the run
    assert host.warm(ECHO, timeout_s=1.0)[1].warm


def test_a_cancelled_run_ends_its_program_and_family(host: Host) -> None:
    program = """
import os, time
def work(request, progress):
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    print("sleeps")
    time.sleep(600)
"""
    with pytest.raises(AttemptEnded):
        host.go(host.made(("true",), serving(program)), ended=lambda: "sleeps" in host.lines)
    assert host.held() == []


def test_programs_are_replaced_after_their_uses_when_grown_and_when_idle(host: Host) -> None:
    keep = Keep(max_uses=2, idle_s=0.3)
    assert [host.warm(ECHO, keep=keep)[1].warm for _ in range(4)] == [False, True, False, True]
    assert host.recycled.uses == 2
    host.warm(ECHO, keep=keep)
    eventually(lambda: host.held() == [])
    assert host.recycled.idle == 1


def test_regions_end_right_with_a_program_that_leaks_and_crashes(host: Host) -> None:
    """It leaks 1 MB each call, and dies on every 50th region."""
    program = """
import os, time
leaked = []
def work(request, progress):
    leaked.append(b"x" * (1 << 20))
    time.sleep(0.005)  # its work: memory is looked at every 50 ms
    number = open(request["input"]).read()
    if int(number) % 50 == 0:
        os.abort()
    open(request["output_dir"] + "/result", "w").write(number)
"""
    keep = Keep(max_growth_mib=16, max_uses=10_000)
    for number in range(1, 151):
        run, _ = host.warm(program, text=str(number), keep=keep)
        assert result(run) == ("once" if number % 50 == 0 else str(number))
    assert host.recycled.broken == 3
    assert host.recycled.memory >= 1
    assert len(host.held()) <= 1


def test_a_killed_guard_takes_its_program_along(host: Host) -> None:
    program = ECHO.replace("os.getpid()", "os.getpid(), os.getppid()")
    run, _ = host.warm(program)
    words = result(run).translate(str.maketrans("(),", "   ")).split()
    own, guard = int(words[1]), int(words[2])
    assert host.held() == [guard]
    os.kill(guard, signal.SIGKILL)
    eventually(lambda: not alive(guard))
    assert not host.warm(program)[1].warm
    eventually(lambda: not alive(own))


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for yet does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# Other workers of this host

WORKER = """
import sys
from pathlib import Path
from tests.unit.test_process_warm import ECHO, Host, result
host = Host(Path(sys.argv[1]))
run, _ = host.warm(ECHO, memory_mib=100)
print(result(run).split()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Another worker with the same scratch folder, and the process that it keeps."""
    command = [sys.executable, "-c", WORKER, str(tmp_path / "other")]
    (tmp_path / "other").mkdir()
    (tmp_path / "scratch").mkdir()
    (tmp_path / "other" / "scratch").symlink_to(tmp_path / "scratch")
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        yield process, int(process.stdout.readline())
        process.kill()


def test_a_killed_workers_kept_program_is_gone_at_once_and_its_folder_by_the_janitor(
    other: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    process, program = other
    assert alive(program)
    process.kill()
    process.wait()
    eventually(lambda: not alive(program))
    host = Host(tmp_path)
    assert len(host.left()) == 1
    assert host.runtime.reap(lambda attempts: []) == 0
    assert host.left() == []


def test_workers_of_a_host_know_what_the_others_keep(
    other: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    host = Host(tmp_path)
    host.warm(ECHO)
    assert host.runtime._standing
    assert host.runtime._standing.place.elsewhere_mib() == 100
    host.runtime.reap(lambda attempts: [])
    assert alive(other[1])
    host.runtime.close()
