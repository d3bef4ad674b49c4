"""Hosts, bridges and servers of a site: calculated from measured costs, and simulated. A part of ``scaling``.

The costs are those that ``costs`` measured. What a site has beside dynsvc (loader, network, programs) is
assumed, in :class:`Site`.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

__all__ = ["Costs", "Simulated", "Site", "World", "limits", "simulated", "tile_limits", "worked_off"]

#: An order is simulated in so many parts, each some work of the worker and then some of Redis.
PARTS = 8
#: Others take a core for so long at a time.
OTHERS_S = 0.004
#: So many cores a RabbitMQ has.
RABBIT_CORES = 4
#: A worker tells all others so often that it lives, where they gossip.
HEARTBEATS_PER_S = 0.5
#: An idle bridge looks this often; what wakes it within so short a time wakes it once.
POLL_S = 1.0
APART_S = 0.02

Steps = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Costs:
    """Seconds of a processor, from the figures of ``costs``; of each Redis those of a busy one."""

    document: dict[str, dict[str, float]]

    def redis(self, what: str, server: str = "orders") -> float:
        """Return what one of *what* takes of a Redis. A busy server takes several commands at a time."""
        trip, cost = self.document["message"], self.document[what]
        spared_us = max(0.0, trip["at_rest_us"] - trip["busy_us"]) * cost[f"{server}_round_trips"]
        return max(0.3 * cost[f"{server}_us"], cost[f"{server}_us"] - spared_us) * 1e-6

    @property
    def gossip_s(self) -> float:
        """Return what one worker that hears another one takes of a Redis, in a second."""
        return HEARTBEATS_PER_S * self.document["message"]["delivery_us"] * 1e-6

    def cpu(self, what: str, part: str) -> float:
        return self.document[what][f"{part}_cpu_ms"] * 1e-3


@dataclass(frozen=True)
class Site:
    """What is calculated with; everything but the costs."""

    hosts: int
    #: Worker processes are one for each host.
    slots: int = 8
    program_s: float = 10.0
    #: DYNSVC_WINDOW; 0: twice all slots.
    window: int = 0
    bridges: int = 1
    #: Workers for io and for cpu; else all steps of an order run in one worker.
    divided: bool = False
    #: Celery's messages in the orders' Redis, in one of their own, or in RabbitMQ.
    broker: str = "shared"
    gossip: bool = False
    #: Zips that the loader loads at a time, and how long one takes. Many: the loader is no limit.
    loaders: int = 10_000
    loader_s: float = 1.0
    #: A region of 2 048 x 2 048 px as JPEG, and its result.
    region_bytes: float = 1.5e6
    zip_bytes: float = 1e6
    #: 10 Gbit/s from the image server, 1 Gbit/s of the artifact store.
    images_bytes_s: float = 1.25e9
    store_bytes_s: float = 1.25e8
    #: Cores that everything shares; 0: each part has enough of its own.
    cores: int = 0
    #: Of the shared cores, those that others use.
    others: float = 0.0

    @property
    def in_flight(self) -> int:
        return self.window or 2 * self.hosts * self.slots

    @property
    def stored_bytes(self) -> float:
        """What an order writes to the artifact store and reads from it."""
        return 2 * (self.region_bytes + self.zip_bytes) if self.divided else 0.0

    @property
    def order(self) -> str:
        return "order_divided" if self.divided else "order"


def loads(costs: Costs, site: Site) -> dict[str, tuple[float, float]]:
    """Return the share of each part that is always taken, and what an order takes of it, in seconds."""
    running_s = costs.redis("running_second") * site.program_s
    orders = costs.redis("order") + running_s
    polls = site.hosts * costs.redis("idle_worker_second", "broker")
    if site.gossip:
        polls += site.hosts**2 * costs.gossip_s
    messages = costs.redis(site.order, "broker")
    found = {
        "slots": (0.0, (site.program_s + costs.cpu(site.order, "workers")) / (site.hosts * site.slots)),
        "window": (0.0, (site.program_s + site.loader_s) / site.in_flight),
        "workers": (0.0, costs.cpu(site.order, "workers_alone") / site.hosts),
        "bridge": (0.0, bridge_s(costs, site.bridges)),
        "loader": (0.0, site.loader_s / site.loaders),
        "image server": (0.0, site.region_bytes / site.images_bytes_s),
        # Written once and read once, where another worker goes on.
        "artifacts": (0.0, site.stored_bytes / site.store_bytes_s),
        "Redis": (0.0, orders),
    }
    if site.broker == "shared":
        found["Redis"] = (polls, orders + messages)
    elif site.broker == "redis":
        found["broker"] = (polls, messages)
    else:
        found["broker"] = (0.0, costs.cpu(f"{site.order}_rabbitmq", "broker") / RABBIT_CORES)
    return found


def bridge_s(costs: Costs, bridges: int) -> float:
    """Return how long an order keeps each of the bridges. All of them hear all events."""
    one, two = costs.cpu("order", "bridge"), costs.cpu("order_two_bridges", "bridge")
    return (one + (bridges - 1) * max(0.0, two - one)) / bridges


def limits(costs: Costs, site: Site) -> dict[str, float]:
    """Return the most orders per second that each part lets through."""
    return {name: max(0.0, 1 - idle) / each for name, (idle, each) in loads(costs, site).items() if each}


def tile_limits(costs: Costs, site: Site) -> dict[str, float]:
    """Return the most tiles per second that each part lets through; its broker is a Redis of its own."""
    python_s = costs.cpu("tile", "workers_alone")
    return {
        "slots": site.hosts * site.slots / (site.program_s + costs.cpu("tile", "workers")),
        "workers": site.hosts / python_s,
        "image server": site.images_bytes_s / site.region_bytes,
        "Redis": 1 / (costs.redis("tile") + site.program_s * costs.redis("running_second")),
        "broker": 1 / costs.redis("tile", "broker"),
    }


class Service:
    """Something that serves so many at a time, in the order in which they ask."""

    def __init__(self, world: World, at_once: int = 1) -> None:
        self._world = world
        self._turns = simpy.Resource(world.env, at_once)
        self.at_once = at_once
        self.busy_s = self.waited_s = 0.0
        self.served = 0

    def use(self, seconds: float) -> Steps:
        """Wait for a turn, and for a core where cores are shared, and take *seconds*."""
        asked_s = self._world.env.now
        with self._turns.request() as turn:
            yield turn
            self.waited_s += self._world.env.now - asked_s
            self.served += 1
            if self._world.cores is None:
                yield self._world.env.timeout(seconds)
            else:
                with self._world.cores.request() as core:
                    yield core
                    yield self._world.env.timeout(seconds)
        self.busy_s += seconds


class World:
    """Bridges, workers, servers, and as many orders as wait."""

    def __init__(self, costs: Costs, site: Site, *, orders: int | None, seed: int = 1) -> None:
        self.costs, self.site, self.env = costs, site, simpy.Environment()
        self.random = random.Random(seed)
        self.cores = simpy.Resource(self.env, site.cores) if site.cores else None
        self.redis = Service(self)
        at_once = RABBIT_CORES if site.broker == "rabbitmq" else 1
        self.broker = self.redis if site.broker == "shared" else Service(self, at_once)
        self.loader = Service(self, site.loaders)
        self.images, self.store = Service(self), Service(self)
        self.bridges = [Service(self) for _ in range(site.bridges)]
        self.workers = [Service(self) for _ in range(site.hosts)]
        self.messages: simpy.Store = simpy.Store(self.env)
        #: None: they never end.
        self.waiting = orders
        self.in_flight = self.done = 0
        self.ended = self.env.event()
        self._wake = self.env.event()
        self._orders = orders
        self._costs()
        for _ in range(site.cores):
            self.env.process(self._others())
        for bridge in self.bridges:
            self.env.process(self._bridge(bridge))
        for worker in self.workers:
            self.env.process(self._idle())
            for _ in range(site.slots):
                self.env.process(self._slot(worker))

    def _costs(self) -> None:
        costs, site = self.costs, self.site
        order = site.order
        alone, all_cpu = costs.cpu(order, "workers_alone"), costs.cpu(order, "workers")
        self.python_s, self.children_s = alone, max(0.0, all_cpu - alone)
        self.redis_s = costs.redis("order")
        self.running_s = costs.redis("running_second")
        self.entry_s, self.entry_redis_s = costs.cpu("window_entry", "bridge"), costs.redis("window_entry")
        # What a round costs for its entries is counted there.
        self.dispatch_s = max(1e-4, bridge_s(costs, site.bridges) - 64 * self.entry_s)
        self.redis_s = max(1e-5, self.redis_s - 64 * self.entry_redis_s)
        if site.broker == "rabbitmq":
            self.message_s, self.poll_s = costs.cpu(f"{order}_rabbitmq", "broker"), 0.0
        else:
            self.message_s = costs.redis(order, "broker")
            self.poll_s = costs.redis("idle_worker_second", "broker")
            if site.gossip:
                self.poll_s += site.hosts * costs.gossip_s

    def _bridge(self, bridge: Service) -> Steps:
        site = self.site
        while True:
            seen, taken = self.done, site.in_flight - self.in_flight
            if taken > 0:
                # It reads the orders that nobody has claimed yet, and as many as there is room for.
                entries = len(self.messages.items) + taken
                yield from self.redis.use(entries * self.entry_redis_s)
                yield from bridge.use(entries * self.entry_s)
                taken = site.in_flight - self.in_flight
                if self.waiting is not None:
                    taken = min(taken, self.waiting)
                    self.waiting -= taken
                self.in_flight += taken
                for _ in range(taken):
                    yield from bridge.use(self.dispatch_s)
                    yield from self.broker.use(self.message_s / PARTS)
                    self.messages.put(None)
            if self.done == seen:
                yield self._wake | self.env.timeout(POLL_S)
            yield self.env.timeout(APART_S)

    def _woken(self) -> None:
        told, self._wake = self._wake, self.env.event()
        told.succeed()

    def _idle(self) -> Steps:
        yield self.env.timeout(self.random.random())
        while self.poll_s:
            yield self.env.timeout(1)
            yield from self.broker.use(self.poll_s)

    def _others(self) -> Steps:
        """What others do on one of the shared cores."""
        share = self.site.others / self.site.cores
        while share:
            yield self.env.timeout(OTHERS_S * (1 / share - 1) * 2 * self.random.random())
            yield from Service(self).use(OTHERS_S)

    def _slot(self, worker: Service) -> Steps:
        site, python_s = self.site, self.python_s / PARTS
        if self._orders is None and self.in_flight < site.in_flight:
            # At the beginning everything is in the midst of its work.
            self.in_flight += 1
            yield from self._program(self.random.random() * site.program_s)
            self.env.process(self._loaded())
        while True:
            yield self.messages.get()
            for part in range(PARTS):
                yield from worker.use(python_s)
                yield from self.redis.use(self.redis_s / PARTS)
                if part:  # the first is the bridge's
                    yield from self.broker.use(self.message_s / PARTS)
                if part == 2 and not site.cores:
                    yield from self.images.use(site.region_bytes / site.images_bytes_s)
                    yield from self._stored(site.region_bytes)
                elif part == 4:
                    yield from self._child()
                    yield from self._program(site.program_s)
                elif part == 6 and not site.cores:
                    yield from self._stored(site.zip_bytes)
            self.env.process(self._loaded())

    def _stored(self, file_bytes: float) -> Steps:
        if self.site.divided:
            yield from self.store.use(2 * file_bytes / self.site.store_bytes_s)

    def _child(self) -> Steps:
        yield from Service(self).use(self.children_s)

    def _program(self, seconds: float) -> Steps:
        over = self.env.timeout(seconds)
        if seconds >= 1:
            self.env.process(self._leases(over))
        yield over

    def _leases(self, over: simpy.Event) -> Steps:
        yield self.env.timeout(self.random.random())
        while not over.processed:
            yield from self.redis.use(self.running_s)
            yield self.env.timeout(1)

    def _loaded(self) -> Steps:
        if not self.site.cores:
            yield from self.loader.use(self.site.loader_s)
        self.in_flight -= 1
        self.done += 1
        self._woken()
        if self.done == self._orders:
            self.ended.succeed()
        yield self.env.timeout(0)


@dataclass(frozen=True)
class Simulated:
    """What came out."""

    orders_per_s: float
    #: Shares of what each part can do.
    busy: dict[str, float]
    #: Mean wait for a turn at the orders' Redis, seconds.
    redis_wait_s: float


def worked_off(costs: Costs, site: Site, orders: int) -> float:
    """Return orders per second with which *orders* that wait are worked off."""
    world = World(costs, site, orders=orders)
    world.env.run(world.ended)
    return orders / world.env.now


def simulated(costs: Costs, site: Site) -> Simulated:
    """Simulate an endless queue, from when it has settled."""
    world = World(costs, site, orders=None)
    slots = min(site.hosts * site.slots, site.in_flight)
    # How long an order is under way, if the calculation is right.
    under_way_s = min(300.0, max(site.program_s, slots / max(0.1, min(limits(costs, site).values()))))
    settled_s, seconds = 2 * under_way_s + site.program_s, max(10.0, under_way_s)
    world.env.run(settled_s)
    parts = {"Redis": [world.redis], "bridge": world.bridges, "workers": world.workers}
    parts |= {"loader": [world.loader], "image server": [world.images], "artifacts": [world.store]}
    if world.broker is not world.redis:
        parts["broker"] = [world.broker]
    before = {name: sum(each.busy_s for each in services) for name, services in parts.items()}
    done, waited_s, served = world.done, world.redis.waited_s, world.redis.served
    world.env.run(settled_s + seconds)
    busy = {
        name: (sum(each.busy_s for each in services) - before[name])
        / (seconds * sum(each.at_once for each in services))
        for name, services in parts.items()
    }
    wait_s = (world.redis.waited_s - waited_s) / max(1, world.redis.served - served)
    return Simulated((world.done - done) / seconds, busy, wait_s)
