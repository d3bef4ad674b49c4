"""What the contract of sinks leaves to each of them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from dynsvc.errors import DeliveryUnknown, DynsvcError, PeerRefused, PeerUnavailable
from dynsvc.http import Http, Patience
from dynsvc.settings import Endpoint
from dynsvc.sinks import Delivery
from dynsvc.sinks.directory import DirectorySink
from dynsvc.sinks.loader import LoaderSink
from dynsvc.standins.loader import PATH, Behaviour, LoaderJob, LoaderStandin
from dynsvc.standins.server import Reply, json_reply
from tests.support.misbehaving import MisbehavingServer, misbehaving, reset

#: Closed after each test.
HTTP = Http()


@pytest.fixture(autouse=True)
def _closed_connections() -> Iterator[None]:
    yield
    HTTP.close()


@pytest.fixture
def delivery(tmp_path: Path) -> Delivery:
    path = tmp_path / "output.zip"
    path.write_bytes(b"PK\x05\x06" + b"\x00" * 18)
    return Delivery(order_id="17", case_id="A", execution_id="seg:r1:w0.8", zip_path=path)


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[LoaderStandin]:
    with LoaderStandin(tmp_path / "uploads") as standin:
        yield standin


def sink(server: LoaderStandin | MisbehavingServer, path: str = PATH) -> LoaderSink:
    return LoaderSink(
        HTTP, Endpoint(host="127.0.0.1", port=server.port, path=path), patience=Patience(read_s=5)
    )


@pytest.mark.parametrize("shape", ["full", "id", "text-id", "job", "job-text"])
def test_the_loaders_job_is_found_in_every_shape_of_answer(
    standin: LoaderStandin, delivery: Delivery, shape: Any
) -> None:
    standin.behaviour = Behaviour(shape=shape)
    receipt = sink(standin).deliver(delivery)
    assert receipt.loader_job_id == "1"
    assert receipt.place == "loader job 1"
    assert standin.jobs["1"].case_id == "A"


@pytest.mark.parametrize(
    "reply",
    [
        # queued, it says, but not as what
        json_reply(200, {"Status": "Queued"}),
        json_reply(200, {"id": None}),
        json_reply(200, {"id": True}),
        json_reply(200, {"id": ""}),
        json_reply(200, {"id": "../1"}),
        json_reply(200, {"Job": "no JSON"}),
        json_reply(200, {"Status": "Failed: Error: Redis connection failed"}),
        json_reply(200, [1]),
        Reply(200, b"<html>Welcome</html>"),
        Reply(200, b""),
    ],
)
def test_an_answer_without_a_job_leaves_open_whether_the_loader_has_it(
    standin: LoaderStandin, delivery: Delivery, reply: Reply
) -> None:
    standin.behaviour = Behaviour(refusal=reply)
    with pytest.raises(DeliveryUnknown) as caught:
        sink(standin).deliver(delivery)
    assert caught.value.peer == f"annotation loader {standin.url}"
    assert len(standin.requests) == 1


@pytest.mark.parametrize(
    "reply", [Reply(400, b"Please provide case_id"), Reply(404, b"Cannot POST /submitZipOrder")]
)
def test_a_refused_upload_has_not_arrived(standin: LoaderStandin, delivery: Delivery, reply: Reply) -> None:
    standin.behaviour = Behaviour(refusal=reply)
    with pytest.raises(PeerRefused):
        sink(standin).deliver(delivery)
    assert len(standin.requests) == 1


def test_the_loaders_words_are_quoted(standin: LoaderStandin, delivery: Delivery) -> None:
    standin.behaviour = Behaviour(refusal=json_reply(500, {"Status": "Failed: no Redis"}))
    with pytest.raises(PeerUnavailable, match=re.escape('answered 500 "{"Status": "Failed: no Redis"}"')):
        sink(standin).deliver(delivery)
    standin.behaviour = Behaviour()
    with pytest.raises(PeerRefused, match="Cannot POST /submitMaskOrder"):
        sink(standin, "/submitMaskOrder").deliver(delivery)


def test_a_lost_answer_is_not_taken_for_a_lost_zip(delivery: Delivery) -> None:
    with misbehaving(reset()) as server, pytest.raises(DeliveryUnknown):
        sink(server).deliver(delivery)
    assert len(server.requests) == 1


def test_a_second_delivery_replaces_the_first_in_a_folder(tmp_path: Path, delivery: Delivery) -> None:
    folder = DirectorySink(tmp_path / "results")
    first = folder.deliver(delivery)
    delivery.zip_path.write_bytes(b"PK new")
    second = folder.deliver(delivery)
    assert first == second
    assert [path.read_bytes() for path in (tmp_path / "results" / "17").iterdir()] == [b"PK new"]


def test_execution_ids_that_look_alike_get_files_of_their_own(tmp_path: Path, delivery: Delivery) -> None:
    folder = DirectorySink(tmp_path / "results")
    ids = ["seg:r1", "seg_r1", "seg/r1", "", "..", ".seg"]
    places = {folder.deliver(delivery.model_copy(update={"execution_id": each})).place for each in ids}
    assert len(places) == len(ids)
    assert (
        Path(folder.deliver(delivery.model_copy(update={"execution_id": "nuclei-1"})).place).name
        == "nuclei-1.zip"
    )


def test_each_sink_says_in_one_line_whether_it_works(standin: LoaderStandin, tmp_path: Path) -> None:
    assert sink(standin).check() == f"annotation loader {standin.url} answers"
    assert DirectorySink(tmp_path / "results").check().endswith("can be written")
    assert list((tmp_path / "results").iterdir()) == []
    broken: list[DynsvcError] = []
    (tmp_path / "file").touch()
    standin.stop()
    for check in (
        LoaderSink(HTTP, Endpoint(host="127.0.0.1", port=1)).check,
        DirectorySink(tmp_path / "file").check,
    ):
        with pytest.raises(DynsvcError) as caught:
            check()
        broken.append(caught.value)
    assert all(error.transient for error in broken)


def test_the_standin_ends_its_jobs_as_it_is_told(tmp_path: Path, delivery: Delivery) -> None:
    ended: list[LoaderJob] = []
    done = threading.Event()
    uploads: list[tuple[str, Path]] = []

    def note(job: LoaderJob) -> None:
        ended.append(job)
        done.set()

    with LoaderStandin(
        tmp_path / "uploads",
        create_job=lambda case_id, _: f"{case_id}-7",
        on_upload=lambda job_id, path: uploads.append((job_id, path)),
        on_end=note,
    ) as standin:
        standin.behaviour = Behaviour(job_error="E2: unzip: warning")
        receipt = sink(standin).deliver(delivery)
        assert receipt.loader_job_id == "A-7"
        assert done.wait(10)
        told = requests.get(f"{standin.url}/job/A-7", timeout=5).json()
        unknown = requests.get(f"{standin.url}/job/8", timeout=5)
    assert uploads == [("A-7", tmp_path / "uploads" / "A-7.zip")]
    assert (ended[0].outcome, ended[0].error) == ("failed", "E2: unzip: warning")
    assert (told["id"], told["state"], told["error"]) == ("A-7", "failed", "E2: unzip: warning")
    assert (unknown.status_code, unknown.json()) == (200, {"error": 'job "8" doesnt exist'})
