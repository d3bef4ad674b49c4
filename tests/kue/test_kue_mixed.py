"""A native worker process and one of ours on the same queue."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynsvc.kue import Counts, JobStore, connect, parse_event
from tests.support.kue import KueApi, NativeWorker, running
from tests.support.redis import RedisProcess, running_redis

pytestmark = [pytest.mark.services]

ROOT = Path(__file__).parents[2]
JOBS = 150


@pytest.fixture
def our_worker(redis_program: str) -> Iterator[RedisProcess]:
    """A server with one of our workers on it, in a process of its own."""
    with running_redis() as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.kue_worker", str(server.port), "ours", "order"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield server
            process.communicate(timeout=30)
            assert process.returncode == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()


def plan(number: int) -> tuple[list[list[object]], dict[str, object]]:
    """Return steps of each attempt and options of job *number*."""
    if number % 10 == 3:
        return [["fail", "no"]], {"attempts": 2}
    if number % 10 == 5:
        return [["fail", "no"]], {"attempts": 2, "backoff": {"type": "fixed", "delay": 20}}
    if number % 10 == 7:
        return [["progress", 1, 2], ["done", number]], {"delay_ms": 30, "priority": "high"}
    if number % 10 == 9:
        return [["fail", {"message": "never", "stack": "Error: never\n at"}]], {"attempts": 1}
    return [["sleep", 3], ["done", number]], {"priority": number % 3 - 1}


def test_two_kinds_of_workers_share_a_queue_and_do_each_job_once(
    our_worker: RedisProcess, node_kue: None
) -> None:
    server = our_worker
    started: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    with connect(server.settings) as client, client.pubsub() as subscription:
        store = JobStore(client)
        subscription.subscribe(store.channel)
        api = KueApi(server.port)
        with running(api, NativeWorker(server.port, type="order", interval_ms=100)):
            expected_starts = 0
            for number in range(1, JOBS + 1):
                steps, options = plan(number)
                second = [["done", number]]
                attempts = int(str(options.get("attempts", 1)))
                expected_starts += attempts
                store.create("order", {"attempts": [steps, second][:attempts]}, **options)  # type: ignore[arg-type]
            deadline = time.monotonic() + 60
            while sum(ended.values()) < JOBS:
                assert time.monotonic() < deadline, f"{sum(ended.values())} of {JOBS} ended"
                message = subscription.get_message(timeout=0.1)
                event = parse_event(message["data"]) if message and message["type"] == "message" else None
                if event and event.is_start:
                    started[event.job_id] += 1
                elif event and event.is_ended:
                    ended[event.job_id] += 1
            # The native worker's idle wait takes the tokens that are left over.
            while client.llen("q:order:jobs") and time.monotonic() < deadline:
                time.sleep(0.05)
            stats = api.get("/stats")

        failed = JOBS // 10
        assert store.counts(["order"]) == Counts(done=JOBS - failed, failed=failed)
        assert (stats["completeCount"], stats["failedCount"]) == (JOBS - failed, failed)
        assert (stats["inactiveCount"], stats["activeCount"], stats["delayedCount"]) == (0, 0, 0)
        assert set(ended.values()) == {1}
        assert sum(started.values()) == expected_starts
        assert client.llen("q:order:jobs") == 0
        workers = Counter()
        for number in range(1, JOBS + 1):
            job = store.read(str(number))
            assert job is not None
            assert job.attempts_made == job.max_attempts == plan(number)[1].get("attempts", 1)
            index = f"q:jobs:{job.state}"
            member = f"{len(job.id):02}|{job.id}"
            assert client.zscore(index, member) == job.priority
            assert client.zscore(f"q:jobs:order:{job.state}", member) == job.priority
            if job.is_done:
                assert json.loads(job.result_text or "") == number
            workers[job.worker_id.split(":")[0]] += 1
        # Both took part.
        assert workers["kue"] > 0
        assert workers["dynsvc"] > 0
