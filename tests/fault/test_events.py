"""Events are hints: lost, doubled and in any order, they change nothing."""

from __future__ import annotations

import json

import pytest

from tests.support.faults import Ends, Segmenter, assert_ended, assert_uploaded_once, place, start
from tests.support.hospital import Hospital, eventually
from tests.support.orders import v4

pytestmark = pytest.mark.services


def create_silently(site: Hospital) -> str:
    """Save a job as Kue does, without a word on the channel."""
    with site.redis.client() as client:
        order_id = str(client.incr("q:ids"))
        member = f"{len(order_id):02d}|{order_id}"
        now = "1700000000000"
        client.hset(
            f"q:job:{order_id}",
            mapping={
                "max_attempts": "1",
                "type": "analysisJob",
                "created_at": now,
                "promote_at": now,
                "updated_at": now,
                "priority": "0",
                "data": json.dumps(v4(x=10, y=20, w=64, h=48)),
                "state": "inactive",
            },
        )
        client.sadd("q:job:types", "analysisJob")
        for index in ("q:jobs", "q:jobs:inactive", "q:jobs:analysisJob:inactive"):
            client.zadd(index, {member: 0})
        client.lpush("q:analysisJob:jobs", "1")
    return order_id


def test_an_event_that_is_lost(site: Hospital, segmenter: Segmenter) -> None:
    start(site)
    order_id = create_silently(site)
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)


def test_events_that_come_doubled_and_out_of_order(site: Hospital, segmenter: Segmenter) -> None:
    segmenter.hold()
    start(site, "-c", "2")
    (order_id, other) = place(site, 2)
    segmenter.wait_for(2)
    words = ("complete", "failed", "enqueue", "enqueue", "start", "promotion", "remove", "ttl exceeded ack")
    with site.redis.client() as client:
        for word in words * 3:
            client.publish(
                "q:events", json.dumps({"id": int(order_id), "event": word, "args": [word, "analysisJob"]})
            )
        # The loader's channel tells of a job that nobody has made yet.
        with site.loader_redis.client() as loader:
            for word in words:
                loader.publish("q:events", json.dumps({"id": "1", "event": word, "args": [word]}))
    with Ends(site.redis) as ends:
        segmenter.let_go()
        assert_ended(site, order_id, other)
        eventually(lambda: sum(ends.complete.values()) == 2, 5)
    assert_uploaded_once(site, order_id, other)
    assert len(segmenter.pids) == 2
