"""An order done by dynsvc looks to everybody like the same job done by Kue's own worker."""

from __future__ import annotations

import json
from typing import Any

from tests.support.hospital import Hospital, eventually
from tests.support.kue import KueApi, KueListener, NativeWorker, running
from tests.support.kue_observed import Observation, Observer
from tests.support.orders import v4
from tests.support.redis import RedisProcess, running_redis

JOB_TYPE = "order"


class OrderObserver(Observer):
    """Sees Kue's keys. Our ledger lies beside them under a prefix of its own."""

    def dump(self) -> dict[str, Any]:
        return {name: value for name, value in super().dump().items() if not name.startswith("dynsvc:")}


def watched(
    redis: RedisProcess, api: KueApi, listener: KueListener, data: dict[str, Any], ends: str
) -> Observation:
    client = redis.client()
    observer = OrderObserver(client, api, listener)
    try:
        job_id = listener.create(JOB_TYPE, data)
        observer.wait_for(ends, timeout_s=60)
        return observer.observe([job_id])
    finally:
        observer.close()
        client.close()


def steps_of(ours: Observation, ending: list[Any]) -> list[list[Any]]:
    """What a native worker has to do for the same result: the same reports, in the same order."""
    log = list(ours.answers["/job/1/log"])
    events = [json.loads(message) for message in ours.ordered]
    reports = [["progress", e["args"][1], 100] for e in events if e["event"] == "progress"]
    # Lines lie in a list beside the events; their order among themselves is what counts.
    return [*reports, *(["log", line] for line in log), ending]


def native(data: dict[str, Any], steps: list[list[Any]], ends: str) -> Observation:
    with running_redis() as redis:
        api, listener = KueApi(redis.port), KueListener(redis.port)
        worker = NativeWorker(redis.port, type=JOB_TYPE, attempts=[steps])
        with running(api, listener, worker):
            return watched(redis, api, listener, data, ends)


def test_a_complete_order_looks_like_a_native_job(site: Hospital) -> None:
    site.install_copying_segmenter()
    site.start_worker()
    site.start_bridge()
    data = v4(x=10, y=20, w=64, h=48)
    listener = KueListener(site.redis.port)
    with running(listener):
        ours = watched(site.redis, site.kue, listener, data, "complete")
    result = ours.answers["/job/1"]["result"]
    assert result["objects"] == 1
    theirs = native(data, steps_of(ours, ["done", result]), "complete")
    assert ours.differences(theirs) == []


def test_a_failed_order_looks_like_a_native_job(site: Hospital) -> None:
    site.start_worker()
    site.start_bridge()
    data = v4(x=10, y=20, w=0, h=48)
    listener = KueListener(site.redis.port)
    with running(listener):
        ours = watched(site.redis, site.kue, listener, data, "failed")
    job = ours.answers["/job/1"]
    assert job["error"].startswith("InvalidOrder: order 1: data.order.roi.w is ")
    message = job["error"].removeprefix("InvalidOrder: ")
    assert ours.answers["/job/1/log"] == [job["error"]]
    theirs = native(data, [["fail", {"message": message, "stack": job["error"]}]], "failed")
    assert ours.differences(theirs) == []


def test_the_ledger_forgets_an_order_that_ended(site: Hospital) -> None:
    site.install_copying_segmenter()
    site.start_worker()
    site.start_bridge()
    order_id = site.kue.post_job(JOB_TYPE, v4(x=10, y=20, w=64, h=48))
    site.wait_ended(order_id)
    with site.redis.client() as client:
        # What stays is the memory of the upload, with a time to live.
        left = lambda: sorted(name for name in client.scan_iter("dynsvc:*") if client.ttl(name) < 0)  # noqa: E731
        eventually(lambda: not left(), 10, "no record without an end")
        assert client.llen("io") == client.llen("cpu") == 0
