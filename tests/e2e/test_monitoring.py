"""What a real Prometheus scrapes from a bridge and a worker at work, and what the dashboard makes of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from dynsvc.messages import STEPS
from tests.support.hospital import ROOT, Hospital, eventually
from tests.support.orders import v4
from tests.support.prometheus import Prometheus, programs, scraping
from tests.support.rabbitmq import running_rabbitmq
from tests.support.redis import free_port

pytestmark = [pytest.mark.services]

GPU = "GPU-00000000-0000-0000-0000-000000000001"
STEP_NAMES = {name.removeprefix("dynsvc.") for name in STEPS}


def ask(port: int, path: str) -> tuple[int, Any]:
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(f"http://127.0.0.1:{port}{path}", timeout=10)
    return answer.status_code, answer.text if path == "/metrics" else answer.json()


def dashboard_queries() -> list[tuple[str, str]]:
    """The expressions of all panels, as Grafana would send them with a short interval."""
    dashboard = json.loads((ROOT / "deploy/grafana/dynsvc.json").read_text())
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", "1m"))
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def test_prometheus_scrapes_bridge_and_worker_and_every_panel_has_data(
    site: Hospital, tmp_path: Path
) -> None:
    programs()
    bridge_port, worker_port = free_port(), free_port()
    site.install_copying_segmenter()
    worker = site.start_worker(
        DYNSVC_METRICS_PORT=str(worker_port), DYNSVC_GPUS=f"{GPU}=16384", DYNSVC_CACHE="true"
    )
    site.start_bridge(DYNSVC_METRICS_PORT=str(bridge_port))
    with scraping(tmp_path, [bridge_port, worker_port]) as prometheus:
        eventually(lambda: prometheus.value('sum(up{job="dynsvc"})') == 2, 20, "both targets")
        # Counters must have been seen before they grow: Prometheus takes a first value for no increase.
        first = order(site)
        eventually(lambda: ended(prometheus) == 1, 20, "the first order's end")
        orders = [order(site) for _ in range(3)]
        failing = site.kue.post_job("analysisJob", {"order": {"no": "order"}})
        site.wait_ended(first, *orders, failing)
        eventually(lambda: ended(prometheus) == 5, 20, "the end of all")
        assert prometheus.value('sum(dynsvc_orders{state="done"})') == 4
        assert prometheus.value('sum(dynsvc_orders{state="failed"})') == 1
        assert prometheus.value('sum(dynsvc_attempts_ended_total{error="InvalidOrder"})') == 1
        # The bridge may have been scraped later than the worker.
        eventually(lambda: steps_done(prometheus) == dict.fromkeys(STEP_NAMES, "4"), 20, "all steps")
        assert prometheus.value("sum(dynsvc_order_wait_seconds_count)") == 4
        assert prometheus.value("sum(dynsvc_run_duration_seconds_count)") == prometheus.value(
            'sum(dynsvc_cache_lookups_total{outcome="miss"})'
        )
        assert prometheus.value("dynsvc_gpu_memory_bytes") == 16384 * 2**20
        # A rate needs two scrapes that have seen the counter.
        eventually(lambda: not without_data(prometheus), 30, "data in every panel")
        rules = prometheus.get("rules")["groups"][0]["rules"]
        assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
        assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []
        for port in (bridge_port, worker_port):
            assert ask(port, "/healthz") == (200, {"ok": True, "problems": []})
            assert ask(port, "/readyz") == (200, {"ok": True, "problems": []})
        unlabelled(ask(worker_port, "/metrics")[1])
        worker.stop()
        eventually(lambda: prometheus.value('sum(up{job="dynsvc"})') == 1, 20, "the worker's absence")


def without_data(prometheus: Prometheus) -> list[str]:
    # Nothing has been tried again, no round of the bridge has failed, and no region was large.
    quiet = {"Retries of steps", "Failed rounds of the bridge", "Tiles"}
    return [
        title for title, query in dashboard_queries() if not prometheus.query(query) and title not in quiet
    ]


def steps_done(prometheus: Prometheus) -> dict[str, str]:
    found = prometheus.query('dynsvc_step_duration_seconds_count{outcome="done"}')
    return {each["metric"]["step"]: each["value"][1] for each in found}


def order(site: Hospital) -> str:
    return site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48))


def ended(prometheus: Prometheus) -> float | None:
    return prometheus.value("sum(dynsvc_attempts_ended_total)")


def unlabelled(text: str) -> None:
    """Nothing of an order is a label: each value would be a time series of its own for ever."""
    names = set(re.findall(r'[{,](\w+)="', text))
    few = {"algorithm", "device", "error", "gpu", "outcome", "reason", "start", "state", "step"}
    assert names <= few | {"role", "host", "version", "python", "generation", "le"}
    assert "TCGA" not in text


def test_readiness_tells_that_redis_is_away_and_back(site: Hospital) -> None:
    bridge_port, worker_port = free_port(), free_port()
    site.start_worker(DYNSVC_METRICS_PORT=str(worker_port))
    site.start_bridge(DYNSVC_METRICS_PORT=str(bridge_port), DYNSVC_POLL_S="0.2")
    for port in (bridge_port, worker_port):
        eventually(lambda port=port: ask(port, "/readyz")[0] == 200, 20, "readiness")
    site.redis.stop()
    for port in (bridge_port, worker_port):
        eventually(lambda port=port: ask(port, "/readyz")[0] == 503, 20, "no readiness")
        # A restart of the process would help nobody.
        assert ask(port, "/healthz") == (200, {"ok": True, "problems": []})
    status, body = ask(worker_port, "/readyz")
    assert status == 503
    assert any("Redis" in problem for problem in body["problems"])
    assert 'dynsvc_peer_up{peer="orders_redis"} 0.0' in ask(bridge_port, "/metrics")[1]
    site.redis.start()
    for port in (bridge_port, worker_port):
        eventually(lambda port=port: ask(port, "/readyz")[0] == 200, 40, "readiness again")


def test_with_rabbitmq_queues_are_measured_and_hosts_drained(site: Hospital) -> None:
    port = free_port()
    with running_rabbitmq() as rabbitmq:
        env = {"DYNSVC_BROKER_URL": rabbitmq.url, "DYNSVC_HOST": "host-a"}
        site.install_copying_segmenter()
        site.start_bridge(**env, DYNSVC_METRICS_PORT=str(port))
        # Its own queue only: what is sent to cpu waits.
        site.start_worker("-Q", "io", **env)
        waits = order(site)
        line = 'dynsvc_queue_messages{queue="cpu"} 1.0'
        eventually(lambda: line in ask(port, "/metrics")[1], 30, "a message that waits")
        text = ask(port, "/metrics")[1]
        assert 'dynsvc_peer_up{peer="broker"} 1.0' in text
        assert 'dynsvc_queue_messages{queue="gpu"} 0.0' in text, "no worker has made it yet"
        drained = subprocess.run(
            [str(Path(sys.executable).parent / "dynsvc"), "drain", "host-a", "--timeout", "20"],
            env={**site.env, **env},
            cwd=site.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (drained.returncode, drained.stderr) == (0, ""), drained
        site.start_worker(**env)
        site.wait_ended(waits)
        assert site.kue.get(f"/job/{waits}")["state"] == "complete"


@pytest.mark.parametrize(
    "words",
    [
        ("test", "rules", "deploy/prometheus/alerts_test.yml"),
        ("check", "rules", "deploy/prometheus/alerts.yml"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_promtool_finds_the_alert_rules_right(words: tuple[str, ...]) -> None:
    _, tool = programs()
    done = subprocess.run([tool, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
