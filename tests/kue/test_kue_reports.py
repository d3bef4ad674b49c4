"""Progress, log, results and what can be asked of the store."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import redis

from dynsvc.errors import PeerRefused
from dynsvc.kue import LOG_LINES, Counts, JobStore, Outcome, job_from_api, parse_event
from tests.support.kue import KueApi

pytestmark = [pytest.mark.services]


@pytest.fixture
def job_id(store: JobStore, kind: str) -> str:
    created = store.create(kind, {"a": 1})
    assert store.claim(created, [kind], "dynsvc:1") is not None
    return created


def test_progress_never_goes_backwards_unless_asked(store: JobStore, job_id: str, published: Any) -> None:
    published.now()
    for percent in (40, 20, float("nan"), -5):
        assert store.progressing(job_id, "dynsvc:1", percent).run()
    assert [json.loads(m)["args"] for m in published.now()] == [["progress", 40, None]] * 4
    assert store.progressing(job_id, "dynsvc:1", 250.7, {"stage": "é"}).run()
    job = store.read(job_id)
    assert job is not None
    assert (job.progress, job.fields["progress_data"]) == (100, '{"stage":"é"}')
    assert store.progressing(job_id, "dynsvc:1", 5, backwards=True).run()
    job = store.read(job_id)
    assert job is not None
    assert job.progress == 5


def test_progress_carries_lines_for_the_log(store: JobStore, job_id: str) -> None:
    assert store.progressing(job_id, "dynsvc:1", 5, log=["one", "two"]).run()
    assert store.log_lines(job_id) == ["one", "two"]


def test_a_log_line_cannot_be_taken_for_html(store: JobStore, job_id: str, api: KueApi) -> None:
    assert store.log(
        job_id, "dynsvc:1", ["<img src=x onerror=alert(1)> {id} \x1b[31mred\x1b[0m\tx\r", "y" * 5000]
    )
    first, second = api.get(f"/job/{job_id}/log")
    assert not set("<{\x1b\t\r") & set(first)
    assert "red x" in first
    assert len(second) == 1000
    assert second.endswith("…")


def test_the_first_line_of_an_error_cannot_be_taken_for_html(
    store: JobStore, job_id: str, api: KueApi
) -> None:
    """Kue's page inserts that line in its lists as it inserts log lines; the rest is shown as text."""
    text = "Broken: <img src=x onerror=alert(1)>\n<second line>"
    assert store.fail(job_id, "dynsvc:1", text, message="x").is_final
    assert store.fail(job_id, "dynsvc:1", text, message="x").is_final
    assert api.get(f"/job/{job_id}")["error"] == "Broken: \u2039img src=x onerror=alert(1)>\n<second line>"


def test_a_full_log_says_so_in_its_last_line_and_stops(store: JobStore, job_id: str) -> None:
    assert store.log(job_id, "dynsvc:1", [f"line {n}" for n in range(LOG_LINES - 2)])
    assert store.log(job_id, "dynsvc:1", ["a", "b", "c"])
    assert store.progressing(job_id, "dynsvc:1", 5, log=["d"]).run()
    lines = store.log_lines(job_id)
    assert len(lines) == LOG_LINES
    assert lines[-2] == "a"
    assert str(LOG_LINES) in lines[-1]
    assert store.fail(job_id, "dynsvc:1", "Broken: x", message="x").is_final
    assert store.log_lines(job_id)[-1] == "Broken: x"


def test_an_error_that_is_half_a_character_is_stored(store: JobStore, job_id: str, api: KueApi) -> None:
    assert store.fail(job_id, "dynsvc:1", "Broken: \ud83d\nrest", message="\ud83d").is_final
    assert api.get(f"/job/{job_id}")["error"] == "Broken: \ufffd\nrest"


def test_outcomes_of_a_job(store: JobStore, kind: str, client: redis.Redis) -> None:
    assert store.outcome("999999999") == Outcome("unknown")
    done = store.create(kind, {})
    assert store.outcome(done) == Outcome("pending")
    store.claim(done, [kind], "dynsvc:1")
    assert store.outcome(done) == Outcome("pending")
    store.complete(done, "dynsvc:1", {"n": [1]})
    assert store.outcome(done) == Outcome("done", result={"n": [1]})
    failed = store.create(kind, {})
    store.claim(failed, [kind], "dynsvc:1")
    store.fail(failed, "dynsvc:1", "E2 text", message="text")
    assert store.outcome(failed) == Outcome("failed", error="E2 text")
    client.hset(f"q:job:{failed}", "state", "start")
    assert store.outcome(failed) == Outcome("unknown")


def test_a_failed_job_that_is_about_to_be_tried_again_is_pending(
    store: JobStore, kind: str, client: redis.Redis
) -> None:
    """A native worker writes the failed state first and then finds that attempts are left."""
    job_id = store.create(kind, {}, attempts=2)
    seconds, _ = client.time()
    client.hset(f"q:job:{job_id}", mapping={"state": "failed", "failed_at": seconds * 1000, "attempts": 1})
    assert store.outcome(job_id) == Outcome("pending")
    client.hset(f"q:job:{job_id}", "failed_at", seconds * 1000 - 6000)
    assert store.outcome(job_id).state == "failed"


def test_counts_are_those_of_the_api(store: JobStore, kind: str, api: KueApi) -> None:
    other = f"{kind}other"
    for job_type in (kind, other):
        for token in ("a", "b", "c"):
            store.create(job_type, {})
            assert store.claim_next(job_type, token) is not None
        (first, second, _) = (job.job_id for job in store.active([job_type]))
        store.complete(first, "a")
        store.fail(second, "b", "x", message="x")
        store.create(job_type, {}, delay_ms=600_000)
        store.create(job_type, {})
    assert store.counts([kind, other, kind]) == Counts(waiting=2, running=2, done=2, failed=2, delayed=2)
    assert store.counts([kind]) == Counts(1, 1, 1, 1, 1)
    assert store.counts([]) == Counts()
    assert api.get(f"/jobs/{kind}/delayed/stats") == {"count": 1}


def test_a_job_read_over_http_is_the_job_in_redis(store: JobStore, kind: str, api: KueApi) -> None:
    data = {"roi": {"x": 1, "w": "141"}, "text": "é \u2028 </b>", "list": [1.5, None, True]}
    job_id = api.post_job(kind, data, attempts=3, priority="high", ttl=5000)
    assert store.claim(job_id, [kind], "dynsvc:1") is not None
    store.progressing(job_id, "dynsvc:1", 50).run()
    over_http, direct = job_from_api(api.get(f"/job/{job_id}")), store.read(job_id)
    assert direct is not None
    for name in (
        "id",
        "type",
        "data_text",
        "state",
        "priority",
        "worker_id",
        "attempts_made",
        "max_attempts",
    ):
        assert getattr(over_http, name) == getattr(direct, name), name
    for name in (
        "created_at_ms",
        "started_at_ms",
        "updated_at_ms",
        "ttl_ms",
        "progress",
        "error",
        "result_text",
    ):
        assert getattr(over_http, name) == getattr(direct, name), name
    store.fail(job_id, "dynsvc:1", "Broken: x", message="x")
    assert job_from_api(api.get(f"/job/{job_id}")).error == "Broken: x"


def test_an_error_with_status_200_is_no_job(api: KueApi) -> None:
    with pytest.raises(PeerRefused, match="doesnt exist"):
        job_from_api(api.get("/job/999999996"), peer=f"Kue at {api.url}")


def test_every_event_of_a_job_is_understood(store: JobStore, kind: str, api: KueApi, published: Any) -> None:
    job_id = api.post_job(kind, {})
    store.claim(job_id, [kind], "dynsvc:1")
    api.put_back(job_id)
    assert store.claim(job_id, [kind], "dynsvc:2") is not None
    store.complete(job_id, "dynsvc:2", {"ok": 1})
    api.delete(f"/job/{job_id}")
    events = [event for event in map(parse_event, published.now()) if event]
    # The API publishes ids as texts, workers as numbers.
    assert {event.job_id for event in events} == {job_id}
    # Events of different processes overtake each other.
    names = Counter(event.name for event in events)
    assert names == {"enqueue": 2, "start": 2, "complete": 1, "remove": 1}
    assert {event.job_type for event in events if not event.is_complete} == {kind}
    assert [event.result for event in events if event.is_complete] == [{"ok": 1}]
