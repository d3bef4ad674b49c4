"""A worker that is told to stop finishes its steps, or hands them back."""

from __future__ import annotations

import signal

import pytest

from tests.support.faults import Segmenter, assert_ended, assert_uploaded_once, place, start, start_worker
from tests.support.hospital import Hospital, eventually

pytestmark = pytest.mark.services


def test_a_warm_shutdown_finishes_the_running_step(site: Hospital, segmenter: Segmenter) -> None:
    segmenter.hold()
    (worker,), _ = start(site)
    (order_id,) = place(site)
    segmenter.wait_for()
    worker.send(signal.SIGTERM)
    worker.wait_for("Warm shutdown")
    assert segmenter.living()
    segmenter.let_go()
    assert worker.process.wait(30) == 0
    assert "run_algorithm" in worker.log.split("Warm shutdown")[1]
    start_worker(site)
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)
    assert len(segmenter.pids) == 1, "the step that was finished is not run again"


@pytest.mark.parametrize("signals", [1, 2])
def test_a_step_is_handed_back(signals: int, site: Hospital, segmenter: Segmenter) -> None:
    """After the limit, or at once at the second signal."""
    segmenter.hold()
    (worker,), _ = start(site, DYNSVC_STOP_LIMIT_S="1" if signals == 1 else "600")
    (order_id,) = place(site)
    segmenter.wait_for()
    for _ in range(signals):
        worker.send(signal.SIGTERM)
        worker.wait_for("Warm shutdown")
    worker.process.wait(30)
    eventually(lambda: not segmenter.living(), 10, "the program is ended")
    start_worker(site)
    segmenter.wait_for(2)
    segmenter.let_go()
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)
    assert not any("WorkerLost" in line for line in site.jobs.log_lines(order_id)), "nothing was lost"
