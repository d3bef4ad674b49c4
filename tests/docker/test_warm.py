"""Warm programs: started once, told of each run; on a real engine."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dynsvc.errors import AlgorithmFailed, AttemptEnded, OutOfMemory, TimeLimitExceeded
from dynsvc.runtime import Keep
from tests.support.images import base_image, engine
from tests.support.kept import ECHO, Keeping, eventually, once, serving
from workers.runtimes.container import container_name
from workers.runtimes.docker import DockerRuntime

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
#: The program in a kept container, and only there, does ITS part.
ONLY_KEPT = """
import os, signal, sys, time
def work(request, progress):
    if request["order_id"] != "once":
        ITS
    open("/output/result", "w").write(request["order_id"])
"""


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[Keeping]:
    keeping = Keeping(tmp_path)
    yield keeping
    keeping.runtime.close()
    left = keeping.containers()
    for container in left:
        engine().remove_container(container["Id"], force=True)
    assert left == []
    assert list((tmp_path / "scratch" / "work").glob("*")) == []


def only_kept(part: str) -> str:
    return ONLY_KEPT.replace("ITS", part)


def result(run: Any) -> str:
    return (run.output_dir / "result").read_text()


def kept(keeping: Keeping) -> set[str]:
    return {container["Id"] for container in keeping.containers("kept")}


def recycled(keeping: Keeping) -> Any:
    assert keeping.runtime._standing
    return keeping.runtime._standing.kept.pool.recycled


def test_one_program_does_one_run_after_the_other(keeping: Keeping) -> None:
    first, outcome = keeping.warm(ECHO, text="one")
    second, again = keeping.warm(ECHO, text="two")
    assert not outcome.warm
    assert again.warm
    assert again.executed.startswith("sha256:")
    one, process, *_ = result(first).split()
    assert result(second) == f"two {process} (['tile'], [])"
    assert one == "one"
    assert again.last_lines == f"works on {second.order_id}\n<filter-progress>0.5000</filter-progress>"
    assert len(kept(keeping)) == 1


def test_the_request_carries_what_the_descriptor_gives(keeping: Keeping) -> None:
    program = """
import json
def work(request, progress):
    open("/output/result", "w").write(json.dumps(request))
"""
    run, _ = keeping.warm(program, request={"parameters": {"r": "1.5"}, "mpp": 0.25})
    text = result(run)
    assert '"parameters": {"r": "1.5"}, "mpp": 0.25' in text
    assert f'"order_id": "{run.order_id}", "input_dir": "/input", "output_dir": "/output"' in text


def test_two_trust_domains_never_share_a_container(keeping: Keeping) -> None:
    keeping.warm(ECHO, trust_domain="one")
    _, outcome = keeping.warm(ECHO, trust_domain="two")
    assert not outcome.warm
    assert len(kept(keeping)) == 2
    _, again = keeping.warm(ECHO, trust_domain="one")
    assert again.warm


def test_who_names_no_trust_domain_shares_with_nobody(keeping: Keeping) -> None:
    for _ in range(2):
        _, outcome = keeping.warm(ECHO, trust_domain="")
        assert not outcome.warm
        assert keeping.containers() == []


@pytest.mark.parametrize(
    "other", [{"memory_mib": 100}, {"env": {"MODEL": "b"}}, {"pids": 32}], ids=lambda other: next(iter(other))
)
def test_other_limits_or_variables_need_another_container(keeping: Keeping, other: dict[str, Any]) -> None:
    keeping.warm(ECHO)
    _, outcome = keeping.warm(ECHO, **other)
    assert not outcome.warm
    assert len(kept(keeping)) == 2


def test_a_kept_container_is_isolated_as_one_of_a_single_run_is(keeping: Keeping) -> None:
    run = keeping.made(("sh", "-c", "echo up; sleep 600"), mode="oneshot", trust_domain="")
    seen: dict[str, Any] = {}

    def on_line(line: str) -> None:
        seen.update(engine().inspect_container(container_name(run)))

    with pytest.raises(AttemptEnded):
        keeping.runtime.run(run, on_line=on_line, ended=lambda: bool(seen))
    keeping.warm(ECHO)
    one, kept = seen, keeping.inspected()
    differ = {key for key in one["HostConfig"] if one["HostConfig"][key] != kept["HostConfig"][key]}
    # The files' places, and what the engine writes down of the output.
    assert differ <= {"Mounts", "AutoRemove", "LogConfig", "CpusetCpus"}
    assert one["Config"]["User"] == kept["Config"]["User"]
    assert kept["HostConfig"]["NetworkMode"] == "none"
    assert kept["HostConfig"]["ReadonlyRootfs"]
    assert kept["HostConfig"]["CapDrop"] == ["ALL"]
    assert kept["HostConfig"]["SecurityOpt"] == ["no-new-privileges"]

    def mounts(of: dict[str, Any]) -> set[tuple[str, str, bool]]:
        return {(mount["Type"], mount["Destination"], mount["RW"]) for mount in of["Mounts"]}

    assert mounts(kept) == mounts(one) == {("bind", "/input", False), ("bind", "/output", True)}
    env = {line for line in one["Config"]["Env"] if not line.startswith(("DYNSVC_ORDER", "DYNSVC_ATTEMPT"))}
    assert set(kept["Config"]["Env"]) == env
    assert "dynsvc.order" not in kept["Config"]["Labels"]


def test_a_whole_number_of_processors_is_pinned_and_not_lent_twice(keeping: Keeping) -> None:
    keeping.warm(ECHO, trust_domain="one")
    keeping.warm(ECHO, trust_domain="two")
    sets = [engine().inspect_container(each)["HostConfig"]["CpusetCpus"] for each in kept(keeping)]
    pinned = [each for each in sets if each]
    assert all(each.isdigit() for each in pinned)
    assert len(set(pinned)) == len(pinned)
    if engine().info()["NCPU"] > 1:
        assert pinned


def test_a_reported_error_is_the_runs_and_the_program_goes_on(keeping: Keeping) -> None:
    program = """
def work(request, progress):
    open("/output/half", "w").close()
    if open(request["input"]).read() == "empty":
        print("looked at everything")
        raise ValueError("no tissue")
"""
    keeping.warm(program)
    with pytest.raises(AlgorithmFailed, match=r"reported an error \(ValueError: no tissue\)") as caught:
        keeping.warm(program, text="empty")
    assert "looked at everything" in caught.value.last_lines
    _, outcome = keeping.warm(program)
    assert outcome.warm
    assert len(kept(keeping)) == 1


@pytest.mark.parametrize(
    "part",
    [
        pytest.param("os._exit(3)", id="exits"),
        pytest.param("os.kill(os.getpid(), signal.SIGSEGV)", id="crashes"),
        pytest.param("bytearray(1 << 30)", id="takes-all-memory"),
        pytest.param('os.write(1, b\'{"id":"other","ok":true}\\n\')', id="answers-another-request"),
        pytest.param("os.write(1, b'x' * (2 << 20))", id="never-ends-a-line"),
    ],
)
def test_a_run_whose_container_broke_is_done_again_by_itself(keeping: Keeping, part: str) -> None:
    run, outcome = keeping.warm(only_kept(part))
    assert result(run) == "once"
    assert not outcome.warm
    assert kept(keeping) == set()
    if part != "bytearray(1 << 30)":
        assert recycled(keeping).broken == 1


def test_a_program_may_ask_for_another_try(keeping: Keeping) -> None:
    program = serving(ECHO)[2].replace('"message": str(error)', '"message": "lost the GPU", "retry": True')
    broken = program.replace("seen = sorted", "1 / 0; seen = sorted")
    run = keeping.made(once(ECHO), ("python3", "-c", broken))
    assert not keeping.go(run).warm
    assert result(run).startswith("pixels ")


def test_what_fails_by_itself_too_is_reported_from_there(keeping: Keeping) -> None:
    with pytest.raises(AlgorithmFailed, match="exit status 3"):
        keeping.warm("import os\ndef work(request, progress):\n    os._exit(3)")
    with pytest.raises(OutOfMemory, match="128 MiB"):
        keeping.warm("def work(request, progress):\n    bytearray(1 << 30)")
    assert kept(keeping) == set()


def test_a_program_that_never_serves_is_run_by_itself(keeping: Keeping) -> None:
    for warm in (("false",), ("no-such-program",), ("echo", '{"type":"ready","protocol":2}')):
        run = keeping.made(once(ECHO), warm)
        assert not keeping.go(run).warm
        assert result(run).startswith("pixels ")
        assert kept(keeping) == set()


def test_the_time_limit_ends_the_container_and_not_the_next_run(keeping: Keeping) -> None:
    program = """
import time
def work(request, progress):
    if open(request["input"]).read() == "slow":
        print("sleeps")
        time.sleep(600)
"""
    keeping.warm(program, timeout_s=1.0)
    with pytest.raises(TimeLimitExceeded, match="1 s"):
        keeping.warm(program, text="slow", timeout_s=1.0)
    assert kept(keeping) == set()
    _, outcome = keeping.warm(program, timeout_s=1.0)
    assert not outcome.warm


def test_a_cancelled_run_ends_its_container(keeping: Keeping) -> None:
    program = "import time\ndef work(request, progress):\n    print('sleeps')\n    time.sleep(600)"
    run = keeping.made(once(program), serving(program))
    with pytest.raises(AttemptEnded):
        keeping.go(run, ended=lambda: "sleeps" in keeping.lines)
    assert kept(keeping) == set()


def test_what_is_printed_between_runs_belongs_to_none(keeping: Keeping) -> None:
    program = """
import os, threading, time
def chatter():
    while os.listdir("/output"):
        time.sleep(0.01)
    os.write(2, b"between\\n")
def work(request, progress):
    open("/output/result", "w").close()
    threading.Thread(target=chatter).start()
"""
    keeping.warm(program)
    # The thread prints when its files have been taken; the stream is ready to be read when it has.
    (held,) = keeping.runtime._standing.kept.pool._held  # type: ignore[union-attr]
    eventually(lambda: held.thing._stream._poll.poll(0))
    _, outcome = keeping.warm(program)
    assert outcome.warm
    assert "between" not in keeping.lines


def test_containers_are_replaced_after_their_uses_and_when_idle(keeping: Keeping) -> None:
    keep = Keep(max_uses=2, idle_s=0.3)
    outcomes = [keeping.warm(ECHO, keep=keep)[1].warm for _ in range(4)]
    assert outcomes == [False, True, False, True]
    assert recycled(keeping).uses == 2
    keeping.warm(ECHO, keep=keep)
    eventually(lambda: not kept(keeping))
    assert recycled(keeping).idle == 1


def test_threads_do_not_meet_in_one_container(keeping: Keeping) -> None:
    program = """
import time
def work(request, progress):
    text = open(request["input"]).read()
    time.sleep(0.05)
    assert open(request["input"]).read() == text
    open("/output/result", "w").write(text)
"""
    wrong: list[object] = []

    def several(name: str) -> None:
        for number in range(8):
            run, _ = keeping.warm(program, text=f"{name}-{number}")
            if result(run) != f"{name}-{number}":
                wrong.append(run)

    lock = threading.Lock()
    made = keeping.made

    def made_alone(*args: Any, **options: Any) -> Any:
        with lock:
            return made(*args, **options)

    keeping.made = made_alone  # type: ignore[method-assign]
    threads = [threading.Thread(target=several, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert 1 <= len(kept(keeping)) <= 3


#: Leaks 1 MB each call, and dies on every 50th region; the command of one run does neither.
FRAGILE = only_kept(
    """
        globals().setdefault("leaked", []).append(bytearray(b"x" * (1 << 20)))
        if int(open(request["input"]).read()) % 50 == 0:
            os.abort()"""
)


@pytest.mark.parametrize("count", [1000])
def test_regions_end_right_with_a_program_that_leaks_and_crashes(keeping: Keeping, count: int) -> None:
    keep = Keep(max_growth_mib=16, max_uses=10_000)
    for number in range(1, count + 1):
        run, _ = keeping.warm(FRAGILE, text=str(number), keep=keep)
        assert result(run) == ("once" if number % 50 == 0 else run.order_id)
    assert recycled(keeping).broken == count // 50
    assert recycled(keeping).memory >= 1
    assert len(kept(keeping)) <= 1


# A worker that dies


WORKER = """
import sys, threading
from pathlib import Path
from tests.support.kept import ECHO, Keeping, once, serving
keeping = Keeping(Path(sys.argv[1]), worker=sys.argv[2])
keeping.warm(ECHO)
for _ in range(2):
    keeping.go(keeping.made(("true",), mode="oneshot"))
if sys.argv[3] == "busy":
    program = "import time\\ndef work(request, progress):\\n    print('busy')\\n    time.sleep(600)"
    run = keeping.made(once(program), serving(program), timeout_s=600)
    keeping.runtime.run(run, on_line=lambda line: print(line, flush=True), ended=lambda: False)
print("idle", flush=True)
sys.stdin.read()
"""


def killed_worker(folder: Path, worker: str, how: str) -> None:
    command = [sys.executable, "-c", WORKER, str(folder), worker, how]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline().decode().strip() == how
        process.kill()


def test_a_killed_workers_idle_containers_are_gone_without_anybody_doing_anything(tmp_path: Path) -> None:
    base_image()
    keeping = Keeping(tmp_path)
    killed_worker(tmp_path / "killed", keeping.worker, "idle")
    eventually(lambda: keeping.containers() == [])
    keeping.runtime.close()


def test_a_killed_workers_busy_container_is_the_janitors(tmp_path: Path) -> None:
    base_image()
    keeping = Keeping(tmp_path)
    killed_worker(tmp_path, keeping.worker, "busy")
    eventually(lambda: len(keeping.containers()) == 1)
    keeping.runtime.reap(lambda attempts: [False] * len(attempts))
    assert keeping.containers() == []
    assert list((tmp_path / "scratch" / "work").glob("*")) == []
    keeping.runtime.close()


def test_the_janitor_leaves_a_living_workers_containers(keeping: Keeping) -> None:
    keeping.warm(ECHO)
    other = DockerRuntime(scratch=keeping.folder / "scratch", worker_id=keeping.worker)
    assert other.reap(lambda attempts: [True] * len(attempts)) == 0
    other.close()
    _, outcome = keeping.warm(ECHO)
    assert outcome.warm


# Cold runs


def cold(keeping: Keeping, domain: str) -> str:
    """Return the network of a run of its own, as the engine tells it: ``none``, or whose it joined."""
    wait = "echo up; until [ -e /input/go ]; do sleep 0.01; done"
    run = keeping.made(("sh", "-c", wait), mode="oneshot", trust_domain=domain)
    seen: list[str] = []

    def on_line(line: str) -> None:
        seen.append(engine().inspect_container(container_name(run))["HostConfig"]["NetworkMode"])
        (run.input_dir / "go").touch()

    keeping.runtime.run(run, on_line=on_line, ended=lambda: False)
    return seen[0]


@pytest.fixture
def slow_engine(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer engines need no holder, and can have one."""
    monkeypatch.setattr("workers.runtimes.netns._FAST_ENGINE", 1 << 20)


@pytest.mark.usefixtures("slow_engine")
def test_cold_runs_of_one_trust_domain_join_one_network(keeping: Keeping) -> None:
    first, *joined = (cold(keeping, "one") for _ in range(3))
    assert first == "none"
    assert len(set(joined)) == 1
    others = [cold(keeping, "two") for _ in range(2)]
    assert others[0] == "none"
    assert others[1] != joined[0]
    holders = {f"container:{each['Id']}" for each in keeping.containers("pause")}
    assert holders == {joined[0], others[1]}
    assert {cold(keeping, "") for _ in range(2)} == {"none"}


@pytest.mark.usefixtures("slow_engine")
def test_a_network_holder_that_is_gone_is_replaced(keeping: Keeping) -> None:
    before = [cold(keeping, "one") for _ in range(2)][1]
    (holder,) = keeping.containers("pause")
    engine().remove_container(holder["Id"], force=True)
    assert cold(keeping, "one") == "none"
    after = cold(keeping, "one")
    assert after.startswith("container:")
    assert after != before
    assert len(keeping.containers("pause")) == 1
