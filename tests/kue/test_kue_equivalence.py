"""The same jobs done by Kue's own worker and by ours look the same to everybody."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from dynsvc.kue import JobStore
from dynsvc.kue.scripts import Scripts
from tests.support.kue import KueApi, KueListener, NativeWorker, running
from tests.support.kue_observed import Observation, Observer
from tests.support.kue_worker import StepWorker
from tests.support.redis import RedisProcess, running_redis

pytestmark = [pytest.mark.services]

STACK = "Error: boom\n    at Object.<anonymous> (algorithm.js:1:7)\n    at processTicksAndRejections"


@dataclass(frozen=True)
class Scenario:
    """Jobs, and how they end."""

    name: str
    #: Arguments of Kue's ``create``, one for each job.
    jobs: tuple[dict[str, Any], ...]
    #: The event, and how many of it, after which nothing more happens.
    ends_with: str = "complete"
    count: int = 1
    #: The event after which the first job waits to be released, so that it can be seen while it runs.
    held: str = ""


def job(*attempts: list[Any], **options: Any) -> dict[str, Any]:
    return {"data": {"attempts": list(attempts)}, **options}


def done(name: str, *result: Any) -> Scenario:
    return Scenario(name, (job([["done", *result]]),))


def backlog(*priorities: Any) -> tuple[dict[str, Any], ...]:
    """Return a job that keeps the worker busy, and jobs that pile up behind it."""
    return (job([["hold"]]), *(job([["done", p]], priority=p) for p in priorities))


SCENARIOS = (
    done("an object is returned", {"ok": True, "n": 1.5, "list": [], "empty": {}}),
    done("nothing is returned"),
    done("zero is returned", 0),
    done("false is returned", False),
    done("a text is returned", 'x/y "quoted" <b>'),
    done("an empty text is returned", ""),
    done("an empty list is returned", []),
    Scenario(
        "unicode",
        ({"data": {"été": "日本 \u2028 \u0007 😀", "attempts": [[["done", "日本😀\u001f"]]]}},),
    ),
    Scenario(
        "a backlog of all priorities",
        backlog("low", "normal", "medium", "high", "critical", 7, -10, 10, 0, -1),
        count=11,
        held="start",
    ),
    Scenario(
        "progress", (job([["progress", 1, 4], ["progress", 2, 4, {"stage": "a"}], ["progress", 3, 4]]),)
    ),
    Scenario("progress beyond its end", (job([["progress", 9, 4], ["progress", 1, 0], ["progress", 1, 3]]),)),
    Scenario("log", (job([["log", "first"], ["log", "second é"]]),)),
    Scenario(
        "the job disappears", (job([["log", "x"], ["done", 1]], removeOnComplete=True),), ends_with="remove"
    ),
    Scenario(
        "failure with a stack", (job([["fail", {"message": "boom", "stack": STACK}]]),), ends_with="failed"
    ),
    Scenario("failure with a text", (job([["fail", 'plain "text"']]),), ends_with="failed"),
    Scenario("failure with a message only", (job([["fail", {"message": "m"}]]),), ends_with="failed"),
    Scenario(
        "a retry without backoff succeeds",
        (
            job(
                [["progress", 1, 2], ["fail", {"message": "boom", "stack": STACK}]], [["done", 2]], attempts=3
            ),
        ),
    ),
    Scenario("retries without backoff are used up", (job([["fail", "no"]], attempts=3),), ends_with="failed"),
    Scenario("a plain delay is no backoff", (job([["fail", "no"]], [["done"]], attempts=2, delay=30),)),
    Scenario(
        "fixed backoff with its own delay",
        (job([["fail", "no"]], [["done"]], attempts=2, backoff={"type": "fixed", "delay": 40}),),
    ),
    Scenario(
        "fixed backoff with the job's delay",
        (job([["fail", "no"]], [["done"]], attempts=2, delay=30, backoff={"type": "fixed"}),),
    ),
    Scenario("backoff without any delay", (job([["fail", "no"]], [["done"]], attempts=2, backoff=True),)),
    Scenario(
        "exponential backoff with its longest delay",
        (
            job(
                [["fail", "1"]],
                [["fail", "2"]],
                [["done", "3"]],
                attempts=4,
                backoff={"type": "exponential", "delay": 60, "maxDelay": 100},
            ),
        ),
    ),
    Scenario(
        "exponential backoff is used up",
        (job([["fail", "no"]], attempts=3, backoff={"type": "exponential", "delay": 30}),),
        ends_with="failed",
    ),
    Scenario("a delayed job", (job([["done", 1]], delay=50, priority="high"),)),
    Scenario(
        "a failed job waits for its retry",
        (
            job(
                [["fail", "no"]],
                attempts=2,
                backoff={"type": "fixed", "delay": 600_000},
                ttl=60_000,
                priority=4,
            ),
        ),
        ends_with="failed attempt",
    ),
    Scenario("running with priority 0", (job([["hold"]]),), held="start"),
    Scenario("running with priority -10", (job([["hold"]], priority=-10),), held="start"),
    Scenario("running with priority 10", (job([["hold"]], priority=10),), held="start"),
    Scenario(
        "running with a ttl", (job([["progress", 1, 2], ["hold"]], priority=4, ttl=600_000),), held="progress"
    ),
)


class Site:
    """One Redis with one Kue."""

    def __init__(self, redis: RedisProcess, stack: contextlib.ExitStack) -> None:
        self.redis = redis
        self.client = stack.enter_context(redis.client())
        self.api, self.listener = KueApi(redis.port), KueListener(redis.port)
        self._stack = stack

    def ready(self, worker: NativeWorker | None = None) -> None:
        self._stack.enter_context(running(self.api, self.listener, *([worker] if worker else [])))
        self.observer = Observer(self.client, self.api, self.listener, worker)
        self._stack.callback(self.observer.close)

    def play(self, scenario: Scenario) -> list[Observation]:
        """Let the worker do the jobs, and return what was seen: while the first runs, and at the end."""
        self.observer.restart()
        ids, seen = [], []
        for number, options in enumerate(scenario.jobs):
            ids.append(self.listener.create("order", **options))
            if number == 0 and scenario.held:
                self.observer.wait_for(scenario.held)
        if scenario.held:
            seen.append(self.observer.observe(ids))
            self.client.set("release", "1")
        self.observer.wait_for(scenario.ends_with, scenario.count)
        self.client.delete("release")
        return [*seen, self.observer.observe(ids)]


@pytest.fixture(scope="module")
def sites(redis_program: str, node_kue: None) -> Iterator[tuple[Site, Site]]:
    """One site with a native worker and one with ours."""
    with contextlib.ExitStack() as stack:
        native = Site(stack.enter_context(running_redis()), stack)
        ours = Site(stack.enter_context(running_redis()), stack)
        worker = NativeWorker(native.redis.port, type="order", interval_ms=100)
        native.ready(worker)
        ours.ready()
        stack.enter_context(StepWorker(ours.redis))
        yield native, ours


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_job_looks_as_if_a_native_worker_had_done_it(sites: tuple[Site, Site], scenario: Scenario) -> None:
    native, ours = sites
    theirs, mine = native.play(scenario), ours.play(scenario)
    assert [found for a, b in zip(theirs, mine, strict=True) for found in a.differences(b)] == []


def test_times_of_a_waiting_retry_fit_together(sites: tuple[Site, Site]) -> None:
    scenario = next(s for s in SCENARIOS if s.name == "a failed job waits for its retry")
    for site in sites:
        site.play(scenario)
        job_id = str(site.client.get("q:ids"))
        fields = site.client.hgetall(f"q:job:{job_id}")
        member = f"{len(job_id):02}|{job_id}"
        assert int(fields["promote_at"]) == int(fields["failed_at"]) + 600_000
        assert site.client.zscore("q:jobs:delayed", member) == int(fields["promote_at"])


def test_times_of_a_running_job_with_a_ttl_fit_together(sites: tuple[Site, Site]) -> None:
    for site in sites:
        site.observer.restart()
        job_id = site.listener.create("order", **job([["progress", 1, 2], ["hold"]], ttl=600_000))
        site.observer.wait_for("progress")
        site.observer.observe([job_id])
        fields = site.client.hgetall(f"q:job:{job_id}")
        score = site.client.zscore("q:jobs:active", f"{len(job_id):02}|{job_id}")
        # Kue writes the two from two readings of its clock.
        assert abs(score - int(fields["updated_at"]) - 600_000) <= 50
        site.client.set("release", "1")
        site.observer.wait_for("complete")
        site.client.delete("release")


class Careless(Scripts):
    """Scripts with one mistake each, as somebody might make them."""

    mistakes = ()

    def text(self, name: str) -> str:
        text = super().text(name)
        for right, wrong in self.mistakes:
            text = text.replace(right, wrong)
        return text


MISTAKES: tuple[tuple[str, str, Callable[[list[str]], bool]], ...] = (
    # The attempt is not counted.
    (
        "'attempts', integer(attempts + 1)",
        "'attempts', integer(attempts)",
        lambda d: any("q:job:" in x for x in d),
    ),
    # The message lacks its last null.
    (
        "publish(id, 'complete', ARGV[4], 'null')",
        "publish(id, 'complete', ARGV[4])",
        lambda d: "null" in d[0],
    ),
    # The job stays in an index.
    ("redis.call('ZREM', key('jobs:' .. from), member)", "", lambda d: any("jobs:inactive" in x for x in d)),
)


@pytest.mark.parametrize(("right", "wrong", "is_seen"), MISTAKES)
def test_a_worker_with_a_mistake_is_told_from_a_native_one(
    redis_program: str, node_kue: None, right: str, wrong: str, is_seen: Callable[[list[str]], bool]
) -> None:
    def careless(client: Any, head: str) -> JobStore:
        store = JobStore(client, head)
        scripts = type("Scripts", (Careless,), {"mistakes": ((right, wrong),)})
        store._scripts = scripts(client, head, "the orders' Redis")
        return store

    scenario = SCENARIOS[0]
    seen = []
    with contextlib.ExitStack() as stack:
        site = Site(stack.enter_context(running_redis()), stack)
        site.ready()
        for make in (JobStore, JobStore, careless):
            site.client.flushall()
            with StepWorker(site.redis, make=make):
                seen.append(site.play(scenario)[-1])
    assert seen[0].differences(seen[1]) == []
    assert is_seen(seen[0].differences(seen[2]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"priority": "critical", "attempts": 3},
        {"priority": 7, "backoff": {"type": "exponential", "delay": 100, "maxDelay": 900}, "attempts": 2},
        {"backoff": True, "delay": 600_000},
        {"ttl": 5000, "removeOnComplete": True},
        {"delay": 600_000, "ttl": 3000, "priority": "low"},
    ],
)
def test_a_job_is_saved_as_by_kue(sites: tuple[Site, Site], options: dict[str, Any]) -> None:
    """Jobs of another type, which no worker takes, on the same two servers."""
    native, ours = sites
    data = {"title": "été \u2028 <b>", "n": 1, "nested": [1.5, None, {}]}
    for site in sites:
        site.observer.restart()
    native_id = native.listener.create("other", data, **options)
    renamed = {"delay": "delay_ms", "ttl": "ttl_ms", "removeOnComplete": "remove_on_complete"}
    store = JobStore(ours.client)
    own_id = store.create(
        "other", data, **{renamed.get(name, name): value for name, value in options.items()}
    )
    assert own_id == native_id
    theirs, mine = native.observer.observe([native_id]), ours.observer.observe([own_id])
    found = theirs.differences(mine)
    # The Node program that made the job also hears it through the job object itself, if it made it.
    assert [line for line in found if not line.startswith("heard: ")] == []
    assert theirs.keys[f"q:job:{native_id}"] == mine.keys[f"q:job:{own_id}"]
