"""What every result sink does, run over each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from dynsvc.errors import DynsvcError, PeerUnavailable, StorageUnavailable
from dynsvc.http import Http
from dynsvc.settings import Endpoint
from dynsvc.sinks import Delivery, Receipt, ResultSink
from dynsvc.sinks.directory import DirectorySink
from dynsvc.sinks.loader import LoaderSink
from dynsvc.standins.loader import PATH, LoaderStandin

CONTENT = b"PK\x05\x06" + bytes(range(256)) * 2000 + b"\r\n--\r\n"


class Subject(Protocol):
    """A sink and what it has taken."""

    sink: ResultSink

    def stored(self, receipt: Receipt) -> Path: ...

    def take_away(self) -> None: ...


class Loader:
    def __init__(self, standin: LoaderStandin, http: Http) -> None:
        self.standin = standin
        self.sink: ResultSink = LoaderSink(http, Endpoint(host="127.0.0.1", port=standin.port, path=PATH))

    def stored(self, receipt: Receipt) -> Path:
        assert receipt.loader_job_id is not None
        return self.standin.jobs[receipt.loader_job_id].zip_path

    def take_away(self) -> None:
        self.standin.stop()


class Directory:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sink: ResultSink = DirectorySink(folder)

    def stored(self, receipt: Receipt) -> Path:
        assert receipt.loader_job_id is None
        return Path(receipt.place)

    def take_away(self) -> None:
        # A file where the folder should be: also root cannot write there.
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.write_bytes(b"")


@pytest.fixture(params=["loader", "directory"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    if request.param == "directory":
        yield Directory(tmp_path / "results" / "deep")
        return
    with LoaderStandin(tmp_path / "uploads") as standin, Http() as http:
        yield Loader(standin, http)


def delivery(tmp_path: Path, **changes: str) -> Delivery:
    path = tmp_path / "output.zip"
    path.write_bytes(CONTENT)
    values = {
        "order_id": "17",
        "case_id": "TCGA-02-0001",
        "execution_id": "seg:r1:w0.8:l3:u10:k20:j0",
        **changes,
    }
    return Delivery(zip_path=path, **values)


def test_the_zip_arrives_unchanged_and_the_receipt_says_where(subject: Subject, tmp_path: Path) -> None:
    receipt = subject.sink.deliver(delivery(tmp_path))
    assert subject.stored(receipt).read_bytes() == CONTENT
    assert receipt.place
    assert (tmp_path / "output.zip").read_bytes() == CONTENT


def test_ids_with_odd_characters_do_no_harm(subject: Subject, tmp_path: Path) -> None:
    receipt = subject.sink.deliver(
        delivery(
            tmp_path, order_id="../../17", case_id='a"b\r\nX: c; é', execution_id="/etc/passwd\x00 ☃" * 40
        )
    )
    stored = subject.stored(receipt)
    assert stored.read_bytes() == CONTENT
    assert stored.resolve().is_relative_to(tmp_path)


def test_a_missing_zip_is_the_storages_fault(subject: Subject, tmp_path: Path) -> None:
    gone = delivery(tmp_path)
    gone.zip_path.unlink()
    with pytest.raises(StorageUnavailable):
        subject.sink.deliver(gone)


def test_a_receiver_that_is_away_is_transient(subject: Subject, tmp_path: Path) -> None:
    subject.take_away()
    with pytest.raises((PeerUnavailable, StorageUnavailable)) as caught:
        subject.sink.deliver(delivery(tmp_path))
    error: DynsvcError = caught.value
    assert error.transient
