"""A worker dies without a word, at each step: the order goes on elsewhere and ends once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.support.faults import (
    Door,
    Ends,
    Segmenter,
    assert_ended,
    assert_uploaded_once,
    children,
    place,
    start,
    start_worker,
)
from tests.support.hospital import Hospital, Program, eventually

pytestmark = pytest.mark.services

STEPS = ("fetch_order", "fetch_roi", "run_algorithm", "upload_zip")
#: "prefork" on the command line is taken for its default, and the configured pool (threads) wins.
PREFORK = ("-P", "processes")


def hold(
    site: Hospital, segmenter: Segmenter, step: str, *, behind: bool = False
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Make one step last. Return what waits until it is reached, and what lets it go on.

    With *behind*, the loader has the result before it is slow to answer.
    """
    if step == "run_algorithm":
        segmenter.hold()
        return segmenter.wait_for, segmenter.let_go
    standin = {"fetch_order": site.bindaas, "fetch_roi": site.images, "upload_zip": site.loader}[step]
    door = Door(standin, behind=behind, path="default" if step == "fetch_roi" else "")
    return door.wait_for, door.open


def killed(process: Program) -> None:
    process.kill_group()


def step_of(site: Hospital, order_id: str) -> str | None:
    """The step that the ledger knows the order to be at."""
    with site.redis.client() as client:
        return client.hget(f"dynsvc:q:attempt:{order_id}", "step")


@pytest.mark.parametrize("step", STEPS[:3])
def test_a_worker_killed_during(step: str, site: Hospital, segmenter: Segmenter) -> None:
    reached, go_on = hold(site, segmenter, step)
    with Ends(site.redis) as ends:
        (worker,), _ = start(site)
        (order_id,) = place(site)
        reached()
        eventually(lambda: step_of(site, order_id) == f"dynsvc.{step}", 5, "the ledger knows the step")
        killed(worker)
        go_on()
        start_worker(site)
        assert_ended(site, order_id)
        eventually(lambda: ends.complete[order_id], 5)
        assert ends.twice() == []
    assert_uploaded_once(site, order_id)
    job = site.jobs.read(order_id)
    assert job is not None
    assert job.attempts_made == 1, "the infrastructure's failure does not count against the order"
    assert any("WorkerLost" in line and step in line for line in site.jobs.log_lines(order_id))
    eventually(lambda: not segmenter.living(), 10, "no program is left")


def test_a_worker_killed_after_the_loader_has_the_result(site: Hospital, segmenter: Segmenter) -> None:
    door = Door(site.loader, behind=True)
    (worker,), _ = start(site)
    (order_id,) = place(site)
    door.wait_for()
    killed(worker)
    door.open()
    start_worker(site)
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)
    assert any("already delivered by an earlier attempt" in line for line in site.jobs.log_lines(order_id))


def test_a_worker_killed_while_the_loader_is_slow_to_take_the_result(
    site: Hospital, segmenter: Segmenter
) -> None:
    door = Door(site.loader)
    (worker,), _ = start(site)
    (order_id,) = place(site)
    door.wait_for()
    killed(worker)
    start_worker(site)
    eventually(lambda: "DeliveryUnknown" in site.programs[-1].log, 30, "the second attempt waits")
    door.open()
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)


@pytest.mark.parametrize("victim", ["child", "group"])
def test_a_prefork_worker_killed_with_its_program(victim: str, site: Hospital, segmenter: Segmenter) -> None:
    segmenter.hold()
    (worker,), _ = start(site, *PREFORK, "-c", "1")
    (order_id,) = place(site)
    segmenter.wait_for()
    if victim == "child":
        os.kill(child_of(worker, segmenter), signal.SIGKILL)
    else:
        killed(worker)
    eventually(lambda: not segmenter.living(), 10, "the program dies with its worker")
    segmenter.let_go()
    if victim == "group":
        start_worker(site, *PREFORK, "-c", "1")
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)


def child_of(worker: Program, segmenter: Segmenter) -> int:
    (child,) = [pid for pid in children(worker.process.pid) if pid not in segmenter.pids]
    return child


@pytest.mark.parametrize("step", ["fetch_order", "fetch_roi", "upload_zip"])
def test_the_child_of_a_prefork_worker_killed_during(step: str, site: Hospital, segmenter: Segmenter) -> None:
    """Its parent makes another one, which goes on."""
    reached, go_on = hold(site, segmenter, step, behind=True)
    (worker,), _ = start(site, *PREFORK, "-c", "1")
    (order_id,) = place(site)
    reached()
    os.kill(child_of(worker, segmenter), signal.SIGKILL)
    go_on()
    assert_ended(site, order_id)
    assert_uploaded_once(site, order_id)


@pytest.mark.parametrize("step", STEPS)
def test_the_parent_of_a_prefork_worker_killed_during(
    step: str, site: Hospital, segmenter: Segmenter
) -> None:
    """Its child may finish the step or die; the order ends once, on another worker."""
    reached, go_on = hold(site, segmenter, step, behind=True)
    with Ends(site.redis) as ends:
        (worker,), _ = start(site, *PREFORK, "-c", "1")
        (order_id,) = place(site)
        reached()
        os.kill(worker.process.pid, signal.SIGKILL)
        start_worker(site)
        go_on()
        assert_ended(site, order_id)
        eventually(lambda: ends.complete[order_id], 5)
        assert ends.twice() == []
    assert_uploaded_once(site, order_id)
    eventually(lambda: not segmenter.living(), 10, "no program is left")


def test_a_worker_that_is_killed_every_time_ends_the_order(site: Hospital, segmenter: Segmenter) -> None:
    """What kills its worker (memory, a broken driver) must not go round for ever."""
    segmenter.hold()
    (worker,), _ = start(site, DYNSVC_INFRASTRUCTURE_RETRIES="1")
    (order_id,) = place(site)
    for count in (1, 2):
        segmenter.wait_for(count)
        killed(worker)
        worker = start_worker(site)
    assert_ended(site, order_id, state="failed")
    job = site.jobs.read(order_id)
    assert job is not None
    assert (job.error or "").startswith("WorkerLost: ")
    assert not segmenter.living()
    assert site.uploads() == []
