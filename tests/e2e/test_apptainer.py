"""An order whose algorithm is in a file of Apptainer's, all the way."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.containers import light_descriptor
from tests.support.hospital import Hospital
from tests.support.orders import v4
from tests.support.services import missing
from tests.support.sif import build_sif

pytestmark = [pytest.mark.services, pytest.mark.docker]

IMAGE = "dynsvc-test/segmenter:1"
LABELS = {"dynsvc.library.itk": "5.3"}


def with_apptainer(site: Hospital) -> dict[str, str]:
    """Make the copying segmenter an image; return the settings."""
    site.install_copying_segmenter()
    images = site.folder / "sif"
    images.mkdir()
    script = '#!/bin/sh\nwhile [ "$1" != -z ]; do shift; done\nexec cp /ready.zip "$2"\n'
    ready = (site.folder / "ready.zip").read_bytes()
    try:
        build_sif(
            images / "dynsvc-test_segmenter_1.sif",
            {"mainSegmentFeatures": script},
            {"ready.zip": ready},
            LABELS,
        )
    except FileNotFoundError:
        missing("apptainer")
    return {
        "DYNSVC_RUNTIME": "apptainer",
        "DYNSVC_SIF_FOLDER": str(images),
        **light_descriptor(site, IMAGE),
    }


def explained(site: Hospital, order_id: str) -> str:
    argv = [str(Path(sys.executable).with_name("dynsvc")), "explain", order_id]
    return subprocess.run(argv, env=site.env, capture_output=True, text=True, timeout=60, check=True).stdout


def test_an_order_ends_as_a_zip_that_tells_the_images_digest(site: Hospital) -> None:
    site.start_worker(**with_apptainer(site))
    site.start_bridge()
    order_id = site.kue.post_job("analysisJob", v4(x=10, y=20, w=64, h=48))
    site.wait_ended(order_id)
    assert site.kue.get(f"/job/{order_id}")["state"] == "complete", site.kue.get(f"/job/{order_id}")
    (upload,) = site.uploads()
    with zipfile.ZipFile(upload.zip_path) as archive:
        algorithm = json.loads(archive.read("provenance.json"))["algorithm"]
    image = site.folder / "sif" / "dynsvc-test_segmenter_1.sif"
    digest = subprocess.run(["sha256sum", image], capture_output=True, text=True, check=True).stdout.split()[
        0
    ]
    assert (algorithm["image"], algorithm["executed"]) == (IMAGE, f"sha256:{digest}")
    assert algorithm["stated"] == LABELS
    page = explained(site, order_id)
    assert "apptainer runtime, oneshot" in page
    assert (
        "--containall --cleanenv --no-home --no-privs --no-mount tmp,bind-paths,hostfs --net --network none"
        in page
    )
