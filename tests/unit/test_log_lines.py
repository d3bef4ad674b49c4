"""What log lines look like, and that telling something never fails whoever tells it."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import redirect_stderr
from typing import Literal

import pytest
import structlog
from structlog.contextvars import bound_contextvars
from structlog.dev import ConsoleRenderer, plain_traceback

from dynsvc import logs
from dynsvc.settings import Settings

FIELDS = {
    "order_id": "17",
    "path": "/a b",
    "quoted": "it's",
    "empty": "",
    "count": 3,
    "ratio": 0.5,
    "nothing": None,
    "list": ["a", 1],
    "lines": "a\nb",
}


@pytest.fixture
def stderr() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def configure(
    stderr: io.StringIO,
    log_format: Literal["console", "json"] = "console",
    level: Literal["DEBUG", "INFO", "WARNING"] = "INFO",
) -> structlog.typing.FilteringBoundLogger:
    with redirect_stderr(stderr):
        logs.configure(Settings.model_construct(log_format=log_format, log_level=level))
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger("workers.tasks")
    return logger


def by_structlog(line: str, **event: object) -> str:
    """*event* as structlog's own renderer writes it, at the time of *line*."""
    original = ConsoleRenderer(colors=False, exception_formatter=plain_traceback)
    return original(None, "", {"timestamp": line.split(" ", 1)[0], **event})


@pytest.mark.parametrize("level", ["info", "warning", "error", "critical"])
@pytest.mark.parametrize("fields", [FIELDS, {}, {"logger_name": "other"}], ids=["fields", "none", "name"])
@pytest.mark.parametrize("event", ["short", "an event with a text that is longer than its column", "", 7])
def test_a_line_looks_as_structlog_writes_it(
    stderr: io.StringIO, level: str, fields: dict[str, object], event: str
) -> None:
    getattr(configure(stderr), level)(event, **fields)
    line = stderr.getvalue()
    assert line == by_structlog(line, level=level, event=event, logger="workers.tasks", **fields) + "\n"


def test_records_of_the_standard_library_look_the_same(stderr: io.StringIO) -> None:
    configure(stderr).info("told", count=1)
    with bound_contextvars(order_id="17"):
        logging.getLogger("celery.worker").warning("%s of %d", "one", 2)
    ours, theirs = stderr.getvalue().splitlines()
    assert ours == by_structlog(ours, level="info", event="told", logger="workers.tasks", count=1)
    expected = {"level": "warning", "event": "one of 2", "logger": "celery.worker", "order_id": "17"}
    assert theirs == by_structlog(theirs, **expected)


def test_lines_as_json(stderr: io.StringIO) -> None:
    log = configure(stderr, "json")
    with bound_contextvars(order_id="17", step="fetch"):
        log.warning("told", count=1, odd=object)
        try:
            int("no")
        except ValueError:
            log.exception("failed")
        logging.getLogger("celery.worker").warning("theirs")
    told, failed, theirs = (json.loads(line) for line in stderr.getvalue().splitlines())
    for line in (told, failed, theirs):
        assert (line["order_id"], line["step"]) == ("17", "fetch")
    assert (told["level"], told["logger"], told["count"]) == ("warning", "workers.tasks", 1)
    assert failed["exception"].endswith("ValueError: invalid literal for int() with base 10: 'no'")
    assert (theirs["event"], theirs["logger"]) == ("theirs", "celery.worker")


def test_a_traceback_shows_no_values_of_variables(stderr: io.StringIO) -> None:
    log = configure(stderr)
    try:
        values = {"secret": "k3y"}
        values.pop("other")
    except KeyError:
        log.exception("failed", order_id="17")
    first, *traceback = stderr.getvalue().splitlines()
    assert "[error    ] failed" in first
    assert traceback[0] == "Traceback (most recent call last):"
    assert traceback[-1] == "KeyError: 'other'"
    assert "k3y" not in "".join(line for line in traceback if "values =" not in line)


def test_the_level_holds_for_events_and_records(stderr: io.StringIO) -> None:
    log = configure(stderr, level="WARNING")
    log.info("quiet")
    logging.getLogger("celery.worker").info("quiet")
    assert stderr.getvalue() == ""
    log.warning("loud")
    assert "loud" in stderr.getvalue()
    configure(stderr, level="DEBUG").debug("details")
    assert "[debug    ] details" in stderr.getvalue()
    logging.getLogger("urllib3.connectionpool").debug("a line for each connection")
    assert "each connection" not in stderr.getvalue()


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError("no text")


def test_what_cannot_be_told_fails_nobody(stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    log = configure(stderr)
    log.info("odd", value=Unprintable())
    log.info("fine")
    assert "fine" in stderr.getvalue()

    def full(_: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stderr, "write", full)
    log.info("lost")


def test_lines_of_several_threads_do_not_mix(stderr: io.StringIO) -> None:
    log = configure(stderr)

    def tell(name: str) -> None:
        for _ in range(200):
            log.info(name * 40)
            logging.getLogger("theirs").warning(name * 40)

    threads = [threading.Thread(target=tell, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = stderr.getvalue().splitlines()
    assert len(lines) == 4 * 400
    assert {line.split("] ")[1].split(" [")[0] for line in lines} == {name * 40 for name in "abcd"}
