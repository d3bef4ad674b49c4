"""The log as JSON: each line that belongs to an order says to which, and to which attempt and step of it."""

from __future__ import annotations

import json
from typing import Any

from dynsvc.messages import STEPS
from tests.support.hospital import Hospital, Program, eventually
from tests.support.orders import v4

#: Of the process, or of Celery: no order's.
GENERAL = (
    "bridge started",
    "worker started",
    "artifacts",
    "engine found",
)


def lines(program: Program) -> list[dict[str, Any]]:
    """The lines of our own modules. Celery's banner goes to stdout."""
    found = [json.loads(line) for line in program.log.splitlines() if line.startswith("{")]
    return [line for line in found if line["logger"].split(".")[0] in {"dynsvc", "bridge", "workers"}]


def test_every_line_of_an_order_names_order_attempt_and_step(site: Hospital) -> None:
    site.install_copying_segmenter()
    worker = site.start_worker(DYNSVC_LOG_FORMAT="json", DYNSVC_LOG_LEVEL="DEBUG")
    bridge = site.start_bridge(DYNSVC_LOG_FORMAT="json")
    good = site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48))
    bad = site.kue.post_job("analysisJob", {"order": {"no": "order"}})
    site.wait_ended(good, bad)
    eventually(lambda: "order complete" in bridge.log, 20, "the bridge's last line")
    told = [line for line in [*lines(worker), *lines(bridge)] if line["event"] not in GENERAL]
    without = [line for line in told if not {"order_id", "attempt", "step"} <= set(line)]
    assert without == []
    assert {line["order_id"] for line in told} == {good, bad}
    assert len({line["attempt"] for line in told}) == 2
    ends = {"step done", "delivered, waits for the loader"}
    assert [line["step"] for line in told if line["event"] in ends and line["order_id"] == good] == list(
        STEPS
    )
    assert "attempt failed" in {line["event"] for line in told if line["order_id"] == bad}
    # What Celery tells of each task without its order is not told twice.
    assert "succeeded in" not in worker.log
