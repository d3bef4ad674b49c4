"""The tests of ``dynsvc check``: one for each peer, each with a limit, each with what to do when it fails."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

from dynsvc.cli import host_probes
from dynsvc.cli.findings import Finding, Probe
from dynsvc.errors import PeerUnavailable, SettingsInvalid
from dynsvc.http import Http, Patience
from dynsvc.kue import connect
from dynsvc.kue.layout import Layout, inspect
from dynsvc.locator import BindaasLocator
from dynsvc.settings import Endpoint, RedisServer, Settings
from dynsvc.sinks.loader import LoaderSink
from dynsvc.sources.iiif import IiifSource

__all__ = ["PATIENCE", "probes"]

#: A peer that needs longer than this for its smallest answer is not well.
PATIENCE = Patience(connect_s=4, read_s=6, answer_s=8, attempts=1, total_s=8)


def probes(settings: Settings, http: Http) -> Iterator[Probe]:
    """Yield the probes of an installation, in the order of an order's way through it."""
    redis = "start that Redis, or set orders.redis (DYNSVC_ORDERS__REDIS__HOST, __PORT, __PASSWORD)"
    yield Probe("orders' Redis", lambda: _redis(settings), redis)
    yield Probe("Kue's keys", lambda: _kue_keys(settings), "first mend the orders' Redis")
    yield Probe(
        "Kue's HTTP API",
        lambda: _kue_api(settings, http),
        "start Kue's server, or set orders.kue.host and .port",
        needed=settings.order_source == "http",
    )
    yield Probe("broker", _broker, "start the broker, or set DYNSVC_BROKER_URL")
    yield Probe(
        "location service",
        lambda: _location(settings, http),
        "look at images.location (host, port, path) and images.api_key_file",
    )
    yield Probe(
        "image server",
        lambda: _images(settings, http),
        "start the image server, or set images.imageServer.url",
    )
    yield Probe("slides folder", lambda: host_probes.slides(settings), "mount it, or unset DYNSVC_SLIDES")
    yield Probe(
        "runtime",
        lambda: host_probes.runtime(settings),
        "start the container engine, or set DYNSVC_RUNTIME=process",
    )
    yield Probe(
        "algorithms",
        lambda: host_probes.algorithms(settings),
        "set DYNSVC_ALGORITHMS to the folder of descriptors",
    )
    yield Probe(
        "artifact store",
        lambda: host_probes.artifacts(settings),
        "set DYNSVC_ARTIFACTS to a place that can be written",
    )
    yield Probe(
        "scratch folder",
        lambda: host_probes.folder(settings.scratch),
        "set DYNSVC_SCRATCH to a folder that can be written",
    )
    if settings.sink_kind == "loader":
        loader = "start the loader, or set annotations.server (host, port, path)"
        yield Probe("annotation loader", lambda: _loader(settings, http), loader)
        yield Probe(
            "loader's outcomes",
            lambda: _outcomes(settings, http),
            "start the loader's Redis, or set annotations.redis (or annotations.kue)",
        )
    else:
        advice = "set DYNSVC_RESULTS to a folder that can be written"
        yield Probe("results folder", lambda: host_probes.folder(settings.results_folder), advice)


def _layout(settings: Settings) -> Layout:
    with closing(connect(settings.orders.redis, name="dynsvc-check")) as client:
        return inspect(client, settings.kue_head)


def _redis(settings: Settings) -> Finding:
    layout = _layout(settings)
    text = f"{settings.orders.redis}, version {layout.version}"
    if layout.eviction not in ("noeviction", "unknown"):
        return Finding(
            "warning",
            f"{text}, drops keys when memory is full (maxmemory-policy {layout.eviction}): orders get lost",
            "set maxmemory-policy to noeviction",
        )
    return Finding("ok", text)


def _kue_keys(settings: Settings) -> Finding:
    layout, head = _layout(settings), settings.kue_head
    if not layout.used and layout.other_head:
        return Finding(
            "broken",
            f"Kue's keys begin with {layout.other_head}, expected {head}: no order would be seen",
            f"set DYNSVC_KUE_HEAD={layout.other_head}",
        )
    if not layout.used:
        return Finding(
            "warning",
            f"no job was ever saved under {head}",
            "right for a new Kue; else look at host, port and db",
        )
    wanted, found = ", ".join(settings.job_types), ", ".join(layout.types) or "none"
    if not set(settings.job_types) & set(layout.types):
        return Finding(
            "warning",
            f"no job of the types {wanted} yet; types found: {found}",
            "set DYNSVC_JOB_TYPES if yours has another name",
        )
    also = f"; {layout.other_head} is used too" if layout.other_head else ""
    return Finding("ok", f"key head {head}, job types found: {found}{also}")


def _kue_api(settings: Settings, http: Http) -> Finding:
    kue = settings.orders.kue
    if kue is None:
        if settings.order_source == "http":
            raise SettingsInvalid("orders.kue", "not set", "Kue's HTTP API, for DYNSVC_ORDER_SOURCE=http")
        return Finding("off", "not configured; orders are read from Redis")
    return Finding("ok", _kue_answers("Kue's API", kue, http))


def _kue_answers(name: str, kue: Endpoint, http: Http) -> str:
    peer = f"{name} {kue.scheme}://{kue.host}:{kue.port}"
    types = http.get_json(peer, f"{kue.url.rstrip('/')}/types")
    if not isinstance(types, list):
        raise PeerUnavailable(peer, f"answered a JSON {type(types).__name__}, expected the list of job types")
    return f"{peer} answers"


def _broker() -> Finding:
    from dynsvc.celery import broker_alive  # noqa: PLC0415 - Celery takes half a second to load

    return Finding("ok", broker_alive())


def _location(settings: Settings, http: Http) -> Finding:
    endpoint = settings.images.location
    if endpoint is None:
        if settings.slides:
            return Finding("off", "not configured; slides are found in DYNSVC_SLIDES")
        raise SettingsInvalid("images.location", "not set", "the location service, or DYNSVC_SLIDES")
    return Finding("ok", BindaasLocator(http, endpoint, settings.api_key()).check())


def _images(settings: Settings, http: Http) -> Finding:
    server = settings.images.image_server
    if server is None:
        if settings.slides:
            return Finding("off", "not configured; slides are read from DYNSVC_SLIDES")
        raise SettingsInvalid("images.imageServer.url", "not set", "an IIIF image server, or DYNSVC_SLIDES")
    return Finding("ok", IiifSource(http, server.base).check())


def _loader(settings: Settings, http: Http) -> Finding:
    endpoint = settings.annotations.server
    if endpoint is None:
        raise SettingsInvalid(
            "annotations.server", "not set", "the loader's upload endpoint, for DYNSVC_SINK=loader"
        )
    text = LoaderSink(http, endpoint).check()
    if endpoint.path.rstrip("/").endswith("submitMaskOrder"):
        return Finding(
            "warning",
            f"{text}; /submitMaskOrder refuses the zips that are sent",
            "set annotations.server.path to /submitZipOrder",
        )
    return Finding("ok", text)


def _outcomes(settings: Settings, http: Http) -> Finding:
    told: list[str] = []
    if settings.annotations.redis:
        told.append(_ping("the loader's Redis", settings.annotations.redis))
    if settings.annotations.kue:
        told.append(_kue_answers("the loader's Kue", settings.annotations.kue, http))
    if not told:
        return Finding(
            "warning",
            "not configured: orders are complete after the upload, whatever the loader makes of it",
            "set annotations.redis or annotations.kue",
        )
    return Finding("ok", "; ".join(told))


def _ping(name: str, server: RedisServer) -> str:
    with closing(connect(server, name=f"dynsvc-check@{socket.gethostname()}")) as client:
        return f"{name} {server}, version {inspect(client, 'q:', peer=f'{name} {server}').version}"
