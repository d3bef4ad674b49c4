"""The whole way on real parts: Kue, iipsrv on the raw slide, the nuclei image in the Docker engine."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dynsvc.algorithms import Catalog
from tests.support.hospital import CASE_ID, ROOT, Hospital
from tests.support.iipsrv import iipsrv_missing, running_iipsrv
from tests.support.images import base_image, engine
from tests.support.kue import KueApi, running
from tests.support.orders import v4
from tests.support.redis import running_redis
from tests.support.services import missing

pytestmark = [pytest.mark.services, pytest.mark.docker, pytest.mark.timeout(600)]

SAMPLE = ROOT / "../shared/data/sample.svs"
WIDTH_PX, HEIGHT_PX, MPP_UM = 2220, 2967, 0.499
#: As many as fit a test run; ``TEST_CONTAINER_ORDERS`` for more.
ORDERS = int(os.environ.get("TEST_CONTAINER_ORDERS", "20"))
X, Y, W, H = 1000, 600, 1024, 1024


def nuclei_image() -> str:
    """The image that the descriptor names, built from its Dockerfile."""
    base_image()
    name = Catalog.load(ROOT / "algorithms").algorithms["nuclei"].image
    assert name
    for step in engine().build(path=str(ROOT / "algorithms/nuclei"), tag=name, rm=True, decode=True):
        assert "error" not in step, step
    return name


@pytest.fixture(scope="module")
def image() -> str:
    return nuclei_image()


@pytest.fixture
def real_site(redis_program: str, node_kue: None, tmp_path: Path) -> Iterator[Hospital]:
    if not SAMPLE.exists():
        missing("the test slide sample.svs")
    if absent := iipsrv_missing():
        missing(absent)
    with tempfile.TemporaryDirectory(prefix="iipsrv-") as folder, running_redis() as redis:
        api = KueApi(redis.port)
        with (
            running(api),
            running_iipsrv(Path(folder), {"sample.svs": SAMPLE}) as iipsrv,
            Hospital(
                redis,
                api,
                tmp_path,
                # As in the original's file: no scheme.
                image_url=iipsrv.url.removeprefix("http://"),
                record={
                    "case_id": CASE_ID,
                    "subject_id": CASE_ID,
                    "file-location": iipsrv.location("sample.svs"),
                    "width": WIDTH_PX,
                    "height": HEIGHT_PX,
                    "mpp-x": MPP_UM,
                    "mpp-y": MPP_UM,
                },
            ) as hospital,
        ):
            yield hospital


def kept_container(site: Hospital) -> dict[str, Any]:
    """What the engine says of the one container that the site's worker keeps for its next orders."""
    kept = engine().containers(filters={"label": "dynsvc.role=kept", "status": "running"})
    details: list[dict[str, Any]] = [engine().inspect_container(found["Id"]) for found in kept]
    (own,) = (each for each in details if str(site.folder) in json.dumps(each["Mounts"]))
    return own


def test_a_region_of_the_real_slide_is_segmented_in_a_container(real_site: Hospital, image: str) -> None:
    site = real_site
    site.start_worker(DYNSVC_RUNTIME="docker")
    site.start_bridge()
    data = v4(x=X, y=Y, w=W, h=H)
    data["order"]["execution"]["algorithm"] = "nuclei"
    order_id = site.kue.post_job("analysisJob", data)
    site.wait_ended(order_id, limit_s=180)
    details = kept_container(site)

    host = details["HostConfig"]
    assert details["Config"]["Image"] == image
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["Privileged"] is False
    assert "no-new-privileges" in host["SecurityOpt"]
    assert host["Init"] is True
    assert host["PidsLimit"] == 64
    assert host["Memory"] == host["MemorySwap"] > 0
    assert host["NanoCpus"] > 0
    assert details["Config"]["User"].split(":")[0] not in {"", "0", "root"}
    assert {(m["Destination"], m["RW"]) for m in details["Mounts"]} == {("/input", False), ("/output", True)}
    # It belongs to no order, and the next one finds it running.
    assert not {"dynsvc.order", "dynsvc.attempt"} & set(details["Config"]["Labels"])
    assert details["Path"] == "python3"
    assert "--serve" in details["Args"]
    job = site.kue.get(f"/job/{order_id}")

    assert job["state"] == "complete", job
    assert job["result"]["objects"] > 100
    assert job["result"]["mpp_um"] == MPP_UM
    assert job["result"]["executed"].startswith("sha256:") or "@sha256:" in job["result"]["executed"]
    (upload,) = site.uploads()
    check_loader_contract(upload.zip_path, job["result"]["objects"])
    # Nothing of the run is left: no container of its own, no file.
    assert engine().containers(all=True, filters={"label": f"dynsvc.order={order_id}"}) == []
    # The host's account of itself stays, and the lock of what the living worker keeps; they name no order.
    files = [path for path in (site.folder / "tmp").rglob("*") if path.is_file()]
    assert not [path for path in files if not {"host", "cpus", "lock"} & set(path.parts)]


def check_loader_contract(zip_path: Path, objects: int) -> None:
    """What the loader asks of a zip; see its rules in docs/reference/result.md."""
    with zipfile.ZipFile(zip_path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert all("/" not in name for name in names)
        (metadata,) = [name for name in names if name.endswith("-algmeta.json")]
        text = archive.read(metadata).decode()
        assert "\n" not in text.rstrip("\n"), "the loader reads the first line only"
        algmeta = json.loads(text)
        for key in ("case_id", "subject_id", "analysis_id", "analysis_desc", "out_file_prefix"):
            assert key in algmeta
        assert algmeta["case_id"] == CASE_ID
        # The slide's size and mpp, not the tile's.
        assert (algmeta["image_width"], algmeta["image_height"]) == (WIDTH_PX, HEIGHT_PX)
        assert algmeta["mpp"] == MPP_UM
        rows = list(
            csv.reader(io.StringIO(archive.read(f"{algmeta['out_file_prefix']}-features.csv").decode()))
        )
        header, body = rows[0], rows[1:]
        assert header[0] == "AreaInPixels"
        assert header[-1] == "Polygon"
        assert {len(row) for row in body} == {len(header)}
        assert len(body) == objects
        for row in body:
            numbers = [float(number) for number in row[-1].strip("[]").split(":")]
            assert len(numbers) % 2 == 0
            # Level-0 pixels of the slide: the region's place is in them.
            assert all(X - 0.5 <= x <= X + W + 0.5 for x in numbers[0::2])
            assert all(Y - 0.5 <= y <= Y + H + 0.5 for y in numbers[1::2])
        assert f"{algmeta['out_file_prefix']}-seg.png" in names
        assert any(name.endswith(".JPEG") for name in names), (
            "the input picture, as the original's zip has it"
        )


def test_many_orders_in_containers_all_complete(real_site: Hospital, image: str) -> None:
    """Two runs at a time, in the two containers that the worker keeps."""
    site = real_site
    site.start_worker("-c", "2", DYNSVC_RUNTIME="docker")
    site.start_bridge()
    data = v4(x=X, y=Y, w=207, h=141)
    data["order"]["execution"]["algorithm"] = "nuclei"
    order_ids = [site.kue.post_job("analysisJob", data) for _ in range(ORDERS)]
    site.wait_ended(*order_ids, limit_s=20 * ORDERS)
    jobs = [site.kue.get(f"/job/{order_id}") for order_id in order_ids]
    assert {job["state"] for job in jobs} == {"complete"}, [job.get("error") for job in jobs]
    assert len({job["result"]["objects"] for job in jobs}) == 1
    assert len(site.uploads()) == ORDERS
    assert site.kue.get("/stats")["completeCount"] == ORDERS
    left = engine().containers(all=True, filters={"label": "dynsvc.managed=1"})
    assert not [
        found for found in left if found["Labels"].get("dynsvc.attempt") in {job["workerId"] for job in jobs}
    ]
