"""The loader's own jobs: it queues each upload in a Kue of its own."""

from __future__ import annotations

from collections.abc import Callable

from dynsvc.errors import DeliveryUnknown, PeerRefused, PeerUnavailable
from dynsvc.http import Http
from dynsvc.kue import Job, JobStore, Outcome, connect, is_job_id, job_from_api
from dynsvc.leases import Upload
from dynsvc.settings import Annotations
from dynsvc.sinks import Receipt

__all__ = ["LoaderJobs"]

#: A job that has not appeared this long after its upload began will not.
_SETTLED_MS = 30_000
#: A living worker has recorded its upload's job by then.
_RECORDED_MS = 3000
#: How far the clocks of the two Redis hosts may be apart.
_CLOCKS_MS = 60_000


class LoaderJobs:
    """Looks up jobs of the loader, in its Redis or, where only that is open, over HTTP.

    Parameters
    ----------
    annotations
        ``annotations.redis`` or ``annotations.kue`` of the configuration.
    http
        The process's client.
    """

    def __init__(self, annotations: Annotations, http: Http) -> None:
        self._http, self._kue = http, annotations.kue
        redis = annotations.redis
        self._store = JobStore(connect(redis), peer=f"the loader's Redis {redis}") if redis else None

    @property
    def configured(self) -> bool:
        """Whether outcomes can be learnt at all."""
        return self._store is not None or self._kue is not None

    @property
    def channel(self) -> str | None:
        """Channel of the loader's events in its Redis; None where only HTTP is open."""
        return self._store.channel if self._store else None

    def outcome(self, loader_job_id: str) -> Outcome:
        """Return how a job of the loader ended, or that it has not.

        Raises
        ------
        PeerUnavailable
            The loader's Redis, or its Kue, does not answer (transient).
        """
        if self._store is not None:
            try:
                return self._store.outcome(loader_job_id)
            except PeerUnavailable:
                if self._kue is None:
                    raise
        return self._ask(loader_job_id)

    def receipt_of(self, upload: Upload, case_id: str, taken: Callable[[str], bool]) -> Receipt | None:
        """Find out what became of an earlier upload whose end is not known.

        Parameters
        ----------
        upload
            What the ledger knows of it.
        case_id
            The loader keeps the case of each upload and nothing else of the order.
        taken
            Says of a loader's job whether it is another order's; if not, it is this order's from then on.

        Returns
        -------
        Receipt or None
            None where the loader never got it.

        Raises
        ------
        DeliveryUnknown
            It is too early to tell (transient).
        PeerRefused
            The loader's Kue cannot be searched, and sending again might store every object twice (permanent).
        """
        if upload.loader_job_id:
            return _receipt(upload.loader_job_id)
        if self._store is None:
            raise PeerRefused(
                "annotation loader",
                "an earlier attempt may have delivered this result, which cannot be looked up without "
                "annotations.redis. It is not sent again: the loader would store every object twice. "
                "Look at the loader, and place a new order if the result is missing",
            )
        now_ms, young = upload.started_ms + upload.age_ms, False
        for job in self._store.newest():
            created_ms = job.created_at_ms or 0
            if created_ms < upload.started_ms - _CLOCKS_MS:
                break
            too_late = created_ms > upload.started_ms + _SETTLED_MS + _CLOCKS_MS
            if too_late or not isinstance(job.data, dict) or job.data.get("case_id") != case_id:
                continue
            if created_ms > now_ms - _RECORDED_MS:
                young = True
            elif not taken(job.id):
                return _receipt(job.id)
        if young or upload.age_ms < _SETTLED_MS:
            raise DeliveryUnknown("annotation loader", "an upload was cut off; its job may still appear")
        return None

    def _ask(self, loader_job_id: str) -> Outcome:
        if self._kue is None or not is_job_id(loader_job_id):
            return Outcome("unknown")
        peer = f"the loader's Kue {self._kue.scheme}://{self._kue.host}:{self._kue.port}"
        document = self._http.get_json(peer, f"{self._kue.url.rstrip('/')}/{loader_job_id}")
        try:
            job = job_from_api(document, peer=peer)
        except PeerRefused:
            # Kue's answer to an id it does not know.
            return Outcome("unknown")
        if job.is_done:
            return Outcome("done")
        return Outcome("failed", error=job.error) if job.is_failed else Outcome("pending")


def _case_of(job: Job) -> object:
    data = job.data
    return data.get("case_id") if isinstance(data, dict) else None


def _receipt(loader_job_id: str) -> Receipt:
    return Receipt(place=f"loader job {loader_job_id}", loader_job_id=loader_job_id)
