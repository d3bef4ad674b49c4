"""How long a removed order's container still runs: from Kue's removal until the engine no longer has it.

Orders are removed at random moments of the worker's look at them. The engine is one of the benchmark's own.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import structlog

from tests.support.containers import ContainerSegmenter
from tests.support.faults import place
from tests.support.hospital import SLIDE, Hospital, eventually
from tests.support.private_engine import running_engine
from tests.support.redis import running_redis
from tests.support.slides import write_slide


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cancel", description=__doc__)
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    chance, seconds = random.Random(options.seed), []
    with TemporaryDirectory() as folder, running_redis() as server, running_engine() as engine:
        write_slide(Path(folder) / SLIDE.lstrip("/"))
        with Hospital(server, None, Path(folder)) as site:
            segmenter = ContainerSegmenter(site, engine)
            segmenter.install("sleep 600")
            site.start_worker(**segmenter.env)
            site.start_bridge(**segmenter.env)
            for _ in range(options.orders):
                (order_id,) = place(site)
                eventually(segmenter.running, 60, "the container runs")
                time.sleep(chance.uniform(0.0, 1.0))
                site.jobs.remove(order_id)
                began = time.monotonic()
                eventually(lambda: not segmenter.living(), 60, "the container is gone")
                seconds.append(time.monotonic() - began)
            uploads = len(site.uploads())
    print(f"container gone after {median(seconds):.2f} s (median), {max(seconds):.2f} s (longest)")
    print(f"orders removed: {len(seconds)}, uploads: {uploads}")
    return 0 if max(seconds) < 2.0 and not uploads else 1


if __name__ == "__main__":
    sys.exit(main())
