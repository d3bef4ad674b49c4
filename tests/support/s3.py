"""A real S3 server with an empty bucket, for tests."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import boto3
import requests

from tests.support.hospital import eventually
from tests.support.redis import free_port

__all__ = ["BUCKET", "KEYS", "running_store", "stored"]

BUCKET = "artifacts"
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-store",
    "AWS_REGION": "us-east-1",
}


@contextlib.contextmanager
def running_store(address: str) -> Iterator[str]:
    """Serve at an address of this machine; yield the URL."""
    port = free_port()
    url = f"http://{address}:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", address, "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: _answers(url), 30, "the S3 server")
        _client(url).create_bucket(Bucket=BUCKET)
        yield url
    finally:
        server.terminate()
        server.wait(10)


def stored(url: str) -> list[str]:
    """Return the names of all objects in the bucket."""
    return [found["Key"] for found in _client(url).list_objects_v2(Bucket=BUCKET).get("Contents", ())]


def _answers(url: str) -> bool:
    with requests.Session() as session:
        session.trust_env = False
        try:
            return session.get(f"{url}/moto-api/", timeout=5).ok
        except requests.ConnectionError:
            return False


def _client(url: str):  # type: ignore[no-untyped-def]
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )
