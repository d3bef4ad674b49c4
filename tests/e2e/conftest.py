"""A hospital for each test, on Redis and Kue processes of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hospital import SLIDE, Hospital
from tests.support.kue import KueApi, running
from tests.support.redis import running_redis
from tests.support.slides import write_slide


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the image server, with one small slide."""
    root = tmp_path_factory.mktemp("slides")
    write_slide(root / SLIDE.lstrip("/"))
    return root


@pytest.fixture
def site(redis_program: str, node_kue: None, slides: Path) -> Iterator[Hospital]:
    """A hospital with the real Kue, and nothing of dynsvc running yet."""
    with running_redis() as redis:
        api = KueApi(redis.port)
        with running(api), Hospital(redis, api, slides) as hospital:
            yield hospital
