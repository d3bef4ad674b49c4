"""The pool of kept things, with things that cost nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import pytest

from dynsvc.runtime import Keep
from workers.pool import Held, Pool, Unusable

KEEP = Keep()


@dataclass(eq=False)
class Thing:
    memory_mib: int = 100
    gpu_ids: Collection[str] = ()
    living: bool = True
    used_mib: int | None = 10
    closed: threading.Event = field(default_factory=threading.Event)

    def alive(self) -> bool:
        return self.living

    def memory_used_mib(self) -> int | None:
        return self.used_mib

    def close(self) -> None:
        assert not self.closed.is_set()
        self.closed.set()


@pytest.fixture
def pool() -> Iterator[Pool[Thing]]:
    pool: Pool[Thing] = Pool(most=3, memory_mib=300)
    yield pool
    pool.close()


def borrow(pool: Pool[Thing], key: str, *, keep: Keep = KEEP, gpus: Collection[str] = ()) -> Held[Thing]:
    held = pool.borrow(key, keep, 100, lambda: Thing(gpu_ids=gpus), gpus)
    assert held
    return held


def used(pool: Pool[Thing], key: str, **options: Keep) -> Thing:
    held = borrow(pool, key, **options)
    pool.give_back(held, usable=True)
    return held.thing


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_same_thing_serves_an_equal_key_and_no_other(pool: Pool[Thing]) -> None:
    first = used(pool, "a")
    assert used(pool, "a") is first
    assert used(pool, "b") is not first


def test_a_busy_thing_is_not_shared(pool: Pool[Thing]) -> None:
    one, two = borrow(pool, "a"), borrow(pool, "a")
    assert one.thing is not two.thing


def test_the_least_recently_used_makes_room(pool: Pool[Thing]) -> None:
    a, b, c = used(pool, "a"), used(pool, "b"), used(pool, "c")
    used(pool, "a")
    used(pool, "d")
    assert b.closed.is_set()
    assert not a.closed.is_set()
    assert not c.closed.is_set()
    assert pool.recycled.evicted == 1


def test_where_all_are_busy_there_is_nothing_to_borrow(pool: Pool[Thing]) -> None:
    for key in "abc":
        borrow(pool, key)
    assert pool.borrow("d", Keep(), 100, Thing) is None
    assert pool.count() == 3


def test_memory_bounds_as_well_as_the_number() -> None:
    elsewhere = 0
    pool: Pool[Thing] = Pool(most=9, memory_mib=250, elsewhere_mib=lambda: elsewhere)
    a, b = used(pool, "a"), used(pool, "b")
    used(pool, "c")
    assert a.closed.is_set()
    elsewhere = 100
    assert pool.borrow("d", Keep(), 200, Thing) is None
    assert b.closed.is_set()  # tried to make room
    pool.close()


def test_a_gpu_is_freed_before_another_opens_it(pool: Pool[Thing]) -> None:
    held = borrow(pool, "a", gpus=("GPU-1",))
    pool.give_back(held, usable=True)
    borrow(pool, "b", gpus=("GPU-2",))
    assert not held.thing.closed.is_set()
    borrow(pool, "c", gpus=("GPU-1",))
    assert held.thing.closed.is_set()


def test_what_broke_is_replaced(pool: Pool[Thing]) -> None:
    held = borrow(pool, "a")
    pool.give_back(held, usable=False)
    assert held.thing.closed.is_set()
    second = used(pool, "a")
    assert second is not held.thing
    second.living = False
    third = used(pool, "a")
    assert third is not second
    assert second.closed.is_set()
    assert pool.recycled.broken == 2
    assert pool.count() == 1


def test_what_cannot_be_started_is_not_tried_at_once_again(pool: Pool[Thing]) -> None:
    tries: list[None] = []

    def fails() -> Thing:
        tries.append(None)
        raise Unusable("it has ended")

    with pytest.raises(Unusable):
        pool.borrow("a", Keep(), 100, fails)
    assert pool.borrow("a", Keep(), 100, fails) is None
    assert len(tries) == 1
    assert pool.count() == 0
    used(pool, "b")


def test_another_error_at_the_start_bars_nothing(pool: Pool[Thing]) -> None:
    def fails() -> Thing:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        pool.borrow("a", Keep(), 100, fails)
    used(pool, "a")
    assert pool.count() == 1


def test_things_are_replaced_after_their_uses(pool: Pool[Thing]) -> None:
    things = [used(pool, "a", keep=Keep(max_uses=2)) for _ in range(4)]
    assert things[0] is things[1]
    assert things[1] is not things[2]
    assert pool.recycled.uses == 2
    assert pool.count() == 0


def test_what_grew_too_much_is_replaced(pool: Pool[Thing]) -> None:
    keep = Keep(max_growth_mib=50)
    held = borrow(pool, "a", keep=keep)
    pool.give_back(held, usable=True)
    eventually(lambda: held.first_mib == 10)
    held.thing.used_mib = 60
    used(pool, "a", keep=keep)
    eventually(lambda: held.sampled_uses == 2)
    assert used(pool, "a", keep=keep) is held.thing  # grown by 50, not by more
    held.thing.used_mib = 61
    used(pool, "a", keep=keep)
    eventually(lambda: held.grown)
    assert used(pool, "a", keep=keep) is not held.thing
    assert held.thing.closed.is_set()
    assert pool.recycled.memory == 1


def test_idle_things_end_by_themselves_and_busy_ones_do_not(pool: Pool[Thing]) -> None:
    keep = Keep(idle_s=0.05)
    busy, idle = borrow(pool, "a", keep=keep), used(pool, "b", keep=keep)
    assert idle.closed.wait(10)
    assert not busy.thing.closed.is_set()
    pool.give_back(busy, usable=True)
    assert busy.thing.closed.wait(10)
    assert pool.recycled.idle == 2


def test_closing_ends_the_idle_now_and_the_busy_later() -> None:
    pool: Pool[Thing] = Pool(most=3, memory_mib=300)
    busy, idle = borrow(pool, "a"), used(pool, "b")
    pool.close()
    assert idle.closed.is_set()
    assert not busy.thing.closed.is_set()
    assert pool.borrow("c", Keep(), 100, Thing) is None
    pool.give_back(busy, usable=True)
    assert busy.thing.closed.is_set()
    assert pool.count() == 0
