"""What a zip tells about its making, and what of it depends on nothing but the inputs."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynsvc import __version__, provenance
from dynsvc.algorithms import Algorithm, read_descriptor
from dynsvc.artifacts import Artifact, ArtifactStore
from dynsvc.cache import ResultCache, key_of
from dynsvc.errors import OutOfMemory
from dynsvc.messages import Input, Message, Plan
from dynsvc.orders import Order
from dynsvc.outputs import OutputLimits
from dynsvc.production import Made, Production
from dynsvc.regions import Region, RegionRequest
from dynsvc.runtime import Run, Seen
from dynsvc.settings import Settings
from dynsvc.slides import Slide
from workers.admission import HostAdmission
from workers.runtimes.process import ProcessRuntime

LIMITS = OutputLimits(max_bytes=10_000_000)
DESCRIPTOR = """
schema = 1
name = "seg"
title = "Segmenter"
version = "1.2"
image = "seg:1.2"
command = ["PROGRAM", "-i", "{input}", "-o", "{output_dir}", "-a", "{analysis_id}", "{parameters}"]

[parameters.r]
flag = "-r"
type = "number"
default = 1.0

[limits]
memory_mib = 64
memory_retry = true

[outputs]
required = ["*.txt"]
"""


class Owner:
    """An attempt that nobody ends."""

    def __init__(self) -> None:
        self.facts: dict[str, object] = {}

    def ended(self) -> bool:
        return False

    def note(self, **facts: object) -> None:
        self.facts |= facts


class Bench:
    """Makes zips as the pipeline does, with a program of this host."""

    def __init__(self, folder: Path, program: str) -> None:
        self.folder = folder
        script = folder / "seg-program"
        script.write_text(program)
        script.chmod(0o755)
        path = folder / "algorithm.toml"
        path.write_text(DESCRIPTOR.replace("PROGRAM", str(script)))
        self.algorithm: Algorithm = read_descriptor(path)
        self.program = script
        environ = {"DYNSVC_SCRATCH": str(folder / "scratch"), "DYNSVC_HOST_MEMORY_MIB": "1000"}
        self.settings = Settings.load(environ)
        self.store = ArtifactStore(str(folder / "store"))
        self.runtime = ProcessRuntime(scratch=folder / "scratch")
        self.owner = Owner()
        self.said: list[str] = []
        self.count = 0

    def plan(self, order_id: str, **changes: Any) -> Plan:
        order = Order(
            job_id=order_id,
            job_type="order",
            case_id="case",
            subject_id="subject",
            execution_id="analysis",
            algorithm="seg",
            roi=RegionRequest(kind="pixels", x=1, y=2, width=3, height=4),
        )
        plan = Plan(
            order=order,
            slide=Slide(case_id="case", origin="file", location="/s", width_px=100, height_px=90, mpp_um=0.5),
            region=Region(x_px=1, y_px=2, width_px=3, height_px=4),
            algorithm="seg",
            algorithm_version="1.2",
            device="cpu",
            parameters={"r": "1"},
            mpp_um=0.5,
            mpp_from="slide",
        )
        return plan.model_copy(update=changes)

    def make(
        self, order_id: str = "1", *, cache: bool = False, pixels: bytes = b"pixels", **changes: Any
    ) -> Made:
        self.count += 1
        folder = self.folder / f"work-{self.count}"
        input_dir, output_dir = folder / "input", folder / "output"
        input_dir.mkdir(parents=True)
        output_dir.mkdir()
        picture = folder / "tile.png"
        picture.write_bytes(pixels)
        (input_dir / "tile.png").write_bytes(pixels)
        digest = hashlib.sha256(pixels).hexdigest()
        artifact = Artifact(key="k", sha256=digest, size_bytes=len(pixels))
        fetched = Input(picture=artifact, suffix=".png", width_px=3, height_px=4)
        seen = self.runtime.seen(input_dir, output_dir)
        plan = self.plan(order_id, **changes)
        argv = (str(self.program), "-i", f"{seen.input_dir}/tile.png", "-o", seen.output_dir)
        run = Run(
            algorithm="seg",
            version="1.2",
            image="seg:1.2",
            argv=(*argv, "-r", plan.parameters["r"]),
            input_dir=input_dir,
            output_dir=output_dir,
            limits=self.algorithm.run_limits,
            order_id=order_id,
            attempt="a",
        )
        message = Message(order_id=order_id, job_type="order", token="t", timings_s={"fetch_roi": 0.5})
        return Production(
            runtime=self.runtime,
            admission=HostAdmission(self.settings),
            cache=ResultCache(self.store, LIMITS) if cache else None,
            limits=LIMITS,
            host="host-1",
        ).make(
            message,
            plan,
            fetched,
            self.algorithm,
            run,
            seen=seen,
            picture=picture,
            folder=folder,
            owner=self.owner,
            on_line=lambda line: None,
            say=self.said.append,
        )

    def runs(self) -> int:
        counted = self.folder / "count"
        return len(counted.read_text()) if counted.exists() else 0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, f'#!/bin/sh\nprintf x >> {tmp_path}/count\necho "$6" > "$4/found.txt"\n')


def told(made: Made) -> dict[str, Any]:
    with zipfile.ZipFile(made.packed.zip_path) as archive:
        document: dict[str, Any] = json.loads(archive.read("provenance.json"))
        return document


def contents(made: Made) -> dict[str, bytes]:
    with zipfile.ZipFile(made.packed.zip_path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_zip_tells_what_it_was_made_of(bench: Bench) -> None:
    document = told(bench.make("7"))
    assert document["schema"] == 1
    assert document["dynsvc"] == __version__
    algorithm, made_of, run = document["algorithm"], document["input"], document["run"]
    assert (algorithm["name"], algorithm["version"], algorithm["image"]) == ("seg", "1.2", "seg:1.2")
    assert (algorithm["executed"], algorithm["stated"]) == (str(bench.program), {})
    assert algorithm["argv"][1:] == ["-i", "/input/tile.png", "-o", "/output", "-r", "1"]
    assert algorithm["parameters"] == {"r": "1"}
    assert made_of["picture"]["sha256"] == hashlib.sha256(b"pixels").hexdigest()
    assert made_of["region"] == {"x_px": 1, "y_px": 2, "width_px": 3, "height_px": 4}
    assert (made_of["mpp_um"], made_of["mpp_from"]) == (0.5, "slide")
    assert (run["order_id"], run["host"], run["cache"], run["gpus"]) == ("7", "host-1", None, [])
    assert set(run["timings_s"]) == {"fetch_roi", "waited", "algorithm"}
    assert run["picture"] == "7.PNG"


def test_the_same_inputs_give_the_same_bytes_but_for_the_section_of_the_run(bench: Bench) -> None:
    first, second = bench.make("7"), bench.make("7")
    one, other = contents(first), contents(second)
    assert list(one) == list(other)
    documents = [json.loads(each.pop("provenance.json")) for each in (one, other)]
    assert one == other
    for document in documents:
        del document["run"]
    assert json.dumps(documents[0]) == json.dumps(documents[1])


def test_another_order_changes_nothing_but_the_section_of_the_run(bench: Bench) -> None:
    one, other = told(bench.make("7")), told(bench.make("8"))
    assert one.pop("run") != other.pop("run")
    assert one == other


def test_an_algorithms_own_provenance_is_kept_beside_ours(tmp_path: Path) -> None:
    bench = Bench(tmp_path, '#!/bin/sh\necho a > "$4/a.txt"\necho theirs > "$4/provenance.json"\n')
    made = bench.make()
    assert contents(made)["seg-provenance.json"] == b"theirs\n"
    assert told(made)["algorithm"]["name"] == "seg"
    assert "seg-provenance.json" in made.packed.remarks[-1]


def test_folders_of_this_host_are_not_told() -> None:
    seen = Seen(input_dir="/tmp/x/input", output_dir="/tmp/x/output")
    argv = ["p", "/tmp/x/input/a.png", "--out=/tmp/x/output"]
    assert provenance.portable(argv, seen) == ["p", "/input/a.png", "--out=/output"]


# The cache


def test_the_same_order_is_not_run_twice(bench: Bench) -> None:
    first = bench.make("7", cache=True)
    again = bench.make("8", cache=True)
    assert bench.runs() == 1
    assert first.duration_s is not None
    assert again.duration_s is None
    assert again.executed == first.executed
    assert again.packed.remarks == (
        "same image, parameters and pixels as order 7: its result is delivered again",
    )
    old, new = contents(first), contents(again)
    assert set(new) == {"found.txt", "8.PNG", "provenance.json"}
    assert new["found.txt"] == old["found.txt"]
    run = told(again)["run"]
    assert (run["order_id"], run["cache"]["order_id"], run["cache"]["host"]) == ("8", "7", "host-1")
    third = bench.make("9", cache=True)
    assert told(third)["run"]["cache"]["order_id"] == "7", "the order that was run, not the one in between"


@pytest.mark.parametrize(
    "changes",
    [
        {"pixels": b"other pixels"},
        {"parameters": {"r": "2"}},
        {"mpp_um": 0.25},
        {"region": Region(x_px=9, y_px=2, width_px=3, height_px=4)},
    ],
    ids=str,
)
def test_another_input_is_run(bench: Bench, changes: dict[str, Any]) -> None:
    bench.make("7", cache=True)
    assert bench.make("8", cache=True, **changes).duration_s is not None
    assert bench.runs() == 2


def test_another_program_is_run(bench: Bench) -> None:
    bench.make("7", cache=True)
    bench.program.write_text(bench.program.read_text() + "# changed\n")
    bench.make("8", cache=True)
    assert bench.runs() == 2


def test_an_order_can_want_a_fresh_run(bench: Bench) -> None:
    bench.make("7", cache=True)
    order = bench.plan("8").order.model_copy(update={"cache": False})
    assert bench.make("8", cache=True, order=order).duration_s is not None
    assert bench.runs() == 2


def test_without_the_setting_nothing_is_kept(bench: Bench) -> None:
    bench.make("7")
    bench.make("8")
    assert bench.runs() == 2
    assert not (bench.folder / "store").exists() or not list((bench.folder / "store").rglob("*.zip"))


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path,
        f'#!/bin/sh\nprintf x >> {tmp_path}/count\n[ -e {tmp_path}/mended ] && echo a > "$4/a.txt"\nexit 0\n',
    )
    with pytest.raises(Exception, match=r"seg wrote nothing, expected \*.txt"):
        bench.make("7", cache=True)
    (tmp_path / "mended").touch()
    assert bench.make("8", cache=True).duration_s is not None
    assert bench.runs() == 2


def test_a_damaged_kept_result_is_made_anew(bench: Bench) -> None:
    bench.make("7", cache=True)
    (kept,) = (bench.folder / "store").rglob("*.zip")
    kept.write_bytes(kept.read_bytes()[:-30])
    assert bench.make("8", cache=True).duration_s is not None
    assert bench.make("9", cache=True).duration_s is None


def test_kept_results_go_by_age(bench: Bench) -> None:
    bench.make("7", cache=True)
    assert bench.store.sweep(-1).removed == 1
    assert bench.make("8", cache=True).duration_s is not None


def test_ids_count_only_where_the_program_is_told_them(bench: Bench) -> None:
    (bench.folder / "input").mkdir()
    run = Run(
        algorithm="seg",
        version="1",
        image=None,
        argv=(str(bench.program),),
        input_dir=bench.folder / "input",
        output_dir=bench.folder,
        limits=bench.algorithm.run_limits,
        order_id="1",
        attempt="a",
        request={"case_id": "one"},
    )
    other = replace(run, request={"case_id": "other"}, order_id="2", attempt="b")
    facts = told(bench.make())

    def key(of: Run) -> str | None:
        return key_of(bench.algorithm, of, bench.runtime, facts)

    assert key(run) == key(other)
    assert key(replace(run, mode="warm")) != key(replace(other, mode="warm"))


def test_an_interpreter_tells_nothing_of_its_script(bench: Bench) -> None:
    (bench.folder / "input").mkdir()
    run = Run(
        algorithm="seg",
        version="1",
        image=None,
        argv=(sys.executable, "-m", "seg"),
        input_dir=bench.folder / "input",
        output_dir=bench.folder,
        limits=bench.algorithm.run_limits,
        order_id="1",
        attempt="a",
    )
    assert key_of(bench.algorithm, run, bench.runtime, {}) is None


# Once more with more memory

#: Needs more than 64 MiB and less than 128; what it left at its first try must not be there at the second.
HUNGRY = f"""#!{sys.executable}
import os, sys
folder = sys.argv[4]
assert os.listdir(folder) == []
open(folder + "/found.txt", "w").write("x")
x = bytearray(80 << 20)
x[::4096] = b"1" * len(x[::4096])
import time
time.sleep(1)
"""


def test_a_run_that_needs_more_memory_is_tried_once_with_twice_as_much(tmp_path: Path) -> None:
    bench = Bench(tmp_path, HUNGRY)
    made = bench.make()
    assert told(made)["run"]["limits"]["memory_mib"] == 128
    (line,) = bench.said
    assert line.startswith("seg was ended by its memory limit of 64 MiB")
    assert line.endswith("; tried once more with 128 MiB")


def test_only_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, HUNGRY.replace("80 <<", "200 <<"))
    with pytest.raises(OutOfMemory, match="limit of 128 MiB"):
        bench.make()


def test_not_where_the_host_has_not_so_much(tmp_path: Path) -> None:
    bench = Bench(tmp_path, HUNGRY)
    bench.settings = bench.settings.model_copy(update={"host_memory_mib": 100})
    with pytest.raises(OutOfMemory, match="limit of 64 MiB"):
        bench.make()


def test_not_where_the_descriptor_does_not_allow_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, HUNGRY)
    limits = bench.algorithm.limits.model_copy(update={"memory_retry": False})
    bench.algorithm = bench.algorithm.model_copy(update={"limits": limits})
    with pytest.raises(OutOfMemory, match="limit of 64 MiB"):
        bench.make()
    assert bench.said == []
