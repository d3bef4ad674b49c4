"""The jobs created last, for who looks for one of his own."""

from __future__ import annotations

from itertools import islice

from dynsvc.kue import JobStore
from tests.support.redis import running_redis


def test_the_newest_jobs_come_first_and_no_more_than_asked_for(redis_program: str) -> None:
    with running_redis() as redis:
        client = redis.client()
        store = JobStore(client)
        assert list(store.newest()) == []
        ids = [store.create("ZipOrder", {"number": number}) for number in range(120)]
        assert [job.id for job in store.newest()] == ids[::-1]
        assert [job.id for job in store.newest(limit=70)] == ids[::-1][:70]
        assert [job.data for job in islice(store.newest(), 2)] == [{"number": 119}, {"number": 118}]
        store.remove(ids[-1])
        client.hset(f"q:job:{ids[-2]}", "data", "{broken")
        first = next(store.newest())
        assert (first.id, first.data) == (ids[-2], None)
        client.close()
