"""Redis restarts, forgets or is full; the broker is emptied."""

from __future__ import annotations

import pytest

from tests.support.faults import (
    Ends,
    Segmenter,
    assert_ended,
    assert_uploaded_once,
    place,
    start,
)
from tests.support.hospital import Hospital, eventually
from tests.support.rabbitmq import running_rabbitmq

pytestmark = pytest.mark.services


def test_redis_restarts_with_its_data(durable_site: Hospital) -> None:
    site, segmenter = durable_site, Segmenter(durable_site)
    segmenter.hold()
    with Ends(site.redis) as ends:
        (worker,), _ = start(site, "-c", "2", DYNSVC_LEASE_S="3")
        order_ids = place(site, 6)
        segmenter.wait_for(2)
        site.redis.stop()
        worker.wait_for("leases not renewed")
        # An algorithm ends meanwhile: its result waits for Redis.
        segmenter.let_go()
        site.redis.start()
        assert_ended(site, *order_ids)
        assert ends.twice() == []
    assert_uploaded_once(site, *order_ids)
    assert len(segmenter.pids) == 6, "nothing is run again because of a restart"


def test_kues_redis_loses_everything(site: Hospital, segmenter: Segmenter) -> None:
    segmenter.hold()
    (worker,), (bridge,) = start(site)
    place(site, 2)
    segmenter.wait_for()
    eventually(lambda: "birth" in "".join(ledger_keys(site)), 20)
    site.redis.stop()
    site.redis.start()
    eventually(lambda: not segmenter.living(), 20, "the program of a lost order is ended")
    worker.wait_for("step ended without effect")
    bridge.wait_for("lost its data")
    segmenter.let_go()
    with site.redis.client() as client:
        assert not list(client.scan_iter("q:job:*")), "no zombie of a lost order"
    assert site.uploads() == []
    # Both still work.
    (order_id,) = place(site)
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)


def ledger_keys(site: Hospital) -> list[str]:
    with site.redis.client() as client:
        return list(client.scan_iter("dynsvc:*"))


def test_a_broker_that_is_emptied(site: Hospital, segmenter: Segmenter) -> None:
    segmenter.hold()
    start(site, "-c", "1")
    order_ids = place(site, 5)
    segmenter.wait_for()
    with site.redis.client(db=1) as broker:
        eventually(lambda: broker.llen("io") + broker.llen("cpu") + broker.hlen("unacked") >= 4)
        broker.flushdb()
    segmenter.let_go()
    assert_ended(site, *order_ids)
    assert_uploaded_once(site, *order_ids)
    assert len(segmenter.pids) == 5


@pytest.mark.timeout(240)  # RabbitMQ starts twice
def test_rabbitmq_carries_orders_is_killed_and_comes_back(site: Hospital, segmenter: Segmenter) -> None:
    segmenter.hold()
    with running_rabbitmq() as broker, Ends(site.redis) as ends:
        workers, (bridge,) = start(site, "-c", "2", "-E", workers=2, DYNSVC_BROKER_URL=broker.url)
        order_ids = place(site, 20)
        segmenter.wait_for(2)
        broker.kill()
        for worker in workers:
            worker.wait_for("Connection to broker lost")
        # The algorithms end while nobody takes messages.
        segmenter.let_go()
        later = place(site, 2)
        bridge.wait_for("round failed")
        broker.start()
        assert_ended(site, *order_ids, *later, limit_s=90)
        assert ends.twice() == []
    assert_uploaded_once(site, *order_ids, *later)
    assert len(segmenter.pids) == 22, "nothing is run again because of a restart"


def test_a_redis_that_takes_no_writes(site: Hospital, segmenter: Segmenter) -> None:
    segmenter.hold()
    (worker,), _ = start(site)
    order_ids = place(site, 3)
    segmenter.wait_for()
    with site.redis.client() as client:
        client.config_set("maxmemory", "1")
        segmenter.let_go()
        worker.wait_for("waits for Redis")
        client.config_set("maxmemory", "0")
    assert_ended(site, *order_ids)
    assert_uploaded_once(site, *order_ids)


def test_a_worker_that_starts_while_redis_is_away(durable_site: Hospital) -> None:
    site, segmenter = durable_site, Segmenter(durable_site)
    order_ids = place(site, 2)
    site.redis.stop()
    bridge = site.start_bridge()
    worker = site.start_worker(wait=False)
    worker.wait_for("Cannot connect")
    bridge.wait_for("round failed")
    site.redis.start()
    assert_ended(site, *order_ids)
    assert_uploaded_once(site, *order_ids)
    assert len(segmenter.pids) == 2
