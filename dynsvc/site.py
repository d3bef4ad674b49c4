"""One process's view of its site: settings, connections and ports, opened once and shared by all steps."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import structlog

from dynsvc.algorithms import Catalog
from dynsvc.artifacts import ArtifactStore
from dynsvc.errors import DynsvcError, SettingsInvalid, SlideNotFound
from dynsvc.http import Http
from dynsvc.kue import Job, JobStore, connect, job_from_api
from dynsvc.leases import Ledger, Spread
from dynsvc.loader_jobs import LoaderJobs
from dynsvc.locator import BindaasLocator
from dynsvc.messages import Message
from dynsvc.orders import Order, safe_name
from dynsvc.pipeline import Ports
from dynsvc.retry import RetryPolicy
from dynsvc.runtime import Admission
from dynsvc.runtime_choice import admission_of, choose
from dynsvc.settings import Settings
from dynsvc.sinks import ResultSink
from dynsvc.sinks.directory import DirectorySink
from dynsvc.sinks.loader import LoaderSink
from dynsvc.slidefolder import resolve_local
from dynsvc.slides import Slide
from dynsvc.sources import ImageSource
from dynsvc.sources.iiif import IiifSource
from dynsvc.sources.openslide import OpenSlideSource
from dynsvc.traces import Traces

__all__ = ["Site", "SlideLocator"]

log = structlog.get_logger(__name__)


class SlideLocator:
    """Finds an order's slide: by the location service, or as a file of this host.

    Where slides are mounted (``DYNSVC_SLIDES``) and the located file is among them, it is read directly.
    """

    def __init__(self, settings: Settings, http: Http) -> None:
        self._root = settings.slides
        location = settings.images.location
        self._service = BindaasLocator(http, location, settings.api_key()) if location else None

    def locate(self, order: Order) -> Slide:
        """Return where the slide is, with what its record tells."""
        if order.source == "file":
            if self._root is None:
                raise SettingsInvalid(
                    "DYNSVC_SLIDES",
                    "not set",
                    "the root of mounted slides, for an order with image.source file",
                )
            path = resolve_local(self._root, order.location or "")
            return Slide(case_id=order.case_id, origin="file", location=str(path))
        if self._service is None:
            raise SettingsInvalid(
                "images.location",
                "not set",
                "the location service, for an order with image.source image_server",
            )
        slide = self._service.locate(order.case_id)
        mounted = self._mounted(slide.location)
        return slide.model_copy(update={"origin": "file", "location": str(mounted)}) if mounted else slide

    def _mounted(self, location: str) -> Path | None:
        if self._root is None:
            return None
        try:
            # The service tells the image server's path; sites mount the same tree at the same or another one.
            return resolve_local(self._root, location)
        except SlideNotFound:
            return None


class Site:
    """Settings, and everything that is opened by them. Connections are opened by their first use.

    Raises
    ------
    SettingsInvalid
        The configuration cannot be used.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.load()
        self.http = Http()
        server = self.settings.orders.redis
        client, peer = connect(server), f"the orders' Redis {server}"
        self.jobs = JobStore(client, self.settings.kue_head, peer=peer)
        self.ledger = Ledger(client, self.settings.kue_head, peer)
        self.spread = Spread(client, self.settings.kue_head, peer)
        self.traces = Traces(client, self.settings.kue_head, peer, keep_s=self.settings.keep_s)
        self.loader_jobs = LoaderJobs(self.settings.annotations, self.http)
        self.artifacts = ArtifactStore(self.settings.artifacts_uri)

    @cached_property
    def ports(self) -> Ports:
        """What the steps reach the world through."""
        return ports(self.settings, self.http, self.artifacts)

    @property
    def retry_policy(self) -> RetryPolicy:
        """How long a step persists against peers that are away."""
        return RetryPolicy(limit_s=self.settings.retry_limit_s)

    def document_of(self, job: Job) -> str:
        """Return the order's document: from the claimed job, or as the original did from Kue's HTTP API.

        Raises
        ------
        PeerRefused
            Kue's API answers with an error document.
        PeerUnavailable
            Kue's API does not answer (transient).
        """
        kue = self.settings.orders.kue
        if self.settings.order_source == "redis":
            return job.data_text
        if kue is None:
            raise SettingsInvalid("orders.kue", "not set", "Kue's HTTP API, for DYNSVC_ORDER_SOURCE=http")
        peer = f"Kue's API {kue.scheme}://{kue.host}:{kue.port}"
        return job_from_api(self.http.get_json(peer, f"{kue.url.rstrip('/')}/{job.id}"), peer=peer).data_text

    def discard_artifacts(self, order_id: str) -> None:
        """Remove what an ended order left in the store. Failing to is no failure of the order."""
        try:
            self.artifacts.delete(f"orders/{safe_name(order_id)}")
        except DynsvcError as error:
            log.warning("artifacts not removed", order_id=order_id, error=str(error))


def summary(message: Message, place: str) -> dict[str, Any]:
    """Return what Kue stores as the result of an order: counts, names, digests, times."""
    plan, result = message.plan, message.result
    return {
        "place": place,
        "objects": result.objects if result else None,
        "zip_sha256": result.archive.sha256 if result else None,
        "zip_bytes": result.archive.size_bytes if result else None,
        "algorithm": f"{plan.algorithm} {plan.algorithm_version}" if plan else None,
        "executed": result.executed if result else None,
        "host": result.host if result else None,
        "cached": result.cached if result else None,
        "region": str(plan.region) if plan else None,
        "mpp_um": plan.mpp_um if plan else None,
        "timings_s": message.timings_s,
    }


class _Sources:
    """The image source for a slide."""

    def __init__(self, settings: Settings, http: Http) -> None:
        self._settings, self._http = settings, http

    @cached_property
    def _files(self) -> ImageSource:
        return OpenSlideSource(self._settings.slides)

    @cached_property
    def _server(self) -> ImageSource:
        server = self._settings.images.image_server
        if server is None:
            raise SettingsInvalid("images.imageServer.url", "not set", "an IIIF image server")
        return IiifSource(self._http, server.base, format=server.format)

    def __call__(self, slide: Slide) -> ImageSource:
        return self._files if slide.origin == "file" else self._server


class _Host:
    """The host's runtime and its admission, chosen by their first use: an engine may be asked for it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _runtime(self) -> Any:
        return choose(self._settings)

    @cached_property
    def _admission(self) -> Admission:
        return admission_of(self._settings)

    def runtime(self) -> Any:
        return self._runtime

    def admission(self) -> Admission:
        return self._admission


def ports(settings: Settings, http: Http, artifacts: ArtifactStore) -> Ports:
    """Return the ports that *settings* describe."""
    host = _Host(settings)
    return Ports(
        settings=settings,
        catalog=Catalog.load(settings.algorithms),
        locator=SlideLocator(settings, http),
        source=_Sources(settings, http),
        artifacts=artifacts,
        runtime=host.runtime,
        admission=host.admission,
        sink=_sink(settings, http),
    )


def _sink(settings: Settings, http: Http) -> ResultSink:
    if settings.sink_kind == "directory":
        return DirectorySink(settings.results_folder)
    if settings.annotations.server is None:
        raise SettingsInvalid(
            "annotations.server", "not set", "the loader's upload endpoint, for DYNSVC_SINK=loader"
        )
    return LoaderSink(http, settings.annotations.server)
