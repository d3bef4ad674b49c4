"""Everything of a Kue that can be seen from outside, with times, durations and worker ids taken out."""

from __future__ import annotations

import itertools
import json
import re
import time
from dataclasses import dataclass
from typing import Any

import redis

from tests.support.kue import KueApi, KueListener, KueProcess

STATES = ("inactive", "active", "complete", "failed", "delayed")
TIMES = {"created_at", "promote_at", "updated_at", "started_at", "failed_at"}
_LOCKS = {"promotion:lock", "activeJobsTTL:lock", "release"}


@dataclass(frozen=True)
class Observation:
    """One moment of a Kue."""

    #: Raw messages in their order, without those that race with the worker's on another connection.
    ordered: list[str]
    #: All raw messages, sorted.
    messages: list[str]
    #: What ``queue.on`` and ``job.on`` heard, sorted.
    heard: list[str]
    #: Every key.
    keys: dict[str, Any]
    #: Every answer of the JSON API, by path.
    answers: dict[str, Any]

    def differences(self, other: Observation) -> list[str]:
        """Return what is not the same in *other*, one line each."""
        found = []
        for part in ("ordered", "messages", "heard", "keys", "answers"):
            mine, theirs = getattr(self, part), getattr(other, part)
            if isinstance(mine, dict):
                found += [
                    f"{part} {name}: {mine.get(name)!r} != {theirs.get(name)!r}"
                    for name in sorted(mine.keys() | theirs.keys())
                    if mine.get(name) != theirs.get(name)
                ]
            elif mine != theirs:
                found.append(f"{part}: {mine!r} != {theirs!r}")
        return found


class Observer:
    """Watches one Kue: its channel, its keys, its API and a Node listener."""

    def __init__(
        self, client: redis.Redis, api: KueApi, listener: KueListener, worker: KueProcess | None = None
    ) -> None:
        self._client, self._api, self._listener = client, api, listener
        # Processes that write and may be late.
        self._writers = [process for process in (listener, worker) if process is not None]
        # Far from the ids of jobs.
        self._markers = itertools.count(10_000_000)
        self._subscription = client.pubsub(ignore_subscribe_messages=True)
        self._subscription.subscribe("q:events")
        self.raw: list[str] = []

    def close(self) -> None:
        self._subscription.close()

    def wait_for(self, name: str, count: int = 1, timeout_s: float = 15.0) -> None:
        """Wait until *count* messages of the event *name* came since the last :meth:`restart`."""
        deadline = time.monotonic() + timeout_s
        while sum(f'"event":"{name}"' in message for message in self.raw) < count:
            assert time.monotonic() < deadline, f"no {name!r} ({count}) among {self.raw}"
            self._receive(0.1)

    def _receive(self, timeout_s: float) -> None:
        message = self._subscription.get_message(timeout=timeout_s)
        if message is not None:
            self.raw.append(message["data"])

    def restart(self) -> None:
        """Forget what was seen."""
        self.raw.clear()
        self._listener.printed.clear()

    def observe(self, job_ids: list[str]) -> Observation:
        """Return what can be seen once everybody has said everything."""
        self._catch_up()
        keys = {name: _neutral_key(name, value) for name, value in self.dump().items()}
        ordered = [m for m in self.raw if '"event":"enqueue"' not in m]
        return Observation(
            ordered=ordered,
            messages=sorted(self.raw),
            heard=sorted(json.dumps(d, ensure_ascii=False, sort_keys=True) for d in self._heard()),
            keys=keys,
            answers=self._answers(job_ids),
        )

    def _catch_up(self) -> None:
        """Wait until all that the processes have written is written, seen here and heard by the listener."""
        for writer in self._writers:
            number = next(self._markers)
            writer.send({"mark": number})
            marker = f'{{"id":{number},"event":"marker","args":["marker",{number}]}}'
            deadline = time.monotonic() + 15
            while marker not in self.raw:
                assert time.monotonic() < deadline, f"{writer.script} did not answer"
                self._receive(0.1)
            self.raw.remove(marker)
            self._listener.wait_for_marker(number)

    def _heard(self) -> list[dict[str, Any]]:
        """Return what the listener heard.

        Kue forgets a job's object when the job has ended. Where that is heard before the message of the job's
        creation, which takes another way, the object never hears the latter.
        """
        return [
            document
            for document in self._listener.heard()
            if document.get("queue") != "marker" and document.get("job") != "enqueue"
        ]

    def dump(self) -> dict[str, Any]:
        """Return every key with its value, locks excepted."""
        dump: dict[str, Any] = {}
        for name in sorted(set(self._client.scan_iter(count=1000)) - _LOCKS):
            kind = self._client.type(name)
            if kind == "hash":
                dump[name] = self._client.hgetall(name)
            elif kind == "zset":
                dump[name] = dict(self._client.zrange(name, 0, -1, withscores=True))
            elif kind == "list":
                dump[name] = self._client.lrange(name, 0, -1)
            elif kind == "set":
                dump[name] = sorted(self._client.smembers(name))
            elif kind == "string":
                dump[name] = self._client.get(name)
        return dump

    def _answers(self, job_ids: list[str]) -> dict[str, Any]:
        paths = ["/stats", "/job/types", "/jobs/0..-1", "/jobs/0..-1/desc"]
        paths += [f"/jobs/{state}/0..-1" for state in STATES]
        paths += [f"/jobs/order/{state}/0..-1" for state in STATES]
        paths += [f"/jobs/order/{state}/stats" for state in STATES]
        paths += [f"/job/{job_id}{tail}" for job_id in job_ids for tail in ("", "/log")]
        return {path: _neutral(self._api.get(path)) for path in paths}


def _neutral_key(name: str, value: Any) -> Any:
    if name.endswith("stats:work-time"):
        return "duration"
    if isinstance(value, dict):
        if re.search(r"job:\d+$", name):
            return _neutral(value)
        return {
            member: "time" if isinstance(score, float) and score > 1e12 else score
            for member, score in value.items()
        }
    return value


def _neutral(value: Any) -> Any:
    if isinstance(value, list):
        return (
            sorted((_neutral(member) for member in value), key=repr)
            if _is_types(value)
            else [_neutral(member) for member in value]
        )
    if not isinstance(value, dict):
        return value
    neutral = {}
    for name, member in value.items():
        if name in TIMES and member:
            neutral[name] = "time"
        elif name == "duration":
            neutral[name] = "duration"
        elif name == "workTime":
            neutral[name] = None if member is None else "duration"
        elif name == "workerId":
            neutral[name] = "worker"
        else:
            neutral[name] = member if name in {"data", "result"} else _neutral(member)
    return neutral


def _is_types(value: list[Any]) -> bool:
    """Whether a list has no order of its own, as the list of types."""
    return bool(value) and all(isinstance(member, str) for member in value) and "order" in value
