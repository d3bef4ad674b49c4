"""An order removed in Kue never starts, or stops within seconds; nothing is uploaded, nothing comes back."""

from __future__ import annotations

import re
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.faults import (
    Segmenter,
    assert_ended,
    assert_uploaded_once,
    indexed,
    place,
    start,
    start_worker,
    without_end,
)
from tests.support.hospital import Hospital, eventually
from tests.support.images import base_image, engine
from tests.support.orders import v4

DESCRIPTOR = """\
schema = 1
name = "sleeper"
title = "Sleeps"
version = "1"
description = "Sleeps for a long time."
image = "{image}"
command = ["python3", "-c", "import time; time.sleep(600)"]
match = ["seg:*"]
default_mpp = 0.25

[limits]
timeout_s = 3600
memory_mib = 128
cpus = 1
pids = 16
tmp_mib = 16
network = false

[device]
kind = "cpu"

[outputs]
required = ["output.zip"]
archive = "output.zip"
"""


def assert_no_trace(site: Hospital, order_id: str) -> None:
    eventually(lambda: not without_end(site), 10, "the ledger has forgotten it")
    assert site.jobs.read(order_id) is None
    assert indexed(site, order_id) == {}
    with site.redis.client() as client:
        assert not client.exists(f"q:job:{order_id}"), "no zombie hash"
        assert not client.exists(f"q:job:{order_id}:log")
    assert site.uploads() == []


@pytest.mark.services
def test_orders_removed_while_they_wait_and_while_they_run(kue_site: Hospital) -> None:
    site, segmenter = kue_site, Segmenter(kue_site)
    segmenter.hold()
    (worker,), (bridge,) = start(site, "-c", "1")
    running, waiting = (site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48)) for _ in range(2))
    segmenter.wait_for()
    site.kue.delete(f"/job/{waiting}")
    site.kue.delete(f"/job/{running}")
    removed = re.compile(r"order removed from Kue .*order_id=(\d+)")
    eventually(lambda: set(removed.findall(bridge.log)) == {running, waiting}, 10, "the log tells when")
    eventually(lambda: not segmenter.living(), 10, "the program is ended")
    worker.wait_for("step ended without effect")
    segmenter.let_go()
    assert_no_trace(site, running)
    assert_no_trace(site, waiting)
    assert len(segmenter.pids) == 1, "the waiting order was never begun"
    # The worker is free for others.
    after = site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48))
    assert_ended(site, after)
    assert_uploaded_once(site, after)


@pytest.mark.services
def test_the_cancel_command_stops_an_order_and_the_log_tells_who_and_when(
    site: Hospital, segmenter: Segmenter
) -> None:
    segmenter.hold()
    (worker,), (bridge,) = start(site)
    (order_id,) = place(site)
    segmenter.wait_for()
    command = [sys.executable, "-c", "from dynsvc.cli import main; main()"]
    site.start("cancel", [*command, "cancel", order_id, "--reason=wrong slide"]).process.wait(30)
    bridge.wait_for("order cancelled")
    (line,) = [line for line in bridge.log.splitlines() if "order cancelled" in line]
    assert re.search(rf"order_id={order_id} .*cancelled by \S+@\S+ at \d{{4}}-\S+: wrong slide", line), line
    eventually(lambda: not segmenter.living(), 10, "the program is ended")
    worker.wait_for("step ended without effect")
    assert_no_trace(site, order_id)


@pytest.fixture
def sleeping(site: Hospital) -> Iterator[tuple[Hospital, dict[str, str], Any]]:
    """A site whose algorithm is a container that sleeps, and what lists its containers."""
    folder = site.folder / "algorithms" / "sleeper"
    folder.mkdir(parents=True)
    (folder / "algorithm.toml").write_text(DESCRIPTOR.format(image=base_image()))
    # The engine is shared with other tests: an order id of our own tells our containers apart.
    with site.redis.client() as client:
        client.set("q:ids", uuid.uuid4().int % 10**9 + 10**9)
    env = {
        "DYNSVC_RUNTIME": "docker",
        "DYNSVC_ALGORITHMS": str(folder.parent),
        "DYNSVC_DEFAULT_ALGORITHM": "sleeper",
    }

    def containers(order_id: str) -> list[str]:
        found = engine().containers(all=True, filters={"label": f"dynsvc.order={order_id}"})
        return [container["Id"] for container in found]

    orders: list[str] = []
    yield site, env, (orders, containers)
    for order_id in orders:
        for container in containers(order_id):
            engine().remove_container(container, force=True)


@pytest.mark.docker
@pytest.mark.services
def test_a_container_of_a_removed_order_is_stopped(sleeping: tuple[Hospital, dict[str, str], Any]) -> None:
    site, env, (orders, containers) = sleeping
    start(site, **env)
    (order_id,) = place(site)
    orders.append(order_id)
    eventually(lambda: containers(order_id), 40, "the container runs")
    site.jobs.remove(order_id)
    eventually(lambda: not containers(order_id), 15, "the container is gone")
    assert_no_trace(site, order_id)


@pytest.mark.docker
@pytest.mark.services
def test_a_container_of_a_killed_worker_is_removed(sleeping: tuple[Hospital, dict[str, str], Any]) -> None:
    site, env, (orders, containers) = sleeping
    (worker,), _ = start(site, DYNSVC_INFRASTRUCTURE_RETRIES="0", **env)
    (order_id,) = place(site)
    orders.append(order_id)
    eventually(lambda: containers(order_id), 40, "the container runs")
    worker.kill_group()
    start_worker(site, **{**env, "DYNSVC_INFRASTRUCTURE_RETRIES": "0"})
    assert_ended(site, order_id, state="failed")
    eventually(lambda: not containers(order_id), 20, "the container is gone")
