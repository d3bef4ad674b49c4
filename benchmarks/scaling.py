"""What ends first with 10, 100 and 1 000 hosts: calculated from measured costs, and simulated.

The costs come from ``costs``, the speeds that the simulation has to meet from ``scale``. Both lie in
``benchmarks/measured``; after a change of the service, measure again and run this again. What a site has
beside dynsvc (loader, network, programs) is assumed, in :class:`Site`.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import simpy

from benchmarks.report import arguments, machine, table, written

__all__ = ["Costs", "Site", "World", "limits", "main", "simulated"]

NAME = "scaling"
MEASURED = Path(__file__).parent / "measured"
#: An order is simulated in so many parts, each some work of the worker and then some of Redis.
PARTS = 8
#: Others take a core for so long at a time.
OTHERS_S = 0.004
#: So many cores a RabbitMQ has.
RABBIT_CORES = 4
#: A worker tells all others so often that it lives, where they gossip.
HEARTBEATS_PER_S = 0.5
#: An idle bridge looks this often.
POLL_S = 1.0

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
        # Written once and read once; workers that do all steps still go through it.
        "artifacts": (0.0, 2 * (site.region_bytes + site.zip_bytes) / site.store_bytes_s),
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
            entries = min(site.in_flight, len(self.messages.items) + (self.waiting or site.in_flight))
            seen = self.done
            if self.in_flight < site.in_flight and entries:
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
                    yield from self.store.use(2 * site.region_bytes / site.store_bytes_s)
                elif part == 4:
                    yield from self._child()
                    yield from self._program(site.program_s)
                elif part == 6 and not site.cores:
                    yield from self.store.use(2 * site.zip_bytes / site.store_bytes_s)
            self.env.process(self._loaded())

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


def validation(costs: Costs, scale: dict[str, Any]) -> list[dict[str, float]]:
    """Return measured and simulated speed for each number of worker processes."""
    cpus, rows = scale["machine"]["cpus"], []
    for number, runs in scale["workers"].items():
        measured = median(run["orders_per_s"] for run in runs)
        others = median(run["others_cores"] for run in runs)
        site = Site(
            hosts=int(number),
            slots=scale["slots_each"],
            program_s=scale["ms"] / 1000,
            window=64,
            cores=cpus,
            others=others,
        )
        speed = worked_off(costs, site, runs[0]["orders"])
        rows.append({"processes": int(number), "measured": measured, "simulated": speed, "others": others})
    return rows


#: What is changed one after the other, for 1 000 hosts.
PATH: tuple[tuple[str, dict[str, Any]], ...] = (
    ("a window of 64, one zip is loaded at a time", {"window": 64, "loaders": 1}),
    ("the loader keeps pace", {"loaders": 10_000}),
    ("a window of twice all slots", {"window": 0}),
    ("100 Gbit/s for images and artifacts (S3)", {"store_bytes_s": 1.25e10, "images_bytes_s": 1.25e10}),
    ("the broker is a Redis of its own", {"broker": "redis"}),
    ("two bridges", {"bridges": 2}),
    ("workers for io and for cpu", {"divided": True}),
    ("the broker is RabbitMQ", {"broker": "rabbitmq"}),
    ("instead, a Redis as broker and workers that gossip", {"broker": "redis", "gossip": True}),
)


def path(costs: Costs, base: Site) -> list[dict[str, Any]]:
    """Change one thing after the other; calculate and simulate each."""
    rows, site = [], base
    for name, change in PATH:
        site = replace(site, **change)
        most = limits(costs, site)
        first = min(most, key=lambda part: most[part])
        began = time.perf_counter()
        found = simulated(costs, site)
        print(f"simulated in {time.perf_counter() - began:.0f} s: {name}", file=sys.stderr)
        rows.append(
            {
                "change": name,
                "calculated": most[first],
                "first": first,
                "simulated": found.orders_per_s,
                "slots_busy": found.orders_per_s * base.program_s / (base.hosts * base.slots),
                "busy": found.busy,
                "redis_wait_s": found.redis_wait_s,
            }
        )
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = arguments(NAME, __doc__)
    parser.add_argument("--measured", type=Path, default=MEASURED, help="folder of costs.json and scale.json")
    parser.add_argument("--hosts", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--program-s", type=float, nargs="*", default=[1, 10, 60])
    parser.add_argument("--path-s", type=float, nargs="*", default=[10], help="programs for 1 000 hosts")
    given = parser.parse_args(argv)
    costs = Costs(json.loads((given.measured / "costs.json").read_text())["parameters"])
    scale = json.loads((given.measured / "scale.json").read_text())
    facts: dict[str, Any] = {"machine": machine(), "validation": validation(costs, scale)}
    table(
        ["worker processes", "measured orders/s", "simulated", "ratio", "cores used by others"],
        [
            [
                row["processes"],
                f"{row['measured']:.1f}",
                f"{row['simulated']:.1f}",
                f"{row['simulated'] / row['measured']:.2f}",
                f"{row['others']:.2f}",
            ]
            for row in facts["validation"]
        ],
    )
    best = replace(Site(hosts=1), broker="redis")
    facts["limits"] = {s: limits(costs, replace(best, hosts=1000, program_s=s)) for s in given.program_s}
    print("\nmost orders/s, 1 000 hosts of 8 slots, broker: a Redis of its own, by the length of a program")
    parts = list(next(iter(facts["limits"].values())))
    rows = [[f"{s:g} s", *(f"{facts['limits'][s][part]:.4g}" for part in parts)] for s in given.program_s]
    table(["program", *parts], rows)
    print("\nload of each part when all slots are busy; above 100 %, the largest ends first")
    rows = []
    facts["loads"] = []
    for hosts in given.hosts:
        for seconds in given.program_s:
            site = replace(best, hosts=hosts, program_s=seconds, loaders=1)
            most = limits(costs, site)
            wanted = most.pop("slots")
            shares = {part: wanted / each if each else float("inf") for part, each in most.items()}
            facts["loads"].append(
                {"hosts": hosts, "program_s": seconds, "orders_per_s": wanted, "loads": shares}
            )
            rows.append(
                [hosts, f"{seconds:g} s", f"{wanted:.3g}", *(f"{each:.0%}" for each in shares.values())]
            )
    table(["hosts", "program", "orders/s", *shares], rows)
    facts["path"] = {}
    for seconds in given.path_s:
        facts["path"][seconds] = path(costs, Site(hosts=1000, program_s=seconds))
        print(f"\n1 000 hosts of 8 slots, programs of {seconds:g} s; each change comes on top of those above")
        names = ("Redis", "broker", "bridge", "workers", "loader", "artifacts")
        table(
            ["change", "calculated", "ends first", "simulated", "slots busy", "wait for Redis", *names],
            [
                [
                    row["change"],
                    f"{row['calculated']:.1f}",
                    row["first"],
                    f"{row['simulated']:.1f}",
                    f"{row['slots_busy']:.0%}",
                    f"{1000 * row['redis_wait_s']:.3g} ms",
                    *(f"{row['busy'][name]:.0%}" if name in row["busy"] else "" for name in names),
                ]
                for row in facts["path"][seconds]
            ],
        )
    written(NAME, given.json, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
