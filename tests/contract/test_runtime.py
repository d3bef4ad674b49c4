"""What every runtime does: the same programs, as processes of this host and as containers."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from dynsvc.errors import (
    AlgorithmFailed,
    AlgorithmUnavailable,
    AttemptEnded,
    DeviceUnavailable,
    EngineUnavailable,
    OutOfMemory,
    TimeLimitExceeded,
)
from dynsvc.runtime import Limits, Run, RunOutcome, Runtime
from tests.support.images import BASE_IMAGE, base_image, engine
from tests.support.kept import serving
from tests.support.podman import Podman, running_podman
from tests.support.sif import sif_folder
from workers.runtimes.apptainer import ApptainerRuntime
from workers.runtimes.docker import DockerRuntime
from workers.runtimes.process import ProcessRuntime


@dataclass
class Host:
    """A runtime with folders for one order."""

    runtime: Runtime
    image: str | None
    folder: Path
    #: Podman 4 never says that the kernel took a container for its memory.
    hides_memory: bool = False
    #: Stands in the command line of whatever must be gone at the end.
    marker: str = field(default_factory=lambda: f"987{uuid.uuid4().int % 10**9}")
    order_id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    lines: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def ends_by_its_memory(self) -> Iterator[None]:
        """Expect the end of a run that takes more than 128 MiB."""
        error = EngineUnavailable if self.hides_memory else OutOfMemory
        with pytest.raises(error, match=r"by its memory limit of 128 MiB"):
            yield

    @property
    def input_dir(self) -> Path:
        return self.folder / "input"

    @property
    def output_dir(self) -> Path:
        return self.folder / "output"

    def made(self, *argv: str, env: dict[str, str] | None = None, **limits: Any) -> Run:
        given = {"timeout_s": 30.0, "memory_mib": 512, "cpus": 1.0, "pids": 128, "tmp_mib": 64} | limits
        return Run(
            algorithm="seg",
            version="1",
            image=self.image,
            argv=argv,
            input_dir=self.input_dir,
            output_dir=self.output_dir,
            limits=Limits(**given),
            order_id=self.order_id,
            attempt=uuid.uuid4().hex,
            env=env or {},
        )

    def run(
        self,
        *argv: str,
        on_line: Callable[[str], None] | None = None,
        ended: Callable[[], bool] = lambda: False,
        env: dict[str, str] | None = None,
        **limits: Any,
    ) -> RunOutcome:
        return self.runtime.run(
            self.made(*argv, env=env, **limits), on_line=on_line or self.lines.append, ended=ended
        )

    def python(self, program: str, *args: str, **options: Any) -> RunOutcome:
        seen = self.runtime.seen(self.input_dir, self.output_dir)
        head = f"import os, sys, time; INPUT, OUTPUT = {seen.input_dir!r}, {seen.output_dir!r}\n"
        return self.run("python3", "-c", head + program, *args, **options)

    def shell(self, program: str, **options: Any) -> RunOutcome:
        return self.run("sh", "-c", program.replace("MARKER", self.marker), **options)

    def left(self) -> list[str]:
        """Command lines with the marker that still run, on the host or in any container."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if self.marker in command:
                found.append(command)
        return found


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    with running_podman() as service:
        yield service


@pytest.fixture(
    params=[
        "process",
        pytest.param("docker", marks=pytest.mark.docker),
        pytest.param("apptainer", marks=pytest.mark.docker),
        pytest.param("podman", marks=pytest.mark.docker),
    ]
)
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    for name in ("input", "output", "scratch"):
        (tmp_path / name).mkdir()
    if request.param == "process":
        runtime = ProcessRuntime(scratch=tmp_path / "scratch")
        host = Host(runtime, None, tmp_path)
        yield host
        runtime.close()
    elif request.param == "apptainer":
        apptainer_runtime = ApptainerRuntime(scratch=tmp_path / "scratch", sif_folder=sif_folder())
        host = Host(apptainer_runtime, BASE_IMAGE, tmp_path)
        yield host
        apptainer_runtime.close()
    else:
        image = base_image()
        podman: Podman | None = None
        if request.param == "podman":
            podman = request.getfixturevalue("podman")
            monkeypatch.setenv("DOCKER_HOST", podman.url)
        docker_runtime = DockerRuntime(worker_id="contract-test")
        host = Host(docker_runtime, image, tmp_path, hides_memory=podman is not None)
        yield host
        label = f"dynsvc.order={host.order_id}"
        if podman:
            assert podman.containers(label) == []
        else:
            assert engine().containers(all=True, filters={"label": label}) == []
        docker_runtime.close()
    assert host.left() == []
    assert [path.name for path in (tmp_path / "scratch").rglob("*")] in ([], ["work"])


def after(delay_s: float) -> Callable[[], bool]:
    """A question whose answer becomes yes."""
    begin = time.monotonic()
    return lambda: time.monotonic() - begin > delay_s


def test_a_program_reads_its_input_writes_its_output_and_is_done(host: Host) -> None:
    (host.input_dir / "tile.png").write_bytes(b"pixels")
    outcome = host.python(
        "open(OUTPUT + '/result', 'wb').write(open(INPUT + '/tile.png', 'rb').read()); print('done')"
    )
    assert (host.output_dir / "result").read_bytes() == b"pixels"
    assert outcome.last_lines == "done"
    assert outcome.device == "cpu"
    assert outcome.duration_s > 0
    assert outcome.executed.startswith("/") or "sha256:" in outcome.executed
    (host.output_dir / "result").unlink()


def test_lines_arrive_while_the_program_runs(host: Host) -> None:
    """The program goes on only after its first line was answered."""

    def on_line(line: str) -> None:
        host.lines.append(line)
        if line == "30%":
            (host.input_dir / "go").touch()

    host.python(
        "print('30%')\nwhile not os.path.exists(INPUT + '/go'): time.sleep(0.01)\nprint('60%')",
        on_line=on_line,
    )
    assert host.lines == ["30%", "60%"]


def test_progress_bars_without_newlines_are_lines(host: Host) -> None:
    host.python("sys.stderr.write('\\r10%\\r20%\\r\\n30%')")
    assert host.lines == ["10%", "20%", "30%"]


def test_both_streams_are_read_and_the_last_lines_kept(host: Host) -> None:
    outcome = host.python("for n in range(500): print(n)\nprint('bye', file=sys.stderr)")
    assert sorted(host.lines) == sorted([*map(str, range(500)), "bye"])
    # An engine keeps the order of each stream; it does not say which of the two came first.
    assert [line for line in host.lines if line != "bye"] == [str(n) for n in range(500)]
    assert outcome.last_lines.splitlines() == host.lines[-200:]


def test_bytes_that_are_no_text_are_tolerated(host: Host) -> None:
    host.python(
        "sys.stdout.buffer.write(b'\\xff\\xfe ok \\x1b[31m\\x00\\n'); sys.stdout.buffer.write('µm'.encode())"
    )
    assert host.lines == ["\ufffd\ufffd ok [31m", "µm"]


def test_output_without_newlines_does_not_fill_memory(host: Host) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = host.python("b = b'x' * 65536\nfor _ in range(4096): sys.stdout.buffer.write(b)")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 50_000
    assert len(host.lines) == 1
    assert outcome.last_lines == "x" * 2000 + "…"


def test_arguments_arrive_as_they_are(host: Host) -> None:
    awkward = [
        "; touch /tmp/x",
        "$(id)",
        "`id`",
        "a b",
        "",
        "-rf",
        "*",
        "~",
        "line\nline",
        "tab\t",
        "Größe µ",
        "'\"\\",
        "%s{}",
    ]
    host.python("import json; json.dump(sys.argv[1:], open(OUTPUT + '/argv', 'w'))", *awkward)
    assert json.loads((host.output_dir / "argv").read_text()) == awkward


def test_standard_input_is_empty(host: Host) -> None:
    host.python("print(len(sys.stdin.read()))")
    assert host.lines == ["0"]


def test_the_environment_is_the_runs_and_not_the_workers(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DYNSVC_BROKER_URL", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "LD_PRELOAD_TEST"):
        monkeypatch.setenv(name, "secret")
    host.python(
        "import json; json.dump(dict(os.environ), open(OUTPUT + '/env', 'w'))",
        env={"MODEL": "a=b\nc", "MKL_NUM_THREADS": "7"},
        cpus=2.0,
    )
    found = json.loads((host.output_dir / "env").read_text())
    assert "secret" not in found.values()
    assert found["MODEL"] == "a=b\nc"
    assert found["DYNSVC_ORDER"] == host.order_id
    assert found["OMP_NUM_THREADS"] == found["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] == "2"
    assert found["MKL_NUM_THREADS"] == "7"
    assert found["PYTHONUNBUFFERED"] == "1"


def test_temporary_files_and_a_home_are_there_and_gone_afterwards(host: Host) -> None:
    host.python(
        "import tempfile; f = tempfile.mkstemp()[1]; open(os.path.expanduser('~/x'), 'w').close()\n"
        "os.makedirs(os.environ['TMPDIR'] + '/a/b'); print(f)"
    )
    assert host.lines
    assert not Path(host.lines[0]).exists()


def test_a_bad_exit_status_is_a_failure_with_the_last_line(host: Host) -> None:
    with pytest.raises(AlgorithmFailed) as caught:
        host.python("print('reading'); print('cannot read tile', file=sys.stderr); sys.exit(3)")
    assert type(caught.value) is AlgorithmFailed
    assert caught.value.outcome.startswith("ended with exit status 3 after ")
    assert {"reading", "cannot read tile"} == set(caught.value.last_lines.splitlines())


@pytest.mark.parametrize(("number", "name"), [(11, "SIGSEGV"), (6, "SIGABRT"), (15, "SIGTERM")])
def test_a_signal_is_a_failure_that_names_it(host: Host, number: int, name: str) -> None:
    with pytest.raises(AlgorithmFailed, match=f"seg was ended by {name} after") as caught:
        host.python(f"os.kill(os.getpid(), {number})")
    assert not caught.value.transient


def test_a_kill_that_nobody_here_ordered_may_be_tried_again(host: Host) -> None:
    with pytest.raises(EngineUnavailable, match="killed from outside") as caught:
        host.python("os.kill(os.getpid(), 9)")
    assert caught.value.transient


def test_the_time_limit_ends_a_program_that_ignores_signals_and_its_family(host: Host) -> None:
    program = "trap '' TERM INT HUP; sleep MARKER & (setsid sleep MARKER &); echo up; sleep MARKER"
    with pytest.raises(TimeLimitExceeded) as caught:
        host.shell(program, timeout_s=1.0)
    assert caught.value.outcome == "was ended by its time limit of 1 s"
    assert caught.value.last_lines == "up"


def test_a_run_that_nobody_wants_any_more_is_stopped_with_its_family(host: Host) -> None:
    with pytest.raises(AttemptEnded) as caught:
        host.shell("trap '' TERM; (setsid sleep MARKER &); sleep MARKER & wait", ended=after(0.5))
    assert caught.value.order_id == host.order_id
    assert host.left() == []


def test_a_run_that_nobody_wants_from_the_start_is_not_begun(host: Host) -> None:
    with pytest.raises(AttemptEnded):
        host.python("open(OUTPUT + '/begun', 'w')", ended=lambda: True)
    assert list(host.output_dir.iterdir()) == []


def test_the_question_is_asked_several_times_a_second(host: Host) -> None:
    asked: list[float] = []

    def ended() -> bool:
        asked.append(time.monotonic())
        return len(asked) == 8

    with pytest.raises(AttemptEnded):
        host.shell("sleep MARKER", ended=ended)


def test_background_processes_do_not_outlive_a_program_that_ended_well(host: Host) -> None:
    """They hold the output open, too: the run must not wait for them."""
    outcome = host.shell("sleep MARKER & (setsid sleep MARKER &); sleep 0.3; echo done")
    assert outcome.last_lines == "done"
    assert host.left() == []


def test_a_program_that_closes_its_output_is_still_waited_for(host: Host) -> None:
    with pytest.raises(AlgorithmFailed, match="exit status 4"):
        host.shell("exec >&- 2>&-; sleep 1; exit 4")


def test_a_memory_eater_is_ended_and_called_so(host: Host) -> None:
    with host.ends_by_its_memory():
        host.python("x = []\nwhile True: x.append(b'x' * 4_000_000)", memory_mib=128)


def test_a_child_that_eats_memory_makes_the_run_fail_even_if_the_parent_does_not_care(host: Host) -> None:
    # Where the engine says nothing of it, the program's own word is taken.
    with contextlib.nullcontext() if host.hides_memory else host.ends_by_its_memory():
        host.python(
            "if os.fork() == 0:\n  x = []\n  while True: x.append(b'x' * 4_000_000)\nos.wait(); sys.exit(0)",
            memory_mib=128,
        )


def test_shared_memory_counts(host: Host) -> None:
    with host.ends_by_its_memory():
        host.python(
            "import mmap\nm = mmap.mmap(-1, 400 << 20)\n"
            "for at in range(0, len(m), 4096): m[at] = 1\n"
            "time.sleep(20)",
            memory_mib=128,
        )


def test_memory_that_a_family_shares_counts_once(host: Host) -> None:
    """Four children look at 100 MB of their parent: 100 MB, not 500."""
    host.python(
        "x = b'x' * 100_000_000\nfor _ in range(4):\n  if os.fork() == 0: time.sleep(1); os._exit(0)\n"
        "for _ in range(4): os.wait()",
        memory_mib=300,
    )


def test_a_fork_bomb_is_contained(host: Host) -> None:
    with pytest.raises((AlgorithmFailed, TimeLimitExceeded, EngineUnavailable)):
        host.python("while True: os.fork()", pids=48, timeout_s=3.0)


def test_a_missing_program_is_named(host: Host) -> None:
    with pytest.raises(AlgorithmUnavailable, match="no-such-program"):
        host.run("no-such-program", "-i", "x")


def test_a_file_that_is_no_program_is_named(host: Host) -> None:
    with pytest.raises(AlgorithmUnavailable, match="/etc/passwd"):
        host.run("/etc/passwd")


@pytest.mark.parametrize("argv", [(), ("",), ("sh", "-c", "a\0b")])
def test_an_argument_list_that_no_system_can_execute_is_refused(host: Host, argv: tuple[str, ...]) -> None:
    with pytest.raises(AlgorithmUnavailable):
        host.run(*argv)


def test_an_error_of_the_listener_ends_the_run(host: Host) -> None:
    def on_line(line: str) -> None:
        raise LookupError(line)

    with pytest.raises(LookupError, match="hello"):
        host.shell("echo hello; sleep MARKER", on_line=on_line)


def test_an_error_of_the_question_ends_the_run(host: Host) -> None:
    asked: list[None] = []

    def ended() -> bool:
        asked.append(None)
        if len(asked) > 2:
            raise LookupError("lease")
        return False

    with pytest.raises(LookupError, match="lease"):
        host.shell("sleep MARKER", ended=ended)


def test_a_gpu_that_was_not_leased_is_never_replaced_by_the_cpu(host: Host) -> None:
    with pytest.raises(DeviceUnavailable, match="GPU is not available on this host"):
        host.python("open(OUTPUT + '/ran', 'w')", gpus=1)
    assert list(host.output_dir.iterdir()) == []


def test_several_runs_at_once_do_not_disturb_each_other(host: Host) -> None:
    outcomes: dict[int, str] = {}

    def one(number: int) -> None:
        outcomes[number] = host.python(
            f"time.sleep(0.2); print({number})", on_line=lambda line: None
        ).last_lines

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes == {number: str(number) for number in range(4)}


def test_no_open_files_are_left(host: Host) -> None:
    for _ in range(10):  # the SDK keeps up to 25 idle connections, each for another URL
        host.shell("true")
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(3):
        host.shell("true")
        with pytest.raises(AlgorithmFailed):
            host.shell("exit 1")
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= before


def test_the_check_is_one_line(host: Host) -> None:
    line = host.runtime.check()
    assert "\n" not in line
    assert str(os.cpu_count()) in line


@pytest.mark.parametrize("mode", ["oneshot", "shim", "warm"])
def test_each_mode_does_the_same_for_one_run_after_the_other(host: Host, mode: Any) -> None:
    seen = host.runtime.seen(host.input_dir, host.output_dir)
    copy = f"import shutil; shutil.copy('{seen.input_dir}/tile', '{seen.output_dir}/result'); print('done')"
    serves = f"def work(request, progress):\n    {copy}"
    for text in ("one", "two"):
        (host.input_dir / "tile").write_text(text)
        run = host.made("python3", "-c", copy)
        kept = replace(run, mode=mode, argv_warm=serving(serves), trust_domain="contract")
        outcome = host.runtime.run(kept, on_line=host.lines.append, ended=lambda: False)
        assert [path.name for path in host.output_dir.iterdir()] == ["result"]
        assert (host.output_dir / "result").read_text() == text
        assert outcome.last_lines == "done"
        kept_here = {"warm"} if host.runtime.name == "process" else {"shim", "warm"}
        assert outcome.warm == (text == "two" and mode in kept_here)
        (host.output_dir / "result").unlink()
