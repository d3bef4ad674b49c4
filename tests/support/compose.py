"""The stack of docker-compose.yml on this machine's engine, as a project of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import requests

from tests.support.images import BASE_IMAGE, base_image, engine
from tests.support.services import missing

__all__ = ["ROOT", "Stack", "docker", "eventually", "provide_base_images", "running_stack"]

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")
BUILD_S, START_S, PULL_S = 600.0, 120.0, 60.0
PROMETHEUS = "prom/prometheus:v2.55.1"
_REDIS = f"""\
FROM {BASE_IMAGE}
RUN groupadd -r -g 999 redis && useradd -r -g redis -u 999 redis \\
 && apt-get update -qq \\
 && apt-get install -y -qq --no-install-recommends redis-server >/dev/null \\
 && mkdir /data && chown redis: /data
WORKDIR /data
VOLUME /data
CMD ["redis-server"]
"""
_PROMETHEUS = f"""\
FROM {BASE_IMAGE}
RUN apt-get update -qq \\
 && apt-get install -y -qq --no-install-recommends prometheus >/dev/null \\
 && mkdir -p /prometheus && chown nobody: /prometheus
"""
_NODE = f"""\
FROM {BASE_IMAGE}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends libstdc++6 >/dev/null \\
 && useradd --uid 1000 --user-group --create-home node
COPY node /usr/local/bin/node
COPY npm /usr/local/lib/node_modules/npm
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
CMD ["node"]
"""


def docker(*argv: str, env: dict[str, str] | None = None, limit_s: float = 60.0, text: str = "") -> str:
    """Run the docker command and return what it printed."""
    done = subprocess.run(
        ["docker", *argv],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        input=text,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, f"docker {' '.join(argv)}: {done.stderr[-3000:]}"
    return done.stdout


def eventually(ask: Callable[[], T], what: str, limit_s: float = 60.0) -> T:
    """Return the first answer that is true."""
    deadline = time.monotonic() + limit_s
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what} did not come about; last answer: {answer!r}"
        time.sleep(0.3)


def provide_base_images() -> None:
    """Have the public images that the Dockerfiles begin with; make stand-ins where no registry is reached."""
    base_image()
    if not _present("debian:bookworm-slim"):
        docker("tag", BASE_IMAGE, "debian:bookworm-slim")
    if not _present("redis:7.2-bookworm"):
        _build("redis:7.2-bookworm", _REDIS)
    if not _present(PROMETHEUS):
        _build(PROMETHEUS, _PROMETHEUS)
    if not _present("node:20-slim"):
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            missing("Node (node, npm)")
        _build("node:20-slim", _NODE, node=Path(node).resolve(), npm=Path(npm).resolve().parents[1])


def _present(image: str) -> bool:
    for words in (["image", "inspect"], ["pull", "--quiet"]):
        try:
            done = subprocess.run(["docker", *words, image], capture_output=True, check=False, timeout=PULL_S)
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0:
            return True
    return False


def _build(tag: str, dockerfile: str, **parts: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "Dockerfile").write_text(dockerfile)
        for part, source in parts.items():
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / part)
        docker("build", "--quiet", "--tag", tag, name, limit_s=BUILD_S)


class Stack:
    """A running project: its containers by service, its Kue and its Flower."""

    def __init__(self, project: str, secrets: Path, commit: str) -> None:
        self.project = project
        self.secrets = secrets
        self.env = {
            "COMPOSE_PROJECT_NAME": project,
            # The engine chooses free ports.
            "KUE_PORT": "0",
            "FLOWER_PORT": "0",
            "PROMETHEUS_PORT": "0",
            "SECRETS": str(secrets),
            "VERSION": "test",
            "COMMIT": commit,
            "DOCKER_ROOT": engine().info()["DockerRootDir"],
        }
        self._session = requests.Session()
        self._session.trust_env = False

    def compose(self, *argv: str, limit_s: float = START_S, text: str = "") -> str:
        return docker("compose", "--profile", "demo", *argv, env=self.env, limit_s=limit_s, text=text)

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--tail", "50")

    def containers(self, service: str | None = None) -> list[dict[str, Any]]:
        """Return what the engine tells of the project's containers."""
        labels = [f"com.docker.compose.project={self.project}"]
        labels += [f"com.docker.compose.service={service}"] if service else []
        found = engine().containers(all=True, filters={"label": labels})
        return [engine().inspect_container(container["Id"]) for container in found]

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text()

    def url(self, service: str, port: int) -> str:
        return f"http://{self.compose('port', service, str(port)).strip()}"

    def ask(self, url: str, password: str | None, **more: Any) -> requests.Response:
        auth = ("dynsvc", password) if password else None
        return self._session.request(more.pop("method", "GET"), url, auth=auth, timeout=10, **more)

    def kue(self, path: str, **more: Any) -> Any:
        return self.ask(self.url("kue", 3000) + path, self.secret("kue_password"), **more).json()

    def flower(self, path: str) -> Any:
        """Return Flower's answer; None while it does not answer."""
        try:
            return self.ask(self.url("flower", 5555) + path, self.secret("flower_password")).json()
        except (requests.ConnectionError, ValueError, AssertionError):
            return None

    def order(self) -> int:
        """Place the demo's order through Kue's API and return its id."""
        document = json.loads((ROOT / "deploy/demo/order.json").read_text())
        return int(self.kue("/job", method="POST", json=document)["id"])

    def ended(self, job: int, limit_s: float = 60.0) -> dict[str, Any]:
        """Wait for the order's end and return Kue's record of it."""

        def look() -> dict[str, Any] | None:
            record: dict[str, Any] = self.kue(f"/job/{job}")
            return record if record["state"] in {"complete", "failed"} else None

        found = eventually(look, f"the end of order {job}", limit_s)
        assert found is not None
        return found

    def close(self) -> None:
        self._session.close()


@contextmanager
def running_stack(commit: str) -> Iterator[Stack]:
    """Run deploy/demo.sh, which builds and starts everything and places order 1; remove it at the end."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        missing("docker compose")
    with tempfile.TemporaryDirectory(prefix="dynsvc-compose-") as folder:
        # Containers reach the files as users of their own.
        Path(folder).chmod(0o711)
        secrets = Path(folder) / "secrets"
        stack = Stack(f"dynsvctest{os.getpid()}", secrets, commit)
        try:
            done = subprocess.run(
                ["sh", "deploy/demo.sh"],
                cwd=ROOT,
                env=os.environ | stack.env,
                capture_output=True,
                text=True,
                timeout=BUILD_S,
                check=False,
            )
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:] + stack.logs()
            yield stack
        finally:
            stack.compose("--profile", "metrics", "down", "--volumes", "--timeout", "20")
            stack.close()
