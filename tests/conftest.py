"""Services shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.kue import KueApi, install_kue, running
from tests.support.redis import RedisProcess, find_redis, running_redis
from tests.support.services import missing


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no setting of this machine's user reach a test."""
    for name in list(os.environ):
        ours = name.startswith(("DYNSVC_", "CELERY_"))
        if ours or name.lower() in {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy"}:
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def redis_program() -> str:
    """The server program; for tests that start servers of their own."""
    program = find_redis()
    if program is None:
        missing("redis-server")
    return program


@pytest.fixture(scope="session")
def node_kue() -> None:
    """Kue is installed; for tests that start Node processes of their own."""
    absent = install_kue()
    if absent is not None:
        missing(absent)


@pytest.fixture(scope="session")
def redis_server(redis_program: str) -> Iterator[RedisProcess]:
    """One server for the whole run. Tests use databases or key heads of their own, and never empty it."""
    with running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def kue(redis_server: RedisProcess, node_kue: None) -> Iterator[KueApi]:
    """The real Kue's API on the session's server, with the key head ``q:`` in database 0."""
    api = KueApi(redis_server.port)
    with running(api):
        yield api
