"""The stack of docker-compose.yml, built and started on a real engine, with the real Kue."""

from __future__ import annotations

import io
import ipaddress
import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.compose import ROOT, Stack, docker, eventually, provide_base_images, running_stack
from tests.support.images import engine
from tests.support.pages import blocks
from tests.support.reader import Reader
from tests.support.s3 import BUCKET, KEYS, running_store, stored
from tests.support.tls import Authority

# Images are built in the first test's time.
pytestmark = [pytest.mark.services, pytest.mark.docker, pytest.mark.timeout(900)]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NUCLEI = "dynsvc/nuclei:1.0.0"
OURS = ("service", "demo", "kue", "socket-proxy")
WORKER_HOST = "docker compose --env-file deploy/worker-host.env -f deploy/worker-host.yml"
STEPS = ["dynsvc.fetch_order", "dynsvc.fetch_roi", "dynsvc.run_algorithm", "dynsvc.upload_zip"]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    engine()
    provide_base_images()
    with running_stack(COMMIT) as running:
        yield running


@pytest.fixture(scope="module")
def first_order(stack: Stack) -> dict[str, Any]:
    """Kue's record of the order that deploy/demo.sh placed through Kue's API."""
    return stack.ended(1)


def reached(stack: Stack, service: str, port: int, path: str) -> bool:
    try:
        return stack.ask(stack.url(service, port) + path, None).ok
    except OSError:
        return False


def four_tasks(stack: Stack, order: int) -> list[str]:
    """Return the names of the order's successful tasks as Flower knows them."""
    tasks = (stack.flower("/api/tasks") or {}).values()
    return sorted(
        task["name"]
        for task in tasks
        if task["state"] == "SUCCESS" and (task["args"] or "").startswith(f"(order {order}, ")
    )


def test_an_order_through_kues_api_ends_as_a_zip_at_the_loader(
    stack: Stack, first_order: dict[str, Any]
) -> None:
    assert first_order["state"] == "complete", first_order
    zips = stack.compose("exec", "-T", "demo-loader", "ls", "results").split()
    assert len(zips) == 1
    copied = engine().get_archive(
        stack.containers("demo-loader")[0]["Id"], f"/var/lib/dynsvc/results/{zips[0]}"
    )[0]
    tar = b"".join(copied)
    # The archive holds the one file behind a block of 512 bytes.
    with zipfile.ZipFile(io.BytesIO(tar[tar.index(b"PK\x03\x04") :])) as result:
        names = result.namelist()
    assert [name for name in names if name.endswith("-seg.png")], names
    assert [name for name in names if name.endswith("-features.csv")], names


def test_the_algorithm_ran_as_a_container_and_none_is_left(stack: Stack, first_order: dict[str, Any]) -> None:
    nuclei = engine().inspect_image(NUCLEI)
    assert first_order["result"]["executed"] in {nuclei["Id"], *nuclei["RepoDigests"]}
    left = engine().containers(all=True, filters={"label": f"dynsvc.order={first_order['id']}"})
    ours = [container for container in left if stack.project in json.dumps(container["Mounts"])]
    assert ours == []


def test_flower_lists_the_four_tasks_of_an_order_also_after_a_restart(
    stack: Stack, first_order: dict[str, Any]
) -> None:
    # Events that were sent before Flower listened are gone: such an order is never listed.
    order = int(first_order["id"])

    def listed() -> bool:
        nonlocal order
        try:
            eventually(lambda: four_tasks(stack, order) == STEPS, "the four tasks", limit_s=15)
        except AssertionError:
            order = stack.order()
            assert stack.ended(order)["state"] == "complete"
            return False
        return True

    eventually(listed, "the four tasks", limit_s=90)
    stack.compose("restart", "flower")
    eventually(lambda: four_tasks(stack, order) == STEPS, "the four tasks after a restart")


@pytest.mark.parametrize(
    ("service", "port", "path"), [("kue", 3000, "/stats"), ("flower", 5555, "/api/tasks")]
)
def test_pages_need_their_password(
    stack: Stack, first_order: dict[str, Any], service: str, port: int, path: str
) -> None:
    name = f"{service}_password"

    def status(password: str | None) -> int | None:
        try:
            return stack.ask(stack.url(service, port) + path, password).status_code
        except (OSError, AssertionError):
            return None

    eventually(lambda: status(stack.secret(name)) == 200, f"{service} with its password")
    assert status(None) == 401
    assert status("x" + stack.secret(name)) == 401
    assert status(stack.secret("redis_password")) == 401


def test_kues_pages_are_there_and_an_endless_id_ends_nothing(
    stack: Stack, first_order: dict[str, Any]
) -> None:
    url, password = stack.url("kue", 3000), stack.secret("kue_password")
    assert "<title>Orders</title>" in stack.ask(f"{url}/active", password).text
    assert stack.ask(f"{url}/job/{'1' * 100}", password).status_code == 404
    assert stack.kue("/stats")["completeCount"] >= 1


def reader(stack: Stack) -> Reader:
    """Somebody at the stack who follows the page about compose."""
    found = Reader(ROOT, os.environ | stack.env)
    found.put_in |= {
        "deploy/secrets": str(stack.secrets),
        "127.0.0.1:3000": stack.url("kue", 3000).removeprefix("http://"),
    }
    return found


def test_check_finds_every_peer(stack: Stack, first_order: dict[str, Any]) -> None:
    printed = reader(stack).run("docker compose exec worker with-secrets dynsvc check")
    assert "\n0 broken, " in printed, printed


def test_an_order_is_placed_by_the_pages_command(stack: Stack, first_order: dict[str, Any]) -> None:
    answer = reader(stack).run(
        "curl --user \"dynsvc:$(cat deploy/secrets/kue_password)\" --header 'Content-Type: application/json' "
        "--data @deploy/demo/order.json http://127.0.0.1:3000/job"
    )
    assert stack.ended(json.loads(answer)["id"])["state"] == "complete"


def test_the_image_for_a_cluster_is_the_service(stack: Stack) -> None:
    at_a_cluster = reader(stack)
    image = at_a_cluster.put_in["registry.example.org/dynsvc/service:0.1.0"] = (
        f"{stack.project}/service:0.1.0"
    )
    at_a_cluster.run(
        'docker build --build-arg COMMIT="$(git rev-parse HEAD)" '
        "--tag registry.example.org/dynsvc/service:0.1.0 ."
    )
    try:
        config = engine().inspect_image(image)["Config"]
        assert config["User"] == engine().inspect_image("dynsvc/service:test")["Config"]["User"]
        assert len(config["Labels"]["org.opencontainers.image.revision"]) == len(COMMIT)
    finally:
        docker("rmi", image)


def test_ports_are_published_on_loopback_only(stack: Stack, first_order: dict[str, Any]) -> None:
    published = {
        (container["Config"]["Labels"]["com.docker.compose.service"], address["HostIp"])
        for container in stack.containers()
        for addresses in container["NetworkSettings"]["Ports"].values()
        for address in addresses or []
    }
    assert published == {("kue", "127.0.0.1"), ("flower", "127.0.0.1")}


def test_only_the_socket_proxy_has_the_engines_socket(stack: Stack, first_order: dict[str, Any]) -> None:
    holders = {
        container["Config"]["Labels"]["com.docker.compose.service"]
        for container in stack.containers()
        if any("docker.sock" in mount["Source"] for mount in container["Mounts"])
    }
    assert holders == {"socket-proxy"}


def test_no_container_is_privileged_and_no_secret_is_in_what_the_engine_tells(
    stack: Stack, first_order: dict[str, Any]
) -> None:
    for container in stack.containers():
        name = container["Name"]
        assert container["HostConfig"]["CapDrop"] == ["ALL"], name
        assert container["HostConfig"]["ReadonlyRootfs"], name
        for secret in ("redis_password", "kue_password", "flower_password"):
            assert stack.secret(secret) not in json.dumps(container), (name, secret)
    for secret in ("redis_password", "kue_password", "flower_password"):
        assert stack.secret(secret) not in stack.compose("logs", "--no-color"), secret


def test_redis_keeps_its_data_on_disk_and_refuses_strangers(
    stack: Stack, first_order: dict[str, Any]
) -> None:
    def cli(words: str, login: str = "REDISCLI_AUTH=$(cat /run/secrets/redis_password) ") -> str:
        return stack.compose("exec", "-T", "redis", "sh", "-c", f"{login}redis-cli {words}")

    assert cli("config get appendonly").split()[1] == "yes"
    assert cli("config get maxmemory-policy").split()[1] == "noeviction"
    assert "NOAUTH" in cli("get q:ids", login="")


@pytest.mark.parametrize("name", OURS)
def test_an_image_is_labelled_watched_and_has_no_compiler(stack: Stack, name: str) -> None:
    image = engine().inspect_image(f"dynsvc/{name}:test")
    labels = image["Config"]["Labels"]
    assert labels["org.opencontainers.image.revision"] == COMMIT
    assert labels["org.opencontainers.image.version"] == "test"
    if name != "demo":
        assert image["Config"]["Healthcheck"]["Test"][0] != "NONE"
    if name != "socket-proxy":
        assert image["Config"]["User"] not in {"", "0", "root"}
    found = docker(
        *("run", "--rm", "--network", "none", "--entrypoint", "sh", f"dynsvc/{name}:test"),
        *("-c", "command -v gcc cc g++ make || echo none"),
    )
    assert found.strip() == "none"


def test_the_service_image_holds_what_is_locked_and_nothing_that_builds(stack: Stack) -> None:
    listed = docker(
        *("run", "--rm", "--network", "none", "dynsvc/service:test", "python", "-c"),
        "from importlib.metadata import distributions as d; print(*(x.name for x in d()))",
    ).split()
    assert {"dynsvc", "celery", "flower"} <= set(listed)
    unwanted = {"pip", "setuptools", "hatchling", "opencv-python-headless", "scikit-image", "pytest"}
    assert not unwanted & set(listed)


def worker_container(source: str, **host: Any) -> dict[str, Any]:
    """What a worker asks for, as far as the proxy looks at it; *host* changes it."""
    return {
        "Image": NUCLEI,
        "Entrypoint": ["true"],
        "User": "10001:10001",
        "Labels": {"dynsvc.managed": "1"},
        "HostConfig": {
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Mounts": [{"Type": "bind", "Source": source, "Target": "/input"}],
            **host,
        },
    }


def test_the_proxy_lets_a_worker_create_only_harmless_containers(
    stack: Stack, first_order: dict[str, Any]
) -> None:
    scratch = engine().inspect_volume(f"{stack.project}_scratch")["Mountpoint"]
    work = f"{scratch}/work"

    def mount(source: str, kind: str = "bind") -> list[dict[str, str]]:
        return [{"Type": kind, "Source": source, "Target": "/host"}]

    good = json.dumps(worker_container(work))
    bad = {
        "privileged": json.dumps(worker_container(work, Privileged=True)),
        "in lower case": json.dumps(worker_container(work, privileged=True)),
        "escaped": good.replace('"CapDrop"', '"\\u0050rivileged": true, "CapDrop"'),
        "folded": good.replace('"CapDrop"', '"Bind\u017f": ["/:/host"], "CapDrop"'),
        "binds": json.dumps(worker_container(work, Binds=["/:/host"])),
        "the host's root": json.dumps(worker_container(work, Mounts=mount("/"))),
        "up and out": json.dumps(worker_container(work, Mounts=mount(f"{work}/../../../.."))),
        "another volume": json.dumps(
            worker_container(work, Mounts=mount(f"{stack.project}_redis", "volume"))
        ),
        "a neighbour": json.dumps(worker_container(work, Mounts=mount(f"{scratch}x/work"))),
        "twice": good.replace('"Target"', '"source": "/", "Target"'),
        "the host's processes": json.dumps(worker_container(work, PidMode="host")),
        "the host's network": json.dumps(worker_container(work, NetworkMode="host")),
        "a capability": json.dumps(worker_container(work, CapAdd=["SYS_ADMIN"])),
        "all capabilities": json.dumps(worker_container(work, CapDrop=[])),
        "capabilities after all": good.replace('"SecurityOpt"', '"capdrop": [], "SecurityOpt"'),
        "capabilities not named": good.replace('"CapDrop": ["ALL"], ', ""),
        "privileges not named": good.replace('"SecurityOpt": ["no-new-privileges"], ', ""),
        "network not named": good.replace('"NetworkMode": "none", ', ""),
        "a volume by a path": json.dumps(worker_container(work, Mounts=mount(work, "volume"))),
        "a log elsewhere": json.dumps(worker_container(work, LogConfig={"Type": "syslog"})),
        "no filter": json.dumps(worker_container(work, SecurityOpt=["seccomp=unconfined"])),
        "root": good.replace("10001:10001", "0:0"),
        "a group": good.replace("10001:10001", "10001:999"),
        "nobody": good.replace('"User": "10001:10001", ', ""),
        "a network for others": good.replace(
            '{"dynsvc.managed": "1"}', '{"dynsvc.managed": "1", "dynsvc.role": "pause"}'
        ),
        "not ours": good.replace('{"dynsvc.managed": "1"}', "{}"),
    }
    calls = {
        "exec": ("POST", "/containers/x/exec"),
        "build": ("POST", "/build"),
        "pull": ("POST", "/images/create?fromImage=x"),
        "read files": ("GET", "/containers/x/archive?path=/"),
        "volumes": ("GET", "/volumes"),
        "prune": ("POST", "/containers/prune"),
        "change": ("POST", "/containers/x/update"),
    }
    # What a kept container prints is read while it runs; the engine keeps no copy.
    kept = json.dumps(worker_container(work, LogConfig={"Type": "none", "Config": {}}, AutoRemove=True))
    requests = {name: ("POST", "/containers/create", body) for name, body in (("good", good), ("kept", kept))}
    requests |= {name: ("POST", "/containers/create", body) for name, body in bad.items()}
    requests |= {name: (*call, "{}") for name, call in calls.items()}
    program = f"""
import http.client, json
found = {{}}
for name, (method, path, body) in json.loads({json.dumps(json.dumps(requests))}).items():
    link = http.client.HTTPConnection("socket-proxy", 2375, timeout=20)
    link.request(method, "/v1.41" + path, body.encode(), {{"Content-Type": "application/json"}})
    answer = link.getresponse()
    document = answer.read()
    found[name] = answer.status
    if answer.status == 201:
        link.request("DELETE", "/v1.41/containers/" + json.loads(document)["Id"])
        assert link.getresponse().status == 204
    link.close()
print(json.dumps(found))
"""
    found = json.loads(stack.compose("exec", "-T", "worker", "python", "-", text=program))
    assert found == {"good": 201, "kept": 201} | dict.fromkeys((*bad, *calls), 403)


def test_three_workers_all_take_part(stack: Stack, first_order: dict[str, Any]) -> None:
    stack.compose("up", "--detach", "--no-recreate", "--scale", "worker=3")
    ids = {container["Config"]["Hostname"] for container in stack.containers("worker")}
    assert len(ids) == 3

    def busy() -> bool:
        orders = [stack.order() for _ in range(3)]
        assert [stack.ended(order)["state"] for order in orders] == ["complete"] * 3
        tasks = (stack.flower("/api/tasks") or {}).values()
        return {f"celery@{name}" for name in ids} <= {task["worker"] for task in tasks}

    eventually(busy, "work for all three workers")


def test_prometheus_scrapes_every_bridge_and_worker(stack: Stack, first_order: dict[str, Any]) -> None:
    stack.compose("--profile", "metrics", "up", "--detach", "--no-recreate", "--no-deps", "prometheus")
    url = stack.url("prometheus", 9090)

    def up() -> dict[str, str]:
        try:
            found = stack.ask(
                f"{url}/api/v1/query?query=up*on(instance)group_left(role)dynsvc_process_info", None
            )
        except OSError:
            return {}
        vector = found.json().get("data", {}).get("result", ())
        return {
            each["metric"]["instance"]: each["metric"]["role"] for each in vector if each["value"][1] == "1"
        }

    eventually(lambda: sorted(up().values()) == ["bridge", "worker", "worker", "worker"], "all four targets")
    rules = stack.ask(f"{url}/api/v1/rules", None).json()["data"]["groups"][0]["rules"]
    eventually(lambda: [rule for rule in rules if rule["health"] != "ok"] == [] or None, "the rules", 5)
    stack.compose("--profile", "metrics", "rm", "--force", "--stop", "prometheus")


def test_every_container_becomes_healthy_and_none_has_restarted(
    stack: Stack, first_order: dict[str, Any]
) -> None:
    def unhealthy() -> list[str]:
        return [
            f"{container['Name']} {container['State']}"
            for container in stack.containers()
            if container["State"].get("Health", {"Status": "healthy"})["Status"] != "healthy"
        ]

    eventually(lambda: not unhealthy(), "the health of all containers", 90)
    assert {container["Name"]: container["RestartCount"] for container in stack.containers()} == {
        container["Name"]: 0 for container in stack.containers()
    }


def test_a_worker_inside_the_algorithms_image_runs_its_program(
    stack: Stack, first_order: dict[str, Any]
) -> None:
    tag = "dynsvc/nuclei-worker:test"
    docker(
        *("build", "--quiet", "--tag", tag, "--file", "workers/Dockerfile.algorithm"),
        *("--build-arg", "SERVICE=dynsvc/service:test", "--build-arg", f"ALGORITHM={NUCLEI}", "."),
        limit_s=300,
    )
    stack.compose("up", "--detach", "--no-recreate", "--scale", "worker=0")
    (worker,) = docker(
        *("run", "--detach", "--init", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
        *(
            "--network",
            f"{stack.project}_inside",
            "--volume",
            f"{stack.project}_scratch:/var/lib/dynsvc/scratch",
        ),
        *("--volume", f"{stack.secrets}/redis_password:/run/secrets/redis_password:ro"),
        *("--volume", f"{ROOT}/deploy/config.json:/etc/dynsvc/config.json:ro"),
        *("--env", "DYNSVC_CONFIG=/etc/dynsvc/config.json", "--env", "DYNSVC_ORDERS__REDIS__HOST=redis"),
        *("--env", "FILE__DYNSVC_ORDERS__REDIS__PASSWORD=/run/secrets/redis_password", tag),
    ).split()
    try:
        record = stack.ended(stack.order())
        assert record["state"] == "complete", (record, docker("logs", worker))
        assert record["result"]["executed"].endswith("/bin/python3")
    finally:
        docker("rm", "--force", worker)


#: The stack leaves ``cpu`` to others. Its settings are those of the page, not of this checkout.
WITHOUT_CPU = """
services:
  bridge: &site
    env_file: [{site_env}]
  worker:
    <<: *site
    command: [celery, -A, dynsvc, worker, -Q, io]
"""


def test_an_order_crosses_to_a_worker_host(stack: Stack, first_order: dict[str, Any], tmp_path: Path) -> None:
    """The stack takes ``io``, a worker host ``cpu``; they share Redis over TLS and a store on S3."""
    (bridge,) = engine().inspect_network("bridge")["IPAM"]["Config"]
    # An engine that has just made its bridge does not tell the gateway. It is the first address.
    address = bridge.get("Gateway") or str(ipaddress.ip_network(bridge["Subnet"])[1])
    authority = Authority(tmp_path)
    certificate, key = authority.issue("redis", address)
    (stack.secrets / "s3_key_id").write_text(KEYS["AWS_ACCESS_KEY_ID"])
    (stack.secrets / "s3_key").write_text(KEYS["AWS_SECRET_ACCESS_KEY"])
    with running_store(address) as store:
        first = reader(stack)
        (override,) = blocks(ROOT / "docs/how-to/add-a-worker-host.md", "yaml")
        keys, without_cpu, site_env = (
            tmp_path / "keys.yml",
            tmp_path / "without-cpu.yml",
            tmp_path / "site.env",
        )
        keys.write_text(override.replace("./deploy/secrets", str(stack.secrets)))
        without_cpu.write_text(WITHOUT_CPU.format(site_env=site_env))
        first.put_in |= {
            "redis.crt": str(certificate),
            "redis.key": str(key),
            "10.0.0.5": address,
            "s3://dynsvc/artifacts": f"s3://{BUCKET}/dynsvc",
            "https://s3.example.org": store,
            "deploy/redis-tls.yml": f"deploy/redis-tls.yml -f {keys} -f {without_cpu}",
        }
        settings = (
            "DYNSVC_ARTIFACTS=s3://dynsvc/artifacts",
            "AWS_ENDPOINT_URL_S3=https://s3.example.org",
            "AWS_REGION=us-east-1",
        )
        site_env.write_text("\n".join(map(first.typed, settings)))
        env = tmp_path / "worker-host.env"
        change = {
            "quip-jobs.example.org": address,
            "./ca.crt": str(authority.certificate),
            "s3://dynsvc/artifacts": f"s3://{BUCKET}/dynsvc",
            "https://s3.example.org": store,
            "QUEUES=io,cpu": "QUEUES=cpu",
        }
        text = (ROOT / "deploy/worker-host.env.example").read_text()
        for example, here in change.items():
            assert example in text
            text = text.replace(example, here)
        # The engine chooses a free port.
        env.write_text(f"{text}METRICS_PORT=0\n")
        first.run(
            "cp redis.crt deploy/secrets/redis_cert",
            "cp redis.key deploy/secrets/redis_key",
            "chmod 644 deploy/secrets/redis_cert deploy/secrets/redis_key",
            "REDIS_ADDRESS=10.0.0.5 docker compose -f docker-compose.yml -f deploy/redis-tls.yml up -d",
        )
        second = reader(stack)
        # Its file names its project.
        del second.env["COMPOSE_PROJECT_NAME"]
        second.put_in |= {"deploy/worker-host.env": str(env)}
        try:
            second.run(f"{WORKER_HOST} up -d --build")
            # The first command has begun Kue anew, too.
            eventually(lambda: reached(stack, "kue", 3000, "/healthz"), "Kue's API")
            record = stack.ended(stack.order())
            assert record["state"] == "complete", record
            assert record["result"]["host"] == "gpu-1"
            # The demo's servers are not within its reach; a worker for `cpu` needs none of them.
            checked = second.run(f"{WORKER_HOST} exec worker with-secrets dynsvc check", status=1)
            for peer in ("orders' Redis", "broker", "runtime", "artifact store"):
                assert re.search(rf"(?m)^ok +{peer} ", checked), checked
        finally:
            second.run(f"{WORKER_HOST} down")
            docker("volume", "rm", "--force", "dynsvc-worker_scratch", "dynsvc-worker_artifacts")
        eventually(lambda: [name for name in stored(store) if "/orders/" in name] == [], "an empty store")


def test_orders_outlive_the_containers(stack: Stack, first_order: dict[str, Any]) -> None:
    before = stack.kue("/stats")["completeCount"]
    stack.compose("down", "--timeout", "30")
    assert stack.containers() == []
    stack.compose("up", "--detach", "kue")
    eventually(lambda: reached(stack, "kue", 3000, "/healthz"), "Kue's API")
    assert stack.kue("/job/1")["state"] == "complete"
    assert stack.kue("/stats")["completeCount"] == before


# The last one: the stack is gone afterwards.
def test_down_leaves_nothing(stack: Stack, first_order: dict[str, Any]) -> None:
    reader(stack).run("docker compose --profile demo down -v")
    label = {"label": f"com.docker.compose.project={stack.project}"}
    assert stack.containers() == []
    assert engine().networks(filters=label) == []
    left = engine().volumes(filters=label)["Volumes"] or []
    # Compose keeps what belongs to a profile that is not named.
    assert {volume["Labels"]["com.docker.compose.volume"] for volume in left} <= {"prometheus", "grafana"}
