"""Sends docker_run tasks to girder-worker; runs in girder-worker's own environment, by ``girderworker``.

Each line on stdin is a JSON document: ``count`` tasks are sent with ``options`` for the engine, one after the
other has ended (``together`` false) or all at once. The answer is a line with the seconds of each, or of all.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from girder_worker.docker.tasks import docker_run

LIMIT_S = 120


def send(task: dict[str, Any], options: dict[str, Any]) -> Any:
    # The image is there; a registry would be asked otherwise.
    return docker_run.delay(
        task["image"],
        pull_image=False,
        entrypoint=task["entrypoint"],
        container_args=task["arguments"],
        volumes={task["folder"]: {"bind": "/output", "mode": "rw"}},
        **options,
    )


def main() -> None:
    task = json.loads(sys.argv[1])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        options, took_s = wanted["options"], []
        if wanted["together"]:
            began = time.perf_counter()
            for result in [send(task, options) for _ in range(wanted["count"])]:
                result.get(timeout=LIMIT_S)
            took_s.append(time.perf_counter() - began)
        else:
            for _ in range(wanted["count"]):
                began = time.perf_counter()
                send(task, options).get(timeout=LIMIT_S, interval=0.002)
                took_s.append(time.perf_counter() - began)
        print(json.dumps({"took_s": took_s}), flush=True)


main()
