"""A result is delivered again for the same image, parameters and pixels: through Kue, workers and loader."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from tests.support.hospital import Hospital, LoaderJob
from tests.support.orders import changed, v4


def counting_segmenter(site: Hospital) -> Path:
    """The copying segmenter, which also leaves a mark for each run."""
    site.install_copying_segmenter()
    program, marks = site.folder / "bin/mainSegmentFeatures", site.folder / "runs"
    program.write_text(program.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\nprintf x >> {marks}\n"))
    return marks


def runs(marks: Path) -> int:
    return len(marks.read_text())


def done(site: Hospital, document: dict[str, Any]) -> dict[str, Any]:
    order_id = site.kue.post_job("analysisJob", document)
    site.wait_ended(order_id)
    job: dict[str, Any] = site.kue.get(f"/job/{order_id}")
    assert job["state"] == "complete", job
    return job


def provenance(upload: LoaderJob) -> dict[str, Any]:
    with zipfile.ZipFile(upload.zip_path) as archive:
        document: dict[str, Any] = json.loads(archive.read("provenance.json"))
        return document


def test_the_same_order_again_is_delivered_without_a_run(site: Hospital) -> None:
    marks = counting_segmenter(site)
    site.start_worker(DYNSVC_CACHE="true")
    site.start_bridge()
    document = v4(x=10, y=20, w=64, h=48)
    first, again = done(site, document), done(site, document)
    assert runs(marks) == 1
    assert (first["result"]["cached"], again["result"]["cached"]) == (False, True)
    assert again["result"]["objects"] == first["result"]["objects"] == 1
    log = site.jobs.log_lines(str(again["id"]))
    assert f"same image, parameters and pixels as order {first['id']}: its result is delivered again" in log
    uploads = site.uploads()
    assert {upload.outcome for upload in uploads} == {"loaded"}
    told = [provenance(upload)["run"] for upload in uploads]
    assert [run["order_id"] for run in told] == [str(first["id"]), str(again["id"])]
    assert [(run["cache"] or {}).get("order_id") for run in told] == [None, str(first["id"])]

    # Another region, and an order that wants no kept result, are run.
    assert done(site, v4(x=11, y=20, w=64, h=48))["result"]["cached"] is False
    assert done(site, changed(document, "data.order.cache", "false"))["result"]["cached"] is False
    assert runs(marks) == 3


def test_nothing_is_kept_unless_the_site_wants_it(site: Hospital) -> None:
    marks = counting_segmenter(site)
    site.start_worker()
    site.start_bridge()
    document = v4(x=10, y=20, w=64, h=48)
    done(site, document)
    assert done(site, document)["result"]["cached"] is False
    assert runs(marks) == 2


def test_every_zip_has_a_provenance(site: Hospital) -> None:
    counting_segmenter(site)
    site.start_worker(DYNSVC_HOST="host-7")
    site.start_bridge()
    job = done(site, v4(x=10, y=20, w=64, h=48))
    (upload,) = site.uploads()
    told = provenance(upload)
    assert told["algorithm"]["name"] == "pathomics"
    assert told["algorithm"]["executed"].endswith("mainSegmentFeatures")
    assert told["algorithm"]["parameters"]["w"] == "0.8"
    assert "/input/tile.jpg" in told["algorithm"]["argv"] or "/input/tile.png" in told["algorithm"]["argv"]
    assert told["input"]["case_id"] == job["data"]["order"]["image"]["case_id"]
    assert told["run"]["host"] == "host-7"
    assert set(told["run"]["timings_s"]) == {"fetch_order", "fetch_roi", "waited", "algorithm"}
