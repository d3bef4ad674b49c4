"""The comparison of the chaos run: the four steps as a plain Celery chain, as one would write it first.

Late acknowledgement, rejection when the worker is lost, retries with backoff, the default visibility timeout;
no leases and no fencing. ``benchmarks.chaos`` starts it, with the servers' addresses in the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import requests
from celery import Celery, chain

from dynsvc.kue import JobStore, connect
from dynsvc.settings import RedisServer

__all__ = ["app", "send"]

SITE: dict[str, Any] = json.loads(os.environ.get("PLAIN_SITE", "{}"))

app = Celery("plain", broker=SITE.get("broker"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_channel_error_retry=True,
    worker_hijack_root_logger=False,
)
PATIENT: dict[str, Any] = {
    "autoretry_for": (requests.RequestException, OSError, subprocess.CalledProcessError),
    "retry_backoff": True,
    "retry_backoff_max": 15,
    "max_retries": 8,
}


def jobs() -> JobStore:
    return JobStore(connect(RedisServer(host="127.0.0.1", port=SITE["redis_port"])))


def token(order_id: str) -> str:
    return f"plain-{order_id}"


@app.task(**PATIENT)
def locate(order_id: str, case_id: str) -> dict[str, str]:
    answer = requests.get(
        SITE["location"], params={"TCGAId": case_id, "api_key": SITE["api_key"]}, timeout=30
    )
    answer.raise_for_status()
    return {"order_id": order_id, "case_id": case_id, "path": answer.json()[0]["file-location"]}


@app.task(**PATIENT)
def fetch(order: dict[str, str]) -> dict[str, str]:
    answer = requests.get(f"{SITE['images']}{order['path']}/10,20,64,48/full/0/default.jpg", timeout=30)
    answer.raise_for_status()
    folder = Path(tempfile.mkdtemp(dir=SITE["scratch"]))
    (folder / f"{order['order_id']}.jpg").write_bytes(answer.content)
    return {**order, "folder": str(folder)}


@app.task(**PATIENT)
def run(order: dict[str, str]) -> dict[str, str]:
    result = Path(order["folder"]) / "output.zip"
    if image := SITE["image"]:
        mount = f"{order['folder']}:/output"
        container = ["docker", "run", "--rm", "--init", "--network", "none", "-v", mount, image]
        subprocess.run([*container, "mainSegmentFeatures", "-z", "/output/output.zip"], check=True)
    else:
        subprocess.run(["mainSegmentFeatures", "-z", str(result)], check=True)
    with zipfile.ZipFile(result, "a") as archive:
        archive.write(Path(order["folder"]) / f"{order['order_id']}.jpg", f"{order['order_id']}.jpg")
    return order


@app.task(**PATIENT)
def upload(order: dict[str, str]) -> None:
    with (Path(order["folder"]) / "output.zip").open("rb") as stream:
        answer = requests.post(
            SITE["loader"], data={"case_id": order["case_id"]}, files={"zip": stream}, timeout=60
        )
    answer.raise_for_status()
    jobs().complete(order["order_id"], token(order["order_id"]), answer.json()["id"])


def send(order_id: str, case_id: str) -> None:
    """Claim one order and send its chain."""
    jobs().claim(order_id, ["analysisJob"], token(order_id))
    chain(locate.s(order_id, case_id), fetch.s(), run.s(), upload.s()).apply_async()
