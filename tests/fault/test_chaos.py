"""A short run of the chaos benchmark; ``python -m benchmarks.chaos`` is the long one."""

from __future__ import annotations

import pytest

from benchmarks.chaos import chaos_run

pytestmark = pytest.mark.services


def test_nothing_is_lost_and_nothing_is_done_twice(redis_program: str) -> None:
    books = chaos_run(30, 0.2, seed=3, short=True)
    rows = dict(books.rows())
    assert books.faults, rows
    assert (books.ended + books.failed, books.lost) == (30, 0), rows
    assert books.clean, rows
    assert books.never_uploaded == 0, rows
    assert books.records_left == 0, rows
