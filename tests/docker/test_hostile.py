"""Algorithms that mean harm: each is contained, has an error of its own, and the next run is fine."""

from __future__ import annotations

import resource
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dynsvc.errors import (
    AlgorithmFailed,
    DynsvcError,
    OutOfMemory,
    OutputRefused,
    TimeLimitExceeded,
)
from dynsvc.runtime import Limits, Run, RunOutcome, Runtime
from tests.support.images import BASE_IMAGE, base_image, engine
from tests.support.kept import serving
from tests.support.sif import sif_folder
from workers.runtimes.apptainer import ApptainerRuntime
from workers.runtimes.docker import DockerRuntime

pytestmark = pytest.mark.docker

WORKER = f"test-{uuid.uuid4().hex[:8]}"
MEMORY_MIB, PIDS, TMP_MIB, OUTPUT_MIB = 96, 32, 8, 32
MIB = 1 << 20


@dataclass(frozen=True)
class Attack:
    """What an algorithm does, and how its run ends: the error, words of it, and words of its last lines."""

    program: str
    error: type[DynsvcError]
    words: str
    last: str = ""
    timeout_s: float = 20.0


MANY = "for n in range(4000): open(f'{}/{{n}}', 'wb').write(bytes(1 << 20)); time.sleep(0.002)"
ATTACKS = {
    "tries the network": Attack(
        "import socket; socket.create_connection(('192.0.2.1', 80), 5)",
        AlgorithmFailed,
        "exit status 1",
        "Network is unreachable",
    ),
    "writes its root": Attack(
        "open('/usr/bin/sh', 'w')", AlgorithmFailed, "exit status 1", "Read-only file system"
    ),
    "changes its input": Attack(
        "import os; os.remove('/input/tile')", AlgorithmFailed, "exit status 1", "Read-only file system"
    ),
    "forks a bomb": Attack("import os\nwhile True: os.fork()", AlgorithmFailed, f"{PIDS} "),
    "forks a bomb without a word": Attack(
        "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
        AlgorithmFailed,
        f"{PIDS} ",
        timeout_s=2.0,
    ),
    "eats memory": Attack(
        "x = []\nwhile True: x.append(bytes(1 << 22))", OutOfMemory, f"memory limit of {MEMORY_MIB} MiB"
    ),
    "fills its output with one file": Attack(
        "f = open('/output/x', 'wb')\nwhile True: f.write(bytes(1 << 20))",
        OutputRefused,
        f"more than {OUTPUT_MIB * MIB} bytes",
    ),
    "fills its output with many files": Attack(
        f"import time\n{MANY.format('/output')}",
        OutputRefused,
        f"more than {OUTPUT_MIB * MIB} bytes",
    ),
    "hides what it fills": Attack(
        "import os, time\nos.makedirs('/output/' + 'd/' * 100); time.sleep(600)",
        OutputRefused,
        "nested deeper than",
    ),
    "fills its temporary folder": Attack(
        f"import time\n{MANY.format('/tmp')}",
        AlgorithmFailed,
        "",
    ),
    "ignores SIGTERM": Attack(
        "import signal, time\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(600)",
        TimeLimitExceeded,
        "time limit of 1 s",
        timeout_s=1.0,
    ),
}


class Ward:
    """A runtime whose host is looked at."""

    def __init__(self, runtime: Runtime, folder: Path) -> None:
        self.runtime, self.folder, self._count = runtime, folder, 0
        #: Stands in the command line of all that must be gone.
        self.marker = f"97{uuid.uuid4().int % 10**9}"

    def made(self, program: str, timeout_s: float = 20.0, **limits: int) -> Run:
        self._count += 1
        folder = self.folder / f"run-{self._count}"
        for name in ("input", "output"):
            (folder / name).mkdir(parents=True)
        (folder / "input" / "tile").write_text("pixels")
        given = {"memory_mib": MEMORY_MIB, "pids": PIDS, "tmp_mib": TMP_MIB, "output_bytes": OUTPUT_MIB * MIB}
        return Run(
            algorithm="seg",
            version="1",
            image=BASE_IMAGE,
            argv=("python3", "-c", program, self.marker),
            input_dir=folder / "input",
            output_dir=folder / "output",
            limits=Limits(timeout_s=timeout_s, cpus=1.0, **(given | limits)),
            order_id=f"order-{self._count}",
            attempt=uuid.uuid4().hex,
        )

    def go(self, run: Run) -> RunOutcome:
        return self.runtime.run(run, on_line=lambda line: None, ended=lambda: False)

    def the_next_order_is_fine(self) -> None:
        run = self.made("open('/output/x', 'w').write(open('/input/tile').read())")
        self.go(run)
        assert (run.output_dir / "x").read_text() == "pixels"

    def left(self) -> list[str]:
        """Programs of ours that still run, anywhere on the host."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes().decode(errors="replace")
            except OSError:
                continue
            found += [command] if self.marker in command else []
        return found


@pytest.fixture(params=["docker", "apptainer"])
def ward(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ward]:
    base_image()
    scratch = tmp_path / "scratch"
    runtime: DockerRuntime | ApptainerRuntime
    if request.param == "docker":
        runtime = DockerRuntime(scratch=scratch, worker_id=WORKER)
    else:
        runtime = ApptainerRuntime(scratch=scratch, sif_folder=sif_folder())
    ward = Ward(runtime, tmp_path)
    yield ward
    assert ward.left() == []
    runtime.close()
    assert engine().containers(all=True, filters={"label": f"dynsvc.worker={WORKER}"}) == []
    assert [path.name for path in scratch.rglob("*") if path.is_file()] in ([], ["cpu-0"], ["cpu-1"])


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_contained_and_has_an_error_of_its_own(ward: Ward, name: str) -> None:
    attack = ATTACKS[name]
    run = ward.made(attack.program, attack.timeout_s)
    with pytest.raises((attack.error, TimeLimitExceeded if "bomb" in name else attack.error)) as caught:
        ward.go(run)
    assert attack.words in str(caught.value)
    assert attack.last in getattr(caught.value, "last_lines", "")
    assert not caught.value.transient
    assert ward.left() == []
    assert (run.input_dir / "tile").read_text() == "pixels"
    ward.the_next_order_is_fine()


def test_a_gigabyte_of_output_costs_the_worker_no_memory(ward: Ward) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    block = "(b'x' * 9999 + b'\\n') * 100"
    outcome = ward.go(
        ward.made(f"import sys\nb = {block}\nfor _ in range(1000): sys.stdout.buffer.write(b)", 120.0)
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 50_000
    assert 0 < len(outcome.last_lines) <= 32_000
    ward.the_next_order_is_fine()


def test_children_end_with_their_parent_however_they_hide(ward: Ward) -> None:
    program = (
        "import os, sys, time\n"
        "for n in range(10):\n"
        "  if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0: time.sleep(600)\n"
        "    os._exit(0)\n"
        "time.sleep(0.2); print(sum(name.isdigit() for name in os.listdir('/proc')) > 10)"
    )
    assert ward.go(ward.made(program)).last_lines == "True"
    assert ward.left() == []
    ward.the_next_order_is_fine()


def test_what_is_kept_is_held_to_the_same(ward: Ward) -> None:
    """A warm program that fills its output, is not kept, and its next run has a fresh one."""
    fills = (
        "def work(request, progress):\n  f = open('/output/x', 'wb')\n  while True: f.write(bytes(1 << 20))"
    )
    good = "def work(request, progress): open('/output/x', 'w').write('fine')"
    kept_before = False
    for program, error in ((fills, OutputRefused), (good, None), (good, None)):
        run = replace(
            ward.made("raise SystemExit('cold')"),
            mode="warm",
            argv_warm=serving(program),
            trust_domain="site",
        )
        if error is None:
            # The second finds the program of the first.
            assert ward.go(run).warm == kept_before
            kept_before = True
            assert (run.output_dir / "x").read_text() == "fine"
            continue
        with pytest.raises(error, match="bytes; the run was ended"):
            ward.go(run)
        deadline = time.monotonic() + 10
        while ward.left():
            assert time.monotonic() < deadline
        assert sum(path.stat().st_size for path in run.output_dir.rglob("*")) <= 2 * OUTPUT_MIB * MIB
        assert [path.name for path in run.input_dir.iterdir()] == ["tile"]
