"""A disk is full at a write: the step waits, nothing is corrupted, and the order ends when there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.faults import (
    Segmenter,
    assert_ended,
    assert_uploaded_once,
    can_mount,
    full_disk,
    place,
    start,
    start_worker,
)
from tests.support.hospital import Hospital, Program
from tests.support.services import missing

pytestmark = pytest.mark.services

Fill = Callable[[bool], None]


@pytest.fixture
def fill(site: Hospital) -> Iterator[Fill]:
    if not can_mount():
        missing("the right to mount a small disk")
    with full_disk(site.folder / "disk") as fill:
        yield fill


def divided(site: Hospital, **env: str) -> tuple[Program, Program]:
    """Start workers for ``io`` and for ``cpu``: only what goes from one to the other is in the store."""
    (io,), _ = start(site, "-Q", "io", **env)
    return io, start_worker(site, "-Q", "cpu", **env)


@pytest.mark.parametrize("setting", ["DYNSVC_SCRATCH", "DYNSVC_ARTIFACTS", "DYNSVC_RESULTS"])
def test_a_disk_that_is_full_from_the_beginning(
    setting: str, site: Hospital, segmenter: Segmenter, fill: Fill
) -> None:
    env = {setting: str(site.folder / "disk")} | (
        {"DYNSVC_SINK": "directory"} if "RESULTS" in setting else {}
    )
    fill(True)
    if setting == "DYNSVC_ARTIFACTS":
        worker, _ = divided(site, **env)
    else:
        (worker,), _ = start(site, **env)
    (order_id,) = place(site)
    worker.wait_for("No space left on device")
    worker.wait_for("step tries again")
    assert "StorageUnavailable" in worker.log
    job = site.jobs.read(order_id)
    assert job is not None
    assert job.is_running
    fill(False)
    assert_ended(site, order_id)
    if "RESULTS" not in setting:
        assert_uploaded_once(site, order_id)
    else:
        partial = [path for path in (site.folder / "disk").rglob("*") if "partial" in path.name]
        assert partial == []


def test_a_disk_that_fills_up_while_the_algorithm_runs(
    site: Hospital, segmenter: Segmenter, fill: Fill
) -> None:
    segmenter.hold()
    _, worker = divided(site, DYNSVC_ARTIFACTS=str(site.folder / "disk"))
    (order_id,) = place(site)
    segmenter.wait_for()
    fill(True)
    segmenter.let_go()
    worker.wait_for("No space left on device")
    fill(False)
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)
