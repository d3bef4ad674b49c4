"""An attempt that wakes up after it has lost its order changes nothing and uploads nothing."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.support.faults import Segmenter, assert_ended, assert_uploaded_once, place, start, start_worker
from tests.support.hospital import Hospital, eventually

pytestmark = pytest.mark.services


def kue_keys(site: Hospital) -> dict[str, Any]:
    """Everything that Kue has stored."""
    with site.redis.client() as client:
        read = {
            "hash": client.hgetall,
            "list": lambda name: client.lrange(name, 0, -1),
            "zset": lambda name: client.zrange(name, 0, -1, withscores=True),
            "set": lambda name: sorted(client.smembers(name)),
            "string": client.get,
        }
        return {name: read[client.type(name)](name) for name in sorted(client.scan_iter("q:*"))}


def test_a_paused_worker_that_wakes_after_its_lease(site: Hospital, segmenter: Segmenter) -> None:
    segmenter.hold()
    (paused,), _ = start(site)
    (order_id,) = place(site)
    segmenter.wait_for()
    paused.send(signal.SIGSTOP)
    start_worker(site)
    segmenter.wait_for(2)
    segmenter.let_go()
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)
    before = kue_keys(site)
    paused.send(signal.SIGCONT)
    paused.wait_for("step ended without effect")
    eventually(lambda: not segmenter.living(), 10)
    assert kue_keys(site) == before
    assert_uploaded_once(site, order_id)


def test_late_writes_of_an_attempt_whose_job_was_put_back(site: Hospital) -> None:
    jobs = site.jobs
    (order_id,) = place(site)
    assert jobs.claim(order_id, ["analysisJob"], "dynsvc:old")
    assert jobs.requeue(order_id, "dynsvc:old", "put back")
    assert jobs.claim(order_id, ["analysisJob"], "dynsvc:new")
    before = kue_keys(site)
    assert not jobs.owns(order_id, "dynsvc:old")
    assert not jobs.progressing(order_id, "dynsvc:old", 50, log=["late"]).run()
    assert not jobs.log(order_id, "dynsvc:old", ["late"])
    assert not jobs.complete(order_id, "dynsvc:old", {"late": True})
    assert jobs.fail(order_id, "dynsvc:old", "Late: late", message="late").is_lost
    assert not jobs.requeue(order_id, "dynsvc:old")
    assert jobs.claim(order_id, ["analysisJob"], "dynsvc:old") is None
    assert kue_keys(site) == before
