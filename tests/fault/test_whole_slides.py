"""A slide is done in tiles by all workers; what dies on the way costs at most the tile that it was at."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import spots
from tests.support.faults import FAST, Ends, assert_ended, can_mount, full_disk
from tests.support.hospital import SLIDE, Hospital, Program, eventually
from tests.support.orders import v4
from tests.support.redis import running_redis
from tests.support.services import missing

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def dotted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dotted")
    spots.write_slide(root / SLIDE.lstrip("/"))
    return root


@pytest.fixture
def site(redis_program: str, dotted: Path) -> Iterator[Hospital]:
    with running_redis() as redis, Hospital(redis, None, dotted) as hospital:
        yield hospital
        for program in hospital.programs:
            program.kill_group()


class Slide:
    """One order of a whole slide, whose first tile is held."""

    def __init__(self, site: Hospital) -> None:
        self.site = site
        artifacts = {"DYNSVC_ARTIFACTS": str(site.folder / "artifacts")}
        self.env = {**FAST, **spots.install(site), **artifacts}
        self._wait = site.folder / "spots" / "wait"
        self._wait.touch()

    def start(self, queue: str, **env: str) -> Program:
        """Start a worker of one queue: ``cpu`` does tiles, ``io`` all else and the merge."""
        return self.site.start_worker("-Q", queue, "-c", "1", **{**self.env, **env})

    def begin(self) -> str:
        self.site.start_bridge(**self.env)
        data = v4(algorithm="spots", execution_id="spots:1", parameters={})
        data["order"]["roi"] = {"full": "true"}
        order_id = self.site.jobs.create("analysisJob", data)
        eventually(lambda: spots.places_run(self.site), 40, "the first tile is begun")
        return order_id

    def let_go(self) -> None:
        self._wait.unlink()

    def assert_complete(self, order_id: str, *, twice: int = 0) -> None:
        assert_ended(self.site, order_id, limit_s=90)
        (upload,) = self.site.uploads()
        assert len(spots.rows(upload.zip_path)) == spots.expected()
        run = spots.places_run(self.site)
        assert len(run) == len(set(run)) + twice, "only a tile that was under way is done twice"


def test_workers_killed_between_the_last_tile_and_the_merge(site: Hospital) -> None:
    slide = Slide(site)
    tiles, others = slide.start("cpu"), slide.start("io")
    with Ends(site.redis) as ends:
        order_id = slide.begin()
        others.kill_group()
        slide.let_go()
        tiles.wait_for("all tiles done")
        tiles.kill_group()
        with site.redis.client(db=1) as broker:
            broker.flushdb()
        slide.start("io,cpu")
        slide.assert_complete(order_id)
        assert ends.twice() == []


def test_a_worker_killed_within_the_merge(site: Hospital) -> None:
    if not can_mount():
        missing("the right to mount a small disk")
    slide = Slide(site)
    with full_disk(site.folder / "disk") as fill, Ends(site.redis) as ends:
        slide.start("cpu")
        merging = slide.start("io", DYNSVC_SCRATCH=str(site.folder / "disk"))
        order_id = slide.begin()
        # A full disk holds the merge where it writes.
        fill(True)
        slide.let_go()
        merging.wait_for("step tries again")
        assert "merge_tiles" in merging.log
        merging.kill_group()
        fill(False)
        slide.start("io")
        slide.assert_complete(order_id)
        assert ends.twice() == []
    job = site.jobs.read(order_id)
    assert job is not None
    assert job.attempts_made == 1


def test_a_broker_that_is_emptied_during_a_slide(site: Hospital) -> None:
    slide = Slide(site)
    slide.start("io,cpu")
    order_id = slide.begin()
    with site.redis.client(db=1) as broker:
        broker.flushdb()
    slide.let_go()
    slide.assert_complete(order_id)


def test_a_worker_that_is_paused_within_a_batch_and_wakes_late(site: Hospital) -> None:
    slide = Slide(site)
    slide.start("io")
    paused = slide.start("cpu")
    order_id = slide.begin()
    paused.send(signal.SIGSTOP)
    slide.start("cpu")
    eventually(lambda: len(spots.places_run(site)) > 1, 40, "another worker has its tile")
    slide.let_go()
    slide.assert_complete(order_id, twice=1)
    paused.send(signal.SIGCONT)
    paused.wait_for("batch ended")
    slide.assert_complete(order_id, twice=1)
