from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynsvc.errors import PeerRefused
from dynsvc.kue.ids import checked_id, is_job_id
from dynsvc.kue.jobs import job_from_api, job_from_hash

#: An answer of Kue 0.11.6 to ``GET /job/1``.
ANSWER = {
    "id": "1",
    "type": "order",
    "data": {"title": "é", "n": 1.0},
    "result": {"ok": True},
    "priority": -10,
    "progress": "100",
    "progress_data": {"stage": "a"},
    "state": "complete",
    "created_at": "1795366979510",
    "promote_at": "1795366979510",
    "updated_at": "1795366980930",
    "started_at": "1795366980073",
    "duration": "856",
    "workerId": "kue:HOST:23453:order:1",
    "attempts": {"made": 1, "remaining": 2, "max": 3},
}


def test_a_job_of_the_api_has_the_values_of_its_hash() -> None:
    job = job_from_api(ANSWER)
    assert (job.id, job.type, job.data_text, job.result_text) == (
        "1",
        "order",
        '{"title":"é","n":1}',
        '{"ok":true}',
    )
    assert (job.priority, job.progress, job.is_done) == (-10, 100, True)
    assert (job.attempts_made, job.max_attempts, job.attempts_left) == (1, 3, 2)
    assert (job.created_at_ms, job.started_at_ms) == (1795366979510, 1795366980073)
    assert job.worker_id == "kue:HOST:23453:order:1"
    assert job.error is None


def test_a_failed_job_is_not_taken_for_an_error_document() -> None:
    assert job_from_api({**ANSWER, "state": "failed", "error": "Broken: x"}).error == "Broken: x"


def test_a_job_that_was_never_begun_has_no_progress() -> None:
    fresh = {"id": 5, "type": "order", "data": {}, "priority": 0, "progress": 0, "state": "inactive"}
    job = job_from_api({**fresh, "attempts": {"made": 0, "remaining": 1, "max": 1}})
    assert (job.id, job.progress, job.worker_id, job.started_at_ms) == ("5", 0, "", None)


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"error": 'job "999" doesnt exist'}, 'Kue: job "999" doesnt exist'),
        ({"error": {"a": 1}}, "Kue: an object without id and type"),
        ({}, "Kue: an object without id and type"),
        ({"id": "1", "type": ""}, "Kue: a job without a type"),
        ([], "Kue: a JSON list instead of a job"),
        (None, "Kue: a JSON NoneType instead of a job"),
    ],
)
def test_answers_that_are_no_job_are_refused(document: object, sentence: str) -> None:
    with pytest.raises(PeerRefused) as caught:
        job_from_api(document, peer="Kue")
    assert str(caught.value) == sentence


def test_a_hash_without_a_type_is_no_job() -> None:
    assert job_from_hash("1", {}) is None
    assert job_from_hash("1", {"updated_at": "1"}) is None


@given(st.dictionaries(st.sampled_from([*ANSWER, "max_attempts", "ttl", "failed_at", "error"]), st.text()))
def test_any_text_in_a_hash_gives_a_job_or_none(fields: dict[str, str]) -> None:
    job = job_from_hash("1", fields)
    assert (job is not None) == bool(fields.get("type"))
    if job is not None:
        assert job.max_attempts != 0
        with pytest.raises(dataclasses.FrozenInstanceError):
            job.state = "x"  # type: ignore[misc]


@pytest.mark.parametrize("text", ["1", "42", "2494621079", "9" * 15])
def test_texts_that_are_job_ids(text: str) -> None:
    assert checked_id(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "0", "007", "-1", "+1", "1.0", " 1", "1\n", "x", "1" * 16, "1" * 100, "\uff11", "\u0661", 1, None],
)
def test_what_is_no_job_id(text: object) -> None:
    assert not is_job_id(text)
    with pytest.raises(ValueError, match="a job id is"):
        checked_id(text)  # type: ignore[arg-type]
