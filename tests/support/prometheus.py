"""A real Prometheus on this machine that scrapes what a test has started."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import requests

from tests.support.hospital import ROOT, eventually
from tests.support.redis import free_port
from tests.support.services import missing

__all__ = ["Prometheus", "programs", "scraping"]

_CONFIG = """\
global: {{ scrape_interval: 1s, evaluation_interval: 1s }}
rule_files: [{rules}]
scrape_configs:
  - job_name: dynsvc
    static_configs: [{{ targets: {targets} }}]
"""


def programs() -> tuple[str, str]:
    """Return the server and ``promtool``."""
    server, tool = shutil.which("prometheus"), shutil.which("promtool")
    if server is None or tool is None:
        missing("Prometheus (prometheus, promtool)")
    return server, tool


class Prometheus:
    """Face of the server's API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._session = requests.Session()
        self._session.trust_env = False

    def get(self, path: str, **params: str) -> Any:
        answer = self._session.get(f"{self.url}/api/v1/{path}", params=params, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the vector of an expression now."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def value(self, expression: str) -> float | None:
        """Return the one value of an expression, or None where there is none."""
        found = self.query(expression)
        assert len(found) < 2, found
        return float(found[0]["value"][1]) if found else None

    def ready(self) -> bool:
        try:
            return self._session.get(f"{self.url}/-/ready", timeout=5).ok
        except requests.ConnectionError:
            return False


@contextlib.contextmanager
def scraping(folder: Path, ports: Sequence[int]) -> Iterator[Prometheus]:
    """Run a server that scrapes these ports each second, with the rules of the deployment."""
    program, _ = programs()
    config, port = folder / "prometheus.yml", free_port()
    targets = json.dumps([f"127.0.0.1:{each}" for each in ports])
    config.write_text(_CONFIG.format(rules=ROOT / "deploy/prometheus/alerts.yml", targets=targets))
    argv = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*argv, f"--web.listen-address=127.0.0.1:{port}"], cwd=folder, stdout=log, stderr=log
        )
    try:
        server = Prometheus(port)
        eventually(server.ready, 30, "Prometheus")
        yield server
    finally:
        process.terminate()
        process.wait(20)
