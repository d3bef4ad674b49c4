"""A broker gives a message out again while its step still runs: the step is executed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kombu import Connection

from tests.support.faults import (
    Ends,
    Segmenter,
    assert_ended,
    assert_uploaded_once,
    place,
    start,
)
from tests.support.hospital import Hospital, eventually
from tests.support.rabbitmq import RabbitProcess, running_rabbitmq

pytestmark = pytest.mark.services


@pytest.fixture
def rabbitmq() -> Iterator[RabbitProcess]:
    # The server rounds its looks; a step lasts several times as long as this.
    with running_rabbitmq(consumer_timeout_ms=1500) as server:
        yield server


def refused(site: Hospital) -> int:
    """Count the messages that came again for an order that already ran.

    It is the message of the first step: its task goes on with the steps after it.
    """
    return sum(program.log.count("fetch_order is busy") for program in site.programs)


def run_longer_than_the_broker_waits(
    site: Hospital, segmenter: Segmenter, again: Callable[[], object], **env: str
) -> None:
    segmenter.hold()
    with Ends(site.redis) as ends:
        start(site, "-c", "4", **env)
        (order_id,) = place(site)
        segmenter.wait_for()
        again()
        eventually(lambda: refused(site) >= 1, 40, "the message came again")
        segmenter.let_go()
        assert_ended(site, order_id)
        eventually(lambda: ends.complete[order_id], 5)
        assert ends.twice() == []
    assert len(segmenter.pids) == 1, "the program was executed once"
    assert_uploaded_once(site, order_id)


def test_redis_redelivers_after_its_visibility_timeout(site: Hospital, segmenter: Segmenter) -> None:
    def again() -> None:
        with Connection(site.env["DYNSVC_BROKER_URL"], transport_options={"visibility_timeout": 1}) as broker:
            # Each worker does this, but only every minute or two.
            restore = broker.channel().qos.restore_visible
            with site.redis.client(db=1) as client:
                eventually(lambda: restore(num=100, interval=1) or not client.hlen("unacked"), 10)

    run_longer_than_the_broker_waits(site, segmenter, again, DYNSVC_VISIBILITY_TIMEOUT_S="1")


def test_rabbitmq_redelivers_after_its_consumer_timeout(
    site: Hospital, segmenter: Segmenter, rabbitmq: RabbitProcess
) -> None:
    run_longer_than_the_broker_waits(site, segmenter, lambda: None, DYNSVC_BROKER_URL=rabbitmq.url)
    assert "PRECONDITION_FAILED" in site.programs[0].log, "the server took the message away"
