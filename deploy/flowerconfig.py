"""Flower behind a password, with a memory that outlives a restart. Read by ``celery flower --conf``."""

from __future__ import annotations

from pathlib import Path

address = "0.0.0.0"  # noqa: S104  (of its container; compose publishes the port on loopback only)
port = 5555
basic_auth = [f"dynsvc:{Path('/run/secrets/flower_password').read_text().strip()}"]
persistent = True
db = "/var/lib/dynsvc/flower/state"
# A restart by the engine kills Flower after a while; what is younger than this would be lost.
state_save_interval = 10_000
max_tasks = 20_000
# The arguments tell whose task it is: order, case, algorithm, region, attempt.
tasks_columns = "name,state,args,received,runtime,worker"
