from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynsvc.kue.events import TO_FOLLOW, Event, parse_event
from dynsvc.kue.ids import is_job_id


@pytest.mark.parametrize(
    ("raw", "event"),
    [
        # What Kue publishes: the id is a number from workers, a text from its API.
        (
            '{"id":10,"event":"enqueue","args":["enqueue","order"]}',
            Event(job_id="10", name="enqueue", args=("order",)),
        ),
        (
            '{"id":"10","event":"remove","args":["remove","order"]}',
            Event(job_id="10", name="remove", args=("order",)),
        ),
        (b'{"id":1,"event":"promotion","args":["promotion"]}', Event(job_id="1", name="promotion")),
        (
            '{"id":1,"event":"complete","args":["complete",{"ok":true},null]}',
            Event(job_id="1", name="complete", args=({"ok": True}, None)),
        ),
        # Without args, or with odd ones: still a hint.
        ('{"id":1,"event":"enqueue"}', Event(job_id="1", name="enqueue")),
        ('{"id":1,"event":"enqueue","args":{"a":1}}', Event(job_id="1", name="enqueue")),
        ('{"id":1,"args":["enqueue","order"]}', Event(job_id="1", name="enqueue", args=("order",))),
        ('{"id":1,"event":"made up","args":[]}', Event(job_id="1", name="made up")),
    ],
)
def test_messages_that_are_events(raw: object, event: Event) -> None:
    assert parse_event(raw) == event


@pytest.mark.parametrize(
    "raw",
    [
        None,
        1,
        "",
        "not JSON",
        b"\xff\xfe\x00",
        "null",
        "[]",
        '"text"',
        "{}",
        '{"id":1}',
        '{"id":1,"event":null,"args":[]}',
        '{"id":1,"event":7,"args":["x"]}',
        '{"event":"enqueue","args":["enqueue","order"]}',
        '{"id":null,"event":"enqueue"}',
        '{"id":true,"event":"enqueue"}',
        '{"id":0,"event":"enqueue"}',
        '{"id":-1,"event":"enqueue"}',
        '{"id":1.5,"event":"enqueue"}',
        '{"id":"01","event":"enqueue"}',
        '{"id":"1; DROP","event":"enqueue"}',
        '{"id":"../1","event":"enqueue"}',
        '{"id":1e400,"event":"enqueue"}',
        '{"id":NaN,"event":"enqueue"}',
        # Ids that make Kue's own encoder run for ever.
        f'{{"id":"{"1" * 100}","event":"enqueue"}}',
        f'{{"id":{"1" * 5000},"event":"enqueue"}}',
        # Deep, and huge.
        "[" * 100_000,
        '{"id":1,"event":"enqueue","args":["' + "x" * (5 * 1024 * 1024) + '"]}',
    ],
    ids=lambda raw: repr(raw)[:40],
)
def test_messages_that_are_no_events(raw: object) -> None:
    assert parse_event(raw) is None


@given(st.none() | st.text() | st.binary() | st.integers())
def test_no_message_makes_the_parser_fail(raw: object) -> None:
    parse_event(raw)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(["id", "event", "args", "x"]), _json))
def test_any_object_is_an_event_with_a_usable_id_or_none(document: dict[str, object]) -> None:
    event = parse_event(json.dumps(document))
    if event is not None:
        assert is_job_id(event.job_id)
        _ = (event.job_type, event.result, event.message, event.is_ended)


@pytest.mark.parametrize(
    ("name", "predicate"),
    [
        ("enqueue", "is_enqueue"),
        ("start", "is_start"),
        ("progress", "is_progress"),
        ("complete", "is_complete"),
        ("failed", "is_failed"),
        ("failed attempt", "is_failed_attempt"),
        ("remove", "is_removed"),
        ("ttl exceeded", "is_ttl_exceeded"),
    ],
)
def test_each_kind_of_event_answers_to_its_own_question_only(name: str, predicate: str) -> None:
    event = Event(job_id="1", name=name)
    questions = [q for q in dir(Event) if q.startswith("is_") and q != "is_ended"]
    assert [q for q in questions if getattr(event, q)] == [predicate]


def test_details_of_events() -> None:
    assert Event(job_id="1", name="enqueue", args=("order",)).job_type == "order"
    assert Event(job_id="1", name="complete", args=("order",)).job_type is None
    assert Event(job_id="1", name="complete", args=({"a": 1}, None)).result == {"a": 1}
    assert Event(job_id="1", name="failed", args=("why", None)).message == "why"
    assert Event(job_id="1", name="failed", args=(7,)).message is None
    assert Event(job_id="1", name="failed").message is None


@pytest.mark.parametrize("args", [["progress", 15, 100, None], ["complete", {"a": "b"}], ["start", "order"]])
def test_events_that_do_not_matter_are_not_read(args: list[object]) -> None:
    raw = json.dumps({"id": 1, "event": args[0], "args": args})
    assert parse_event(raw, TO_FOLLOW) is None
    assert parse_event(raw, ("enqueue", str(args[0]))) == parse_event(raw) is not None
