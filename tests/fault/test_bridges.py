"""Bridges die at bad moments, and several work side by side."""

from __future__ import annotations

import re
import signal
import uuid

import pytest

from dynsvc.kue import connect
from dynsvc.leases import Ledger
from dynsvc.messages import FETCH_ORDER, FETCH_ROI, Message
from tests.support.faults import (
    FAST,
    Ends,
    Segmenter,
    assert_ended,
    assert_uploaded_once,
    place,
    start,
    start_worker,
)
from tests.support.hospital import Hospital, eventually
from tests.support.redis import RedisProcess

pytestmark = pytest.mark.services


def ledger_of(site: Hospital) -> Ledger:
    return Ledger(connect(site.redis.settings), "q:", "Redis")


def reserved(ledger: Ledger, order_id: str) -> Message:
    """What a bridge has done when it is killed between reserving an order and sending it."""
    message = Message(order_id=order_id, job_type="analysisJob", token=f"dynsvc:{uuid.uuid4().hex}")
    taken = ledger.reserve(
        [(order_id, message.token, message.to_document())], step=FETCH_ORDER, window=64, wait_s=1.5
    )
    assert taken == [order_id]
    return message


def test_a_bridge_killed_between_reserving_and_sending(site: Hospital, segmenter: Segmenter) -> None:
    (order_id,) = place(site)
    reserved(ledger_of(site), order_id)
    start(site)
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)


def test_a_worker_killed_between_two_steps(site: Hospital, segmenter: Segmenter) -> None:
    """The first step is done and noted, its successor's message was never sent."""
    (worker,), _ = start(site)
    ledger = ledger_of(site)
    (finished,) = place(site)
    assert_ended(site, finished)
    worker.kill_group()
    # Nobody consumes now. The test plays the worker that dies after handing over a bare message.
    (order_id,) = place(site)
    eventually(lambda: ledger.holds([order_id]) == [True])
    with site.redis.client() as client:
        token = client.hget(f"dynsvc:q:attempt:{order_id}", "token")
        client.select(1)
        client.flushdb()
    message = Message(order_id=order_id, job_type="analysisJob", token=str(token))
    ledger.begin(order_id, str(token), FETCH_ORDER, "the test", lease_s=30, later=[])
    assert site.jobs.claim(order_id, ["analysisJob"], str(token))
    assert ledger.handing_over(
        order_id, str(token), "the test", step=FETCH_ROI, message=message.to_document(), lease_s=0.5
    ).run()
    start_worker(site)
    # The message has no plan, so the step fails: it was sent, and the order has an end.
    assert_ended(site, order_id, state="failed")


def test_a_bridge_killed_with_orders_in_flight(site: Hospital, segmenter: Segmenter) -> None:
    segmenter.hold()
    _, (bridge,) = start(site, "-c", "2")
    order_ids = place(site, 8)
    segmenter.wait_for(2)
    bridge.kill_group()
    segmenter.let_go()
    site.start_bridge(**FAST)
    assert_ended(site, *order_ids)
    assert_uploaded_once(site, *order_ids)


def test_a_bridge_that_is_told_to_stop(site: Hospital, segmenter: Segmenter) -> None:
    """It stops at once and cleanly; the order goes on, and waits for another bridge to end it."""
    segmenter.hold()
    _, (bridge,) = start(site)
    (order_id,) = place(site)
    segmenter.wait_for()
    bridge.send(signal.SIGTERM)
    assert bridge.process.wait(20) == 0, bridge.log
    assert re.search(r"bridge stopped .*cleanly=True", bridge.log)
    assert "Traceback" not in bridge.log
    segmenter.let_go()
    eventually(site.uploads, 20, "the worker goes on")
    job = site.jobs.read(order_id)
    assert job is not None
    assert job.is_running
    site.start_bridge(**FAST)
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)
    assert len(segmenter.pids) == 1


@pytest.fixture
def away() -> RedisProcess:
    """A broker that is not there yet."""
    return RedisProcess()


def test_a_broker_that_is_away_when_orders_come(
    site: Hospital, segmenter: Segmenter, away: RedisProcess
) -> None:
    bridge = site.start_bridge(**FAST, DYNSVC_BROKER_URL=f"redis://127.0.0.1:{away.port}/1")
    order_ids = place(site, 5)
    bridge.wait_for("round failed")
    away.start()
    try:
        start_worker(site, DYNSVC_BROKER_URL=f"redis://127.0.0.1:{away.port}/1")
        assert_ended(site, *order_ids)
    finally:
        away.close()
    assert_uploaded_once(site, *order_ids)


@pytest.mark.parametrize("count", [2, 3])
def test_bridges_side_by_side(count: int, site: Hospital, segmenter: Segmenter) -> None:
    with Ends(site.redis) as ends:
        order_ids = place(site, 200)
        start(site, "-c", "4", bridges=count, DYNSVC_LEASE_S="8", DYNSVC_RESEND_S="10")
        assert_ended(site, *order_ids, limit_s=90)
        eventually(lambda: sum(ends.complete.values()) == 200, 10)
        assert ends.twice() == []
        assert not ends.failed
    assert_uploaded_once(site, *order_ids)
    assert len(segmenter.pids) == 200
