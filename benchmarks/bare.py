"""The floor: a chain of four tasks that do nothing, with the settings of our own worker; and the four calls.

``celery -A benchmarks.bare worker`` with BARE_BROKER set is the chain's worker; at the end of each chain it
adds a byte to the file BARE_DONE. ``python -m benchmarks.bare OPTIONS`` makes the calls of so many orders, as
plain as Python can, and prints what they cost.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from celery import Celery, chain
from kombu import Connection

__all__ = ["app", "send"]

app = Celery("bare", broker=os.environ.get("BARE_BROKER", "redis://127.0.0.1:6379/2"))
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_pool="threads",
    worker_send_task_events=False,
    task_send_sent_event=False,
    worker_enable_prefetch_count_reduction=False,
    broker_connection_retry_on_startup=True,
)


@app.task
def first(document: dict[str, Any]) -> dict[str, Any]:
    return document


@app.task
def second(document: dict[str, Any]) -> dict[str, Any]:
    return document


@app.task
def third(document: dict[str, Any]) -> dict[str, Any]:
    return document


@app.task
def fourth(document: dict[str, Any]) -> dict[str, Any]:
    # The one thing that is done: RabbitMQ has no cheap way to say that no message is left.
    os.write(_done(), b".")
    return document


@functools.cache
def _done() -> int:
    return os.open(os.environ["BARE_DONE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def send(number: int, connection: Connection) -> None:
    """Send one chain."""
    whole = chain(first.s({"order_id": str(number)}), second.s(), third.s(), fourth.s())
    whole.apply_async(connection=connection)


class _Calls:
    def __init__(self, peers: str, program: list[str], scratch: str) -> None:
        self._peers, self._program, self._scratch = peers, program, scratch
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=32))

    def __call__(self, number: int) -> None:
        get = self._session.get
        case_id = f"TCGA-02-{number % 8:04d}-01Z-00-DX1"
        answer = get(f"{self._peers}/query/getFileLocationByIID", params={"TCGAId": case_id}, timeout=30)
        place = answer.json()[0]["file-location"]
        picture = get(f"{self._peers}{place}/{number},0,512,512/full/0/default.jpg", timeout=30).content
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            (Path(folder) / "tile.jpg").write_bytes(picture)
            result = Path(folder) / "output.zip"
            subprocess.run([*self._program, str(result)], check=True)
            with result.open("rb") as stream:
                answer = self._session.post(
                    f"{self._peers}/submitZipOrder",
                    data={"case_id": case_id},
                    files={"zip": stream},
                    timeout=30,
                )
        answer.raise_for_status()


def main() -> None:
    """Make the calls of so many orders; one JSON document tells seconds and CPU seconds."""
    given = json.loads(sys.argv[1])
    calls = _Calls(given["peers"], given["program"], given["scratch"])
    with ThreadPoolExecutor(given["threads"]) as threads:
        list(threads.map(calls, range(16)))
        before = _cpu_s()
        began = time.perf_counter()
        list(threads.map(calls, range(given["orders"])))
        seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "cpu_s": _cpu_s() - before}))


def _cpu_s() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


if __name__ == "__main__":
    main()
