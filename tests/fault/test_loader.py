"""The loader is slow, away or silent; its job ends before, during or long after the upload's answer."""

from __future__ import annotations

import signal
import time

import pytest

from dynsvc.errors import DeliveryUnknown
from dynsvc.http import Http
from dynsvc.leases import Upload
from dynsvc.loader_jobs import LoaderJobs
from dynsvc.settings import Annotations
from tests.support.faults import Door, Segmenter, assert_ended, assert_uploaded_once, place, start
from tests.support.hospital import LOADER_TYPE, Hospital, eventually

pytestmark = pytest.mark.services


def loaded(site: Hospital) -> bool:
    return any(job.outcome == "loaded" for job in site.uploads())


def test_a_loader_job_that_ends_before_the_upload_is_answered(site: Hospital, segmenter: Segmenter) -> None:
    door = Door(site.loader, behind=True)
    start(site)
    (order_id,) = place(site)
    door.wait_for()
    eventually(lambda: loaded(site))
    door.open()
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)


def test_a_loader_job_that_ends_long_after_the_upload(site: Hospital, segmenter: Segmenter) -> None:
    site.loader.behaviour.delay_s = 4.0  # more than twice the lease of a running step
    start(site)
    (order_id,) = place(site)
    eventually(site.uploads)
    job = site.jobs.read(order_id)
    assert job is not None
    assert job.is_running
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)


def test_a_loader_that_never_tells_the_outcome(site: Hospital, segmenter: Segmenter) -> None:
    site.loader.behaviour.delay_s = 600.0
    start(site, DYNSVC_LOADER_TIMEOUT_S="1")
    (order_id,) = place(site)
    assert_ended(site, order_id, state="failed")
    job = site.jobs.read(order_id)
    assert job is not None
    assert (job.error or "").startswith("LoaderFailed: ")


def test_the_loaders_redis_is_down_while_its_job_ends(site: Hospital, segmenter: Segmenter) -> None:
    site.loader_redis.stop()
    site.loader_redis.options = ("--appendonly", "yes", "--appendfsync", "always")
    site.loader_redis.start()
    site.loader.behaviour.delay_s = 1.0
    _, (bridge,) = start(site)
    (order_id,) = place(site)
    eventually(site.uploads)
    bridge.send(signal.SIGSTOP)
    eventually(lambda: loaded(site))
    site.loader_redis.stop()
    bridge.send(signal.SIGCONT)
    bridge.wait_for("round failed")
    site.loader_redis.start()
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)


def test_a_loader_that_is_down_for_a_while(site: Hospital, segmenter: Segmenter) -> None:
    address = ("127.0.0.1", site.loader.port)
    site.loader.stop()
    (worker,), _ = start(site)
    (order_id,) = place(site)
    worker.wait_for("step tries again")
    site.loader._address = address
    site.loader.start()
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)


def test_a_loader_whose_answer_is_lost(site: Hospital, segmenter: Segmenter) -> None:
    door = Door(site.loader, behind=True, cut=True)
    start(site)
    (order_id,) = place(site)
    door.wait_for()
    door.open()
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)
    assert len(segmenter.pids) == 1, "only the upload is looked up, nothing is run again"


def test_an_upload_that_never_became_a_job_is_sent_again_only_when_that_is_certain(site: Hospital) -> None:
    jobs = LoaderJobs(Annotations(redis=site.loader_redis.settings), Http())
    now_ms = int(time.time() * 1000)
    with pytest.raises(DeliveryUnknown):
        jobs.receipt_of(Upload(now_ms - 5_000, 5_000, ""), "CASE", lambda _: False)
    assert jobs.receipt_of(Upload(now_ms - 31_000, 31_000, ""), "CASE", lambda _: False) is None


def test_the_job_of_another_orders_upload_of_the_same_case_is_not_taken(site: Hospital) -> None:
    jobs = LoaderJobs(Annotations(redis=site.loader_redis.settings), Http())
    create = site.loader_jobs.create
    mine, theirs = (create(LOADER_TYPE, {"case_id": "CASE", "zipFilePath": "/x"}) for _ in range(2))
    create(LOADER_TYPE, {"case_id": "ANOTHER", "zipFilePath": "/x"})
    job = site.loader_jobs.read(mine)
    assert job is not None
    created_ms = job.created_at_ms or 0
    # The jobs are as old as those of a killed worker are when its lease has run out.
    upload = Upload(created_ms - 1000, 11_000, "")
    receipt = jobs.receipt_of(upload, "CASE", lambda job_id: job_id == theirs)
    assert receipt is not None
    assert receipt.loader_job_id == mine
    # Made a moment ago: it may be of a living worker that has not recorded it yet.
    with pytest.raises(DeliveryUnknown):
        jobs.receipt_of(Upload(created_ms - 31_000, 31_000, ""), "CASE", lambda _: False)
