from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynsvc.kue.backoff import Backoff, next_backoff

AT_ONCE = None
AT_NEXT_TICK = Backoff(None, None)


@pytest.mark.parametrize(
    ("backoff", "delay", "attempts", "expected"),
    [
        # No backoff: a plain delay is not used for retries.
        (None, None, 1, AT_ONCE),
        ("", "500", 1, AT_ONCE),
        # JSON that JavaScript takes for false.
        ("false", "500", 1, AT_ONCE),
        ("0", "500", 1, AT_ONCE),
        ("null", "500", 1, AT_ONCE),
        ('""', "500", 1, AT_ONCE),
        # Not an object: the job's own delay stays.
        ("true", "500", 1, Backoff(None, 500)),
        ("true", None, 1, AT_NEXT_TICK),
        ("7", "500", 1, Backoff(None, 500)),
        ("[1]", "500", 1, Backoff(None, 500)),
        # Fixed: its own delay, else the job's.
        ('{"type":"fixed","delay":1500}', "500", 1, Backoff("1500", 1500)),
        ('{"type":"fixed"}', "500", 9, Backoff("500", 500)),
        ('{"type":"fixed","delay":0}', "500", 1, Backoff("500", 500)),
        ('{"type":"fixed"}', None, 1, AT_NEXT_TICK),
        # Texts count as numbers; what follows the leading digits does not enter the time.
        ('{"type":"fixed","delay":"1500"}', None, 1, Backoff("1500", 1500)),
        ('{"type":"fixed","delay":1500.75}', None, 1, Backoff("1500.75", 1500)),
        ('{"type":"fixed","delay":"1e3"}', None, 1, Backoff("1e3", 1)),
        # Not a positive number: the job's own delay stays.
        ('{"type":"fixed","delay":-5}', "500", 1, Backoff(None, 500)),
        ('{"type":"fixed","delay":"soon"}', "500", 1, Backoff(None, 500)),
        ('{"type":"fixed","delay":"soon"}', None, 1, AT_NEXT_TICK),
        ('{"type":"fixed","delay":true}', "500", 1, Backoff(None, 500)),
        ('{"type":"fixed","delay":NaN}', "500", 1, Backoff("500", 500)),
        ('{"type":"fixed","delay":1e400}', "500", 1, Backoff(None, 500)),
        # Exponential: delay/2 * (2^attempts - 1).
        ('{"type":"exponential","delay":1500}', None, 1, Backoff("750", 750)),
        ('{"type":"exponential","delay":1500}', None, 2, Backoff("2250", 2250)),
        ('{"type":"exponential","delay":1500}', None, 3, Backoff("5250", 5250)),
        # Halves are rounded up, not to the even number.
        ('{"type":"exponential","delay":1}', None, 1, Backoff("1", 1)),
        ('{"type":"exponential","delay":5}', None, 1, Backoff("3", 3)),
        ('{"type":"exponential","delay":"100"}', None, 1, Backoff("50", 50)),
        # Its longest delay, less half a delay.
        ('{"type":"exponential","delay":100,"maxDelay":300}', None, 9, Backoff("250", 250)),
        ('{"type":"exponential","delay":100,"maxDelay":0}', None, 3, Backoff("350", 350)),
        ('{"type":"exponential","delay":100,"maxDelay":20}', "500", 3, Backoff(None, 500)),
        ('{"type":"exponential","delay":100,"maxDelay":"x"}', "500", 3, Backoff(None, 500)),
        # Without a delay of its own it grows on the last result.
        ('{"type":"exponential"}', "750", 2, Backoff("1125", 1125)),
        ('{"type":"exponential"}', None, 1, AT_NEXT_TICK),
        # Beyond all numbers.
        ('{"type":"exponential","delay":100}', "500", 5000, Backoff(None, 500)),
        # Kinds that make Kue's own worker crash: the plain delay.
        ('{"type":"linear","delay":200}', "500", 3, Backoff("200", 200)),
        ("{}", "500", 3, Backoff("500", 500)),
        # JavaScript is never evaluated.
        ("function(attempts, delay) { return 1 }", "500", 1, Backoff(None, 500)),
        ("process.exit()", None, 1, AT_ONCE),
        ("[" * 100_000, "500", 1, Backoff(None, 500)),
        # A delay that is no number moves nothing.
        ("true", "soon", 1, AT_NEXT_TICK),
        ("true", "9" * 40, 1, AT_NEXT_TICK),
    ],
)
def test_delay_before_the_next_attempt(
    backoff: str | None, delay: str | None, attempts: int, expected: Backoff | None
) -> None:
    assert next_backoff(backoff, delay, attempts) == expected


@given(st.text(), st.none() | st.text(), st.integers(-5, 10_000))
def test_no_text_in_a_job_makes_the_arithmetic_fail(backoff: str, delay: str | None, attempts: int) -> None:
    planned = next_backoff(backoff, delay, attempts)
    assert planned is None or isinstance(planned, Backoff)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "delay"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["fixed", "exponential", "x"])}, optional={"delay": _json, "maxDelay": _json}
    ),
    st.none() | st.integers().map(str),
    st.integers(1, 2000),
)
def test_any_policy_gives_a_delay_that_can_be_written(
    policy: dict[str, object], delay: str | None, attempts: int
) -> None:
    planned = next_backoff(json.dumps(policy), delay, attempts)
    assert planned is not None
    if planned.delay_text is not None:
        assert planned.delay_ms is not None
        assert planned.delay_ms >= 0
