"""The Helm chart: linted and rendered by Helm's own library, checked against Kubernetes' schemas."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import missing

ROOT = Path(__file__).resolve().parents[2]
CHART = str(ROOT / "deploy/helm/dynsvc")
GOLDEN = Path(__file__).parent / "golden.yaml"
FENCED = {
    "queues": "cpu",
    "concurrency": 1,
    "replicas": 1,
    "runtime": "apptainer",
    "image": {"repository": "registry.example.org/dynsvc/apptainer"},
    "resources": {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "8Gi"}},
    "scale": {"enabled": False},
}
#: A site with everything: S3, an authority of its own, scaled CPU workers, GPU workers on the node's engine,
#: workers that fence algorithms in without one.
SITE: dict[str, Any] = {
    "config": {"images": {"imageServer": {"url": "http://images.example.org:5000"}}},
    "redis": {"host": "redis.example.org", "caSecret": "dynsvc-ca"},
    "artifacts": {
        "uri": "s3://dynsvc/artifacts",
        "s3Endpoint": "https://s3.example.org",
        "s3Secret": "dynsvc-s3",
    },
    "settings": {"DYNSVC_WINDOW": "128"},
    "workers": {
        "cpu": {"scale": {"enabled": True}},
        "gpu": {"runtime": "docker", "replicas": 1},
        "fenced": FENCED,
    },
    "sif": {"claim": "dynsvc-sif"},
}
#: One on NFS, without an engine.
SMALL: dict[str, Any] = {
    "redis": {"host": "redis", "tls": False, "port": 6379},
    "artifacts": {"uri": "/var/lib/dynsvc/artifacts", "claim": "dynsvc-artifacts"},
    "networkPolicy": {"enabled": False},
}


def library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        missing(f"{name} (pip install -r requirements/chart.txt)")


def rendered(values: dict[str, Any]) -> dict[str, str]:
    with library("helm_python.chart").Chart.load(CHART) as chart:
        files: dict[str, str] = chart.render(values, name="pathology", namespace="dynsvc")
    return {name: text for name, text in files.items() if name.endswith(".yaml")}


def documents(values: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    yaml = library("yaml")
    found = [each for text in rendered(values).values() for each in yaml.safe_load_all(text) if each]
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


@pytest.mark.parametrize("values", [SITE, SMALL], ids=["site", "small"])
def test_helm_finds_nothing_to_complain_about(values: dict[str, Any]) -> None:
    report = library("helm_python.chart").lint(CHART, values, strict=True)
    assert (report["messages"], report["errors"]) == ([], [])


@pytest.mark.parametrize("values", [SITE, SMALL], ids=["site", "small"])
@pytest.mark.parametrize("version", ["1.28", "1.34"])
def test_every_document_is_what_kubernetes_takes(values: dict[str, Any], version: str) -> None:
    checker = library("kubernetes_validate")
    kinds = set()
    for (kind, _), document in documents(values).items():
        kinds.add(kind)
        # KEDA's kind is not Kubernetes' own.
        if kind != "ScaledObject":
            checker.validate(document, version, strict=True)
    assert {"Deployment", "PodDisruptionBudget", "ConfigMap"} <= kinds
    assert ("ScaledObject" in kinds, "NetworkPolicy" in kinds) == ((values is SITE), (values is SITE))


def test_the_rendering_is_the_one_that_was_looked_at() -> None:
    """``REWRITE_GOLDEN=1`` writes it again; look at the difference."""
    text = "".join(f"# {name}\n{body.strip()}\n" for name, body in sorted(rendered(SITE).items()))
    if os.environ.get("REWRITE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_a_pod_that_goes_is_drained_for_as_long_as_a_step_may_take() -> None:
    for (kind, name), document in documents(SITE | {"stepLimitSeconds": 7200}).items():
        if kind == "Deployment" and "-worker-" in name:
            pod = document["spec"]["template"]["spec"]
            assert pod["terminationGracePeriodSeconds"] > 7200
            command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
            assert "dynsvc drain" in command
            assert "--timeout 7200" in command


def test_only_workers_of_the_docker_runtime_see_the_node() -> None:
    for (kind, name), document in documents(SITE).items():
        if kind != "Deployment":
            continue
        pod = document["spec"]["template"]["spec"]
        assert any("hostPath" in volume for volume in pod["volumes"]) == name.endswith("-gpu")
        worker = pod["containers"][0]
        assert "/var/run/docker.sock" not in {mount["mountPath"] for mount in worker["volumeMounts"]}
        assert worker["securityContext"]["readOnlyRootFilesystem"]
        assert pod["securityContext"]["runAsNonRoot"]


def test_only_workers_of_the_apptainer_runtime_may_make_namespaces() -> None:
    for (kind, name), document in documents(SITE).items():
        if kind != "Deployment":
            continue
        pod = document["spec"]["template"]["spec"]
        worker = pod["containers"][0]
        own = name.endswith("-fenced")
        assert (pod.get("hostUsers") is False) == own
        assert (worker["securityContext"].get("procMount") == "Unmasked") == own
        assert (worker["securityContext"].get("seccompProfile") == {"type": "Unconfined"}) == own
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert worker["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not worker["securityContext"]["allowPrivilegeEscalation"]
        if own:
            env = {each["name"]: each.get("value") for each in worker["env"]}
            mounts = {each["name"]: each for each in worker["volumeMounts"]}
            assert env["DYNSVC_RUNTIME"] == "apptainer"
            assert mounts["sif"]["mountPath"] == env["DYNSVC_SIF_FOLDER"]
            assert mounts["sif"]["readOnly"]


def test_workers_of_the_apptainer_runtime_need_a_claim_with_images() -> None:
    errors = library("helm_python.errors")
    with pytest.raises(errors.HelmError, match=r"sif\.claim has the images"):
        rendered(SITE | {"sif": {"claim": ""}})


@pytest.mark.parametrize(
    "wrong",
    [
        {"redis": {"host": ""}},
        {"artifacts": {"uri": "bucket"}},
        {"settings": {"WINDOW": "1"}},
        {"workers": {"cpu": {"runtime": "dockr"}}},
        {"workers": {"cpu": {"queues": "cpus"}}},
    ],
    ids=str,
)
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    errors = library("helm_python.errors")
    with library("helm_python.chart").Chart.load(CHART) as chart:
        chart.validate_schema(SITE)
        with pytest.raises(errors.HelmError):
            chart.validate_schema(SITE | wrong)
