"""A stand-in for QuIP's annotation loader: takes zips, and a job of its own loads each of them.

``python -m dynsvc.standins.loader --folder FOLDER`` keeps the zips; it loads nothing. Each job ends after
``--delay`` seconds, and ``GET /job/ID`` tells how.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from dynsvc.standins.command import serve
from dynsvc.standins.form import FormInvalidError, read_form
from dynsvc.standins.server import Reply, Request, Standin, json_reply

__all__ = ["PATH", "Behaviour", "LoaderJob", "LoaderStandin"]

#: Where the loader takes zips.
PATH = "/submitZipOrder"
JOB_TYPE = "ZipOrder"

_BAD_FIELD = b"<!DOCTYPE html>\n<html><body><pre>Error: Unexpected field</pre></body></html>"
#: The loader's own Kue says in these words what became of a job.
_STATES = {"loading": "active", "loaded": "complete", "failed": "failed"}


@dataclass(kw_only=True)
class LoaderJob:
    """One upload and what became of it."""

    id: str
    case_id: str
    zip_path: Path
    created_ms: int
    #: ``loading``, then ``loaded`` or ``failed``.
    outcome: Literal["loading", "loaded", "failed"] = "loading"
    error: str = ""


@dataclass(kw_only=True)
class Behaviour:
    """How the stand-in treats the uploads that follow. Change it while it runs."""

    #: Text that a job ends with as an error; None where it ends well.
    job_error: str | None = None
    #: Seconds from the upload to the end of its job.
    delay_s: float = 0.0
    #: Answers an upload with this, and takes nothing.
    refusal: Reply | None = None
    #: Where the answer names the job: ``full`` as the loader does, or only in one of the places.
    shape: Literal["full", "id", "text-id", "job", "job-text"] = "full"


class LoaderStandin(Standin):
    """Takes uploads as the loader does, errors included, and ends a job for each of them.

    Parameters
    ----------
    folder
        The zips are kept here, as ``JOB_ID.zip``; the owner of the folder deletes them.
    create_job
        Makes the job in a Kue of the loader's own: called with the case id and the zip, gives the job's id.
        By default the stand-in counts.
    on_upload
        Called with the job's id and the zip, before the upload is answered.
    on_end
        Called when the job has ended, with the job.
    host, port
        As for Standin.
    """

    def __init__(
        self,
        folder: Path,
        *,
        create_job: Callable[[str, Path], str] | None = None,
        on_upload: Callable[[str, Path], None] | None = None,
        on_end: Callable[[LoaderJob], None] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self.behaviour = Behaviour()
        #: All jobs so far, by id.
        self.jobs: dict[str, LoaderJob] = {}
        self._folder = folder
        self._numbers = itertools.count(1)
        self._create_job = create_job or (lambda _case_id, _zip_path: str(next(self._numbers)))
        self._on_upload, self._on_end = on_upload, on_end
        self._timers: set[threading.Timer] = set()
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Stop listening. Jobs that have not ended never do."""
        super().stop()
        with self._lock:
            timers, self._timers = self._timers, set()
        for timer in timers:
            timer.cancel()

    def answer(self, request: Request) -> Reply:
        """Take one upload, or tell of one job or of their type."""
        if request.method == "GET" and request.path == "/job/types":
            return json_reply(200, [JOB_TYPE])
        if request.method == "GET" and request.path.startswith("/job/"):
            loader_job_id = request.path.removeprefix("/job/")
            job = self.jobs.get(loader_job_id)
            unknown = {"error": f'job "{loader_job_id}" doesnt exist'}
            return json_reply(200, unknown if job is None else _job_document(job))
        if request.method == "POST" and request.path == PATH:
            return self.behaviour.refusal or self._upload(request)
        return Reply(404, f"Cannot {request.method} {request.path}".encode(), "text/html")

    def _upload(self, request: Request) -> Reply:
        try:
            form = read_form(request.headers.get("content-type", ""), request.body)
        except FormInvalidError as error:
            return Reply(500, f"<pre>Error: {error}</pre>".encode(), "text/html")
        if set(form) - {"case_id"} != {"zip"}:
            return Reply(500, _BAD_FIELD, "text/html")
        if "case_id" not in form:
            return Reply(400, b"Please provide case_id")
        return json_reply(200, self._take(form["case_id"][1].decode(), form["zip"][1]))

    def _take(self, case_id: str, content: bytes) -> dict[str, Any]:
        behaviour = self.behaviour
        self._folder.mkdir(parents=True, exist_ok=True)
        upload = self._folder / f".{uuid.uuid4().hex}.upload"
        upload.write_bytes(content)
        loader_job_id = str(self._create_job(case_id, upload))
        zip_path = upload.replace(self._folder / f"{loader_job_id}.zip")
        job = LoaderJob(
            id=loader_job_id, case_id=case_id, zip_path=zip_path, created_ms=int(time.time() * 1000)
        )
        self.jobs[job.id] = job
        if self._on_upload is not None:
            self._on_upload(job.id, zip_path)
        timer = threading.Timer(behaviour.delay_s, self._end, (job, behaviour.job_error))
        timer.daemon = True
        with self._lock:
            self._timers.add(timer)
        timer.start()
        return _answer_document(job, behaviour.shape)

    def _end(self, job: LoaderJob, error: str | None) -> None:
        with self._lock:
            self._timers = {timer for timer in self._timers if timer is not threading.current_thread()}
        job.error = error or ""
        job.outcome = "failed" if error else "loaded"
        if self._on_end is not None:
            self._on_end(job)


def _number(loader_job_id: str) -> int | str:
    return int(loader_job_id) if loader_job_id.isdigit() else loader_job_id


def _job_document(job: LoaderJob) -> dict[str, Any]:
    """Return what the loader's Kue tells of *job*: ids and times are texts there."""
    ended = job.outcome != "loading"
    return {
        "id": job.id,
        "type": JOB_TYPE,
        "data": {"case_id": job.case_id, "zipFilePath": str(job.zip_path)},
        "priority": 0,
        "progress": "100" if job.outcome == "loaded" else 0,
        "state": _STATES[job.outcome],
        "created_at": str(job.created_ms),
        "attempts": {"made": int(ended), "remaining": int(not ended), "max": 1},
        **({"error": job.error} if job.error else {}),
    }


def _answer_document(job: LoaderJob, shape: str) -> dict[str, Any]:
    number = _number(job.id)
    made = {
        "id": number,
        "type": JOB_TYPE,
        "data": {"case_id": job.case_id, "zipFilePath": str(job.zip_path)},
    }
    shapes: dict[str, dict[str, Any]] = {
        "full": {"Status": "Queued", "Job": made, "id": number},
        "id": {"Status": "Queued", "id": number},
        "text-id": {"Status": "Queued", "id": job.id},
        "job": {"Status": "Queued", "Job": made},
        "job-text": {"Status": "Queued", "Job": json.dumps(made)},
    }
    return shapes[shape]


@click.command(help=__doc__)
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--delay", "delay_s", default=0.5, show_default=True, help="Seconds until a job ends.")
@click.option("--fail", "job_error", metavar="TEXT", help="End each job with this error.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=3001, show_default=True)
def main(folder: Path, delay_s: float, job_error: str | None, host: str, port: int) -> None:
    """Serve until interrupted."""
    standin = LoaderStandin(folder, host=host, port=port)
    standin.behaviour = Behaviour(job_error=job_error, delay_s=delay_s)
    serve(standin)


if __name__ == "__main__":
    main()
