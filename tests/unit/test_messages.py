"""The document that travels between the steps."""

from __future__ import annotations

from typing import Any

import pytest

from dynsvc.artifacts import Artifact
from dynsvc.messages import Message, Result

ARCHIVE = Artifact(key="k", sha256="0" * 64, size_bytes=1)


@pytest.mark.parametrize("objects", [None, 0, 412])
def test_a_result_is_read_as_it_was_written(objects: int | None) -> None:
    result = Result(archive=ARCHIVE, objects=objects, executed="/bin/seg", host="host-7", cached=True)
    message = Message(order_id="1", job_type="order", token="t", result=result)
    document: dict[str, Any] = message.to_document()
    assert Message.from_document(document) == message
