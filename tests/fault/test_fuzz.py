"""Whatever others write is read or refused: no crash, and an end for each order."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz

#: Together more than 10,000 cases.
COUNTS = {
    "order": 3500,
    "event": 3000,
    "message": 1500,
    "loader answer": 2000,
    "metadata": 1500,
    "archive": 300,
}
QUIET = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from(fuzz.ATOMS)
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("name", list(COUNTS))
def test_a_spoilt_document_is_read_or_refused(name: str) -> None:
    make, read, _ = fuzz.READERS[name]

    @settings(max_examples=COUNTS[name], **QUIET)
    @given(st.integers(0, 2**48))
    def check(seed: int) -> None:
        read(make(random.Random(seed)))

    check()


@pytest.mark.parametrize("name", ["order", "event", "message", "loader answer", "metadata"])
def test_any_json_is_read_or_refused(name: str) -> None:
    _, read, _ = fuzz.READERS[name]

    @settings(max_examples=300, **QUIET)
    @given(VALUES)
    def check(value: Any) -> None:
        text = json.dumps(value)
        read({"order": text, "message": value}.get(name, text.encode()))

    check()
