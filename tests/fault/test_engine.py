"""The container engine dies under running containers, or is away when one is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.containers import ContainerSegmenter
from tests.support.faults import Ends, assert_ended, assert_uploaded_once, place, start
from tests.support.hospital import Hospital, eventually
from tests.support.private_engine import PrivateEngine, running_engine

pytestmark = [pytest.mark.docker, pytest.mark.services]


@pytest.fixture
def own_engine() -> Iterator[PrivateEngine]:
    with running_engine() as engine:
        yield engine


@pytest.fixture
def segmenter(site: Hospital, own_engine: PrivateEngine) -> ContainerSegmenter:
    return ContainerSegmenter(site, own_engine)


def assert_no_container_left(segmenter: ContainerSegmenter) -> None:
    eventually(lambda: not segmenter.living(), 20, "no container is left")


@pytest.mark.parametrize("everything", [False, True], ids=["engine", "engine and its shims"])
def test_an_engine_killed_under_a_running_container(
    everything: bool, site: Hospital, segmenter: ContainerSegmenter, own_engine: PrivateEngine
) -> None:
    segmenter.install("sleep 600")
    with Ends(site.redis) as ends:
        (worker,), _ = start(site, "-c", "2", **segmenter.env)
        order_ids = place(site, 2)
        eventually(lambda: len(segmenter.running()) == 2, 40, "both containers run")
        # What runs has the image of before.
        segmenter.install("")
        own_engine.kill(everything=everything)
        worker.wait_for("step tries again")
        own_engine.start()
        assert_ended(site, *order_ids)
        assert ends.twice() == []
    assert_uploaded_once(site, *order_ids)
    assert "EngineUnavailable" in worker.log
    assert_no_container_left(segmenter)


def test_an_engine_that_is_away_when_a_container_is_to_start(
    site: Hospital, segmenter: ContainerSegmenter, own_engine: PrivateEngine
) -> None:
    own_engine.kill()
    (worker,), _ = start(site, **segmenter.env)
    (order_id,) = place(site)
    worker.wait_for("step tries again")
    own_engine.start()
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)
    assert_no_container_left(segmenter)


def test_an_engine_that_stays_away_fails_the_order_with_its_name(
    site: Hospital, segmenter: ContainerSegmenter, own_engine: PrivateEngine
) -> None:
    own_engine.kill()
    start(site, **segmenter.env, DYNSVC_RETRY_LIMIT_S="1")
    (order_id,) = place(site)
    assert_ended(site, order_id, state="failed")
    job = site.jobs.read(order_id)
    assert job is not None
    assert (job.error or "").startswith("EngineUnavailable: docker: no answer at unix://"), job.error
    assert site.uploads() == []


def test_worker_and_engine_killed_together_leave_no_container(
    site: Hospital, segmenter: ContainerSegmenter, own_engine: PrivateEngine
) -> None:
    segmenter.install("sleep 600")
    (worker,), _ = start(site, DYNSVC_HOST="host1", **segmenter.env)
    (order_id,) = place(site)
    (first,) = eventually(segmenter.running, 40, "the container runs")
    segmenter.install("")
    worker.kill_group()
    own_engine.kill()
    own_engine.start()
    start(site, bridges=0, DYNSVC_HOST="host1", **segmenter.env)
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)
    assert_no_container_left(segmenter)
    ids: list[Any] = [container["Id"] for container in own_engine.containers()]
    assert first not in ids
