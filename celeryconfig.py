"""Celery's settings, each with its reason. Everything else is configured by DYNSVC_* (dynsvc/settings.py)."""

from __future__ import annotations

from typing import Any

from kombu.entity import Exchange, Queue

from dynsvc import messages
from dynsvc.devices import gpus_present
from dynsvc.settings import Settings

_settings = Settings.load()


# Redis counts priorities from 0, the most urgent, RabbitMQ the other way. A slide has thousands of tiles:
# whoever waits for one region goes first (dynsvc/celery.py sends batches of tiles with the other priority).
_on_redis = _settings.broker.startswith(("redis", "sentinel"))
_URGENT, _PATIENT = (0, 9) if _on_redis else (9, 0)


def _route(name: str, args: Any, *_others: Any, **_more: Any) -> dict[str, Any]:
    """Send each step to its queue; the algorithm's device is known from the message that reaches it."""
    document = args[0] if args and isinstance(args[0], dict) else {}
    # A batch of tiles tells it itself, a message in its plan.
    return {"queue": messages.queue_of(name, {**document, **document.get("plan", {})}.get("device"))}


def _queue(name: str) -> Queue:
    return Queue(name, Exchange(name), routing_key=name, max_priority=max(_URGENT, _PATIENT))


broker_url = _settings.broker

# The tasks live beside the runtimes they need; the bridge never imports them.
imports = ("workers.tasks", "workers.tiles", "workers.lifecycle", "workers.drain")

# Nothing but JSON is read from the broker: whoever can write to it must not be able to run code here.
task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]

# A worker without -Q takes every queue listed here. A host without a GPU must never take GPU work.
task_queues = [_queue(messages.IO), _queue(messages.CPU)]
if gpus_present(_settings.gpus):
    task_queues.append(_queue(messages.GPU))
task_default_queue = messages.IO
task_default_priority = _URGENT
task_routes = (_route,)

# A message is acknowledged when its step is done, so that a killed worker's message comes back.
# The ledger (dynsvc/leases/) makes a message that comes back harmless.
task_acks_late = True
task_reject_on_worker_lost = True
# An order's failure has been reported to Kue; its message must not come back for that.
task_acks_on_failure_or_timeout = True

# Steps are long: a worker takes only what it can begin.
worker_prefetch_multiplier = 1

# Threads, because a step waits for a server or for an external program; they share one set of connections.
worker_pool = "threads"

# The order's state is in Kue. Nobody reads Celery results, so none are written.
task_ignore_result = True
task_store_errors_even_if_ignored = False
task_track_started = False

# Events cost a worker a tenth of its time, and nobody listens but a monitor. Flower switches them on again
# and again, so that a worker that starts later sends them too; who only sends messages is not asked.
worker_send_task_events = False
task_send_sent_event = False

# A broker that restarts is waited for, at start and later.
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
# RabbitMQ closes the channel of a message that is not acknowledged for consumer_timeout (30 min by default),
# and Redis may refuse writes for a while (OOM). Neither must end a worker: the message that comes back finds
# its step running.
broker_channel_error_retry = True
# After a reconnection Celery would raise the prefetch count from the thread of a step that ends, on the
# connection that the main thread reads: with RabbitMQ the worker then hangs now and then.
worker_enable_prefetch_count_reduction = False
# An hour of GPU work is not thrown away because the broker was restarted: the ledger fences its result.
worker_cancel_long_running_tasks_on_connection_loss = False

# Redelivery by the broker is only a backstop: leases notice a lost worker within seconds. It is longer than
# any step, so that a long algorithm is not sent out a second time. All processes on a broker need the same.
visibility_timeout = _settings.visibility_timeout_s
broker_transport_options = {
    "visibility_timeout": visibility_timeout,
    "socket_keepalive": True,
    "socket_connect_timeout": 10,
    "health_check_interval": 25,
    # A Redis list for each priority and queue; the lists of the urgent ones are looked at first.
    "priority_steps": [_URGENT, _PATIENT],
}
if not _on_redis:
    # RabbitMQ knows none of these.
    broker_transport_options = {"confirm_publish": True}

# Our own formatter writes the log (dynsvc/logs.py).
worker_hijack_root_logger = False
worker_redirect_stdouts = False

timezone = "UTC"
enable_utc = True
