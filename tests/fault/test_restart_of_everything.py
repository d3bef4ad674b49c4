"""The whole host goes down: workers, bridge and Redis at once."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.faults import Ends, Segmenter, assert_ended, assert_uploaded_once, place, start
from tests.support.hospital import Hospital, eventually

pytestmark = pytest.mark.services


def test_a_host_that_is_switched_off(durable_site: Hospital) -> None:
    site, segmenter = durable_site, Segmenter(durable_site)
    segmenter.hold()
    with Ends(site.redis) as ends:
        workers, bridges = start(site, "-c", "2")
        order_ids = place(site, 6)
        segmenter.wait_for(2)
        os.kill(site.redis.pid, signal.SIGKILL)
        for program in (*workers, *bridges):
            program.kill_group()
        eventually(lambda: not segmenter.living(), 10, "no program outlives its worker")
        segmenter.let_go()
        site.redis.stop()
        site.redis.start()
        start(site, "-c", "2")
        assert_ended(site, *order_ids)
        assert ends.twice() == []
    assert_uploaded_once(site, *order_ids)
