"""What the integration tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from dynsvc.kue import connect
from tests.support.redis import RedisProcess


@pytest.fixture
def client(redis_server: RedisProcess) -> Iterator[redis.Redis]:
    client = connect(redis_server.settings)
    yield client
    client.close()
