"""What a monitor hears of an order: nothing that it has not asked for, then each step as a task."""

from __future__ import annotations

import time
from typing import Any

import pytest
from celery import Celery
from celery.events import EventReceiver

from dynsvc.messages import STEPS
from tests.support.hospital import Hospital
from tests.support.orders import v4

pytestmark = [pytest.mark.services]


def order(site: Hospital) -> str:
    return site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48))


def test_a_monitor_that_asks_hears_of_each_step_of_an_order(site: Hospital) -> None:
    site.install_copying_segmenter()
    site.start_worker()
    site.start_bridge()
    monitor = Celery(broker=site.env["DYNSVC_BROKER_URL"])
    heard: list[dict[str, Any]] = []
    with monitor.connection_for_read() as connection:
        receiver = EventReceiver(connection, handlers={"*": heard.append}, app=monitor)
        with receiver.consumer_context() as (listening, *_others):

            def listens_until(check: Any) -> None:
                deadline = time.monotonic() + 20
                while not check():
                    assert time.monotonic() < deadline, heard
                    try:
                        listening.drain_events(timeout=0.2)
                    except TimeoutError:
                        continue

            site.wait_ended(order(site))
            # A worker's heartbeat comes every two seconds, after all that it had to tell before.
            listens_until(lambda: sum(event["type"] == "worker-heartbeat" for event in heard) >= 2)
            assert [event["type"] for event in heard if event["type"].startswith("task-")] == []

            monitor.control.enable_events()
            listens_until(lambda: monitor.control.ping(timeout=1))
            told = order(site)
            site.wait_ended(told)

            def succeeded() -> list[str]:
                names = {event["uuid"]: event["name"] for event in heard if event["type"] == "task-received"}
                ends = [event["uuid"] for event in heard if event["type"] == "task-succeeded"]
                return [names[uuid] for uuid in ends if uuid in names]

            listens_until(lambda: len(succeeded()) == len(STEPS))
            assert sorted(succeeded()) == sorted(STEPS)
            received = [event for event in heard if event["type"] == "task-received"]
            assert all(event["args"].startswith(f"(order {told}") for event in received)
            started = [event["uuid"] for event in heard if event["type"] == "task-started"]
            assert sorted(started) == sorted(event["uuid"] for event in received)
