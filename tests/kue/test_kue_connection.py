"""What callers see when Redis is away, closed, or another kind of Kue uses it."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from dynsvc.errors import PeerRefused, PeerUnavailable
from dynsvc.kue import JobStore, connect
from dynsvc.kue.scripts import together
from dynsvc.leases import Ledger
from dynsvc.settings import RedisServer
from tests.support.kue import KueApi, KueListener, running
from tests.support.redis import RedisProcess, running_redis

pytestmark = [pytest.mark.services]


def calls(store: JobStore) -> list[object]:
    return [
        lambda: store.read("1"),
        lambda: store.waiting(["order"], 1),
        lambda: store.claim("1", ["order"], "t"),
        lambda: store.owns("1", "t"),
        lambda: store.progressing("1", "t", 1).run(),
        lambda: store.fail("1", "t", "x", message="x"),
        lambda: store.outcome("1"),
        lambda: store.counts(["order"]),
        lambda: store.active(["order"]),
        lambda: store.promote_due(),
        lambda: store.expire_ttl(["order"], "dynsvc:"),
        lambda: store.repair_limbo(["order"], {}),
        lambda: store.create("order", {}),
        lambda: store.log_lines("1"),
    ]


def test_a_server_that_is_away_is_a_passing_error_of_a_named_peer(redis_program: str) -> None:
    with running_redis() as server, connect(server.settings) as client:
        store = JobStore(client, peer=f"orders' Redis {server.settings}")
        job_id = store.create("order", {})
        server.stop()
        for call in calls(store):
            with pytest.raises(PeerUnavailable) as caught:
                call()  # type: ignore[operator]
            assert caught.value.peer == f"orders' Redis redis://127.0.0.1:{server.port}/0"
        server.start()
        # The scripts were lost with the server's memory, and so was the job.
        assert store.create("order", {}) == job_id


def test_scripts_are_loaded_again_when_the_server_forgot_them(redis_program: str) -> None:
    with running_redis() as server, connect(server.settings) as client:
        store = JobStore(client)
        store.create("order", {})
        client.script_flush()
        assert store.create("order", {}) == "2"


def test_scripts_run_together_in_their_order(redis_program: str) -> None:
    with running_redis() as server, connect(server.settings) as client:
        store = JobStore(client)
        job_id = store.create("order", {})
        store.claim(job_id, ["order"], "dynsvc:1")
        calls = [
            store.progressing(job_id, "dynsvc:1", 50, log=["half"]),
            store.completing(job_id, "dynsvc:1"),
            store.progressing(job_id, "dynsvc:1", 95, log=["too late"]),
        ]
        client.script_flush()
        assert together(calls) == [1, 1, 0]
        client.script_flush()
        assert together(calls) == [0, 1, 0], "loaded again, and in the same order"
        assert store.log_lines(job_id) == ["half"]
        assert together([]) == []


def test_scripts_that_run_together_run_once_when_only_some_were_loaded_again(redis_program: str) -> None:
    with running_redis() as server, connect(server.settings) as client:
        store, ledger = JobStore(client), Ledger(client, "q:", "Redis")
        job_id = store.create("order", {})
        store.claim(job_id, ["order"], "dynsvc:1")
        calls = [
            store.progressing(job_id, "dynsvc:1", 50, log=["half"]),
            ledger.releasing(job_id, "dynsvc:1"),
        ]
        together(calls)
        client.script_flush()
        calls[0].run()
        together(calls)
        assert store.log_lines(job_id) == ["half"] * 3


def test_an_error_of_one_script_is_told_and_the_others_run(redis_program: str) -> None:
    with running_redis() as server, connect(server.settings) as client:
        store = JobStore(client)
        good, bad = store.create("order", {}), store.create("order", {})
        for job_id in (good, bad):
            store.claim(job_id, ["order"], "dynsvc:1")
        client.set(f"q:job:{bad}:log", "no list")
        with pytest.raises(PeerRefused):
            together([store.progressing(bad, "dynsvc:1", 1, log=["x"]), store.completing(good, "dynsvc:1")])
        job = store.read(good)
        assert job is not None
        assert job.state == "complete"


def test_a_server_that_takes_no_writes_for_a_while_is_a_passing_error(redis_program: str) -> None:
    with running_redis() as server, connect(server.settings) as client:
        store = JobStore(client)
        job_id = store.create("order", {})
        store.claim(job_id, ["order"], "dynsvc:1")
        calls = [store.progressing(job_id, "dynsvc:1", 50), store.completing(job_id, "dynsvc:1")]
        client.config_set("min-replicas-to-write", "1")
        for call in (calls[0].run, lambda: together(calls)):
            with pytest.raises(PeerUnavailable, match="NOREPLICAS"):
                call()
        client.config_set("min-replicas-to-write", "0")
        assert together(calls) == [1, 1]


def test_a_wrong_password_is_refused_and_stays_secret(redis_program: str) -> None:
    with running_redis("--requirepass", "the-right-one") as server:
        for password in ("the-wrong-one", None):
            settings = RedisServer(port=server.port, password=SecretStr(password) if password else None)
            with connect(settings) as client:
                for call in calls(JobStore(client))[:3]:
                    with pytest.raises(PeerRefused) as caught:
                        call()  # type: ignore[operator]
                    assert "the-" not in f"{caught.value!r} {caught.value} {caught.value.__cause__}"
        with connect(RedisServer(port=server.port, password=SecretStr("the-right-one"))) as client:
            assert JobStore(client).create("order", {}) == "1"


def test_a_full_server_is_a_passing_error_and_nothing_is_half_written(redis_program: str) -> None:
    with running_redis() as server, connect(server.settings) as client:
        store = JobStore(client)
        job_id = store.create("order", {})
        store.claim(job_id, ["order"], "dynsvc:1")
        client.config_set("maxmemory", "1")
        with pytest.raises(PeerUnavailable, match="maxmemory"):
            store.complete(job_id, "dynsvc:1", {"ok": 1})
        client.config_set("maxmemory", "0")
        job = store.read(job_id)
        assert job is not None
        assert job.is_running
        assert "duration" not in job.fields
        assert store.complete(job_id, "dynsvc:1", {"ok": 1})


def test_a_key_of_another_kind_is_refused(redis_program: str) -> None:
    with running_redis() as server, connect(server.settings) as client:
        client.set("q:job:1", "text")
        with pytest.raises(PeerRefused, match="WRONGTYPE"):
            JobStore(client).read("1")


def test_the_layout_of_kue_on_ioredis_is_understood_both_ways(redis_program: str, node_kue: None) -> None:
    with running_redis() as server, connect(server.settings) as client:
        api = KueApi(server.port, ioredis=True)
        listener = KueListener(server.port, ioredis=True)
        with running(api, listener):
            store = JobStore(client, "{q}:")
            theirs = listener.create("order", {"a": 1}, priority="high")
            mine = store.create("order", {"b": [1]})
            assert store.waiting(["order"], 5).ids == ((theirs, "order"), (mine, "order"))
            assert JobStore(client).waiting(["order"], 5).ids == ()
            for job_id in (theirs, mine):
                assert store.claim(job_id, ["order"], f"dynsvc:{job_id}") is not None
                assert store.progressing(job_id, f"dynsvc:{job_id}", 50, log=["half"]).run()
                assert store.complete(job_id, f"dynsvc:{job_id}", {"ok": True})
                answer = api.get(f"/job/{job_id}")
                assert (answer["state"], answer["progress"], answer["result"]) == (
                    "complete",
                    "100",
                    {"ok": True},
                )
                assert api.get(f"/job/{job_id}/log") == ["half"]
            assert api.get("/stats")["completeCount"] == 2
            assert listener.wait_for("job") in {"enqueue", "start"}
            assert {name for name in client.scan_iter() if not name.startswith("{q}:")} <= {
                "promotion:lock",
                "activeJobsTTL:lock",
            }


def test_the_session_wide_kue_answers(kue: KueApi, redis_server: RedisProcess) -> None:
    with connect(redis_server.settings) as client:
        job_id = JobStore(client).create("order", {})
        assert kue.get(f"/job/{job_id}")["id"] == job_id
        assert JobStore(client).remove(job_id)
