"""Hosts that are drained and restarted while orders run, and two versions side by side."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from dynsvc import messages
from tests.support.faults import Segmenter, assert_ended, assert_uploaded_once, place, start, start_worker
from tests.support.hospital import ROOT, Hospital, Program, eventually
from tests.support.redis import free_port

pytestmark = pytest.mark.services


def drain(site: Hospital, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "dynsvc"), "drain", *words],
        env=site.env,
        cwd=site.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_drained_host_finishes_its_step_and_takes_no_other(site: Hospital, segmenter: Segmenter) -> None:
    segmenter.hold()
    port = free_port()
    worker = start_worker(site, DYNSVC_HOST="host-a", DYNSVC_METRICS_PORT=str(port))
    start(site, workers=0)
    (first,) = place(site)
    segmenter.wait_for()
    waits = drain(site, "host-a", "--timeout", "0")
    assert (waits.returncode, "1 step left" in waits.stdout) == (1, True), waits
    worker.wait_for("drains")
    (second,) = place(site)
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(f"http://127.0.0.1:{port}/readyz", timeout=10)
    assert (answer.status_code, answer.json()["problems"]) == (503, ["the worker drains"])
    segmenter.let_go()
    done = drain(site, "host-a", "--timeout", "30")
    assert (done.returncode, done.stderr) == (0, "")
    eventually(
        lambda: "step=dynsvc.run_algorithm" in worker.log.split("drains")[1], 10, "the end of the step"
    )
    job = site.jobs.read(second)
    assert job is not None
    assert job.is_waiting, "nobody took it"
    assert drain(site, "host-b").returncode == 1
    assert drain(site, "host-a", "--undo").returncode == 0
    assert_ended(site, first, second)
    assert_uploaded_once(site, first, second)


def test_a_rolling_restart_during_a_hundred_orders_loses_none_and_repeats_none(
    site: Hospital, segmenter: Segmenter
) -> None:
    hosts = ("host-a", "host-b")
    running = {host: start_worker(site, "-c", "2", DYNSVC_HOST=host) for host in hosts}
    start(site, workers=0)
    order_ids: list[str] = []
    for host in hosts:
        # Orders run and wait when the host is drained.
        segmenter.hold()
        before = len(segmenter.pids)
        order_ids += place(site, 50)
        segmenter.wait_for(before + 1)
        assert drain(site, host, "--no-wait").returncode == 0
        segmenter.let_go()
        drained = drain(site, host, "--timeout", "40")
        assert drained.returncode == 0, drained
        assert running[host].stop() == 0
        running[host] = start_worker(site, "-c", "2", DYNSVC_HOST=host)
    assert_ended(site, *order_ids, limit_s=90)
    assert_uploaded_once(site, *order_ids)
    for order_id in order_ids:
        job = site.jobs.read(order_id)
        assert job is not None
        assert job.attempts_made == 1
    told = "".join(program.log for program in site.programs)
    assert "worker lost" not in told
    assert "step handed back" not in told


@pytest.fixture
def newer(tmp_path: Path) -> dict[str, str]:
    """The variables that make a process run the next version: its messages have a higher number."""
    for name in ("dynsvc", "bridge", "workers", "algorithms"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "celeryconfig.py", tmp_path)
    source = tmp_path / "dynsvc/messages.py"
    old, new = f"SCHEMA: Final = {messages.SCHEMA}\n", f"SCHEMA: Final = {messages.SCHEMA + 1}\n"
    text = source.read_text()
    assert text.count(old) == 1
    source.write_text(text.replace(old, new))
    return {"PYTHONPATH": os.fspath(tmp_path)}


@pytest.mark.parametrize("newer_bridge", [False, True], ids=["workers first", "bridge first"])
def test_two_versions_side_by_side_lose_no_order(
    site: Hospital, segmenter: Segmenter, newer: dict[str, str], newer_bridge: bool
) -> None:
    old = start_worker(site, "-c", "2", DYNSVC_RESEND_S="0.5")
    new = start_worker(site, "-c", "2", DYNSVC_RESEND_S="0.5", **newer)
    start(site, workers=0, DYNSVC_RESEND_S="0.5", **(newer if newer_bridge else {}))
    # Each refused message waits twice as long as the one before.
    order_ids = place(site, 2 if newer_bridge else 6)
    assert_ended(site, *order_ids, limit_s=90)
    assert_uploaded_once(site, *order_ids)
    assert "not a message of this version" not in new.log
    # An old worker runs what an old bridge sent, also after a new worker had it; what is new it leaves.
    if newer_bridge:
        assert did_a_step(new)
        assert not did_a_step(old)
    else:
        assert "not a message of this version" not in old.log


def did_a_step(worker: Program) -> bool:
    return "order complete" in worker.log or "delivered, waits" in worker.log
