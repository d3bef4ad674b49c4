"""Warm mode over real pipes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from algorithms.nuclei.program import main
from algorithms.nuclei.synthetic import scene
from dynsvc.algorithms import Catalog
from dynsvc.commands import Placeholders
from dynsvc.parameters import fill

ROOT = Path(__file__).parents[2]


class Service:
    """A warm process."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            command or [sys.executable, "-m", "algorithms.nuclei", "--serve"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        message: dict[str, Any] = json.loads(self.process.stdout.readline())
        return message

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        while (message := self.read()).get("type") == "progress":
            assert 0 <= message["fraction"] <= 1
        return message


@contextmanager
def serving(*command: str) -> Iterator[Service]:
    service = Service(*command)
    try:
        assert service.read() == {"type": "ready", "protocol": 1}
        yield service
    finally:
        service.process.kill()
        service.process.wait(timeout=10)
        for pipe in (service.process.stdin, service.process.stdout, service.process.stderr):
            assert pipe is not None
            if not pipe.closed:
                pipe.close()


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as service:
        yield service


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    Image.fromarray(scene(9, side_px=300, nuclei=40).rgb).save(path)
    return path


def request(picture: Path, out: Path, **more: object) -> str:
    out.mkdir(exist_ok=True)
    document = {
        "id": "t1",
        "input": str(picture),
        "output_dir": str(out),
        "mpp": 0.25,
        "parameters": {"r": 1.0},
    }
    return json.dumps(document | more)


def test_requests_are_answered_one_by_one_with_the_files_of_a_run(
    service: Service, picture: Path, tmp_path: Path
) -> None:
    region = {"x": 10, "y": 20, "width": 300, "height": 300}
    for number in range(3):
        answer = service.ask(request(picture, tmp_path / f"out{number}", id=number, region=region))
        assert (answer["id"], answer["ok"]) == (number, True)
        assert answer["result"]["count"] > 20
    cold = tmp_path / "cold"
    cold.mkdir()
    ids = ["-c", "case", "-p", "subject", "-a", "nuclei"]
    argv = [
        "-t",
        "img",
        "-i",
        str(picture),
        "-o",
        str(cold),
        *ids,
        "-m",
        "0.25",
        "-s",
        "10,20",
        "-b",
        "300,300",
    ]
    assert main(argv) == 0
    for path in cold.iterdir():
        assert path.read_bytes() == (tmp_path / "out2" / path.name).read_bytes()


def test_what_dynsvc_tells_a_warm_program_gives_the_bytes_of_its_command(
    picture: Path, tmp_path: Path
) -> None:
    algorithm = Catalog.load(ROOT / "algorithms").algorithms["nuclei"]
    told, _ = fill(algorithm.parameters, {"r": "1.05", "j": "Y", "l": "5"}, "14")
    bytes_of = {}
    for way in ("oneshot", "warm"):
        out = tmp_path / way
        out.mkdir()
        places = Placeholders(
            input=str(picture), input_dir=str(picture.parent), output_dir=str(out), case_id="C 1",
            subject_id="S", analysis_id="seg:1", description='say "nuclei"', x=1003, y=2005, width=300,
            height=300, mpp=0.25, order_id="14",
        )  # fmt: skip
        if way == "oneshot":
            command = algorithm.command_line(places, told)
            subprocess.run([sys.executable, *command[1:]], cwd=ROOT, check=True, timeout=60)
        else:
            with serving(sys.executable, *algorithm.run.command_warm[1:]) as service:
                folders = {"input": str(picture), "output_dir": str(out)}
                line = json.dumps({"id": "9f2c", **folders, **algorithm.request(places, told)})
                answers = [service.ask(line) for _ in range(2)]
            assert [answer["ok"] for answer in answers] == [True, True]
        bytes_of[way] = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(bytes_of["warm"]) == 7
    assert bytes_of["warm"] == bytes_of["oneshot"]


def test_a_survey_and_its_threshold_are_requests_too(service: Service, picture: Path, tmp_path: Path) -> None:
    folders = {"input_dir": str(picture.parent), "output_dir": str(tmp_path)}
    answer = service.ask(json.dumps({"id": "s", "survey": True, "mpp": 0.25, **folders}))
    assert answer["ok"] is True
    threshold = json.loads((tmp_path / "survey.json").read_text())["threshold"]
    assert answer["result"]["threshold"] == threshold
    found = service.ask(request(picture, tmp_path / "a", threshold=threshold))["result"]
    assert (found["threshold"], found["count"] > 20) == (threshold, True)
    assert service.ask(request(picture, tmp_path / "b", threshold="none"))["result"]["count"] == 0


def test_a_bad_request_is_answered_and_the_next_one_served(
    service: Service, picture: Path, tmp_path: Path
) -> None:
    for line, kind in (
        ("{not json", "JSONDecodeError"),
        ('{"id": 1}', "UsageWrong"),
        (request(tmp_path / "missing.png", tmp_path / "a"), "InputUnreadable"),
        (request(picture, tmp_path / "a", parameters={"x": 1}), "UsageWrong"),
        (request(picture, tmp_path / "a", parameters={"r": "-o /etc"}), "UsageWrong"),
    ):
        answer = service.ask(line)
        assert answer["ok"] is False
        assert answer["error"]["type"] == kind
        assert answer["error"]["retry"] is False
    assert service.ask(request(picture, tmp_path / "b"))["ok"] is True


def test_a_request_whose_deadline_has_passed_is_not_begun(
    service: Service, picture: Path, tmp_path: Path
) -> None:
    answer = service.ask(request(picture, tmp_path / "a", deadline=time.time() - 1))
    assert answer["error"]["type"] == "TimeoutError"
    assert answer["error"]["retry"] is True
    assert list((tmp_path / "a").iterdir()) == []


def test_the_end_of_the_input_ends_the_service(service: Service) -> None:
    assert service.process.stdin is not None
    service.process.stdin.close()
    assert service.process.wait(timeout=10) == 0


def test_the_helper_for_other_algorithms_stays_small() -> None:
    assert len((ROOT / "algorithms" / "nuclei" / "warm.py").read_text().splitlines()) <= 60
