"""Kue's timers, and repairs of what dead workers leave behind."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis

from dynsvc.kue import JobStore, Sighting, parse_event
from tests.support.kue import KueApi, KueListener, NativeWorker
from tests.support.kue import running as running_processes
from tests.support.redis import RedisProcess

pytestmark = [pytest.mark.services]


def zid(job_id: str) -> str:
    return f"{len(job_id):02}|{job_id}"


def running(store: JobStore, kind: str, token: str = "dynsvc:1", **options: Any) -> str:
    job_id = store.create(kind, {}, **options)
    assert store.claim(job_id, [kind], token) is not None
    return job_id


def expire(client: redis.Redis, job_id: str, ago_ms: int = 1) -> None:
    """Put the end of a job's time into the past."""
    seconds, microseconds = client.time()
    client.zadd("q:jobs:active", {zid(job_id): seconds * 1000 + microseconds // 1000 - ago_ms})


def await_due(client: redis.Redis) -> None:
    """Wait until delays of one millisecond are over by the server's clock."""
    begin = client.time()
    while client.time() < (begin[0], begin[1] + 2000):
        time.sleep(0.001)


def names(messages: list[str]) -> list[str]:
    events = [parse_event(message) for message in messages]
    return [event.name for event in events if event]


def test_a_delayed_job_is_promoted_when_its_time_has_come(
    store: JobStore, kind: str, client: redis.Redis, published: Any
) -> None:
    due, later = store.create(kind, {}, delay_ms=1), store.create(kind, {}, delay_ms=600_000)
    assert published.now() == []
    assert store.waiting([kind], 5).ids == ()
    await_due(client)
    assert store.promote_due(10, [kind]) == [due]
    assert published.now() == [
        f'{{"id":{due},"event":"promotion","args":["promotion"]}}',
        f'{{"id":{due},"event":"enqueue","args":["enqueue","{kind}"]}}',
    ]
    assert store.waiting([kind], 5).ids == ((due, kind),)
    assert client.exists("promotion:lock") == 0
    assert store.counts([kind]).delayed == 1
    assert store.remove(later)


def test_only_jobs_of_the_named_types_are_promoted(store: JobStore, kind: str, client: redis.Redis) -> None:
    foreign = [store.create(f"{kind}foreign", {}, delay_ms=1) for _ in range(30)]
    mine = store.create(kind, {}, delay_ms=1)
    await_due(client)
    assert store.promote_due(5, [kind]) == [mine]
    assert set(store.promote_due(1000)) == set(foreign)


def test_promotion_moves_no_more_than_its_limit(store: JobStore, kind: str, client: redis.Redis) -> None:
    ids = [store.create(kind, {}, delay_ms=1) for _ in range(5)]
    await_due(client)
    assert store.promote_due(3, [kind]) == ids[:3]
    assert store.promote_due(3, [kind]) == ids[3:]


def test_nothing_is_promoted_while_a_native_promoter_holds_the_lock(
    store: JobStore, kind: str, client: redis.Redis
) -> None:
    job_id = store.create(kind, {}, delay_ms=1)
    await_due(client)
    client.set("promotion:lock", "native", px=60_000)
    assert store.promote_due(10, [kind]) == []
    assert client.get("promotion:lock") == "native"
    client.delete("promotion:lock")
    assert store.promote_due(10, [kind]) == [job_id]


def test_an_entry_whose_job_is_not_delayed_is_dropped_instead_of_promoted_for_ever(
    store: JobStore, kind: str, client: redis.Redis, published: Any
) -> None:
    job_id = running(store, kind)
    client.zadd("q:jobs:delayed", {zid(job_id): 1, "99|x": 1, zid("999999998"): 1})
    client.zadd(f"q:jobs:{kind}:delayed", {zid(job_id): 0})
    published.now()
    assert store.promote_due(10, [kind]) == []
    assert published.now() == []
    assert client.zcard(f"q:jobs:{kind}:delayed") == 0
    assert client.zrangebyscore("q:jobs:delayed", 0, 10) == []
    assert store.owns(job_id, "dynsvc:1")


@pytest.mark.parametrize(
    ("options", "outcome", "last"),
    [({}, "final", "failed"), ({"attempts": 2}, "retrying", "failed attempt")],
)
def test_our_own_job_fails_when_its_time_is_over(
    store: JobStore, kind: str, client: redis.Redis, published: Any, options: Any, outcome: str, last: str
) -> None:
    job_id = running(store, kind, ttl_ms=60_000, **options)
    assert store.expire_ttl([kind], "dynsvc:") == []
    expire(client, job_id)
    published.now()
    (expired,) = store.expire_ttl([kind], "dynsvc:")
    assert (expired.job_id, expired.worker_id, expired.failed.outcome) == (job_id, "dynsvc:1", outcome)
    messages = published.now()
    assert names(messages)[0] == "error"
    assert names(messages)[-1] == last
    assert '"TTL exceeded"' in messages[-1]
    job = store.read(job_id)
    assert job is not None
    assert (job.error, job.attempts_made) == ("TTL exceeded", 1)
    assert store.log_lines(job_id) == ["TTL exceeded"]
    assert not store.progressing(job_id, "dynsvc:1", 50).run()
    assert store.expire_ttl([kind], "dynsvc:") == []
    assert client.exists("activeJobsTTL:lock") == 0


def test_progress_gives_a_job_more_time(store: JobStore, kind: str, client: redis.Redis) -> None:
    job_id = running(store, kind, ttl_ms=60_000)
    expire(client, job_id)
    assert store.progressing(job_id, "dynsvc:1", 10).run()
    assert store.expire_ttl([kind], "dynsvc:") == []
    # Also where the end was read before the progress came.
    assert store._fail(job_id, "dynsvc:1", "x", "x", None, expired_only=True).is_lost
    assert store.owns(job_id, "dynsvc:1")


def test_a_job_that_was_made_active_by_hand_fails_when_its_time_is_over(
    store: JobStore, kind: str, client: redis.Redis, api: KueApi
) -> None:
    job_id = store.create(kind, {}, ttl_ms=60_000)
    api.put(f"/job/{job_id}/state/active")
    expire(client, job_id)
    (expired,) = store.expire_ttl([kind], "dynsvc:")
    assert (expired.job_id, expired.worker_id) == (job_id, "")
    assert api.get(f"/jobs/{kind}/failed/stats") == {"count": 1}


def test_an_active_entry_of_an_ended_job_is_dropped_instead_of_failed_again(
    store: JobStore, kind: str, client: redis.Redis, published: Any
) -> None:
    job_id = running(store, kind)
    store.fail(job_id, "dynsvc:1", "x", message="x")
    expire(client, job_id)
    client.zadd(f"q:jobs:{kind}:active", {zid(job_id): 0})
    published.now()
    assert store.expire_ttl([kind], "dynsvc:") == []
    assert published.now() == []
    assert client.zscore("q:jobs:active", zid(job_id)) is None
    assert store.counts([kind]).running == 0


def test_jobs_of_native_workers_are_left_to_them_for_ten_seconds(
    store: JobStore, kind: str, client: redis.Redis
) -> None:
    job_id = running(store, kind, "kue:host:1:kind:1", ttl_ms=60_000)
    expire(client, job_id, ago_ms=5000)
    assert store.expire_ttl([kind], "dynsvc:") == []
    expire(client, job_id, ago_ms=10_001)
    assert [expired.job_id for expired in store.expire_ttl([kind], "dynsvc:")] == [job_id]


def test_jobs_of_other_types_keep_their_time_to_themselves(
    store: JobStore, kind: str, client: redis.Redis
) -> None:
    foreign = running(store, f"{kind}foreign", ttl_ms=60_000)
    expire(client, foreign, ago_ms=3_600_000)
    mine = running(store, kind, ttl_ms=60_000)
    expire(client, mine)
    assert [expired.job_id for expired in store.expire_ttl([kind], "dynsvc:", 1)] == [mine]
    assert store.owns(foreign, "dynsvc:1")
    assert client.zscore("q:jobs:active", zid(foreign)) is not None
    assert store.remove(foreign)


def test_no_job_expires_while_a_native_timer_holds_the_lock(
    store: JobStore, kind: str, client: redis.Redis
) -> None:
    job_id = running(store, kind, ttl_ms=60_000)
    expire(client, job_id)
    client.set("activeJobsTTL:lock", "native", px=60_000)
    assert store.expire_ttl([kind], "dynsvc:") == []
    assert client.get("activeJobsTTL:lock") == "native"
    client.delete("activeJobsTTL:lock")
    assert len(store.expire_ttl([kind], "dynsvc:")) == 1


def test_a_native_timer_is_answered_for_our_jobs_only(store: JobStore, kind: str, published: Any) -> None:
    mine, native = running(store, kind), running(store, kind, "kue:host:1:kind:1")
    ended = running(store, kind, "dynsvc:2")
    store.complete(ended, "dynsvc:2")
    published.now()
    expired = store.acknowledge_ttl(mine, "dynsvc:")
    assert expired is not None
    assert expired.failed.is_final
    assert sorted(names(published.now())) == ["error", "failed", "ttl exceeded ack"]
    assert store.acknowledge_ttl(ended, "dynsvc:") is None
    assert names(published.now()) == ["ttl exceeded ack"]
    assert store.acknowledge_ttl(native, "dynsvc:") is None
    assert store.acknowledge_ttl("999999997", "dynsvc:") is None
    assert published.now() == []
    assert store.owns(native, "kue:host:1:kind:1")


def test_a_native_timer_fails_our_answered_job_once_only(
    store: JobStore, kind: str, own_server: RedisProcess, node_kue: None, client: redis.Redis
) -> None:
    """A native worker of another type runs the timer. It looks again one second after its announcement."""
    job_id = running(store, kind, ttl_ms=50, attempts=2)
    heard: list[str] = []
    with client.pubsub() as subscription:
        subscription.subscribe(store.channel)
        with running_processes(NativeWorker(own_server.port, type=f"{kind}other", interval_ms=300)):
            asked = None
            deadline = time.monotonic() + 15
            # Until well after the second look.
            while asked is None or time.monotonic() < asked + 2.0:
                assert time.monotonic() < deadline, heard
                message = subscription.get_message(timeout=0.05)
                event = parse_event(message["data"]) if message and message["type"] == "message" else None
                if event and event.job_id == job_id:
                    heard.append(event.name)
                    if event.is_ttl_exceeded and asked is None:
                        asked = time.monotonic()
                        assert store.acknowledge_ttl(job_id, "dynsvc:") is not None
    assert heard.count("error") == 1
    assert heard.count("failed attempt") == 1
    job = store.read(job_id)
    assert job is not None
    assert (job.is_waiting, job.attempts_made) == (True, 1)


def test_a_job_lost_between_two_indices_is_repaired_and_a_native_worker_runs_it(
    store: JobStore, kind: str, client: redis.Redis, own_server: RedisProcess, node_kue: None
) -> None:
    healthy, lost = store.create(kind, {}), store.create(kind, {}, priority="high")
    client.zrem(f"q:jobs:{kind}:inactive", zid(lost))
    client.lpop(f"q:{kind}:jobs")
    first = store.repair_limbo([kind], {})
    assert first.repaired == ()
    assert list(first.suspects) == [lost]
    second = store.repair_limbo([kind], first.suspects)
    assert second == first
    aged = {lost: Sighting(first.suspects[lost].first_seen_ms - 10_000, first.suspects[lost].fingerprint)}
    third = store.repair_limbo([kind], aged)
    assert (third.repaired, dict(third.suspects)) == ((lost,), {})
    assert store.waiting([kind], 5).ids == ((lost, kind), (healthy, kind))
    worker = NativeWorker(own_server.port, type=kind)
    with running_processes(worker):
        assert {str(worker.wait_for("began")) for _ in range(2)} == {healthy, lost}


def test_a_job_that_somebody_touched_meanwhile_is_not_repaired(
    store: JobStore, kind: str, client: redis.Redis
) -> None:
    job_id = store.create(kind, {})
    client.zrem(f"q:jobs:{kind}:inactive", zid(job_id))
    seen = store.repair_limbo([kind], {}).suspects[job_id]
    client.hset(f"q:job:{job_id}", "started_at", "1")
    aged = {job_id: Sighting(seen.first_seen_ms - 60_000, seen.fingerprint)}
    scan = store.repair_limbo([kind], aged)
    assert scan.repaired == ()
    assert scan.suspects[job_id].fingerprint != seen.fingerprint
    assert store.repair_limbo([f"{kind}foreign"], aged).suspects == {}


def test_a_search_for_lost_jobs_reads_every_page(
    store: JobStore, kind: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [store.create(kind, {}) for _ in range(25)]
    client.zrem(f"q:jobs:{kind}:inactive", zid(ids[-1]), zid(ids[0]))
    monkeypatch.setattr("dynsvc.kue.upkeep._PAGE", 4)
    assert set(store.repair_limbo([kind], {}).suspects) == {ids[0], ids[-1]}


def test_running_jobs_are_listed_by_the_beginning_of_their_token(
    store: JobStore, kind: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynsvc.kue.upkeep._PAGE", 3)
    mine = [running(store, kind, f"dynsvc:{n}") for n in range(7)]
    native = running(store, kind, "kue:host:1:kind:1")
    ended = running(store, kind, "dynsvc:8")
    store.complete(ended, "dynsvc:8")
    client.zadd(f"q:jobs:{kind}:active", {zid(ended): 0, "99|x": 0})
    assert sorted((job.job_id, job.worker_id) for job in store.active([kind, kind], "dynsvc:")) == sorted(
        (job_id, f"dynsvc:{n}") for n, job_id in enumerate(mine)
    )
    assert native in {job.job_id for job in store.active([kind])}


def test_a_job_whose_native_worker_was_killed_can_be_taken_over(
    store: JobStore, kind: str, own_server: RedisProcess, node_kue: None
) -> None:
    listener, worker = KueListener(own_server.port), NativeWorker(own_server.port, type=kind)
    with running_processes(listener, worker):
        job_id = listener.create(kind, {"attempts": [[["hold"]]]})
        worker.wait_for("began")
        worker.kill()
        (job,) = store.active([kind], "kue:")
        assert job.job_id == job_id
        assert store.active([kind], "dynsvc:") == []
        assert store.requeue(job_id, job.worker_id, "worker lost")
        assert store.claim(job_id, [kind], "dynsvc:1") is not None


def test_the_oldest_waiting_job_is_found_behind_more_urgent_ones(
    store: JobStore, kind: str, client: redis.Redis
) -> None:
    assert store.oldest_waiting_ms([kind]) is None
    oldest = store.create(kind, {}, priority="low")
    for priority in ("low", "normal", "critical", "critical"):
        store.create(kind, {}, priority=priority)
    seconds, _ = client.time()
    client.hset(f"q:job:{oldest}", "created_at", (seconds - 3600) * 1000)
    age_ms = store.oldest_waiting_ms(["nothing", kind])
    assert age_ms is not None
    assert 3_600_000 <= age_ms < 3_700_000
    assert store.claim(oldest, [kind], "dynsvc:1") is not None
    younger_ms = store.oldest_waiting_ms([kind])
    assert younger_ms is not None
    assert younger_ms < 3_000_000
