"""One order for a whole slide: tiles on all workers, one result."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import spots
from tests.support.hospital import SLIDE, Hospital, eventually
from tests.support.kue import KueApi, running
from tests.support.orders import v4
from tests.support.redis import running_redis


@pytest.fixture(scope="module")
def dotted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dotted")
    spots.write_slide(root / SLIDE.lstrip("/"))
    return root


@pytest.fixture
def site(redis_program: str, node_kue: None, dotted: Path) -> Iterator[Hospital]:
    with running_redis() as redis:
        api = KueApi(redis.port)
        with running(api), Hospital(redis, api, dotted) as hospital:
            yield hospital


def order(roi: dict[str, Any], execution_id: str = "spots:1", **more: Any) -> dict[str, Any]:
    document = v4(algorithm="spots", execution_id=execution_id, parameters={})
    document["order"]["roi"] = roi
    document["order"] |= more
    return document


FULL: dict[str, Any] = {"full": "true"}


def complete(site: Hospital, order_id: str) -> Path:
    site.wait_ended(order_id, limit_s=90)
    job = site.jobs.read(order_id)
    assert job is not None
    assert job.is_done, (job.error, site.jobs.log_lines(order_id))
    (upload,) = [upload for upload in site.uploads() if f"loader job {upload.id}" in (job.result_text or "")]
    return upload.zip_path


def provenance(zip_path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(zip_path) as archive:
        document: dict[str, Any] = json.loads(archive.read("provenance.json"))
    return document


def outlines(zip_path: Path) -> list[str]:
    return sorted(row["Polygon"] for row in spots.rows(zip_path))


def test_a_whole_slide_by_two_workers(site: Hospital) -> None:
    env = spots.install(site)
    for _ in range(2):
        site.start_worker("-c", "1", **env, DYNSVC_HOST=f"host-{len(site.programs)}")
    site.start_bridge()
    order_id = site.kue.post_job("analysisJob", order(FULL))
    found = complete(site, order_id)
    assert len(spots.rows(found)) == spots.expected()
    told = provenance(found)
    run_at = spots.places_run(site)
    # Each tile once; those of the right third have no tissue.
    assert len(run_at) == len(set(run_at)) == told["input"]["tiles"] < 6 * 5
    assert told["input"]["tiles_without_tissue"] == 6 * 5 - len(run_at)
    assert told["input"]["survey"] == {"darker_than": 128}
    assert sum(told["run"]["tiles_by_host"].values()) == len(run_at)
    assert set(told["run"]["tiles_by_host"]) == {"host-0", "host-1"}
    log = site.jobs.log_lines(order_id)
    assert any("tiles of 256 px and a halo of 32 px" in line for line in log), log
    assert "surveyed" in log
    assert any("tiles done, about" in line for line in log)
    kue = site.kue.get(f"/job/{order_id}")
    assert (kue["state"], kue["progress"]) == ("complete", "100")

    # The same as in one piece, to the last point of each outline.
    region = {"x": "0", "y": "0", "w": str(spots.WIDTH_PX), "h": str(spots.HEIGHT_PX)}
    whole = complete(site, site.kue.post_job("analysisJob", order(region, "spots:whole")))
    assert outlines(found) == outlines(whole)
    assert sorted(r["AreaInPixels"] for r in spots.rows(found)) == sorted(
        r["AreaInPixels"] for r in spots.rows(whole)
    )

    # Another order on the slide finds the tiles; only objects inside its polygon count.
    polygon = {"polygon": [["100", "100"], ["500", "100"], ["500", "600"], ["100", "600"]]}
    before = len(spots.places_run(site))
    part = complete(site, site.kue.post_job("analysisJob", order(polygon, "spots:part")))
    assert len(spots.places_run(site)) == before
    assert provenance(part)["run"]["tiles_by_host"] == {}
    assert 0 < len(outlines(part)) < len(outlines(found))
    assert set(outlines(part)) <= set(outlines(found))

    # tissue: false runs the rest, too.
    everything = complete(site, site.kue.post_job("analysisJob", order(FULL, "spots:all", tissue="false")))
    assert outlines(everything) == outlines(found)
    assert len(spots.places_run(site)) == before + told["input"]["tiles_without_tissue"]


def test_a_single_region_overtakes_a_slide(site: Hospital) -> None:
    env = spots.install(site, tile_px=96)
    told = site.folder / "spots"
    (told / "seconds").write_text("0.1")
    site.start_worker("-c", "1", **env)
    site.start_bridge()
    slide = site.kue.post_job("analysisJob", order(FULL))
    eventually(lambda: len(spots.places_run(site)) > 8, what="tiles are being done")
    region = {"x": "10", "y": "10", "w": "100", "h": "100"}
    single = site.kue.post_job("analysisJob", order(region, "spots:single"))
    began = len(spots.places_run(site))
    site.wait_ended(single)
    # Four steps, each of which waits for the one slot behind at most a tile or two.
    assert len(spots.places_run(site)) - began <= 12
    job = site.jobs.read(slide)
    assert job is not None
    assert job.is_running
    (told / "seconds").unlink()
    complete(site, slide)


def test_a_bad_tile_fails_the_order_and_the_next_attempt_does_only_what_is_missing(site: Hospital) -> None:
    env = spots.install(site)
    bad = site.folder / "spots" / "fail-480-224"
    bad.touch()
    site.start_worker("-c", "1", **env)
    site.start_bridge()
    order_id = site.kue.post_job("analysisJob", order(FULL))
    site.wait_ended(order_id)
    job = site.jobs.read(order_id)
    assert job is not None
    assert job.is_failed
    assert (job.error or "").startswith("AlgorithmFailed: spots ended with exit status 1")
    assert site.uploads() == []
    done = spots.places_run(site)
    assert done.count("480,224") == 2
    log = site.jobs.log_lines(order_id)
    assert any("tile 2,1: AlgorithmFailed" in line and "tried again" in line for line in log), log
    bad.unlink()
    again = complete(site, site.kue.post_job("analysisJob", order(FULL, "spots:again")))
    assert len(spots.rows(again)) == spots.expected()
    assert "480,224" in spots.places_run(site)[len(done) :]
    assert set(spots.places_run(site)[len(done) :]).isdisjoint(set(done) - {"480,224"})


def test_a_bad_tile_becomes_a_hole_where_the_descriptor_says_so(site: Hospital) -> None:
    env = spots.install(site, on_failure="hole")
    (site.folder / "spots" / "fail-480-224").touch()
    site.start_worker("-c", "1", **env)
    site.start_bridge()
    order_id = site.kue.post_job("analysisJob", order(FULL))
    found = complete(site, order_id)
    assert 0 < len(spots.rows(found)) < spots.expected()
    assert provenance(found)["result"]["holes"] == [[2, 1]]
    assert any("tiles failed and are holes" in line for line in site.jobs.log_lines(order_id))


def test_a_removed_slide_stops_and_nothing_is_left(site: Hospital) -> None:
    env = spots.install(site)
    wait = site.folder / "spots" / "wait"
    wait.touch()
    site.start_worker("-c", "2", **env)
    site.start_bridge()
    order_id = site.kue.post_job("analysisJob", order(FULL))
    eventually(lambda: spots.places_run(site), what="the first tile")
    site.kue.delete(f"/job/{order_id}")
    client = site.redis.client()
    eventually(
        lambda: (
            not [
                key
                for key in client.keys("dynsvc:q:*")
                if order_id in str(key).split(":")[-1] and "trace" not in str(key)
            ]
        ),
        what="nothing left in the ledger",
    )
    assert site.uploads() == []
    assert site.jobs.read(order_id) is None
    wait.unlink()


def test_a_worker_that_is_killed_within_a_batch(site: Hospital) -> None:
    env = spots.install(site)
    wait = site.folder / "spots" / "wait"
    wait.touch()
    first = site.start_worker("-c", "1", **env, DYNSVC_LEASE_S="1")
    site.start_bridge(DYNSVC_LEASE_S="1")
    order_id = site.kue.post_job("analysisJob", order(FULL))
    eventually(lambda: spots.places_run(site), what="the first tile")
    first.send(signal.SIGKILL)
    site.start_worker("-c", "2", **env, DYNSVC_LEASE_S="1")
    wait.unlink()
    found = complete(site, order_id)
    assert len(spots.rows(found)) == spots.expected()
    run_at = spots.places_run(site)
    # Only the tile that the dead worker was at is done twice.
    assert len(run_at) == len(set(run_at)) + 1
    job = site.jobs.read(order_id)
    assert job is not None
    assert (job.attempts_made, len(site.uploads())) == (1, 1)


def test_what_is_done_of_a_slide_is_shown_while_it_runs(site: Hospital) -> None:
    env = spots.install(site, tile_px=96)
    site.start_worker("-c", "1", **env)
    site.start_bridge()
    (site.folder / "spots" / "seconds").write_text("0.05")
    order_id = site.kue.post_job("analysisJob", order(FULL))
    page = site.folder / "page.html"
    dynsvc = str(Path(sys.executable).with_name("dynsvc"))
    watch = site.start("watch", [dynsvc, "watch", order_id, "--open", "--page", str(page)], BROWSER="true")

    def tiles_shown() -> int:
        found = (
            re.search(r"(\d+) of \d+ tiles done, (\d+) objects", page.read_text()) if page.exists() else None
        )
        return int(found[1]) if found and int(found[2]) else 0

    first = eventually(tiles_shown, what="a page with tiles and objects")
    assert 'http-equiv="refresh"' in page.read_text()
    eventually(lambda: tiles_shown() > first, what="the page grows")
    job = site.jobs.read(order_id)
    assert job is not None
    assert job.is_running
    (site.folder / "spots" / "seconds").unlink()
    complete(site, order_id)
    assert watch.process.wait(30) == 0
    assert "The order is complete." in page.read_text()
    assert 'http-equiv="refresh"' not in page.read_text()


def test_a_slide_in_one_process(site: Hospital) -> None:
    env = {**site.env, **spots.install(site), "DYNSVC_RUNTIME": "process"}
    document = site.folder / "order.json"
    document.write_text(json.dumps({"type": "analysisJob", "data": order(FULL)}))
    output = site.folder / "alone.zip"
    argv = [str(Path(sys.executable).with_name("dynsvc")), "run", str(document), "--output", str(output)]
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=90, check=False)
    assert ended.returncode == 0, ended.stderr
    assert len(spots.rows(output)) == spots.expected()
    with zipfile.ZipFile(output) as archive:
        names = archive.namelist()
    assert sum(name.endswith("-seg.ome.tif") for name in names) == 1
