"""A hospital for each fault, with servers of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults import Segmenter
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


def end_quickly(hospital: Hospital) -> None:
    """These tests have killed so much that nobody's last words are of interest."""
    for program in hospital.programs:
        program.kill_group()


@pytest.fixture
def site(redis_program: str, slides: Path) -> Iterator[Hospital]:
    """A hospital whose Kue is only its Redis, as the dashboard is not what is tested."""
    with running_redis() as redis, Hospital(redis, None, slides) as hospital:
        yield hospital
        end_quickly(hospital)


@pytest.fixture
def durable_site(redis_program: str, slides: Path) -> Iterator[Hospital]:
    """A hospital whose Redis writes every change to its disk."""
    durable = running_redis("--appendonly", "yes", "--appendfsync", "always")
    with durable as redis, Hospital(redis, None, slides) as hospital:
        yield hospital
        end_quickly(hospital)


@pytest.fixture
def kue_site(redis_program: str, node_kue: None, slides: Path) -> Iterator[Hospital]:
    """A hospital with the real Kue's API."""
    with running_redis() as redis:
        api = KueApi(redis.port)
        with running(api), Hospital(redis, api, slides) as hospital:
            yield hospital
            end_quickly(hospital)


@pytest.fixture
def segmenter(site: Hospital) -> Segmenter:
    """The program of the site, which is seen."""
    return Segmenter(site)
