"""Who may write to a job, and what happens to those who may no longer."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from dynsvc.kue import JobStore
from tests.support.kue import KueApi

pytestmark = [pytest.mark.services]

WRITES = {
    "progress": lambda store, job_id, token: store.progressing(job_id, token, 50, {"a": 1}, ["line"]).run(),
    "log": lambda store, job_id, token: store.log(job_id, token, ["line"]),
    "complete": lambda store, job_id, token: store.complete(job_id, token, {"ok": True}),
    "fail": lambda store, job_id, token: not store.fail(job_id, token, "E: no", message="no").is_lost,
    "requeue": lambda store, job_id, token: store.requeue(job_id, token, "given back"),
}


def zid(job_id: str) -> str:
    return f"{len(job_id):02}|{job_id}"


def running(store: JobStore, kind: str, token: str = "dynsvc:1", **options: Any) -> str:
    job_id = store.create(kind, {"a": 1}, **options)
    assert store.claim(job_id, [kind], token) is not None
    return job_id


def everything(client: redis.Redis) -> dict[str, bytes]:
    return {name: client.dump(name) for name in client.scan_iter(count=1000)}


@pytest.fixture
def raw(own_server: Any) -> Any:
    with redis.Redis(port=own_server.port) as client:
        yield client


@pytest.mark.parametrize("write", WRITES)
def test_a_write_with_a_wrong_token_changes_nothing(
    store: JobStore, kind: str, raw: redis.Redis, write: str
) -> None:
    job_id = running(store, kind)
    before = everything(raw)
    assert not WRITES[write](store, job_id, "dynsvc:2")
    assert everything(raw) == before
    assert WRITES[write](store, job_id, "dynsvc:1")


@pytest.mark.parametrize("write", WRITES)
def test_a_write_after_the_job_was_removed_leaves_no_key(
    store: JobStore, kind: str, raw: redis.Redis, api: KueApi, write: str
) -> None:
    job_id = running(store, kind)
    assert api.delete(f"/job/{job_id}") == {"message": f"job {job_id} removed"}
    before = everything(raw)
    assert not WRITES[write](store, job_id, "dynsvc:1")
    assert everything(raw) == before
    assert not store.owns(job_id, "dynsvc:1")


@pytest.mark.parametrize("write", [name for name in WRITES if name != "requeue"])
def test_a_write_after_the_job_was_put_back_by_hand_is_refused(
    store: JobStore, kind: str, raw: redis.Redis, api: KueApi, write: str
) -> None:
    job_id = running(store, kind)
    api.put_back(job_id)
    before = everything(raw)
    assert not WRITES[write](store, job_id, "dynsvc:1")
    assert everything(raw) == before
    assert store.claim(job_id, [kind], "dynsvc:2") is not None
    assert not WRITES[write](store, job_id, "dynsvc:1")
    assert store.owns_each([(job_id, "dynsvc:1"), (job_id, "dynsvc:2")]) == [False, True]
    assert store.complete(job_id, "dynsvc:2")


def test_a_redelivered_attempt_gets_its_job_again_without_a_second_beginning(
    store: JobStore, kind: str, published: Any
) -> None:
    job_id = store.create(kind, {"a": 1})
    first = store.claim(job_id, [kind], "dynsvc:1")
    published.now()
    assert store.claim(job_id, [kind], "dynsvc:1") == first
    assert published.now() == []
    assert store.claim(job_id, [kind], "dynsvc:2") is None


def test_a_claim_takes_only_the_types_it_names(store: JobStore, kind: str) -> None:
    job_id = store.create(kind, {})
    assert store.claim(job_id, ["elsewhere", f"{kind}x"], "dynsvc:1") is None
    assert store.claim(job_id, ["elsewhere", kind], "dynsvc:1") is not None


def test_a_claim_of_a_job_that_is_not_there_finds_nothing(store: JobStore, kind: str) -> None:
    assert store.claim("999999999", [kind], "dynsvc:1") is None
    assert store.read("999999999") is None
    assert not store.owns("999999999", "dynsvc:1")


@pytest.mark.parametrize(
    "job_id", ["", "0", "01", "-1", "1.0", "1e3", "x", "1\n", "\uff11", "9" * 16, "1" * 100]
)
def test_a_text_that_is_no_job_id_reaches_no_key(store: JobStore, kind: str, job_id: str) -> None:
    assert store.read(job_id) is None
    assert store.outcome(job_id).state == "unknown"
    calls = (
        lambda: store.claim(job_id, [kind], "t"),
        lambda: store.owns(job_id, "t"),
        lambda: store.progressing(job_id, "t", 1).run(),
        lambda: store.log(job_id, "t", []),
        lambda: store.complete(job_id, "t"),
        lambda: store.fail(job_id, "t", "x", message="x"),
        lambda: store.requeue(job_id, "t"),
        lambda: store.remove(job_id),
        lambda: store.acknowledge_ttl(job_id, "t"),
        lambda: store.log_lines(job_id),
    )
    for call in calls:
        with pytest.raises(ValueError, match="job id"):
            call()


def test_an_attempt_needs_a_token(store: JobStore, kind: str) -> None:
    job_id = store.create(kind, {})
    with pytest.raises(ValueError, match="token"):
        store.claim(job_id, [kind], "")
    with pytest.raises(ValueError, match="token"):
        store.claim_next(kind, "")


def test_a_job_that_a_native_worker_has_just_taken_is_not_claimed(
    store: JobStore, kind: str, client: redis.Redis
) -> None:
    job_id = store.create(kind, {})
    # What a native worker has done between taking a job from the queue and activating it.
    client.lpop(f"q:{kind}:jobs")
    client.zrem(f"q:jobs:{kind}:inactive", zid(job_id))
    assert store.claim(job_id, [kind], "dynsvc:1") is None
    assert store.claim_next(kind, "dynsvc:1") is None
    assert store.waiting([kind], 10).ids == ()


@pytest.mark.parametrize("state", ["start", "complete", '"complete"', "failed", "active", "", None])
@pytest.mark.parametrize("how", ["waiting", "claim_next"])
def test_leftovers_in_the_queue_are_dropped_and_never_run(
    store: JobStore, kind: str, client: redis.Redis, published: Any, state: str | None, how: str
) -> None:
    stale, good = store.create(kind, {}), store.create(kind, {})
    if state is None:
        client.delete(f"q:job:{stale}")
    else:
        client.hset(f"q:job:{stale}", "state", state)
    published.now()
    if how == "waiting":
        seen = store.waiting([kind], 10)
        assert seen.ids == ((good, kind),)
        assert seen.dropped == ((stale, state or ""),)
        assert store.waiting([kind], 10).dropped == ()
        assert published.now() == []
    else:
        taken = store.claim_next(kind, "dynsvc:1")
        assert taken is not None
        assert taken.id == good
        assert store.claim_next(kind, "dynsvc:1") is None
    assert client.zscore("q:jobs:inactive", zid(stale)) is None
    assert client.zscore(f"q:jobs:{kind}:inactive", zid(stale)) is None
    assert store.claim(stale, [kind], "dynsvc:2") is None
    if state is not None:
        assert client.hget(f"q:job:{stale}", "state") == state


def test_many_leftovers_do_not_hide_the_job_behind_them(
    store: JobStore, kind: str, client: redis.Redis
) -> None:
    stale = [store.create(kind, {}) for _ in range(40)]
    for job_id in stale:
        client.hset(f"q:job:{job_id}", "state", "start")
    good = store.create(kind, {})
    seen = store.waiting([kind], 3)
    assert seen.ids == ((good, kind),)
    assert {job_id for job_id, _ in seen.dropped} == set(stale)
    assert client.llen(f"q:{kind}:jobs") == 1


def test_waiting_jobs_come_in_order_of_priority_and_age_over_all_types(store: JobStore, kind: str) -> None:
    other = f"{kind}other"
    normal = store.create(kind, {})
    late_high = store.create(other, {}, priority="high")
    low = store.create(kind, {}, priority="low")
    later_high = store.create(kind, {}, priority="high")
    critical = store.create(other, {}, priority="critical")
    order = [(critical, other), (late_high, other), (later_high, kind), (normal, kind), (low, kind)]
    assert list(store.waiting([kind, other, kind], 10).ids) == order
    assert list(store.waiting([other, kind], 2).ids) == order[:2]
    assert store.waiting([kind, other], 0).ids == ()
    assert store.waiting([], 5).ids == ()
    assert store.waiting(["nobody"], 5).ids == ()


def test_an_entry_without_a_length_as_old_kue_wrote_it_is_still_run(
    store: JobStore, kind: str, client: redis.Redis
) -> None:
    job_id = store.create(kind, {})
    for index in ("q:jobs:inactive", f"q:jobs:{kind}:inactive"):
        client.zrem(index, zid(job_id))
        client.zadd(index, {job_id: 0})
    assert store.waiting([kind], 5).ids == ((job_id, kind),)
    assert store.claim(job_id, [kind], "dynsvc:1") is not None
    assert client.zscore("q:jobs:inactive", job_id) is None


def test_a_member_that_is_no_job_at_all_is_dropped(store: JobStore, kind: str, client: redis.Redis) -> None:
    client.zadd(f"q:jobs:{kind}:inactive", {"99|../../x": 0, "03|1": 0, "": 0})
    good = store.create(kind, {})
    seen = store.waiting([kind], 5)
    assert seen.ids == ((good, kind),)
    assert len(seen.dropped) == 3


def test_a_change_of_priority_during_the_run_is_respected(
    store: JobStore, kind: str, client: redis.Redis, api: KueApi
) -> None:
    job_id = running(store, kind)
    api.put(f"/job/{job_id}/priority/7")
    assert store.complete(job_id, "dynsvc:1")
    assert client.zscore("q:jobs:complete", zid(job_id)) == 7
    assert client.zscore(f"q:jobs:{kind}:complete", zid(job_id)) == 7
    assert store.counts([kind]).done == 1
    assert store.counts([kind]).running == 0


def test_the_same_completion_twice_counts_once(
    store: JobStore, kind: str, client: redis.Redis, published: Any
) -> None:
    job_id = running(store, kind)
    assert store.complete(job_id, "dynsvc:1", {"ok": 1})
    published.now()
    assert store.complete(job_id, "dynsvc:1", {"ok": 1})
    assert published.now() == []
    assert client.hget(f"q:job:{job_id}", "attempts") == "1"
    assert not store.complete(job_id, "dynsvc:2")


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ({}, "final"),
        ({"attempts": 3}, "retrying"),
        ({"attempts": 3, "backoff": {"type": "fixed", "delay": 600_000}}, "retrying"),
    ],
)
def test_the_same_failure_twice_counts_once(
    store: JobStore, kind: str, client: redis.Redis, published: Any, options: Any, outcome: str
) -> None:
    job_id = running(store, kind, **options)
    first = store.fail(job_id, "dynsvc:1", "Broken: it\nline", message="it")
    published.now()
    again = store.fail(job_id, "dynsvc:1", "Broken: it\nline", message="it")
    assert (first.outcome, first.attempts_made) == (again.outcome, again.attempts_made) == (outcome, 1)
    assert published.now() == []
    assert store.log_lines(job_id) == ["Broken: it"]
    assert store.fail(job_id, "dynsvc:1", "another", message="x").is_lost


def test_a_job_that_was_ended_by_hand_is_not_taken_for_completed(
    store: JobStore, kind: str, api: KueApi
) -> None:
    job_id = running(store, kind)
    api.put(f"/job/{job_id}/state/complete")
    assert not store.complete(job_id, "dynsvc:1")
    assert store.fail(job_id, "dynsvc:1", "x", message="x").is_lost


def test_giving_a_job_back_counts_no_attempt(store: JobStore, kind: str, published: Any) -> None:
    job_id = running(store, kind)
    published.now()
    assert store.requeue(job_id, "dynsvc:1", "the engine is away")
    assert store.requeue(job_id, "dynsvc:1", "the engine is away")
    assert published.now() == [f'{{"id":{job_id},"event":"enqueue","args":["enqueue","{kind}"]}}']
    job = store.read(job_id)
    assert job is not None
    assert (job.is_waiting, job.attempts_made) == (True, 0)
    assert store.log_lines(job_id) == ["the engine is away"]
    assert store.claim(job_id, [kind], "dynsvc:2") is not None


def test_a_backoff_that_changes_while_the_attempt_fails_is_read_again(
    store: JobStore, kind: str, client: redis.Redis
) -> None:
    job_id = running(store, kind, attempts=2, backoff={"type": "fixed", "delay": 1000})
    # The fields are not the ones that the delay was computed from.
    arguments = ("dynsvc:1", "x", '"x"', '"x"', "x", "true", "", "", "later", "5", "5", "")
    assert store._scripts.run("fail", job_id, *arguments) == ["changed"]
    assert store.owns(job_id, "dynsvc:1")
    assert store.fail(job_id, "dynsvc:1", "x", message="x").delay_ms == 1000


@pytest.mark.parametrize("data", ['{"x"', "", "[1,", "nul", "\ufffd"])
def test_a_job_with_broken_data_can_be_claimed_and_failed(
    store: JobStore, kind: str, client: redis.Redis, api: KueApi, data: str
) -> None:
    job_id = store.create(kind, {})
    client.hset(f"q:job:{job_id}", "data", data)
    job = store.claim(job_id, [kind], "dynsvc:1")
    assert job is not None
    assert job.data_text == (data or "{}")
    assert store.fail(job_id, "dynsvc:1", "InvalidOrder: data", message="data").is_final
    assert api.get(f"/jobs/{kind}/failed/stats") == {"count": 1}


def test_bytes_that_are_no_text_do_not_stop_a_reader(store: JobStore, kind: str, raw: redis.Redis) -> None:
    job_id = store.create(kind, {})
    raw.hset(f"q:job:{job_id}", "data", b'"\xff\xfe"')
    job = store.claim(job_id, [kind], "dynsvc:1")
    assert job is not None
    assert job.data_text == '"\ufffd\ufffd"'


def test_a_job_with_a_priority_that_is_no_number_harms_nobody(
    store: JobStore, kind: str, api: KueApi
) -> None:
    odd = api.post_job(kind, {}, priority="urgent")
    good = store.create(kind, {})
    assert store.waiting([kind], 5).ids == ((good, kind),)
    assert store.claim(odd, [kind], "dynsvc:1") is None
    job = store.read(odd)
    assert job is not None
    assert job.priority == 0
    assert store.remove(odd)
    assert store.read(odd) is None


def test_fields_that_are_no_numbers_do_not_stop_an_attempt(
    store: JobStore, kind: str, client: redis.Redis
) -> None:
    job_id = running(store, kind, attempts=2)
    odd = {
        "priority": "nan",
        "attempts": "x",
        "started_at": "",
        "ttl": "soon",
        "progress": "-",
        "promote_at": "?",
    }
    client.hset(f"q:job:{job_id}", mapping=odd)
    assert store.progressing(job_id, "dynsvc:1", 10).run()
    assert store.fail(job_id, "dynsvc:1", "x", message="x").outcome == "retrying"
    assert store.claim(job_id, [kind], "dynsvc:2") is not None
    client.hset(f"q:job:{job_id}", mapping=odd)
    assert store.complete(job_id, "dynsvc:2")


def test_a_removed_job_leaves_no_trace_whatever_its_state_says(
    store: JobStore, kind: str, client: redis.Redis, published: Any
) -> None:
    job_id = store.create(kind, {})
    client.hset(f"q:job:{job_id}", "state", '"complete"')
    published.now()
    assert store.remove(job_id)
    assert published.now() == [f'{{"id":{job_id},"event":"remove","args":["remove","{kind}"]}}']
    assert not store.remove(job_id)
    indices = [
        name
        for name in client.scan_iter("q:jobs*", count=1000)
        if client.zscore(name, zid(job_id)) is not None
    ]
    assert indices == []
    assert client.exists(f"q:job:{job_id}", f"q:job:{job_id}:log") == 0


def test_jobs_that_are_taken_are_passed_over_and_count(
    store: JobStore, kind: str, client: redis.Redis
) -> None:
    job_ids = [store.create(kind, {}) for _ in range(80)]
    taken = f"taken:{kind}"
    assert len(store.waiting([kind], 70, taken=taken).ids) == 70, "a set that is not there is empty"
    client.zadd(taken, dict.fromkeys([*job_ids[:40], job_ids[41], "99999"], 1))
    assert store.waiting([kind], 44, taken=taken).ids == ((job_ids[40], kind), (job_ids[42], kind))
    assert store.waiting([kind], 42, taken=taken).ids == ()
    seen = store.waiting([kind], 1000, taken=taken)
    assert [job_id for job_id, _ in seen.ids] == [job_ids[40], *job_ids[42:]]
    assert seen.dropped == ()


def test_a_leftover_is_left_alone_while_it_is_taken(store: JobStore, kind: str, client: redis.Redis) -> None:
    stale, good = store.create(kind, {}), store.create(kind, {})
    client.hset(f"q:job:{stale}", "state", "complete")
    client.zadd(f"taken:{kind}", {stale: 1})
    seen = store.waiting([kind], 10, taken=f"taken:{kind}")
    assert (seen.ids, seen.dropped) == (((good, kind),), ())
    client.zrem(f"taken:{kind}", stale)
    assert store.waiting([kind], 10, taken=f"taken:{kind}").dropped == ((stale, "complete"),)
