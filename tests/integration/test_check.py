"""`dynsvc check` against real servers, one after the other broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from dynsvc.kue import JobStore, connect
from dynsvc.standins.bindaas import PATH as BINDAAS_PATH
from dynsvc.standins.bindaas import BindaasStandin
from dynsvc.standins.imageserver import ImageServerStandin
from dynsvc.standins.loader import LoaderStandin
from tests.support.redis import RedisProcess, running_redis

pytestmark = pytest.mark.services

API_KEY = "bindaas-key-4711"
PASSWORD = "loader-redis-password-4712"
DESCRIPTOR = """
schema = 1
name = "lister"
title = "Lists"
version = "1"
command = ["{program}"]
[outputs]
required = ["*.png"]
"""


class HospitalSite:
    """All peers of an installation, running, and a config.json that names them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.orders: RedisProcess = stack.enter_context(running_redis())
        self.broker: RedisProcess = stack.enter_context(running_redis())
        self.loader_redis: RedisProcess = stack.enter_context(running_redis("--requirepass", PASSWORD))
        self.bindaas = BindaasStandin([], api_key=API_KEY)
        self.images = ImageServerStandin(folder)
        self.loader = LoaderStandin(folder / "uploads")
        for standin in (self.bindaas, self.images, self.loader):
            stack.enter_context(standin)
        with closing(connect(self.orders.settings)) as client:
            JobStore(client).create("analysisJob", {})
        (folder / "api_key.json").write_text(json.dumps({"api_key": API_KEY}))
        self.descriptor("ls")
        self.env = {
            "DYNSVC_BROKER_URL": f"redis://127.0.0.1:{self.broker.port}/0",
            "DYNSVC_ALGORITHMS": str(folder / "algorithms"),
            "DYNSVC_DEFAULT_ALGORITHM": "lister",
            "DYNSVC_RUNTIME": "process",
            "DYNSVC_SCRATCH": str(folder / "scratch"),
            "DYNSVC_ANNOTATIONS__REDIS__PASSWORD": PASSWORD,
        }
        self.config = {
            "orders": {"redis": {"host": "127.0.0.1", "port": str(self.orders.port)}},
            "images": {
                "location": {
                    "host": "127.0.0.1",
                    "port": str(self.bindaas.port),
                    "path": f"{BINDAAS_PATH}getFileLocationByIID",
                },
                "imageServer": {"url": f"127.0.0.1:{self.images.port}", "format": "JPEG"},
                "api_key_file": "api_key.json",
            },
            "annotations": {
                "server": {"host": "127.0.0.1", "port": str(self.loader.port), "path": "/submitZipOrder"},
                "redis": {"host": "127.0.0.1", "port": str(self.loader_redis.port)},
            },
        }

    def descriptor(self, program: str) -> None:
        path = self.folder / "algorithms" / "lister" / "algorithm.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(DESCRIPTOR.replace("{program}", program))

    def check(self) -> tuple[int, dict[str, str], str]:
        """Run the command; return its status, the line of each peer that is not well, and all output."""
        path = self.folder / "config.json"
        path.write_text(json.dumps(self.config))
        done = subprocess.run(
            [sys.executable, "-c", "from dynsvc.cli import main; main()", "check"],
            env={**os.environ, **self.env, "DYNSVC_CONFIG": str(path)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        output = done.stdout + done.stderr
        assert "Traceback" not in output, output
        lines = [line for line in done.stdout.splitlines() if line.startswith(("broken ", "warning "))]
        return done.returncode, {line[8:27].strip(): line for line in lines}, output


@pytest.fixture
def site(tmp_path: Path, redis_program: str) -> Iterator[HospitalSite]:
    with ExitStack() as stack:
        yield HospitalSite(tmp_path, stack)


def test_a_healthy_site_passes_and_no_secret_is_printed(site: HospitalSite) -> None:
    status, unwell, output = site.check()
    assert unwell == {}, output
    assert status == 0
    assert f"orders.redis.port = {site.orders.port}" in output
    assert "annotations.redis.password = ********" in output
    assert API_KEY not in output
    assert PASSWORD not in output


def _key_is_wrong(site: HospitalSite) -> None:
    site.bindaas.api_key = "another"


def _kue_is_elsewhere(site: HospitalSite) -> None:
    site.env["DYNSVC_KUE_HEAD"] = "{q}:"


BREAKAGES: list[tuple[Callable[[HospitalSite], object], dict[str, str]]] = [
    # what is broken, and which peers must be named broken with which words
    (
        lambda site: site.orders.stop(),
        {
            "orders' Redis": "start that Redis, or set orders.redis",
            "Kue's keys": "first mend the orders' Redis",
        },
    ),
    (_kue_is_elsewhere, {"Kue's keys": "set DYNSVC_KUE_HEAD=q:"}),
    (lambda site: site.broker.stop(), {"broker": "start the broker, or set DYNSVC_BROKER_URL"}),
    (lambda site: site.bindaas.stop(), {"location service": "look at images.location"}),
    (_key_is_wrong, {"location service": "answered 401, the API key is missing or wrong"}),
    (lambda site: site.images.stop(), {"image server": "set images.imageServer.url"}),
    (lambda site: site.loader.stop(), {"annotation loader": "set annotations.server"}),
    (lambda site: site.loader_redis.stop(), {"loader's outcomes": "set annotations.redis"}),
    (
        lambda site: site.env.update(DYNSVC_ANNOTATIONS__REDIS__PASSWORD="wrong-one"),
        {"loader's outcomes": "annotations.redis"},
    ),
    (
        lambda site: site.env.update(DYNSVC_RUNTIME="podmann"),
        {"runtime": "'podmann', expected one of", "algorithms": "'podmann'"},
    ),
    (
        lambda site: site.env.update(DYNSVC_RUNTIME="docker", DOCKER_HOST="unix:///nowhere.sock"),
        {"runtime": "start the container engine", "algorithms": "build or pull the image"},
    ),
    (
        lambda site: site.env.update(DYNSVC_RUNTIME="apptainer", PATH=str(site.folder)),
        {"runtime": "a host that has the program apptainer on PATH", "algorithms": "names no image"},
    ),
    (
        lambda site: site.descriptor("no-such-program-here"),
        {"algorithms": "no-such-program-here is not on PATH"},
    ),
    (lambda site: site.descriptor('x"\ny = "'), {"algorithms": "algorithm.toml"}),
    (lambda site: site.env.update(DYNSVC_ALGORITHMS="/nowhere"), {"algorithms": "set DYNSVC_ALGORITHMS"}),
    (
        lambda site: site.env.update(DYNSVC_DEFAULT_ALGORITHM="other"),
        {"algorithms": "DYNSVC_DEFAULT_ALGORITHM"},
    ),
    (
        lambda site: site.env.update(DYNSVC_ARTIFACTS="/proc/artifacts"),
        {"artifact store": "set DYNSVC_ARTIFACTS"},
    ),
    (lambda site: site.env.update(DYNSVC_SLIDES="/nowhere"), {"slides folder": "unset DYNSVC_SLIDES"}),
    (lambda site: site.config["images"].pop("location"), {"location service": "images.location is not set"}),
]


@pytest.mark.parametrize(("breaks", "named"), BREAKAGES)
def test_each_broken_peer_is_named_and_no_other(
    site: HospitalSite, breaks: Callable[[HospitalSite], object], named: dict[str, str]
) -> None:
    breaks(site)
    status, unwell, output = site.check()
    assert status == 1
    assert {name for name, line in unwell.items() if line.startswith("broken")} == set(named), output
    for name, words in named.items():
        assert words in unwell[name]
    assert not any(secret in output for secret in (API_KEY, PASSWORD, "wrong-one"))


def test_the_upload_path_of_the_sample_configuration_is_warned_of(site: HospitalSite) -> None:
    site.config["annotations"]["server"]["path"] = "/submitMaskOrder"
    status, unwell, _ = site.check()
    assert status == 0
    assert "/submitMaskOrder refuses the zips that are sent" in unwell["annotation loader"]


def test_a_redis_that_drops_keys_is_warned_of(site: HospitalSite) -> None:
    with site.orders.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    status, unwell, _ = site.check()
    assert status == 0
    assert "set maxmemory-policy to noeviction" in unwell["orders' Redis"]


def test_a_loader_whose_outcomes_cannot_be_learnt_is_warned_of(site: HospitalSite) -> None:
    del site.config["annotations"]["redis"]
    del site.env["DYNSVC_ANNOTATIONS__REDIS__PASSWORD"]
    status, unwell, _ = site.check()
    assert status == 0
    assert "set annotations.redis or annotations.kue" in unwell["loader's outcomes"]


def test_an_unused_kue_is_a_warning_because_a_new_one_looks_so(site: HospitalSite) -> None:
    site.env["DYNSVC_ORDERS__REDIS__DB"] = "5"
    status, unwell, _ = site.check()
    assert status == 0
    assert set(unwell) == {"Kue's keys"}


def test_kues_http_api_is_needed_only_where_orders_are_read_from_it(site: HospitalSite) -> None:
    site.config["orders"]["kue"] = {"host": "127.0.0.1", "port": "1", "path": "/job/"}
    assert site.check()[0] == 0
    site.env["DYNSVC_ORDER_SOURCE"] = "http"
    status, unwell, _ = site.check()
    assert status == 1
    assert unwell["Kue's HTTP API"].startswith("broken")
