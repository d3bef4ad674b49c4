"""The leases of a process' attempts, kept by one thread, and steps in a row; on a real Redis."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dynsvc import messages
from dynsvc.artifacts import ArtifactStore
from dynsvc.errors import AttemptEnded
from dynsvc.kue import JobStore, connect
from dynsvc.kue.scripts import together
from dynsvc.leases import Ledger, Start
from dynsvc.messages import Input, Message
from dynsvc.retry import RetryPolicy
from dynsvc.traces import Traces
from tests.support.hospital import eventually
from tests.support.redis import RedisProcess
from workers import attempts, onward, tasks
from workers.attempts import LeasedAttempt

pytestmark = pytest.mark.services

LEASE_S = 0.5
PICTURE = "orders/1/roi.png"


@pytest.fixture
def here(redis_server: RedisProcess, tmp_path: Path) -> Iterator[Any]:
    """What of a site an attempt needs."""
    client, head = connect(redis_server.settings), f"{uuid.uuid4().hex}:"
    yield SimpleNamespace(
        jobs=JobStore(client, head),
        ledger=Ledger(client, head, "Redis"),
        traces=Traces(client, head, "Redis", keep_s=60),
        settings=SimpleNamespace(lease_s=LEASE_S, host="here", scratch=tmp_path / "scratch"),
        client=client,
        head=head,
    )
    client.close()


def leased(here: Any, order_id: str, step: str) -> LeasedAttempt:
    here.ledger.reserve([(order_id, "t", {})], step=step, window=10, wait_s=30)
    begun = here.ledger.begin(order_id, "t", step, "r", lease_s=LEASE_S, later=[])
    assert begun.start is Start.RUN
    return LeasedAttempt(here, Message(order_id=order_id, job_type="j", token="t"), step, "r")


def test_all_leases_of_a_process_are_renewed_by_one_thread(here: Any) -> None:
    before = threading.active_count()
    with leased(here, "1", "fetch_order") as one, leased(here, "2", "fetch_order") as two:
        assert threading.active_count() <= before + 1
        time.sleep(3 * LEASE_S)  # longer than a lease lasts by itself
        assert not here.ledger.expired()
        assert not one.ended()
        assert not two.ended()


def test_a_job_tells_whose_it_is_from_when_it_is_claimed(here: Any) -> None:
    with leased(here, "1", "fetch_order") as attempt:
        assert not attempt._ended.wait(2 * LEASE_S), "nobody has the job yet, and that is no loss"
        attempt.check_owner()
        attempt.claimed = True  # though no such job is there: as if it had been removed
        assert attempt._ended.wait(10)
        with pytest.raises(AttemptEnded, match="removed"):
            attempt.check()


def test_an_attempt_ends_with_its_lease(here: Any) -> None:
    with leased(here, "1", "fetch_order") as attempt:
        assert here.ledger.release("1", "t")
        assert attempt._ended.wait(10)
        with pytest.raises(AttemptEnded, match="lease"):
            attempt.check()


def own(here: Any, order_id: str) -> None:
    """Make the job one that the attempt owns, and that an earlier attempt has reported of."""
    here.client.hset(
        f"{here.head}job:{order_id}",
        mapping={"type": "j", "state": "active", "workerId": "t", "progress": "90"},
    )


def test_reports_close_to_each_other_are_one_write(here: Any) -> None:
    own(here, "1")
    with leased(here, "1", "fetch_order") as attempt:
        attempt.has_claimed()
        attempt.report(5, "claimed")
        attempt.report(10, "fetched")
        attempt.report(15)
        assert here.jobs.log_lines("1") == [], "nothing yet: the order may be done in a moment"
        eventually(lambda: here.jobs.log_lines("1") == ["claimed", "fetched"], 5, "lines with a renewal")
        attempt.report(20, "done")
        attempt.tell()
        job = here.jobs.read("1")
        assert job is not None
        assert job.progress == 20, "smaller than that of the attempt before"
        assert here.jobs.log_lines("1") == ["claimed", "fetched", "done"]


def test_an_attempt_that_has_just_begun_writes_all_with_its_end(
    here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(here, "1")
    monkeypatch.setattr(attempts, "_REPORT_S", 60)
    with leased(here, "1", "fetch_order") as attempt:
        attempt.has_claimed()
        attempt.report(5, "claimed")
        attempt.note(event="looked")
        time.sleep(3 * LEASE_S)  # time for several renewals
        assert here.jobs.log_lines("1") == []
        assert here.traces.read("1") == []
    assert here.jobs.log_lines("1") == ["claimed"]
    assert [noted.facts for noted in here.traces.read("1")] == [{"event": "looked"}]


def test_all_that_is_untold_goes_with_what_ends_the_attempt(here: Any) -> None:
    own(here, "1")
    with leased(here, "1", "fetch_order") as attempt:
        attempt.has_claimed()
        attempt.report(95, "delivered")
        attempt.note(event="ended")
        completing = here.jobs.completing("1", "t", {"place": "here"})
        replies = together([*attempt.last_words(), completing, here.ledger.releasing("1", "t")])
        assert replies == [1, 1, 1, 1]
    job = here.jobs.read("1")
    assert job is not None
    assert job.state == "complete"
    assert here.jobs.log_lines("1") == ["delivered"]
    assert [noted.facts for noted in here.traces.read("1")] == [{"event": "ended"}]
    assert here.ledger.in_flight() == 0


def test_the_ledger_hears_of_the_next_step_with_a_renewal(here: Any) -> None:
    own(here, "1")
    with leased(here, "1", "dynsvc.fetch_order") as attempt:
        attempt.has_claimed()
        grown = attempt._message.model_copy(update={"expires_at_s": time.time() + 60})
        attempt.goes_on(grown, "dynsvc.fetch_roi")
        eventually(lambda: here.ledger.message("1", "t") == grown.to_document(), 5, "the message")
        record = here.client.hgetall(f"dynsvc:{here.head}attempt:1")
        assert (record["step"], record["runner"]) == ("dynsvc.fetch_roi", "r")
        assert not attempt.ended()


def test_a_step_that_is_handed_back_is_known_with_those_before_it(here: Any) -> None:
    own(here, "1")
    with leased(here, "1", "dynsvc.fetch_order") as attempt:
        attempt.has_claimed()
        attempt.goes_on(attempt._message, "dynsvc.fetch_roi")
        assert attempt.record()
        assert here.ledger.hand_back("1", "t", "r")
    (entry,) = here.ledger.expired()
    assert (entry.step, entry.runner) == ("dynsvc.fetch_roi", "")


def test_a_step_that_was_taken_away_is_not_recorded(here: Any) -> None:
    with leased(here, "1", "dynsvc.fetch_order") as attempt:
        attempt.goes_on(attempt._message, "dynsvc.fetch_roi")
        here.client.hset(f"dynsvc:{here.head}attempt:1", "runner", "another")
        attempt.record()
        with pytest.raises(AttemptEnded, match="taken"):
            attempt.check()
    assert here.client.hget(f"dynsvc:{here.head}attempt:1", "step") == "dynsvc.fetch_order"


@pytest.fixture
def store(here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """The artifact store of a worker whose fetch_roi makes a picture of five bytes."""
    found = ArtifactStore(str(tmp_path / "artifacts"))
    here.ports = SimpleNamespace(artifacts=found)
    here.retry_policy = RetryPolicy(limit_s=1)
    here.settings.resend_s = 30
    monkeypatch.setattr(tasks, "site", lambda: here)
    monkeypatch.setitem(tasks._WORK, messages.FETCH_ROI, fetched)
    return found


def fetched(_here: Any, message: Message, attempt: LeasedAttempt) -> Message:
    path = attempt.files.folder() / "roi.png"
    path.write_bytes(b"image")
    picture = Input(picture=attempt.files.keep(path, PICTURE), suffix=".png", width_px=1, height_px=1)
    return message.model_copy(update={"input": picture})


def in_scratch(here: Any) -> list[str]:
    return [path.name for path in (here.settings.scratch / "work").glob("*/*")]


def following(monkeypatch: pytest.MonkeyPatch, next_step: tuple[str, str] | None) -> None:
    monkeypatch.setattr(onward, "following", lambda *_: next_step)


def one_step(here: Any, message: Message, attempt: Any) -> Any:
    task: Any = SimpleNamespace()
    return tasks._one_step(task, here, messages.FETCH_ROI, message, attempt)


def test_what_another_worker_goes_on_with_is_in_the_store(
    here: Any,
    store: ArtifactStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    following(monkeypatch, None)
    with leased(here, "1", messages.FETCH_ROI) as attempt:
        attempt.claimed = False
        ended = one_step(here, attempt._message, attempt)
    assert ended.document is not None
    picture = Message.from_document(ended.document).input
    assert picture is not None
    assert store.get(picture.picture, tmp_path / "copy").read_bytes() == b"image"
    assert here.ledger.message("1", "t") == ended.document
    assert in_scratch(here) == []


def test_what_goes_on_here_stays_in_hand(
    here: Any,
    store: ArtifactStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    following(monkeypatch, (messages.RUN_ALGORITHM, "id"))
    with leased(here, "1", messages.FETCH_ROI) as attempt:
        attempt.claimed = False
        assert one_step(here, attempt._message, attempt).following == (messages.RUN_ALGORITHM, "id")
        assert in_scratch(here) == ["roi.png"]
    assert not store.exists(PICTURE)
    assert in_scratch(here) == []


def given_back(here: Any) -> None:
    with leased(here, "1", messages.RUN_ALGORITHM) as attempt:
        attempt.claimed = False
        grown = fetched(here, attempt._message, attempt)
        attempt.hand_back()
        with pytest.raises(AttemptEnded) as ended:
            attempt.check()
        tasks._given_up(here, grown, attempt, messages.RUN_ALGORITHM, ended.value)


def test_what_was_made_before_a_step_that_is_handed_back_is_in_the_store(
    here: Any, store: ArtifactStore
) -> None:
    given_back(here)
    assert store.exists(PICTURE)
    (entry,) = here.ledger.expired()
    assert entry.runner == ""


def test_a_step_whose_files_the_store_does_not_take_is_not_handed_back(
    here: Any, store: ArtifactStore, tmp_path: Path
) -> None:
    (tmp_path / "artifacts").write_text("no folder")
    given_back(here)
    assert here.ledger.expired() == []
    time.sleep(2 * LEASE_S)
    # Its lease runs out as that of a lost worker: the order begins anew.
    (entry,) = here.ledger.expired()
    assert entry.runner == "r"
