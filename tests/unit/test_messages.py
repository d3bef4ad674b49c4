"""The document that travels between the steps."""

from __future__ import annotations

from typing import Any

import pytest

from dynsvc.artifacts import Artifact
from dynsvc.messages import Message, Result, shown

ARCHIVE = Artifact(key="k", sha256="0" * 64, size_bytes=1)


@pytest.mark.parametrize("objects", [None, 0, 412])
def test_a_result_is_read_as_it_was_written(objects: int | None) -> None:
    result = Result(archive=ARCHIVE, objects=objects, executed="/bin/seg", host="host-7", cached=True)
    message = Message(order_id="1", job_type="order", token="t", result=result)
    document: dict[str, Any] = message.to_document()
    assert Message.from_document(document) == message


def test_a_monitor_is_shown_whose_task_it_is_and_no_parameter() -> None:
    assert shown(None) == "()"
    assert shown(("text",)) == "()"
    early = Message(order_id="12", job_type="order", token="dynsvc:1")
    assert shown((early.to_document(),)) == "(order 12, dynsvc:1)"
    plan = {
        "order": {"case_id": "TCGA-1", "parameters": {"w": "secret"}},
        "region": {"x_px": 1, "y_px": 2, "width_px": 3, "height_px": 4},
        "algorithm": "nuclei",
        "algorithm_version": "1.0.0",
        "parameters": {"w": "secret"},
    }
    told = shown(({**early.to_document(), "plan": plan},))
    assert told == "(order 12, TCGA-1, nuclei 1.0.0, region 1,2,3,4, dynsvc:1)"
