"""Every command of the documentation is executed: here, by another test or script, or it is said why not."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from algorithms.nuclei.synthetic import scene
from dynsvc.demo.objects import read_objects
from tests.support.containers import light_descriptor
from tests.support.hospital import Hospital, eventually
from tests.support.images import base_image, engine
from tests.support.orders import v4
from tests.support.pages import ROOT, blocks, commands
from tests.support.private_engine import add_image
from tests.support.pyramids import gradient, write_pyramid
from tests.support.reader import EXECUTED, Reader, executes
from tests.support.redis import free_port
from tests.support.services import missing

CONFIG = "export DYNSVC_CONFIG=/etc/dynsvc/config.json"
QUIET = 'QUIET="--without-gossip --without-mingle"'
GPUS = (
    "DYNSVC_GPUS=GPU-5f1c2a7d-0b11-4a7e-9d4c-1c2f3a4b5c6d=81920,"
    "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f=40960"
)
WAITING = (
    "curl -s 'http://quip-jobs:3000/jobs/analysisJob/inactive/0..9999/asc' | "
    "python3 -c \"import json, sys; [print(j['id'], j['state']) for j in json.load(sys.stdin)]\""
)
COMPOSE_CHECK = "docker compose exec worker with-secrets dynsvc check"
NUCLEI_BUILD = "docker build --quiet --tag dynsvc/nuclei:1.0.0 algorithms/nuclei"
NUCLEI = "python -m algorithms.nuclei"
ROI = f"{NUCLEI} -t img -i roi.png -o out -c CASE -p SUBJECT -a ANALYSIS -m 0.25 -v mask:img:overlay"
SLIDE = f"{NUCLEI} -t wsi -i slide.svs -o out -c CASE -p SUBJECT -a ANALYSIS -z out/result.zip"
SURVEY = f"{NUCLEI} --survey -i sampled/ -o survey/ -m 0.25"
TILE = (
    f"{NUCLEI} -t img -i tile.png -o out -c CASE -p SUBJECT -a ANALYSIS -m 0.25 "
    "-s 3936,1888 -b 2368,2368 --threshold 0.5275:0.177887:0.876446:0.299056"
)
SIF = "apptainer build /shared/sif/dynsvc_nuclei_1.0.0.sif docker-daemon:dynsvc/nuclei:1.0.0"
ON_A_CLUSTER = (
    "export DYNSVC_CONFIG=/shared/dynsvc/config.json",
    "export DYNSVC_RUNTIME=apptainer",
    "export DYNSVC_SIF_FOLDER=/shared/sif",
    "export DYNSVC_ARTIFACTS=/shared/dynsvc/artifacts",
    "export DYNSVC_SCRATCH=/local/$USER/dynsvc",
)
ALGORITHMS = "export DYNSVC_ALGORITHMS=$PWD/algorithms"
DEMO = "export DYNSVC_CONFIG=/tmp/dynsvc-demo-…/config.json"
WORKER_HOST = "docker compose --env-file deploy/worker-host.env -f deploy/worker-host.yml"


class Elsewhere(NamedTuple):
    """What executes a command: a file of the tests or of CI, and the text in it that does."""

    file: str
    text: str


COMPOSE = "tests/compose/test_compose.py"
EXECUTED_ELSEWHERE = {
    "bash scripts/test.sh": Elsewhere(".ci/run", "exec bash scripts/test.sh"),
    "bash scripts/demo.sh": Elsewhere(".ci/run", "bash scripts/demo.sh "),
    "pip install '.[demo]'": Elsewhere("scripts/venv.sh", " --no-deps --no-build-isolation -e ."),
    "dynsvc demo": Elsewhere("tests/integration/test_demo.py", "done = place.run()"),
    "dynsvc demo --slide biopsy.svs --region 20000,15000,1500,1000": Elsewhere(
        "tests/integration/test_demo.py", 'place.run(f"--slide={SAMPLE}", "--region=1200,600,400,300"'
    ),
    "sh deploy/demo.sh": Elsewhere("tests/support/compose.py", '["sh", "deploy/demo.sh"]'),
    "docker compose up -d --build": Elsewhere("deploy/demo.sh", "docker compose --profile demo up --detach"),
    "docker build -t dynsvc/nuclei:1.0.0 algorithms/nuclei": Elsewhere("deploy/demo.sh", NUCLEI_BUILD),
    "docker build --tag dynsvc/nuclei:1.0.0 algorithms/nuclei": Elsewhere("deploy/demo.sh", NUCLEI_BUILD),
    COMPOSE_CHECK: Elsewhere(COMPOSE, COMPOSE_CHECK),
    "docker compose --profile demo down -v": Elsewhere(COMPOSE, "docker compose --profile demo down -v"),
    "curl --user \"dynsvc:$(cat deploy/secrets/kue_password)\" --header 'Content-Type: application/json' "
    "--data @deploy/demo/order.json http://127.0.0.1:3000/job": Elsewhere(
        COMPOSE, "--data @deploy/demo/order.json http://127.0.0.1:3000/job"
    ),
    'docker build --build-arg COMMIT="$(git rev-parse HEAD)" '
    "--tag registry.example.org/dynsvc/service:0.1.0 .": Elsewhere(
        COMPOSE, "--tag registry.example.org/dynsvc/service:0.1.0 ."
    ),
    **{
        line: Elsewhere(COMPOSE, line)
        for line in (
            "DYNSVC_ARTIFACTS=s3://dynsvc/artifacts",
            "AWS_ENDPOINT_URL_S3=https://s3.example.org",
            "AWS_REGION=us-east-1",
            "cp redis.crt deploy/secrets/redis_cert",
            "cp redis.key deploy/secrets/redis_key",
            "chmod 644 deploy/secrets/redis_cert deploy/secrets/redis_key",
            "REDIS_ADDRESS=10.0.0.5 docker compose -f docker-compose.yml -f deploy/redis-tls.yml up -d",
        )
    },
    **{
        f"{WORKER_HOST} {does}": Elsewhere(COMPOSE, f"{{WORKER_HOST}} {does}")
        for does in ("up -d --build", "exec worker with-secrets dynsvc check", "down")
    },
    "export DOCKER_HOST=unix:///run/podman/podman.sock DYNSVC_RUNTIME=docker": Elsewhere(
        "tests/contract/test_runtime.py", 'monkeypatch.setenv("DOCKER_HOST", podman.url)'
    ),
}
#: Commands that cannot be executed here, and why.
NOT_EXECUTED = {
    "nvidia-smi -L": "needs a GPU",
    "docker run --rm --gpus all ubuntu nvidia-smi": "needs a GPU",
    "systemctl enable --now podman.socket": "needs systemd, and changes this host",
    "apptainer build /shared/sif/sbubmi_pathomics_analysis_latest.sif "
    "docker://sbubmi/pathomics_analysis:latest": "needs an image registry",
    "docker push registry.example.org/dynsvc/service:0.1.0": "needs an image registry",
    "kubectl create secret generic dynsvc-redis --from-file=password=redis_password": "needs a cluster",
    "kubectl create secret generic dynsvc-ca --from-file=ca.crt": "needs a cluster",
    "kubectl create secret generic dynsvc-s3 --from-env-file=s3.env": "needs a cluster",
    "helm upgrade --install pathology deploy/helm/dynsvc --values site.yaml": "needs a cluster",
}
#: They measure for minutes: only their options are looked at.
BENCHMARK = re.compile(r"python -m benchmarks[ .](\w+)")


def benchmarks() -> list[str]:
    return [line for line in commands() if BENCHMARK.search(line)]


def test_every_command_of_the_docs_is_claimed_once() -> None:
    claimed = Counter([*EXECUTED, *EXECUTED_ELSEWHERE, *NOT_EXECUTED, *benchmarks()])
    unclaimed = {line: pages for line, pages in commands().items() if line not in claimed}
    assert unclaimed == {}, "execute them here, or say where they are executed"
    assert claimed.keys() - commands().keys() == set(), "no page has them any more"
    assert [line for line, times in claimed.items() if times > 1] == []
    assert {line: tests for line, tests in EXECUTED.items() if len(tests) > 1} == {}


@pytest.mark.parametrize("line", EXECUTED_ELSEWHERE)
def test_what_executes_a_command_elsewhere_is_there(line: str) -> None:
    file, text = EXECUTED_ELSEWHERE[line]
    assert text in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted({BENCHMARK.findall(line)[0] for line in benchmarks()}))
def test_a_benchmark_has_the_options_that_the_docs_use(name: str) -> None:
    argv = [sys.executable, "-m", "benchmarks", name, "--help"]
    shown = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    lines = [line for line in benchmarks() if BENCHMARK.findall(line)[0] == name]
    used = {option for line in lines for option in re.findall(r"\s(--[a-z][a-z-]*)", line)}
    assert used - set(re.findall(r"--[a-z][a-z-]*", shown)) == set()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Somebody in an empty folder, with the programs of this environment."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    found = Reader(
        tmp_path, {"PATH": path, "HOME": str(tmp_path), "LANG": "C.UTF-8", "TMPDIR": str(tmp_path)}
    )
    yield found
    found.stop()


def arrive(reader: Reader, site: Hospital) -> None:
    """Bring the reader to the site: its programs and names for what the pages call otherwise."""
    reader.env = {name: value for name, value in site.env.items() if name != "DYNSVC_CONFIG"}
    reader.put_in |= {
        "/etc/dynsvc/config.json": site.env["DYNSVC_CONFIG"],
        "http://quip-jobs:3000": site.kue.url,
        "-h quip-jobs": f"-h 127.0.0.1 -p {site.redis.port}",
    }


@pytest.mark.services
@executes(
    CONFIG,
    WAITING,
    "celery -A dynsvc worker",
    "python -m bridge",
    "celery -A dynsvc flower",
    "dynsvc check",
    "celery -A dynsvc worker -Q gpu -c 4 -n gpu@%h",
    "redis-cli -h quip-jobs zrange dynsvc:q:leases 0 -1 withscores",
    "redis-cli -h quip-jobs hgetall dynsvc:q:attempt:17",
    "celery -A dynsvc inspect active_queues",
    "curl http://quip-jobs:3000/stats",
    "dynsvc drain HOST",
)
def test_an_installation_is_started_looked_at_and_drained(site: Hospital, reader: Reader) -> None:
    arrive(reader, site)
    gate = site.folder / "gate"
    site.install_copying_segmenter()
    hold(site, gate)
    order_id = site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48))
    reader.put_in |= {"HOST": "host-1", "attempt:17": f"attempt:{order_id}"}
    assert reader.run(WAITING) == f"{order_id} inactive\n"

    host = {"DYNSVC_HOST": "host-1"}
    worker = reader.serve(CONFIG, "celery -A dynsvc worker", **host)
    gpu_worker = reader.serve(CONFIG, "celery -A dynsvc worker -Q gpu -c 4 -n gpu@%h", **host)
    bridge = reader.serve(CONFIG, "python -m bridge")
    flower = reader.serve(CONFIG, "celery -A dynsvc flower", FLOWER_PORT=str(free_port()))
    for program, ready in (
        (worker, " ready."),
        (gpu_worker, " ready."),
        (bridge, "bridge started"),
        (flower, "Visit me at"),
    ):
        program.wait_for(ready)
    assert "0 broken, 0 warnings" in reader.run(CONFIG, "dynsvc check")

    def runs() -> bool:
        return "run_algorithm" in reader.run("redis-cli -h quip-jobs hgetall dynsvc:q:attempt:17")

    eventually(runs, what="a running algorithm")
    leases = reader.run("redis-cli -h quip-jobs zrange dynsvc:q:leases 0 -1 withscores")
    assert leases.split()[0] == order_id

    def taken() -> set[str]:
        return set(
            re.findall(r"'name': '(\w+)'", reader.run(CONFIG, "celery -A dynsvc inspect active_queues"))
        )

    # A worker that is slow to answer is left out.
    eventually(lambda: taken() >= {"io", "cpu", "gpu"}, what="the queues of both workers")
    assert json.loads(reader.run("curl http://quip-jobs:3000/stats"))["activeCount"] == 1
    gate.touch()
    site.wait_ended(order_id)
    assert site.kue.get(f"/job/{order_id}")["state"] == "complete"
    reader.run(CONFIG, "dynsvc drain HOST")
    worker.wait_for("drains")
    assert bridge.stop() == 0


def hold(site: Hospital, gate: Path) -> None:
    """Have the installed segmenter wait until *gate* exists."""
    program = site.folder / "bin" / "mainSegmentFeatures"
    script = program.read_text().replace(
        "#!/bin/sh\n", f"#!/bin/sh\nuntil [ -e {gate} ]; do sleep 0.05; done\n"
    )
    program.write_text(script)


@pytest.mark.services
@executes(
    QUIET,
    "export DYNSVC_RUNTIME=process",
    "celery -A dynsvc worker $QUIET -Q io -c 8 -n io@%h",
    "celery -A dynsvc worker $QUIET -Q cpu -c 4 -n cpu@%h",
    "celery -A dynsvc worker $QUIET -Q gpu -c 1 -n gpu@%h",
    GPUS,
    "DYNSVC_GPUS=none",
    "dynsvc explain ID",
    "dynsvc watch ID",
    "curl http://quip-jobs:3000/job/ID",
    "curl http://quip-jobs:3000/job/ID/log",
    'docker compose logs --no-log-prefix bridge worker | grep \'"order_id": "42"\'',
    "curl -s http://quip-jobs:3000/job/ID > order.json",
    "dynsvc run order.json",
    "dynsvc drain gpu-1",
)
def test_an_order_that_failed_is_read_and_run_again_by_hand(site: Hospital, reader: Reader) -> None:
    arrive(reader, site)
    del reader.env["DYNSVC_RUNTIME"]
    by_process = "export DYNSVC_RUNTIME=process"
    site.install("mainSegmentFeatures", '#!/bin/sh\necho "no tissue"; exit 3\n')
    order_id = site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48))
    host = {"DYNSVC_HOST": "gpu-1", "DYNSVC_LOG_FORMAT": "json"}
    workers = [
        reader.serve(CONFIG, by_process, QUIET, line, **host)
        for line in commands()
        if line.startswith("celery -A dynsvc worker $QUIET")
    ]
    bridge = reader.serve(CONFIG, by_process, "python -m bridge", DYNSVC_LOG_FORMAT="json")
    for worker in workers:
        worker.wait_for(" ready.")
    site.wait_ended(order_id)

    logs = " ".join(str(program.log_path) for program in (bridge, *workers))
    # The programs' own logs stand for those that the engine keeps.
    reader.put_in |= {
        "ID": order_id,
        "docker compose logs --no-log-prefix bridge worker": f"cat {logs}",
        '"42"': f'"{order_id}"',
    }
    told = reader.run('docker compose logs --no-log-prefix bridge worker | grep \'"order_id": "42"\'')
    assert {json.loads(line)["order_id"] for line in told.splitlines()} == {order_id}
    assert "AlgorithmFailed" in reader.run(CONFIG, "dynsvc explain ID")
    assert "no tissue" in reader.run(CONFIG, "dynsvc watch ID", status=1)
    job = json.loads(reader.run("curl http://quip-jobs:3000/job/ID"))
    assert job["error"].startswith("AlgorithmFailed: ")
    assert json.loads(reader.run("curl http://quip-jobs:3000/job/ID/log"))
    site.install_copying_segmenter()
    reader.run(
        *(CONFIG, by_process, "curl -s http://quip-jobs:3000/job/ID > order.json", "dynsvc run order.json")
    )
    assert len(list(read_objects(reader.folder / "result.zip"))) == 1

    for line, shown in ((GPUS, "gpus = GPU-5f1c2a7d"), ("DYNSVC_GPUS=none", "gpus = none")):
        assert shown in reader.run(CONFIG, by_process, line, "dynsvc check", settings=True)
    reader.run(CONFIG, "dynsvc drain gpu-1")
    for worker in workers:
        worker.wait_for("drains")


@pytest.mark.services
@pytest.mark.docker
@executes(
    "apptainer --version",
    "unshare --user --map-current-user --net true && echo yes",
    SIF,
    *ON_A_CLUSTER,
    "celery -A dynsvc worker -Q io,cpu",
)
def test_a_host_of_a_cluster_builds_an_image_and_runs_an_order_in_it(site: Hospital, reader: Reader) -> None:
    if shutil.which("apptainer") is None:
        missing("apptainer")
    arrive(reader, site)
    del reader.env["DYNSVC_RUNTIME"]
    site.install_copying_segmenter()
    script = '#!/bin/sh\nwhile [ "$1" != -z ]; do shift; done\nexec cp /ready.zip "$2"\n'
    ready = (site.folder / "ready.zip").read_bytes()
    image = "dynsvc-test/documented"
    add_image(engine(), image, {"mainSegmentFeatures": script}, {"ready.zip": ready})
    shared = reader.folder / "shared"
    (shared / "sif").mkdir(parents=True)
    reader.put_in |= {
        "/shared/dynsvc/config.json": site.env["DYNSVC_CONFIG"],
        "/shared": str(shared),
        "/local": str(reader.folder / "local"),
        "dynsvc/nuclei:1.0.0": f"{image}:latest",
        "dynsvc_nuclei_1.0.0": f"{image.replace('/', '_')}_latest",
    }
    try:
        assert re.search(r"\b1\.\d", reader.run("apptainer --version"))
        assert reader.run("unshare --user --map-current-user --net true && echo yes") == "yes\n"
        reader.run(SIF)
    finally:
        engine().remove_image(f"{image}:latest", force=True)
    reader.env |= light_descriptor(site, f"{image}:latest")
    reader.env["USER"] = "reader"
    assert "0 broken" in reader.run(*ON_A_CLUSTER, "dynsvc check")
    worker = reader.serve(*ON_A_CLUSTER, "celery -A dynsvc worker -Q io,cpu")
    bridge = reader.serve(*ON_A_CLUSTER, "python -m bridge")
    worker.wait_for(" ready.")
    bridge.wait_for("bridge started")
    order_id = site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48))
    site.wait_ended(order_id)
    assert site.kue.get(f"/job/{order_id}")["state"] == "complete", site.kue.get(f"/job/{order_id}")


@pytest.mark.services
@executes(
    "dynsvc demo --keep",
    DEMO,
    "dynsvc submit dynsvc-demo/order.json --wait",
)
def test_the_tutorials_second_terminal(reader: Reader) -> None:
    demo = reader.serve("dynsvc demo --keep")
    demo.wait_for("Ctrl-C ends everything")
    found = re.search(r"configuration +(\S+)", demo.log)
    assert found
    reader.put_in["/tmp/dynsvc-demo-…/config.json"] = found[1]
    assert "0 broken" in reader.run(DEMO, "dynsvc check")
    assert "is complete" in reader.run(DEMO, "dynsvc submit dynsvc-demo/order.json --wait")


ALGORITHM_FILES = {
    "python": "algorithms/mean-colour/mean_colour.py",
    "dockerfile": "algorithms/mean-colour/Dockerfile",
    "toml": "algorithms/mean-colour/algorithm.toml",
    "json": "order.json",
}


@pytest.mark.docker
@executes(
    "chmod +x algorithms/mean-colour/mean_colour.py",
    "docker build -t example/mean-colour:1.0.0 algorithms/mean-colour",
    ALGORITHMS,
    "dynsvc algorithms",
    "DYNSVC_SLIDES=/data/slides dynsvc run order.json",
    "unzip -p result.zip mean.json",
    "docker ps --filter label=dynsvc.managed=1",
)
def test_the_algorithm_of_the_page_is_built_and_run(reader: Reader) -> None:
    base_image()
    page = ROOT / "docs/how-to/add-an-algorithm.md"
    for language, name in ALGORITHM_FILES.items():
        (text,) = blocks(page, language)
        (reader.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (reader.folder / name).write_text(text)
    slides = reader.folder / "slides"
    slides.mkdir()
    pixels = gradient(2048, 1536)
    write_pyramid(slides / "sample.svs", pixels)
    reader.put_in["/data/slides"] = str(slides)
    reader.run("chmod +x algorithms/mean-colour/mean_colour.py")
    reader.run("docker build -t example/mean-colour:1.0.0 algorithms/mean-colour")
    try:
        assert "runs as  image example/mean-colour:1.0.0\n" in reader.run(ALGORITHMS, "dynsvc algorithms")
        reader.run(ALGORITHMS, "DYNSVC_SLIDES=/data/slides dynsvc run order.json")
        mean = json.loads(reader.run("unzip -p result.zip mean.json"))["mean_rgb"]
        assert mean == pytest.approx(pixels[600:1112, 1000:1512].mean(axis=(0, 1)), abs=0.01)
        with labelled("example/mean-colour:1.0.0") as name:
            assert name in reader.run("docker ps --filter label=dynsvc.managed=1")
    finally:
        engine().remove_image("example/mean-colour:1.0.0", force=True)


@contextlib.contextmanager
def labelled(image: str) -> Iterator[str]:
    """Run a container with our label; yield its name."""
    name = f"dynsvc-documented-{os.getpid()}"
    engine().create_container(image, ["sleep", "60"], labels={"dynsvc.managed": "1"}, name=name)
    try:
        engine().start(name)
        yield name
    finally:
        engine().remove_container(name, force=True)


@executes("mkdir -p out", ROI, SLIDE, f"{NUCLEI} --help", "mkdir -p survey", SURVEY, TILE)
def test_nuclei_are_found_as_their_page_says(reader: Reader) -> None:
    picture = Image.fromarray(scene(1, nuclei=80, side_px=400).rgb)
    (reader.folder / "sampled").mkdir()
    for name in ("roi.png", "tile.png", "sampled/1.png"):
        picture.save(reader.folder / name)
    write_pyramid(reader.folder / "slide.svs", scene(2, nuclei=200, side_px=700).rgb, mpp_um=0.25)
    out, survey = reader.folder / "out", reader.folder / "survey" / "survey.json"

    def found(line: str) -> int:
        reader.run(line)
        return int(json.loads((out / "result.json").read_text())["count"])

    reader.run("mkdir -p out")
    assert "usage:" in reader.run(f"{NUCLEI} --help")
    assert found(ROI) > 60
    assert len(list(out.glob("*-overlay.jpg"))) == 1
    assert found(SLIDE) > 150
    assert len(list(read_objects(out / "result.zip"))) == found(SLIDE)
    reader.run("mkdir -p survey", SURVEY)
    assert json.loads(survey.read_text())["threshold"] != "none"
    assert found(TILE) > 60
    assert len(list(out.glob("*_x3936_y1888-features.csv"))) == 1


@executes(
    "sh deploy/secrets.sh",
    "cp .env.example .env",
    "install -d -m 700 deploy/secrets",
    "cp deploy/worker-host.env.example deploy/worker-host.env",
)
def test_passwords_and_settings_are_made_as_the_pages_of_compose_say(reader: Reader) -> None:
    secrets = reader.folder / "deploy/secrets"
    secrets.parent.mkdir()
    for name in (".env.example", "deploy/secrets.sh", "deploy/worker-host.env.example"):
        shutil.copy(ROOT / name, reader.folder / name)
    reader.run("install -d -m 700 deploy/secrets", "sh deploy/secrets.sh")
    assert secrets.stat().st_mode & 0o077 == 0
    made = {path.name: path.read_text() for path in secrets.iterdir()}
    assert {"redis_password", "kue_password", "flower_password"} <= made.keys()
    assert len(set(made.values())) == len(made)
    reader.run("cp .env.example .env", "cp deploy/worker-host.env.example deploy/worker-host.env")
    assert "SECRETS=./deploy/secrets\n" in (reader.folder / ".env").read_text()
    assert "WORKER_HOST=gpu-1\n" in (reader.folder / "deploy/worker-host.env").read_text()
