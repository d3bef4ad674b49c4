"""Sites differ: where an order is read, where its slide lies, where its result goes, how the loader tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dynsvc.kue import Job
from tests.support.hospital import CASE_ID, SLIDE, Hospital, eventually
from tests.support.orders import v1, v4


def edit(site: Hospital, change: Any) -> None:
    """Change the site's config.json."""
    path = site.folder / "config.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def ended(site: Hospital, order_id: str) -> Job:
    site.wait_ended(order_id)
    job = site.jobs.read(order_id)
    assert job is not None
    return job


def order(site: Hospital, **options: Any) -> str:
    return site.kue.post_job("order", v4(x=10, y=20, w=64, h=48), **options)


def test_the_order_is_read_from_kues_http_api_where_a_site_wants_that(site: Hospital) -> None:
    site.install_copying_segmenter()
    site.start_worker(DYNSVC_ORDER_SOURCE="http")
    site.start_bridge()
    assert ended(site, order(site)).is_done
    # Kue answers with status 200 and an error document where it cannot decode a job.
    job_id = site.jobs.create("order", {})
    with site.redis.client() as client:
        client.hset(f"q:job:{job_id}", "data", "{broken")
    job = ended(site, job_id)
    assert job.is_failed
    assert (job.error or "").startswith("PeerRefused: Kue's API http://127.0.0.1:")


@pytest.mark.parametrize("source", ["located", "file"])
def test_a_mounted_slide_is_read_without_the_image_server(site: Hospital, slides: Path, source: str) -> None:
    site.install_copying_segmenter()
    site.images.stop()
    site._standins.remove(site.images)
    site.start_worker(DYNSVC_SLIDES=str(slides))
    site.start_bridge()
    data = v4(x=10, y=20, w=64, h=48)
    if source == "file":
        data["order"]["image"] |= {"source": "file", "location": SLIDE.lstrip("/")}
    job = ended(site, site.kue.post_job("order", data))
    assert job.is_done, job.error
    assert json.loads(job.result_text or "{}")["mpp_um"] == 0.5
    assert site.images.requests == []


def test_a_file_outside_the_slides_folder_is_refused(site: Hospital, slides: Path) -> None:
    site.start_worker(DYNSVC_SLIDES=str(slides))
    site.start_bridge()
    data = v4(x=10, y=20, w=64, h=48)
    data["order"]["image"] |= {"source": "file", "location": "../../etc/passwd"}
    job = ended(site, site.kue.post_job("order", data))
    assert job.is_failed
    assert "data.order.image.location" in (job.error or "")


def test_results_go_to_a_folder_where_no_loader_is_configured(site: Hospital) -> None:
    site.install_copying_segmenter()
    edit(site, lambda document: document.pop("annotations"))
    results = site.folder / "results"
    site.start_worker(DYNSVC_RESULTS=str(results))
    site.start_bridge()
    order_id = order(site)
    job = ended(site, order_id)
    assert job.is_done, job.error
    (written,) = results.rglob("*.zip")
    assert written.parent.name == order_id
    assert str(written) in (job.result_text or "")
    assert site.uploads() == []


def test_the_loaders_failure_fails_the_order_with_its_words(site: Hospital) -> None:
    site.install_copying_segmenter()
    site.loader.behaviour.job_error = "EError: exit status 1\nat loadquip"
    site.start_worker()
    site.start_bridge()
    job = ended(site, order(site))
    assert job.is_failed
    assert job.error == "LoaderFailed: annotation loader's job 1 failed: EError: exit status 1\n" + (
        site.loader.behaviour.job_error
    )


def test_what_the_loaders_program_prints_on_stderr_can_be_a_warning(site: Hospital) -> None:
    site.install_copying_segmenter()
    site.loader.behaviour.job_error = "E2: INFO connected to mongo"
    site.start_worker()
    site.start_bridge(DYNSVC_ANNOTATIONS__ON_STDERR="warn")
    order_id = order(site)
    assert ended(site, order_id).is_done
    assert any("INFO connected to mongo" in line for line in site.jobs.log_lines(order_id))


def test_the_loaders_outcome_is_asked_over_http_where_its_redis_is_closed(site: Hospital) -> None:
    site.install_copying_segmenter()

    def only_http(document: dict[str, Any]) -> None:
        del document["annotations"]["redis"]
        document["annotations"]["kue"] = {"host": "127.0.0.1", "port": str(site.loader.port), "path": "/job/"}

    edit(site, only_http)
    site.start_worker()
    site.start_bridge()
    site.loader.behaviour.delay_s = 1.0
    assert ended(site, order(site)).is_done
    site.loader.behaviour.job_error = "EError: no"
    assert ended(site, order(site)).is_failed


def test_an_order_waits_for_the_loader_before_it_is_complete(site: Hospital) -> None:
    site.install_copying_segmenter()
    site.loader.behaviour.delay_s = 4.0
    site.start_worker()
    site.start_bridge()
    order_id = order(site)
    eventually(site.uploads, 20, "the upload")

    def waits() -> bool:
        job = site.jobs.read(order_id)
        return job is not None and job.progress == 95

    eventually(waits, 10, "95 percent")
    job = site.jobs.read(order_id)
    assert job is not None
    assert job.is_running
    assert site.uploads()[0].outcome == "loading"
    assert ended(site, order_id).is_done


def test_a_failed_attempt_is_tried_again_by_kues_own_rules(site: Hospital) -> None:
    tries = site.folder / "tries"
    site.install_copying_segmenter()
    copying = (site.folder / "bin" / "mainSegmentFeatures").read_text()
    site.install(
        "mainSegmentFeatures",
        copying.replace(
            "#!/bin/sh\n", f"#!/bin/sh\necho try >> {tries}\n[ $(wc -l < {tries}) -ge 3 ] || exit 7\n"
        ),
    )
    site.start_worker()
    # No native worker is alive: the promotion of a delayed job is the bridge's.
    site.start_bridge()
    order_id = order(site, attempts=3, backoff={"type": "fixed", "delay": 300})
    job = ended(site, order_id)
    eventually(lambda: site.jobs.read(order_id).is_done, 30, "the third attempt")  # type: ignore[union-attr]
    job = ended(site, order_id)
    assert job.is_done
    assert job.attempts_made == 3
    assert tries.read_text().split() == ["try"] * 3
    assert len(site.uploads()) == 1


@pytest.mark.parametrize("document", [v1, v4])
def test_an_order_of_each_viewer_reaches_the_same_program(site: Hospital, document: Any) -> None:
    said = site.folder / "argv"
    site.install_copying_segmenter()
    copying = (site.folder / "bin" / "mainSegmentFeatures").read_text()
    site.install(
        "mainSegmentFeatures", copying.replace("#!/bin/sh\n", f'#!/bin/sh\nprintf "%s\\n" "$@" > {said}\n')
    )
    site.bindaas.records[0] |= {"mpp-x": 0.5, "mpp-y": "0.5"}
    site.start_worker()
    site.start_bridge()
    assert ended(site, site.kue.post_job("order", document(x=10, y=20, w=64, h=48))).is_done
    argv = said.read_text().splitlines()
    given = dict(zip(argv[0::2], argv[1::2], strict=True))
    assert given["-t"] == "img"
    assert given["-c"] == CASE_ID
    assert (given["-s"], given["-b"], given["-d"]) == ("10,20", "64,48", "64,48")
    assert given["-j"] in {"0", "1", "2"}
    # The slide's own, from its record: the viewer never sends it.
    assert given["-m"] == "0.5"
