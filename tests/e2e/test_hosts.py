"""Two worker hosts without a common folder: Redis over TLS, artifacts on S3, orders that cross both."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hospital import Hospital, Program, eventually
from tests.support.kue import KueApi, running
from tests.support.netns import Net, forwarded, running_net
from tests.support.orders import v4
from tests.support.redis import free_port, running_redis
from tests.support.s3 import BUCKET, KEYS, running_store, stored
from tests.support.tls import Authority

pytestmark = [pytest.mark.services]


@pytest.fixture
def net() -> Iterator[Net]:
    with running_net("a", "b") as found:
        yield found


@pytest.fixture
def store(net: Net) -> Iterator[str]:
    with running_store(net.address) as url:
        yield url


def worker(site: Hospital, net: Net, host: str, queue: str, **env: str) -> Program:
    argv = [sys.executable, "-m", "celery", "-A", "dynsvc", "worker", "-n", f"celery@{host}", "-Q", queue]
    own = {"DYNSVC_HOST": host, "DYNSVC_SCRATCH": str(site.folder / host)}
    return site.start(f"worker-{host}", net.inside(host, *argv), **own, **env)


def test_orders_cross_two_hosts_that_share_only_redis_and_an_s3_store(
    redis_program: str, node_kue: None, slides: Path, net: Net, store: str, tmp_path: Path
) -> None:
    authority, tls_port = Authority(tmp_path), free_port()
    certificate, key = authority.issue("redis", net.address)
    tls = ["--tls-port", str(tls_port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    options = [*tls, "--tls-auth-clients", "no", "--tls-ca-cert-file", str(authority.certificate)]
    with running_redis(*options, "--bind", "127.0.0.1", net.address, "--protected-mode", "no") as redis:
        api = KueApi(redis.port)
        with running(api), Hospital(redis, api, slides) as site:
            site.install_copying_segmenter()
            ports = [site.bindaas.port, site.images.port, site.loader.port, site.loader_redis.port, api.port]
            env = {
                "SSL_CERT_FILE": str(authority.certificate),
                "DYNSVC_ORDERS__REDIS__HOST": net.address,
                "DYNSVC_ORDERS__REDIS__PORT": str(tls_port),
                "DYNSVC_ORDERS__REDIS__TLS": "true",
                "DYNSVC_ORDERS__KUE__HOST": net.address,
                "DYNSVC_BROKER_URL": "",
                "DYNSVC_IMAGES__LOCATION__HOST": net.address,
                "DYNSVC_IMAGES__IMAGESERVER__URL": f"{net.address}:{site.images.port}",
                "DYNSVC_ANNOTATIONS__SERVER__HOST": net.address,
                "DYNSVC_ANNOTATIONS__REDIS__HOST": net.address,
                "DYNSVC_ARTIFACTS": f"s3://{BUCKET}/dynsvc",
                "AWS_ENDPOINT_URL_S3": store,
                **KEYS,
            }
            with forwarded(net.address, *ports):
                workers = [worker(site, net, "a", "io", **env), worker(site, net, "b", "cpu", **env)]
                for each in workers:
                    each.wait_for(" ready.")
                site.start_bridge(**env)
                order_ids = [site.kue.post_job("analysisJob", v4(x=i, y=20, w=64, h=48)) for i in range(10)]
                site.wait_ended(*order_ids)
                jobs = [site.kue.get(f"/job/{order_id}") for order_id in order_ids]
                assert [job["state"] for job in jobs] == ["complete"] * 10, jobs[0]
                assert {job["result"]["host"] for job in jobs} == {"b"}
                assert len(site.uploads()) == 10
                # Pixels and results went through the store, and are gone from it with their orders.
                eventually(
                    lambda: not [name for name in stored(store) if "/orders/" in name], 20, "an empty store"
                )
                assert not (site.folder / "a" / "artifacts").exists()
                assert not (site.folder / "b" / "artifacts").exists()
                assert KEYS["AWS_SECRET_ACCESS_KEY"] not in "".join(each.log for each in site.programs)
                checked = check(site, net, env)
                assert "0 broken, 0 warnings" in checked, checked
                # Who does not know the authority does not talk to that Redis, and gives it no password.
                refused = check(site, net, {**env, "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt"})
                assert "CERTIFICATE_VERIFY_FAILED" in refused.upper().replace(" ", "_"), refused


def check(site: Hospital, net: Net, env: dict[str, str]) -> str:
    done = subprocess.run(
        net.inside("b", str(Path(sys.executable).parent / "dynsvc"), "check"),
        env={**site.env, **env},
        cwd=site.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr
