"""``dynsvc explain``: one page on an order, from what Kue and the workers noted."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynsvc import advice, errors
from tests.support.hospital import SLIDE, Hospital, eventually
from tests.support.kue import KueApi, running
from tests.support.orders import v4
from tests.support.redis import running_redis
from tests.support.slides import write_slide

pytestmark = pytest.mark.services


@pytest.fixture
def site(redis_program: str, node_kue: None, tmp_path: Path) -> Iterator[Hospital]:
    write_slide(tmp_path / SLIDE.lstrip("/"))
    with running_redis() as redis:
        api = KueApi(redis.port)
        with running(api), Hospital(redis, api, tmp_path) as hospital:
            yield hospital


def explained(site: Hospital, order_id: str, status: int = 0) -> str:
    argv = [str(Path(sys.executable).with_name("dynsvc")), "explain", order_id]
    ended = subprocess.run(argv, env=site.env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == status, ended.stderr
    return ended.stdout


def test_a_complete_order(site: Hospital) -> None:
    site.install_copying_segmenter()
    site.start_worker(DYNSVC_HOST="host-7")
    site.start_bridge()
    order_id = site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48))
    site.wait_ended(order_id)
    page = explained(site, order_id)
    assert page.startswith(f"order {order_id} (analysisJob): complete, attempt 1 of 1\n")
    assert "region      10,20,64,48" in page
    steps = re.findall(r"(\w+) +on host-7 +[0-9.]+ s  done", page)
    assert steps == ["fetch_order", "fetch_roi", "run_algorithm", "upload_zip"]
    assert "host        host-7, process runtime, oneshot" in page
    assert re.search(r"command +mainSegmentFeatures .* -z ", page)
    assert re.search(r"objects +1\n", page)
    assert "what to do" not in page
    assert "region fetched: 64 x 48 px" in page


def test_a_failed_order_with_its_last_output_and_what_to_do(site: Hospital) -> None:
    site.install("mainSegmentFeatures", '#!/bin/sh\necho reading tile\necho "no <tissue>" >&2\nexit 3\n')
    site.start_worker()
    site.start_bridge()
    order_id = site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48))
    site.wait_ended(order_id)
    page = explained(site, order_id)
    assert f"order {order_id} (analysisJob): failed, attempt 1 of 1" in page
    assert re.search(
        r"run_algorithm +on \S+ +[0-9.]+ s  AlgorithmFailed: pathomics ended with exit status 3", page
    )
    assert "last output\n  reading tile\n  no <tissue>\n" in page
    assert f"what to do\n  {advice.ADVICE['AlgorithmFailed'][:60]}" in page
    # What ran is told although it failed.
    assert re.search(r"limits +1 CPU, 2048 MiB, 128 processes, 3600 s", page)


def test_an_order_that_cannot_be_read(site: Hospital) -> None:
    site.start_worker()
    site.start_bridge()
    order_id = site.kue.post_job("analysisJob", v4(x=10, y=20, w=0, h=48))
    site.wait_ended(order_id)
    page = explained(site, order_id)
    assert "document    cannot be read: order 1: data.order.roi.w is '0'" in page
    assert "what to do\n  Correct the field that is named" in page


def test_an_order_that_waits_and_one_that_is_not_there(site: Hospital) -> None:
    order_id = site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48))
    page = explained(site, order_id)
    assert f"order {order_id} (analysisJob): waits in Kue; no bridge has taken it yet, attempt 1 of 1" in page
    assert "(no worker has begun it)" in page
    site.start_bridge()
    eventually(lambda: "waits for a worker" in explained(site, order_id))
    assert explained(site, "4711", status=2).startswith("Kue has no job 4711")


def test_a_lost_worker_is_named(site: Hospital) -> None:
    site.install("mainSegmentFeatures", "#!/bin/sh\nsleep 60\n")
    worker = site.start_worker(DYNSVC_HOST="host-8", DYNSVC_LEASE_S="1")
    site.start_bridge(DYNSVC_INFRASTRUCTURE_RETRIES="0", DYNSVC_LEASE_S="1")
    order_id = site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48))
    eventually(lambda: "run_algorithm  on host-8  begun, and not ended\n" in explained(site, order_id))
    worker.send(signal.SIGKILL)
    site.wait_ended(order_id)
    page = explained(site, order_id)
    assert "run_algorithm  on host-8  begun, and not ended (its worker was lost)" in page
    assert "what to do\n  The worker's process or host died." in page


def test_there_is_advice_for_every_error() -> None:
    concrete = {name for name in errors.__all__ if name[0].isupper()} - {"DynsvcError", "Transient"}
    assert set(advice.ADVICE) == concrete | {"InternalError"}
    assert advice.advice_for("OutOfMemory: seg was ended") == advice.ADVICE["OutOfMemory"]
    assert "no advice" in advice.advice_for("something else")
