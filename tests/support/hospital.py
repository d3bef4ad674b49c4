"""A hospital on this machine: real Redis and Kue, stand-ins for the old servers, our own processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from dynsvc.kue import JobStore, connect
from dynsvc.settings import RedisServer
from dynsvc.standins.bindaas import BindaasStandin
from dynsvc.standins.imageserver import ImageServerStandin
from dynsvc.standins.loader import LoaderJob, LoaderStandin
from tests.support.kue import KueApi
from tests.support.redis import RedisProcess

ROOT = Path(__file__).resolve().parents[2]
API_KEY = "5e3c2a7d-secret-of-this-test"
CASE_ID = "TCGA-02-0001-01Z-00-DX1"
SLIDE = "/data/images/slide.tif"
LOADER_TYPE = "ZipOrder"


def eventually(check: Callable[[], Any], limit_s: float = 30.0, what: str = "") -> Any:
    """Return the first true value of *check*, or fail."""
    deadline = time.monotonic() + limit_s
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s:g} s: {what or check}")
        time.sleep(0.05)


class Program:
    """One of our long-lived processes, with its log."""

    def __init__(self, name: str, argv: list[str], env: Mapping[str, str], folder: Path) -> None:
        self.log_path = folder / f"{name}-{time.monotonic_ns()}.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                argv,
                cwd=folder,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for(self, text: str, limit_s: float = 60.0) -> None:
        def there() -> bool:
            assert self.process.poll() is None, self.log[-4000:]
            return text in self.log

        try:
            eventually(there, limit_s, f"{text!r} in the log")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log[-4000:]}") from None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self, limit_s: float = 20.0) -> int | None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(limit_s)
            except subprocess.TimeoutExpired:
                self.kill_group()
        return self.process.returncode


class Hospital:
    """Everything around dynsvc, and dynsvc's own processes, configured by the original's config.json.

    Parameters
    ----------
    redis
        The orders' Redis, empty.
    kue
        The real Kue's API on it.
    slides
        Folder that the image server serves; SLIDE lies in it.
    image_url
        Another image server, in place of the stand-in.
    password
        What the orders' Redis asks for.
    record
        What Bindaas knows of the one slide.
    """

    def __init__(
        self,
        redis: RedisProcess,
        kue: KueApi | None,
        slides: Path,
        *,
        image_url: str = "",
        password: str = "",
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self.redis, self._kue = redis, kue
        self._password = password
        self.folder = Path(tempfile.mkdtemp(prefix="dynsvc-hospital-"))
        #: The loader has a Redis of its own: its events must not mix with those of the orders.
        self.loader_redis = RedisProcess()
        self.loader_jobs = JobStore(connect(self.loader_redis.settings))
        secret = SecretStr(password) if password else None
        self.jobs = JobStore(connect(RedisServer(host="127.0.0.1", port=redis.port, password=secret)))
        self.bindaas = BindaasStandin(
            [record or {"case_id": CASE_ID, "subject_id": CASE_ID, "file-location": SLIDE}], api_key=API_KEY
        )
        self.images = ImageServerStandin(slides)
        self.loader = LoaderStandin(
            self.folder / "loaded", create_job=self._loader_job, on_end=self._loader_ended
        )
        self.image_url = image_url
        self.programs: list[Program] = []
        self._standins = [self.bindaas, self.loader] + ([] if image_url else [self.images])
        self.env: dict[str, str] = {}

    @property
    def kue(self) -> KueApi:
        assert self._kue is not None, "this hospital has no Kue process"
        return self._kue

    def _loader_job(self, case_id: str, zip_path: Path) -> str:
        return self.loader_jobs.create(LOADER_TYPE, {"case_id": case_id, "zipFilePath": str(zip_path)})

    def _loader_ended(self, job: LoaderJob) -> None:
        token = f"loader-{job.id}"
        assert self.loader_jobs.claim(job.id, [LOADER_TYPE], token)
        if job.error:
            self.loader_jobs.fail(job.id, token, job.error, message=job.error.splitlines()[0])
        else:
            self.loader_jobs.complete(job.id, token, {"ok": True})

    def __enter__(self) -> Hospital:
        self.loader_redis.start()
        for standin in self._standins:
            standin.start()
        (self.folder / "apikey.json").write_text(json.dumps({"api_key": API_KEY}))
        self.write_config()
        self.env = {
            "PATH": f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "DYNSVC_CONFIG": str(self.folder / "config.json"),
            "DYNSVC_RUNTIME": "process",
            "DYNSVC_BROKER_URL": f"redis://:{self._password}@127.0.0.1:{self.redis.port}/1",
            # Otherwise two tests on one machine would share a folder.
            "TMPDIR": str(self.folder / "tmp"),
        }
        (self.folder / "tmp").mkdir()
        (self.folder / "bin").mkdir()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for program in self.programs:
            program.process.terminate()
        for program in self.programs:
            program.stop()
        for standin in self._standins:
            standin.stop()
        self.loader_redis.close()
        if exc_info[0] is not None:
            for program in self.programs:
                print(f"==> {program.log_path.name}\n{program.log[-3000:]}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def write_config(self) -> None:
        """The original's file: ports are texts, the image server has no scheme."""
        location = self.bindaas.location_url
        host, _, path = location.removeprefix("http://").partition("/")
        document = {
            "orders": {
                "redis": {
                    "host": "127.0.0.1",
                    "port": str(self.redis.port),
                    "channel": "q:events",
                    **({"password": self._password} if self._password else {}),
                },
                "kue": {
                    "host": "127.0.0.1",
                    "port": str(self._kue.port if self._kue else 1),
                    "path": "/job/",
                },
            },
            "images": {
                "location": {"host": "127.0.0.1", "port": host.partition(":")[2], "path": f"/{path}"},
                "imageServer": {
                    "url": self.image_url or self.images.url.removeprefix("http://"),
                    "format": "JPEG",
                },
                "api_key_file": "apikey.json",
            },
            "annotations": {
                "server": {"host": "127.0.0.1", "port": str(self.loader.port), "path": "/submitZipOrder"},
                "redis": {
                    "host": "127.0.0.1",
                    "port": str(self.loader_redis.port),
                    "channel": "q:events",
                },
            },
        }
        (self.folder / "config.json").write_text(json.dumps(document, indent=4))

    def start(self, name: str, argv: list[str], **env: str) -> Program:
        program = Program(name, argv, {**self.env, **env}, self.folder)
        self.programs.append(program)
        return program

    def start_bridge(self, **env: str) -> Program:
        bridge = self.start("bridge", [sys.executable, "-m", "bridge"], **env)
        bridge.wait_for("bridge started")
        return bridge

    def start_worker(self, *options: str, wait: bool = True, **env: str) -> Program:
        argv = [sys.executable, "-m", "celery", "-A", "dynsvc", "worker", "-n", f"w{len(self.programs)}@%h"]
        worker = self.start("worker", [*argv, *options], **env)
        if wait:
            worker.wait_for(" ready.")
        return worker

    def install(self, name: str, script: str) -> Path:
        """Put a program on the workers' PATH."""
        path = self.folder / "bin" / name
        path.write_text(script)
        path.chmod(0o755)
        return path

    def install_copying_segmenter(self) -> None:
        """``mainSegmentFeatures`` that copies a ready zip to where ``-z`` says, as fast as a program can."""
        ready = self.folder / "ready.zip"
        prefix = f"{CASE_ID}.{CASE_ID}.1_mpp_0.25_x10_y20"
        with zipfile.ZipFile(ready, "w") as archive:
            archive.writestr(f"{prefix}-algmeta.json", json.dumps(algmeta(prefix)))
            archive.writestr(f"{prefix}-features.csv", "AreaInPixels,Polygon\n100,[1:1:9:1:9:9]\n")
            archive.writestr(f"{prefix}-seg.png", b"\x89PNG\r\n\x1a\n pretended")
        self.install(
            "mainSegmentFeatures",
            f'#!/bin/sh\nwhile [ "$1" != -z ]; do shift; done\nexec cp {ready} "$2"\n',
        )

    def uploads(self) -> list[LoaderJob]:
        return list(self.loader.jobs.values())

    def wait_ended(self, *order_ids: str, limit_s: float = 60.0) -> None:
        def ended() -> bool:
            jobs = [self.jobs.read(order_id) for order_id in order_ids]
            return all(job is None or job.is_done or job.is_failed for job in jobs)

        eventually(ended, limit_s, f"{len(order_ids)} orders ended")


def algmeta(prefix: str) -> dict[str, Any]:
    """What the original writes in img mode: the tile's size as the image's."""
    return {
        "input_type": "img",
        "otsu_ratio": 1,
        "curvature_weight": 0.8,
        "min_size": 3,
        "max_size": 200,
        "ms_kernel": 20,
        "declump_type": 0,
        "levelset_num_iters": 100,
        "mpp": 0.25,
        "image_width": 64,
        "image_height": 48,
        "tile_minx": 10,
        "tile_miny": 20,
        "tile_width": 64,
        "tile_height": 48,
        "patch_minx": 0,
        "patch_miny": 0,
        "patch_width": 48,
        "patch_height": 48,
        "output_level": "mask",
        "out_file_prefix": prefix,
        "subject_id": CASE_ID,
        "case_id": CASE_ID,
        "analysis_id": "a",
        "analysis_desc": "",
    }
