"""Orders through the real Kue, real Celery workers and a real bridge, to the loader."""

from __future__ import annotations

from pathlib import Path

from tests.support.hospital import Hospital
from tests.support.orders import v4


def test_one_order_goes_all_the_way(site: Hospital) -> None:
    site.install_copying_segmenter()
    site.start_worker()
    site.start_bridge()
    order_id = site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48))
    site.wait_ended(order_id)
    job = site.kue.get(f"/job/{order_id}")
    assert job["state"] == "complete", (job, site.jobs.log_lines(order_id))
    assert job["progress"] == "100"
    assert [upload.case_id for upload in site.uploads()] == [job["data"]["order"]["image"]["case_id"]]


def test_an_order_that_stays_in_one_worker_needs_no_artifact_store(site: Hospital, tmp_path: Path) -> None:
    site.install_copying_segmenter()
    (tmp_path / "store").touch()  # nothing can be put below a file
    site.start_worker(DYNSVC_ARTIFACTS=str(tmp_path / "store"))
    site.start_bridge()
    order_id = site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48))
    site.wait_ended(order_id)
    assert site.kue.get(f"/job/{order_id}")["state"] == "complete", site.jobs.log_lines(order_id)
    assert len(site.uploads()) == 1


def test_two_hundred_orders_all_complete_and_none_is_uploaded_twice(site: Hospital) -> None:
    site.install_copying_segmenter()
    order_ids = [site.kue.post_job("analysisJob", v4(x=i, y=20, w=64, h=48)) for i in range(200)]
    foreign = site.kue.post_job("quip_composite_cwl", {"name": "other", "workflow": {}})
    site.start_worker("-c", "4")
    site.start_bridge()
    site.wait_ended(*order_ids, limit_s=100)
    for order_id in order_ids:
        job = site.kue.get(f"/job/{order_id}")
        assert job["state"] == "complete", job.get("error")
        assert job["attempts"] == {"made": 1, "remaining": 0, "max": 1}
    stats = site.kue.get("/stats")
    counts = {name: stats[f"{name}Count"] for name in ("inactive", "active", "complete", "failed", "delayed")}
    assert counts == {"inactive": 1, "active": 0, "complete": 200, "failed": 0, "delayed": 0}
    assert site.kue.get(f"/job/{foreign}")["state"] == "inactive"
    listed = site.kue.get("/jobs/analysisJob/complete/0..-1")
    assert sorted(str(job["id"]) for job in listed) == sorted(order_ids)
    assert len(site.uploads()) == 200
    # Each upload is another order's: its zip holds that order's input picture.
    assert {upload.outcome for upload in site.uploads()} == {"loaded"}
