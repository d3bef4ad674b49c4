"""No secret leaves the process that needs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hospital import API_KEY, Hospital
from tests.support.orders import v4
from tests.support.redis import running_redis

PASSWORD = "pw-2c9e4b-of-this-redis"
SECRETS = (API_KEY, PASSWORD)


@pytest.fixture
def locked_site(redis_program: str, slides: Path) -> Iterator[Hospital]:
    """A hospital whose Redis wants a password and whose location service wants a key."""
    with (
        running_redis("--requirepass", PASSWORD) as redis,
        Hospital(redis, None, slides, password=PASSWORD) as hospital,
    ):
        yield hospital


def seen_by_others(site: Hospital) -> dict[str, str]:
    """Everything that somebody else could read: logs, Kue's Redis, the broker, requests, results."""
    texts = {program.log_path.name: program.log for program in site.programs}
    for db in (0, 1):
        with site.redis.client(db=db, password=PASSWORD) as client:
            for name in client.scan_iter():
                kind = client.type(name)
                value = {
                    "hash": client.hgetall,
                    "list": lambda key, c=client: c.lrange(key, 0, -1),
                    "set": client.smembers,
                    "zset": lambda key, c=client: c.zrange(key, 0, -1),
                }.get(kind, client.get)(name)
                texts[f"redis {db} {name}"] = str(value)
    for server in (site.bindaas, site.images, site.loader):
        # The key may be in a header of the location service's own requests, and nowhere else.
        urls = [f"{request.method} {request.path} {request.query}" for request in server.requests]
        texts[f"urls of {type(server).__name__}"] = "\n".join(urls)
        if server is not site.bindaas:
            texts[f"requests of {type(server).__name__}"] = "\n".join(
                str(dict(request.headers)) + request.body.decode(errors="replace")
                for request in server.requests
            )
    for path in (site.folder / "tmp").rglob("*"):
        if path.is_file():
            texts[str(path)] = path.read_bytes().decode(errors="replace")
    return texts


def test_no_secret_in_any_log_error_url_or_result(locked_site: Hospital) -> None:
    site = locked_site
    site.install_copying_segmenter()
    site.start_worker("-l", "DEBUG", DYNSVC_LOG_LEVEL="DEBUG", DYNSVC_RETRY_LIMIT_S="1")
    site.start_bridge(DYNSVC_LOG_LEVEL="DEBUG")
    good = site.jobs.create("order", v4(x=10, y=20, w=64, h=48))
    site.wait_ended(good)
    job = site.jobs.read(good)
    assert job is not None
    assert job.is_done, job.error
    # Errors are where secrets leak: the key is refused, then the service is gone.
    site.bindaas.api_key = "another"
    refused = site.jobs.create("order", v4(case_id="SECOND-CASE", x=10, y=20, w=64, h=48))
    site.wait_ended(refused)
    site.bindaas.stop()
    gone = site.jobs.create("order", v4(case_id="THIRD-CASE", x=10, y=20, w=64, h=48))
    site.wait_ended(gone, limit_s=90)
    errors = {order_id: (site.jobs.read(order_id).error or "") for order_id in (refused, gone)}  # type: ignore[union-attr]
    assert errors[refused].startswith("PeerRefused: location service "), errors
    assert errors[gone].startswith("PeerUnavailable: location service "), errors
    texts = seen_by_others(site)
    assert any("SECOND-CASE" in text for text in texts.values())
    leaks = [(place, secret) for place, text in texts.items() for secret in SECRETS if secret in text]
    assert leaks == []
