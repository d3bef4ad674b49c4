"""What an order, a second of work, a tile and an idle worker cost each part: the parameters of ``scaling``.

Celery's messages have a broker of their own, so that the orders' Redis and the broker are measured apart.
Orders: all steps in one worker, or divided over workers for io and for cpu; Redis or RabbitMQ as the broker;
two bridges; a window of 1 024. A second of work: programs that run, against an idle system. A tile: the
difference between two regions of different size. An idle worker: 1 to 8 of them, with and without gossip.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Any

from benchmarks.figures import Measured
from benchmarks.redisload import load
from benchmarks.report import arguments, machine, table, written
from benchmarks.rig import Broker, Rig
from tests.support.rabbitmq import running_rabbitmq
from tests.support.redis import RedisProcess, running_redis

__all__ = ["main"]

NAME = "costs"
SLOTS = 16
#: Orders that run, 8 in each process, as ``scaling`` has it: a process renews all its leases at once.
RUNNING, PROCESSES, RUNNING_MS, RUNNING_S = 32, 4, 5000, 3.0
#: Tiles on a side of the two regions.
SMALL, LARGE = 9, 18
#: Who hears the event of a worker; its size is that of a heartbeat, as it is sent.
SUBSCRIBERS, EVENT = 100, "x" * 770
#: Few looks, because they are counted.
LOOK_S = 0.1
TILES = LARGE**2 - SMALL**2
DIVIDED = ("io", "cpu")
QUIET = ("--without-gossip", "--without-mingle")

Parameters = dict[str, float]


def per_unit(run: Measured, units: float) -> Parameters:
    """Return what one of *units* cost each part. Of the workers, what Python itself used stands apart."""
    parts = ("bridge", "workers", "broker", "peers")
    found = {f"{part}_cpu_ms": 1000 * run.cpu_s[part] / units for part in parts}
    found["workers_alone_cpu_ms"] = 1000 * run.workers_alone_s / units
    for name, done in run.loads.items():
        found[f"{name}_us"] = 1e6 * done.cpu_s / units
        found[f"{name}_commands"] = done.commands / units
        found[f"{name}_round_trips"] = done.round_trips / units
        found[f"{name}_bytes"] = (done.received_bytes + done.sent_bytes) / units
    return found


def middle(rows: list[Parameters]) -> Parameters:
    return {name: median(row[name] for row in rows) for name in rows[0]}


def difference(large: Parameters, small: Parameters, units: float) -> Parameters:
    """Return the cost of one of *units* more; what is lost in the noise is 0."""
    return {name: max(0.0, value - small[name]) / units for name, value in large.items()}


def working(rig: Rig, broker: Broker, count: int, **how: Any) -> Measured:
    with rig.dynsvc(1, SLOTS, broker=broker, arguments=QUIET, **how) as side:
        return rig.run(side, count, 0, look_s=LOOK_S)


def running(rig: Rig, broker: Broker) -> Measured:
    """Measure while nothing begins or ends: what is left are the leases, and looks at the attempts."""
    with rig.dynsvc(PROCESSES, RUNNING, broker=broker, arguments=QUIET) as side:
        rig.place(side.job_type, 1, 0)
        rig.until(lambda: rig.ended(side.job_type) == 1)
        rig.place(side.job_type, RUNNING, RUNNING_MS)
        rig.until(lambda: rig.client.zcard(f"q:jobs:{side.job_type}:active") == RUNNING)
        # All programs have been started when the last order is active for a moment.
        time.sleep((RUNNING_MS / 1000 - RUNNING_S) / 2)
        with rig.clock(side.pids, side.servers) as measured:
            time.sleep(RUNNING_S)
        if rig.ended(side.job_type) != 1:
            raise AssertionError("orders ended while the others were measured")
        rig.until(lambda: rig.ended(side.job_type) == 1 + RUNNING)
        return measured


def steady(rig: Rig, broker: Broker, window: int, seconds: float) -> Measured:
    with rig.dynsvc(1, SLOTS, broker=broker, arguments=QUIET, DYNSVC_WINDOW=str(window)) as side:
        try:
            return rig.steady(side, 2000, seconds)
        finally:
            rig.empty(side.job_type)


def tiles(rig: Rig, broker: Broker, tiles_on_a_side: int) -> Measured:
    with rig.dynsvc(1, SLOTS, broker=broker, arguments=QUIET) as side:
        rig.place(side.job_type, 1, 0)
        rig.until(lambda: rig.ended(side.job_type) == 1)
        side.hold()
        rig.kue.post_job(side.job_type, rig.in_tiles(tiles_on_a_side))
        return rig.measured(
            side.pids,
            side.held,
            1,
            lambda: rig.ended(side.job_type) == 2,
            servers=side.servers,
            look_s=LOOK_S,
        )


def idle(rig: Rig, broker: Broker, workers: int, seconds: float, *arguments: str) -> Measured:
    with rig.dynsvc(workers, workers, broker=broker, arguments=arguments) as side:
        time.sleep(2)  # what they tell each other at the start
        with rig.clock(side.pids, side.servers) as measured:
            time.sleep(seconds)
        return measured


def messages() -> Parameters:
    """Return what Redis does for an empty round trip, at rest and busy, and for each who hears an event."""
    with running_redis() as server, server.client() as client, ExitStack() as undo:
        began = load(client)
        for _ in range(1000):
            client.ping()
            time.sleep(0.002)
        rested = load(client)
        argv = ["redis-benchmark", "-p", str(server.port), "-c", "50", "-n", "100000", "-q", "PING"]
        subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
        pinged = load(client)
        for _ in range(SUBSCRIBERS):
            undo.enter_context(server.client().pubsub()).subscribe("events")
        subscribed = load(client)
        for _ in range(300):
            client.publish("events", EVENT)
        at_rest, busy, published = rested - began, pinged - rested, load(client) - subscribed
    return {
        "at_rest_us": 1e6 * at_rest.cpu_s / at_rest.calls["ping"],
        "busy_us": 1e6 * busy.cpu_s / busy.calls["ping"],
        "delivery_us": 1e6 * published.cpu_s / published.calls["publish"] / SUBSCRIBERS,
    }


def sides(
    rig: Rig, broker: RedisProcess, rabbit: Broker, count: int, seconds: float
) -> dict[str, Callable[[], Parameters]]:
    def orders(used: Broker, **how: Any) -> Callable[[], Parameters]:
        return lambda: per_unit(working(rig, used, count, **how), count)

    def window(size: int) -> Callable[[], Parameters]:
        def measure() -> Parameters:
            run = steady(rig, broker, size, seconds)
            return per_unit(run, run.orders)

        return measure

    def region(tiles_on_a_side: int) -> Callable[[], Parameters]:
        return lambda: per_unit(tiles(rig, broker, tiles_on_a_side), 1)

    def waiting(workers: int, *how: str) -> Callable[[], Parameters]:
        def measure() -> Parameters:
            run = idle(rig, broker, workers, seconds, *how)
            return per_unit(run, run.seconds)

        return measure

    return {
        "order": orders(broker),
        "order, divided": orders(broker, queues=DIVIDED),
        "order, RabbitMQ": orders(rabbit),
        "order, divided, RabbitMQ": orders(rabbit, queues=DIVIDED),
        "order, two bridges": orders(broker, bridges=2),
        f"second, {RUNNING} orders running": lambda: per_unit(running(rig, broker), RUNNING_S),
        "order, window 64": window(64),
        "order, window 1024": window(1024),
        f"region of {SMALL**2} tiles": region(SMALL),
        f"region of {LARGE**2} tiles": region(LARGE),
        "second, 1 idle worker": waiting(1, *QUIET),
        "second, 8 idle workers": waiting(8, *QUIET),
        "second, 4 idle workers that gossip": waiting(4),
        "second, 8 idle workers that gossip": waiting(8),
    }


def parameters(found: dict[str, Parameters]) -> dict[str, Parameters]:
    """Return what ``scaling`` calculates with."""
    quiet, lone = found["second, 8 idle workers"], found["second, 1 idle worker"]
    gossip = difference(found["second, 8 idle workers that gossip"], quiet, 8 * 8)
    return {
        "order": found["order"],
        "order_divided": found["order, divided"],
        "order_two_bridges": found["order, two bridges"],
        "order_rabbitmq": found["order, RabbitMQ"],
        "order_divided_rabbitmq": found["order, divided, RabbitMQ"],
        "running_second": difference(found[f"second, {RUNNING} orders running"], lone, RUNNING),
        "window_entry": difference(found["order, window 1024"], found["order, window 64"], 1024 - 64),
        "tile": difference(found[f"region of {LARGE**2} tiles"], found[f"region of {SMALL**2} tiles"], TILES),
        "idle_worker_second": difference(quiet, lone, 7),
        "gossip_pair_second": gossip,
    }


SHOWN = {
    "bridge_cpu_ms": "bridge ms",
    "workers_cpu_ms": "workers ms",
    "workers_alone_cpu_ms": "Python alone",
    "orders_us": "Redis us",
    "orders_commands": "commands",
    "orders_round_trips": "trips",
    "orders_bytes": "bytes",
    "broker_us": "broker us",
    "broker_cpu_ms": "broker process ms",
    "broker_commands": "commands",
    "broker_round_trips": "trips",
    "broker_bytes": "bytes",
}


def shown(title: str, rows: dict[str, Parameters]) -> None:
    print()
    table(
        [title, *SHOWN.values()],
        [
            [name, *(f"{row[each]:.4g}" if each in row else "" for each in SHOWN)]
            for name, row in rows.items()
        ],
    )


def main(argv: list[str] | None = None) -> int:
    parser = arguments(NAME, __doc__)
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0, help="of idle workers, and of each window")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--more", action="store_true", help="add to the rounds that are in the JSON")
    parser.add_argument("--only", default="", help="only what begins with this: order, region, second")
    given = parser.parse_args(argv)
    facts: dict[str, Any] = {"machine": machine(), "orders": given.orders}
    runs: dict[str, list[Parameters]] = {}
    if given.more:
        runs = json.loads((given.json / f"{NAME}.json").read_text())["runs"]
    with Rig() as rig, running_redis() as broker, running_rabbitmq() as rabbit:
        measure = sides(rig, broker, rabbit, given.orders, given.seconds)
        chosen = [name for name in measure if name.startswith(given.only)]
        for each in range(given.rounds):
            for name in random.Random(each).sample(chosen, len(chosen)):
                print(f"round {each + 1}: {name}", file=sys.stderr)
                runs.setdefault(name, []).append(measure[name]())
    found = {name: middle(runs[name]) for name in measure if name in runs}
    shown("measured, medians", found)
    facts["runs"] = runs
    if len(found) < len(measure):
        written(NAME, given.json, facts)
        return 0
    facts |= {"parameters": parameters(found) | {"message": messages()}}
    shown("cost of one", parameters(found))
    told = facts["parameters"]["message"]
    print("\nmessages of Redis:", *(f"{name} {us:.1f}" for name, us in told.items()))
    order, divided = found["order"], found["order, divided"]
    facts["ratios"] = {
        "commands of both Redis, divided / in one worker": (
            divided["orders_commands"] + divided["broker_commands"]
        )
        / (order["orders_commands"] + order["broker_commands"]),
        "CPU of bridges, two / one": found["order, two bridges"]["bridge_cpu_ms"] / order["bridge_cpu_ms"],
        "CPU of the broker, RabbitMQ / Redis": found["order, RabbitMQ"]["broker_cpu_ms"]
        / order["broker_cpu_ms"],
        "CPU of the workers, RabbitMQ / Redis": found["order, RabbitMQ"]["workers_cpu_ms"]
        / order["workers_cpu_ms"],
        "CPU of the bridge, window 1 024 / 64": found["order, window 1024"]["bridge_cpu_ms"]
        / found["order, window 64"]["bridge_cpu_ms"],
    }
    print()
    for name, value in facts["ratios"].items():
        print(f"{name}: {value:.2f}")
    written(NAME, given.json, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
