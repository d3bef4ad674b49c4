"""Time limits of the order and of Kue."""

from __future__ import annotations

import pytest

from tests.support.faults import Segmenter, assert_ended, place, start
from tests.support.hospital import Hospital, eventually

pytestmark = pytest.mark.services


def test_an_order_that_takes_longer_than_an_order_may(site: Hospital, segmenter: Segmenter) -> None:
    segmenter.hold()
    start(site, DYNSVC_ORDER_LIMIT_S="2")
    (order_id,) = place(site)
    assert_ended(site, order_id, state="failed")
    job = site.jobs.read(order_id)
    assert job is not None
    assert (job.error or "").startswith("OrderOverdue: "), job.error
    eventually(lambda: not segmenter.living(), 10, "the program is ended")
    assert site.uploads() == []


def test_a_job_whose_time_to_live_runs_out(site: Hospital, segmenter: Segmenter) -> None:
    segmenter.hold()
    heard: list[str] = []
    start(site)
    (order_id,) = place(site, ttl_ms=2000)
    with site.redis.client() as client, client.pubsub() as channel:
        channel.subscribe("q:events")
        assert_ended(site, order_id, state="failed")
        while message := channel.get_message(timeout=0.5):
            heard.append(str(message["data"]))
    job = site.jobs.read(order_id)
    assert job is not None
    assert job.error == "TTL exceeded"
    assert sum('"failed"' in text for text in heard) == 1
    eventually(lambda: not segmenter.living(), 10, "the program is ended")
    assert site.uploads() == []


def test_an_algorithm_that_writes_more_than_a_result_may_have_is_ended(site: Hospital) -> None:
    fills = 'while [ "$1" != -z ]; do shift; done\nexec sh -c \'yes > "$0"\' "$2"'
    site.install("mainSegmentFeatures", f"#!/bin/sh\n{fills}\n")
    start(site, DYNSVC_MAX_RESULT_BYTES="1000000")
    (order_id,) = place(site)
    assert_ended(site, order_id, state="failed")
    job = site.jobs.read(order_id)
    assert job is not None
    error = (job.error or "").splitlines()[0]
    assert error.startswith("OutputRefused: "), job.error
    assert error.endswith("it has more than 1000000 bytes; the run was ended")
    assert job.attempts_made == 1
    assert site.uploads() == []


def test_a_failed_attempt_is_tried_again_as_kue_says(site: Hospital, segmenter: Segmenter) -> None:
    site.install("mainSegmentFeatures", f"#!/bin/sh\necho $$ >> {site.folder}/runs\nexit 3\n")
    start(site)
    (order_id,) = place(site, attempts=3)
    assert_ended(site, order_id, state="failed")
    job = site.jobs.read(order_id)
    assert job is not None
    assert job.attempts_made == 3
    assert len(segmenter.pids) == 3
