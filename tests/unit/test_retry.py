"""When a step is tried again."""

from __future__ import annotations

import pytest

from dynsvc.errors import InvalidOrder, PeerUnavailable
from dynsvc.retry import RetryPolicy, backoff_s

AWAY = PeerUnavailable("image server", "no answer")
POLICY = RetryPolicy(first_s=1.0, cap_s=8.0, limit_s=20.0)


def middle() -> float:
    return 0.5


@pytest.mark.parametrize(
    ("attempt", "elapsed_s", "delay_s"),
    [
        (1, 0.0, 1.0),  # the first
        (2, 1.0, 2.0),  # doubles
        (4, 7.0, 8.0),  # up to the cap
        (5, 11.0, 8.0),  # and no further
        (5, 12.0, 8.0),  # the limit itself is allowed
        (5, 12.1, None),  # a try that would begin after it is not
        (10_000, 0.0, 8.0),  # a large number is no overflow
    ],
)
def test_delays_double_up_to_a_cap_and_end_at_a_limit(
    attempt: int, elapsed_s: float, delay_s: float | None
) -> None:
    assert POLICY.delay_s(AWAY, attempt, elapsed_s, jitter=middle) == delay_s


def test_a_permanent_error_is_never_tried_again() -> None:
    assert POLICY.delay_s(InvalidOrder("1", "data", 1, "2"), 1, 0.0) is None


def test_delays_are_spread_around_their_middle() -> None:
    assert backoff_s(1, first_s=1.0, cap_s=8.0, jitter=lambda: 0.0) == 0.5
    assert backoff_s(1, first_s=1.0, cap_s=8.0, jitter=lambda: 0.999) == pytest.approx(1.499)
    seen = {backoff_s(3, first_s=1.0, cap_s=8.0) for _ in range(50)}
    assert len(seen) > 40
    assert all(2.0 <= delay_s < 6.0 for delay_s in seen)
