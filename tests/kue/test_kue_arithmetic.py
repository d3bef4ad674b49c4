"""Delays before retries, computed by Kue's own code and by ours."""

from __future__ import annotations

import json
import random
import subprocess

import pytest

from dynsvc.kue.backoff import next_backoff
from dynsvc.kue.encoding import stringify
from tests.support.kue import NODE

pytestmark = [pytest.mark.services]


def some_number(dice: random.Random) -> object:
    return dice.choice(
        [
            dice.randrange(0, 10_000),
            dice.randrange(-50, 50),
            dice.random() * 1000,
            str(dice.randrange(0, 5000)),
            f"{dice.random() * 1000:.3f}",
            "",
            "soon",
            0,
            None,
        ]
    )


def some_case(dice: random.Random) -> tuple[str | None, str | None, int]:
    policy: object = dice.choice([True, False, 5, 0, None, "fixed", "fixed", "exponential", "exponential"])
    if isinstance(policy, str):
        chosen = {name: some_number(dice) for name in ("delay", "maxDelay") if dice.random() < 0.6}
        policy = {"type": policy, **{name: value for name, value in chosen.items() if value is not None}}
    delay = dice.choice([None, str(dice.randrange(1, 9000)), f"{dice.random() * 900 + 1:.2f}"])
    return (None if policy is None else stringify(policy), delay, dice.randrange(1, 12))


def test_delays_are_those_of_kue(node_kue: None) -> None:
    dice = random.Random(20)
    cases = [some_case(dice) for _ in range(2000)]
    done = subprocess.run(
        ["node", "backoff.js"],
        cwd=NODE,
        input="".join(json.dumps(case) + "\n" for case in cases),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = []
    for (backoff, delay, attempts), theirs in zip(cases, answers, strict=True):
        plan = next_backoff(backoff, delay, attempts)
        # Kue keeps the field where it has no new delay.
        mine = None if plan is None else [plan.delay_text or delay, plan.delay_ms]
        if mine != theirs:
            wrong.append((backoff, delay, attempts, theirs, mine))
    assert wrong == []
