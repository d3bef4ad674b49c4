"""Delivery to QuIP's annotation loader."""

from __future__ import annotations

import json
import re

from dynsvc.errors import DeliveryUnknown
from dynsvc.http import Answer, Http, Patience, named
from dynsvc.settings import Endpoint
from dynsvc.sinks import Delivery, Receipt

__all__ = ["LoaderSink"]

#: A zip of a whole slide on a slow line; the loader stores it before it answers.
_PATIENCE = Patience(read_s=120, answer_s=1800)
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class LoaderSink:
    """Posts zips to the loader, whose own job then loads them."""

    def __init__(self, http: Http, endpoint: Endpoint, *, patience: Patience = _PATIENCE) -> None:
        self.peer = named("annotation loader", endpoint.url)
        self._http = http
        self._endpoint = endpoint
        self._patience = patience

    def deliver(self, delivery: Delivery) -> Receipt:
        """Post the zip, once.

        Raises
        ------
        PeerRefused
            The loader does not want it (permanent).
        DeliveryUnknown
            The loader may have it: no answer came, or one that names no job. It loads what it gets, also
            twice (transient).
        PeerUnavailable, StorageUnavailable
            It did not arrive (transient).
        """
        answer = self._http.post_multipart(
            self.peer,
            self._endpoint.url,
            {"case_id": delivery.case_id},
            "zip",
            delivery.zip_path,
            media_type="application/zip",
            patience=self._patience,
        )
        loader_job_id = _job_id(answer)
        if loader_job_id is None:
            # It took the zip, and a job may have come of it.
            raise DeliveryUnknown(
                self.peer, f"{answer.sentence()}, expected a JSON document with the id of its job"
            )
        return Receipt(place=f"loader job {loader_job_id}", loader_job_id=loader_job_id)

    def check(self) -> str:
        """Return one line about the loader, which has no request that changes nothing: any answer will do.

        Raises
        ------
        PeerUnavailable
            Nobody answers (transient).
        """
        self._http.status(self.peer, self._endpoint.url)
        return f"{self.peer} answers"


def _job_id(answer: Answer) -> str | None:
    """Return the id of the loader's job: ``id``, or ``Job.id``, where ``Job`` may be JSON in a text."""
    try:
        document = json.loads(answer.body)
        job = document.get("Job", document.get("job")) if isinstance(document, dict) else None
        if isinstance(job, str):
            job = json.loads(job)
    except (ValueError, RecursionError):
        return None
    for place in (document, job):
        found = place.get("id") if isinstance(place, dict) else None
        if isinstance(found, int | str) and not isinstance(found, bool) and _ID.fullmatch(str(found)):
            return str(found)
    return None
