"""The ledger of orders in flight, on a real Redis: one compare-and-set for what may happen twice."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import redis

from dynsvc.errors import AttemptEnded
from dynsvc.leases import AWAIT_LOADER, Ledger, Start

pytestmark = pytest.mark.services

KEEP_S = 60.0


@pytest.fixture
def ledger(client: redis.Redis) -> Ledger:
    return Ledger(client, f"{uuid.uuid4().hex}:", "Redis")


def reserve(
    ledger: Ledger, *order_ids: str, token: str = "t", window: int = 10, wait_s: float = 30
) -> list[str]:
    orders: list[tuple[str, str, dict[str, Any]]] = [
        (order_id, token, {"order": order_id}) for order_id in order_ids
    ]
    return ledger.reserve(orders, step="first", window=window, wait_s=wait_s)


def begun(
    ledger: Ledger, runner: str = "r", lease_s: float = 30, order_id: str = "1", token: str = "t"
) -> Start:
    return ledger.begin(
        order_id, token, "first", runner, lease_s=lease_s, later=["second", AWAIT_LOADER]
    ).start


def test_the_window_is_never_exceeded_over_all_bridges(ledger: Ledger) -> None:
    assert reserve(ledger, "1", "2", "3", window=2) == ["1", "2"]
    assert reserve(ledger, "2", "3", "4", window=3) == ["3"], "what is in flight is passed over"
    assert ledger.in_flight() == 3
    assert ledger.holds(["1", "4"]) == [True, False]


def test_one_of_two_messages_begins_a_step(ledger: Ledger) -> None:
    reserve(ledger, "1")
    assert begun(ledger, "r1") is Start.RUN
    assert begun(ledger, "r2") is Start.BUSY
    assert begun(ledger, "r2", token="older") is Start.GONE
    assert begun(ledger, "r2", order_id="2") is Start.GONE


def test_a_message_of_a_finished_step_gets_the_next_message(ledger: Ledger) -> None:
    reserve(ledger, "1")
    begun(ledger)
    assert ledger.handing_over("1", "t", "r", step="second", message={"grown": 1}, lease_s=30).run()
    again = ledger.begin("1", "t", "first", "r2", lease_s=30, later=["second"])
    assert again.start is Start.DONE
    assert again.message == {"grown": 1}
    assert not ledger.handing_over("1", "t", "r", step="second", message={}, lease_s=30).run(), "only once"
    # While the next step runs, its message is not lost, and a copy would only breed copies.
    assert ledger.begin("1", "t", "second", "r3", lease_s=30, later=[AWAIT_LOADER]).start is Start.RUN
    assert ledger.begin("1", "t", "first", "r4", lease_s=30, later=["second"]).start is Start.BUSY


def test_a_waiting_step_whose_lease_ran_out_is_sent_again_ever_more_seldom(ledger: Ledger) -> None:
    reserve(ledger, "1", wait_s=0)
    (entry,) = ledger.expired()
    assert (entry.step, entry.runner, entry.message) == ("first", "", {"order": "1"})
    assert ledger.sent_again(entry, wait_s=30, longest_s=300) == 2
    assert ledger.sent_again(entry, wait_s=30, longest_s=300) == 0, "another bridge was faster"
    assert ledger.expired() == []


def test_a_worker_that_came_back_is_not_taken_for_lost(ledger: Ledger) -> None:
    reserve(ledger, "1")
    begun(ledger, lease_s=0)
    (entry,) = ledger.expired()
    assert ledger.renew("1", "t", "r", lease_s=30)
    assert ledger.take_lost(entry, "bridge", lease_s=30, keep_s=KEEP_S) == 0


def test_a_lost_worker_is_taken_over_once_and_cannot_go_on(ledger: Ledger) -> None:
    reserve(ledger, "1")
    begun(ledger, lease_s=0)
    (entry,) = ledger.expired()
    assert ledger.take_lost(entry, "bridge", lease_s=30, keep_s=KEEP_S) == 1
    assert ledger.take_lost(entry, "bridge 2", lease_s=30, keep_s=KEEP_S) == 0
    assert not ledger.renew("1", "t", "r", lease_s=30)
    assert not ledger.handing_over("1", "t", "r", step="second", message={}, lease_s=30).run()
    assert not ledger.hand_back("1", "t", "r")
    with pytest.raises(AttemptEnded):
        ledger.begin_upload("1", "t", "r", keep_s=KEEP_S)


def test_losses_are_counted_over_attempts_and_forgotten_at_the_end(
    ledger: Ledger, client: redis.Redis
) -> None:
    for count in (1, 2):
        reserve(ledger, "1", token=f"t{count}")
        begun(ledger, lease_s=0, token=f"t{count}")
        (entry,) = ledger.expired()
        assert ledger.take_lost(entry, "bridge", lease_s=30, keep_s=KEEP_S) == count
        assert ledger.release("1", f"t{count}", keep_losses=True)
    reserve(ledger, "1", token="t3")
    assert ledger.release("1", "t3")
    head = ledger.wake_channel.removesuffix("wake")
    assert [name for name in client.scan_iter(f"{head}*") if client.ttl(name) == -1] == []
    assert not client.exists(f"{head}losses:1")


def test_a_step_that_is_handed_back_is_due_at_once(ledger: Ledger) -> None:
    reserve(ledger, "1")
    begun(ledger)
    assert ledger.hand_back("1", "t", "r")
    (entry,) = ledger.expired()
    assert entry.runner == ""
    assert begun(ledger, "r2") is Start.RUN


def test_an_order_that_waits_for_the_loader_is_found_by_the_loaders_job(ledger: Ledger) -> None:
    reserve(ledger, "1")
    begun(ledger)
    ledger.handing_over("1", "t", "r", step=AWAIT_LOADER, message={}, lease_s=30, loader_job_id="77").run()
    assert ledger.awaiting_loader() == {"77": ("1", "t")}
    ledger.release("1", "t")
    assert ledger.awaiting_loader() == {}


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_jumps_makes_no_lease_longer_than_it_is(
    hours: int, ledger: Ledger, client: redis.Redis
) -> None:
    reserve(ledger, "1", wait_s=0.05)
    leases = f"{ledger.wake_channel.removesuffix('wake')}leases"
    client.zincrby(leases, hours * 3_600_000, "1")
    found = ledger.expired()
    assert (found == []) is (hours == 1)
    remaining_s = client.zscore(leases, "1") / 1000 - client.time()[0]
    assert remaining_s < 2


class TestUploads:
    """What is known of an order's upload."""

    def test_only_the_first_is_told_to_go_ahead(self, ledger: Ledger) -> None:
        reserve(ledger, "1")
        begun(ledger)
        assert ledger.begin_upload("1", "t", "r", keep_s=KEEP_S) is None
        earlier = ledger.begin_upload("1", "t", "r", keep_s=KEEP_S)
        assert earlier is not None
        assert earlier.loader_job_id == ""
        assert ledger.take_loader_job("1", "t", "77", keep_s=KEEP_S)
        earlier = ledger.begin_upload("1", "t", "r", keep_s=KEEP_S)
        assert earlier is not None
        assert earlier.loader_job_id == "77"

    def test_a_job_of_the_loader_belongs_to_one_order(self, ledger: Ledger) -> None:
        assert ledger.take_loader_job("1", "t", "77", keep_s=KEEP_S)
        assert ledger.take_loader_job("1", "t", "77", keep_s=KEEP_S)
        assert not ledger.take_loader_job("2", "t", "77", keep_s=KEEP_S)

    def test_a_late_attempt_cannot_make_its_successors_upload_forgotten(self, ledger: Ledger) -> None:
        reserve(ledger, "1", token="old")
        ledger.release("1", "old")
        reserve(ledger, "1", token="new")
        begun(ledger, token="new")
        assert ledger.begin_upload("1", "new", "r", keep_s=KEEP_S) is None
        assert not ledger.forget_upload("1", "old")
        assert ledger.begin_upload("1", "new", "r", keep_s=KEEP_S) is not None
        assert ledger.forget_upload("1", "new")
        assert ledger.begin_upload("1", "new", "r", keep_s=KEEP_S) is None

    def test_the_memory_of_uploads_has_an_end(self, ledger: Ledger, client: redis.Redis) -> None:
        reserve(ledger, "1")
        begun(ledger)
        ledger.begin_upload("1", "t", "r", keep_s=KEEP_S)
        ledger.take_loader_job("1", "t", "77", keep_s=KEEP_S)
        # Recorded late, when the upload itself is forgotten: nothing stays for ever.
        ledger.forget_upload("1", "t")
        ledger.take_loader_job("1", "t", "78", keep_s=KEEP_S)
        ledger.release("1", "t")
        head = ledger.wake_channel.removesuffix("wake")
        left = {name: client.ttl(name) for name in client.scan_iter(f"{head}*")}
        assert left
        assert all(ttl > 0 for ttl in left.values()), left


def test_data_that_was_lost_is_noticed(ledger: Ledger, client: redis.Redis) -> None:
    birth = ledger.birth()
    assert ledger.birth() == birth
    client.delete(f"{ledger.wake_channel.removesuffix('wake')}birth")
    assert ledger.birth() != birth
