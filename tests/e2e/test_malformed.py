"""Whatever is in an order or on the channel: a clear end for the order, and the others go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hospital import Hospital, eventually
from tests.support.orders import MALFORMED, v1, v4
from tests.support.redis import running_redis

#: What reaches the channel and is no order of ours. Kue's own processes would die of some of it.
POISON = (
    b"",
    b"not json",
    b"\xff\xfe\x00",
    b"null",
    b"[]",
    b"17",
    b'"enqueue"',
    b"{}",
    b'{"id":1}',
    b'{"id":1,"event":"enqueue"}',
    b'{"id":1,"event":"enqueue","args":null}',
    b'{"id":1,"event":"enqueue","args":{}}',
    b'{"id":1,"event":"enqueue","args":[]}',
    b'{"id":1,"event":"enqueue","args":["enqueue"]}',
    b'{"id":1,"event":"enqueue","args":["enqueue",null]}',
    b'{"id":1,"event":"enqueue","args":["enqueue",["analysisJob"]]}',
    b'{"id":null,"event":"enqueue","args":["enqueue","analysisJob"]}',
    b'{"id":-1,"event":"enqueue","args":["enqueue","analysisJob"]}',
    b'{"id":1.5,"event":"enqueue","args":["enqueue","analysisJob"]}',
    b'{"id":1e400,"event":"enqueue","args":["enqueue","analysisJob"]}',
    b'{"id":NaN,"event":"enqueue","args":["enqueue","analysisJob"]}',
    b'{"id":true,"event":"enqueue","args":["enqueue","analysisJob"]}',
    b'{"id":"1; rm -rf /","event":"enqueue","args":["enqueue","analysisJob"]}',
    b'{"id":"../../etc/passwd","event":"enqueue","args":["enqueue","analysisJob"]}',
    b'{"id":"%s","event":"enqueue","args":["enqueue","analysisJob"]}' % (b"9" * 200),
    b'{"id":%s,"event":"enqueue","args":["enqueue","analysisJob"]}' % (b"9" * 5000),
    b'{"id":999999,"event":"enqueue","args":["enqueue","analysisJob"]}',
    b'{"id":999999,"event":"ttl exceeded","args":["ttl exceeded"]}',
    b'{"id":999999,"event":"complete","args":["complete"]}',
    b'{"id":999999,"event":"remove","args":["remove","analysisJob"]}',
    b'{"id":"1","event":"\xe2\x80\xae","args":["enqueue"]}',
    b"[" * 100_000,
    b'{"id":1,"event":"enqueue","args":["enqueue","' + b"A" * 1_000_000 + b'"]}',
)


@pytest.fixture
def quiet_site(redis_program: str, slides: Path) -> Iterator[Hospital]:
    """A hospital without a Kue process: the channel's poison would end it."""
    with running_redis() as redis, Hospital(redis, None, slides) as hospital:
        yield hospital


def test_each_malformed_order_fails_with_its_field_and_the_good_ones_complete(quiet_site: Hospital) -> None:
    site = quiet_site
    assert len(MALFORMED) >= 60
    site.install_copying_segmenter()
    bad: dict[str, int] = {}
    good: list[str] = []
    with site.redis.client() as client:
        for number, malformed in enumerate(MALFORMED):
            job_id = site.jobs.create("analysisJob", {})
            client.hset(f"q:job:{job_id}", "data", malformed.text)
            bad[job_id] = number
            if number % 10 == 0:
                good.append(site.jobs.create("analysisJob", v4(x=10, y=number, w=64, h=48)))
        foreign = site.jobs.create("other_product", {"order": "not ours"})
        site.start_worker("-c", "4")
        bridge = site.start_bridge()
        for message in POISON:
            client.publish("q:events", message)
        site.wait_ended(*bad, *good, limit_s=90)
        good.append(site.jobs.create("order", v1(x=10, y=20, w=64, h=48)))
        site.wait_ended(good[-1])
    for job_id, number in bad.items():
        job = site.jobs.read(job_id)
        assert job is not None
        assert job.is_failed, MALFORMED[number].why
        # Kue takes a job without data for one with an empty object.
        field = MALFORMED[number].field if MALFORMED[number].text else "data.order"
        expected = f"InvalidOrder: order {job_id}: {field} is "
        assert (job.error or "").startswith(expected), (MALFORMED[number].why, job.error)
        assert len(job.error or "") < 1000
    assert [site.jobs.read(job_id).is_done for job_id in good] == [True] * len(good)  # type: ignore[union-attr]
    assert len(site.uploads()) == len(good)
    untouched = site.jobs.read(foreign)
    assert untouched is not None
    assert untouched.is_waiting
    assert untouched.attempts_made == 0
    assert bridge.process.poll() is None
    assert "Traceback" not in bridge.log


def test_leftovers_of_the_original_are_taken_out_of_the_queue_and_never_run(quiet_site: Hospital) -> None:
    site = quiet_site
    site.install_copying_segmenter()
    states = ("start", "complete", '"complete"', "failed")
    with site.redis.client() as client:
        left = {site.jobs.create("order", v4(x=10, y=20, w=64, h=48)): state for state in states}
        for job_id, state in left.items():
            client.hset(f"q:job:{job_id}", "state", state)
        new = site.jobs.create("order", v4(x=10, y=20, w=64, h=48))
        site.start_worker()
        bridge = site.start_bridge()
        site.wait_ended(new)
        assert client.zrange("q:jobs:order:inactive", 0, -1) == []
        assert {job_id: client.hget(f"q:job:{job_id}", "state") for job_id in left} == left
    assert len(site.uploads()) == 1
    eventually(lambda: bridge.log.count("leftover taken out") == len(left), 5, "each leftover is told of")


def test_a_waiting_order_that_is_removed_never_runs(quiet_site: Hospital) -> None:
    site = quiet_site
    site.install_copying_segmenter()
    removed = site.jobs.create("order", v4(x=10, y=20, w=64, h=48))
    site.start_bridge()
    with site.redis.client(db=1) as broker:
        eventually(lambda: broker.llen("io") == 1, 10, "the order is sent")
    site.jobs.remove(removed)
    kept = site.jobs.create("order", v4(x=11, y=20, w=64, h=48))
    site.start_worker()
    site.wait_ended(kept)
    assert site.jobs.read(removed) is None
    assert len(site.uploads()) == 1
    with site.redis.client() as client:
        assert not client.exists(f"q:job:{removed}")


def test_an_order_that_is_removed_while_it_runs_stops_and_uploads_nothing(quiet_site: Hospital) -> None:
    site = quiet_site
    marker = site.folder / "pid"
    site.install("mainSegmentFeatures", f"#!/bin/sh\necho $$ > {marker}\nexec sleep 600\n")
    site.start_worker()
    site.start_bridge()
    order_id = site.jobs.create("order", v4(x=10, y=20, w=64, h=48))
    pid = int(eventually(lambda: marker.exists() and marker.read_text().strip(), 30, "the program runs"))
    site.jobs.remove(order_id)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), 10, "the program is gone")
    with site.redis.client() as client:
        eventually(lambda: not client.exists(f"dynsvc:q:attempt:{order_id}"), 10, "the record is gone")
        assert not list(client.scan_iter(f"q:job:{order_id}*"))
        assert client.zrange("q:jobs:active", 0, -1) == []
    assert site.uploads() == []


def test_the_most_urgent_order_of_a_backlog_runs_first(quiet_site: Hospital) -> None:
    site = quiet_site
    ran = site.folder / "ran"
    site.install("mainSegmentFeatures", f'#!/bin/sh\necho "$@" >> {ran}\nexit 3\n')
    urgency = {"low": 5, "normal": 4, "medium": 3, "high": 2, "critical": 1}
    for name, x in urgency.items():
        site.jobs.create("order", v4(x=x, y=1, w=8, h=8), priority=name)
    # One order in flight at a time: the next is chosen when the last has ended.
    site.start_worker("-c", "1")
    site.start_bridge(DYNSVC_WINDOW="1")
    eventually(lambda: ran.exists() and len(ran.read_text().splitlines()) == 5, 60, "all have run")
    asked = [line.split(" -s ")[1].split(",")[0] for line in ran.read_text().splitlines()]
    assert asked == ["1", "2", "3", "4", "5"]


def test_a_failing_program_is_told_with_its_last_line(quiet_site: Hospital) -> None:
    site = quiet_site
    site.install("mainSegmentFeatures", "#!/bin/sh\necho 'cannot <b>read</b> {x}' >&2\nexit 3\n")
    site.start_worker()
    site.start_bridge()
    order_id = site.jobs.create("order", v4(x=1, y=1, w=8, h=8))
    site.wait_ended(order_id)
    job = site.jobs.read(order_id)
    assert job is not None
    assert job.is_failed
    assert (job.error or "").startswith("AlgorithmFailed: pathomics ")
    assert "3" in (job.error or "").splitlines()[0]
    assert "cannot <b>read</b> {x}" in (job.error or "")
    # Kue's page puts log lines into its HTML.
    assert not any("<" in line or "{" in line for line in site.jobs.log_lines(order_id))
    assert json.dumps(job.error).isprintable()
