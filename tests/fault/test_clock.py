"""The clock of the orders' Redis jumps by an hour.

A jump of the clock is a jump of all lease ends the other way, seen from the clock; so the test moves those.
"""

from __future__ import annotations

import pytest

from tests.support.faults import (
    Ends,
    Segmenter,
    assert_ended,
    assert_uploaded_once,
    place,
    start,
    start_worker,
)
from tests.support.hospital import Hospital, eventually

pytestmark = pytest.mark.services

HOUR_MS = 3_600_000


def jump(site: Hospital, hours: int) -> None:
    with site.redis.client() as client:
        for order_id in client.zrange("dynsvc:q:leases", 0, -1):
            client.zincrby("dynsvc:q:leases", -hours * HOUR_MS, order_id)


@pytest.mark.parametrize("hours", [1, -1])
def test_living_workers_keep_their_orders(hours: int, site: Hospital, segmenter: Segmenter) -> None:
    segmenter.hold()
    with Ends(site.redis) as ends:
        _, (bridge,) = start(site, "-c", "2")
        order_ids = place(site, 4)
        segmenter.wait_for(2)
        looks = bridge.log.count("message sent again")
        jump(site, hours)
        # The bridge looks at the leases several times.
        eventually(lambda: bridge.log.count("message sent again") > looks + 2, 20)
        segmenter.let_go()
        assert_ended(site, *order_ids)
        assert ends.twice() == []
    assert_uploaded_once(site, *order_ids)
    assert len(segmenter.pids) == 4, "nobody was taken for dead"


def test_a_worker_that_dies_when_the_clock_is_set_back(site: Hospital, segmenter: Segmenter) -> None:
    """Its lease would last for another hour, and so would that of an order whose message it had."""
    segmenter.hold()
    (worker,), _ = start(site, "-c", "1")
    order_ids = place(site, 2)
    segmenter.wait_for()
    worker.kill_group()
    jump(site, -1)
    segmenter.let_go()
    start_worker(site)
    assert_ended(site, *order_ids, limit_s=30)
    assert_uploaded_once(site, *order_ids)
