"""The leases of a process' attempts, kept by one thread, on a real Redis."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dynsvc.errors import AttemptEnded
from dynsvc.kue import JobStore, connect
from dynsvc.leases import Ledger, Start
from dynsvc.messages import Message
from dynsvc.traces import Traces
from tests.support.redis import RedisProcess
from workers.attempts import LeasedAttempt

pytestmark = pytest.mark.services

LEASE_S = 0.5


@pytest.fixture
def here(redis_server: RedisProcess) -> Iterator[Any]:
    """What of a site an attempt needs."""
    client, head = connect(redis_server.settings), f"{uuid.uuid4().hex}:"
    yield SimpleNamespace(
        jobs=JobStore(client, head),
        ledger=Ledger(client, head, "Redis"),
        traces=Traces(client, head, "Redis", keep_s=60),
        settings=SimpleNamespace(lease_s=LEASE_S, host="here"),
        client=client,
        head=head,
    )
    client.close()


def leased(here: Any, order_id: str, step: str) -> LeasedAttempt:
    here.ledger.reserve([(order_id, "t", {})], step=step, window=10, wait_s=30)
    begun = here.ledger.begin(order_id, "t", step, "r", lease_s=LEASE_S, later=[])
    assert begun.start is Start.RUN
    return LeasedAttempt(here, Message(order_id=order_id, job_type="j", token="t"), step, "r")


def test_all_leases_of_a_process_are_renewed_by_one_thread(here: Any) -> None:
    before = threading.active_count()
    with leased(here, "1", "fetch_order") as one, leased(here, "2", "fetch_order") as two:
        assert threading.active_count() <= before + 1
        time.sleep(3 * LEASE_S)  # longer than a lease lasts by itself
        assert not here.ledger.expired()
        assert not one.ended()
        assert not two.ended()


def test_a_job_tells_whose_it_is_from_when_it_is_claimed(here: Any) -> None:
    with leased(here, "1", "fetch_order") as attempt:
        assert not attempt._ended.wait(2 * LEASE_S), "nobody has the job yet, and that is no loss"
        attempt.check_owner()
        attempt.claimed = True  # though no such job is there: as if it had been removed
        assert attempt._ended.wait(10)
        with pytest.raises(AttemptEnded, match="removed"):
            attempt.check()


def test_an_attempt_ends_with_its_lease(here: Any) -> None:
    with leased(here, "1", "fetch_order") as attempt:
        assert here.ledger.release("1", "t")
        assert attempt._ended.wait(10)
        with pytest.raises(AttemptEnded, match="lease"):
            attempt.check()


def test_reports_close_to_each_other_are_one_write(here: Any) -> None:
    here.client.hset(
        f"{here.head}job:1",
        mapping={"type": "j", "state": "active", "workerId": "t", "progress": "90"},
    )
    written = []
    progress = here.jobs.progress
    here.jobs.progress = lambda *args, **more: written.append(args[2]) or progress(*args, **more)
    with leased(here, "1", "fetch_order") as attempt:
        attempt.claimed = True
        attempt.report(5, "claimed")
        attempt.report(10, "fetched")
        attempt.report(15)
        attempt.report(20, "done")
        attempt.tell()
        job = here.jobs.read("1")
        assert job is not None
        assert job.progress == 20, "smaller than that of the attempt before"
        assert here.jobs.log_lines("1") == ["claimed", "fetched", "done"]
    assert written[0] == 5
    assert len(written) <= 3, written
