"""Kue, the Node job queue on Redis, seen by a worker that is not Node.

This package is the only place that knows Kue's keys, events and states. Its layout is that of Kue 0.11.6;
0.10.5 has the same.
"""

from __future__ import annotations

from dynsvc.kue.attempts import LOG_LINES
from dynsvc.kue.connection import answering, connect
from dynsvc.kue.events import TO_FOLLOW, Event, parse_event
from dynsvc.kue.ids import is_job_id
from dynsvc.kue.jobs import Job, job_from_api
from dynsvc.kue.outcomes import ActiveJob, Counts, Expired, Failed, LimboScan, Outcome, Sighting, Waiting
from dynsvc.kue.store import PRIORITIES, JobStore

__all__ = [
    "LOG_LINES",
    "PRIORITIES",
    "TO_FOLLOW",
    "ActiveJob",
    "Counts",
    "Event",
    "Expired",
    "Failed",
    "Job",
    "JobStore",
    "LimboScan",
    "Outcome",
    "Sighting",
    "Waiting",
    "answering",
    "connect",
    "is_job_id",
    "job_from_api",
    "parse_event",
]
