"""The warm protocol: the file that authors copy, and what its lines mean."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dynsvc import templates
from dynsvc.errors import AlgorithmFailed
from dynsvc.runtime import Limits, Run
from workers.pool import Unusable
from workers.runtimes.ending import Ending
from workers.runtimes.shim import Shim, can_shim
from workers.runtimes.stream import Frames, Lines, LineTooLong
from workers.runtimes.talk import Answer
from workers.runtimes.warm import Warm

HELPER = Path(templates.__file__).parent / "dynsvc_warm.py"


def made(folder: Path, **more: Any) -> Run:
    given: dict[str, Any] = {
        "argv": ("seg",),
        "input_dir": folder,
        "output_dir": folder,
        "limits": Limits(timeout_s=30, memory_mib=64, cpus=1, pids=32, tmp_mib=16),
        "order_id": "14",
        "attempt": "a1",
    }
    return Run(algorithm="seg", version="1", image="seg:1", **(given | more))


def spoken(function: str, *requests: dict[str, Any]) -> list[str]:
    """Return the lines that a program with the copied file answers."""
    program = f"from dynsvc_warm import serve\n{function}\nserve(work)\n"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        timeout=30,
        cwd=HELPER.parent,
        check=True,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


def test_the_copied_file_needs_the_standard_library_only() -> None:
    lines = [line for line in HELPER.read_text().splitlines() if line.startswith(("import", "from"))]
    names = {line.split()[1].partition(".")[0] for line in lines}
    assert names <= {"__future__", *sys.stdlib_module_names}


def test_a_function_serves_request_after_request_until_the_end_of_stdin() -> None:
    lines = spoken(
        "def work(request, progress): return {'n': request['n']}", {"id": "a", "n": 1}, {"id": "b", "n": 2}
    )
    assert [json.loads(line) for line in lines] == [
        {"type": "ready", "protocol": 1},
        {"id": "a", "ok": True, "result": {"n": 1}},
        {"id": "b", "ok": True, "result": {"n": 2}},
    ]


def test_what_a_function_raises_is_its_answer_and_the_log() -> None:
    lines = spoken("def work(request, progress): raise ValueError('no tissue')", {"id": "a"}, {"id": "b"})
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    error = {"type": "ValueError", "message": "no tissue"}
    assert answers[1:] == [{"id": "a", "ok": False, "error": error}, {"id": "b", "ok": False, "error": error}]
    assert "ValueError: no tissue" in lines


def test_a_result_that_is_no_json_is_an_error() -> None:
    lines = spoken("def work(request, progress): return {'n': object()}", {"id": "a"})
    assert json.loads(lines[-1])["error"]["type"] == "TypeError"


def test_prints_of_libraries_and_children_do_not_break_lines() -> None:
    function = """
import os, subprocess, sys
def work(request, progress):
    print("begun", end="")
    progress(0.5)
    os.write(2, b"from C")
    subprocess.run(["sh", "-c", "wc -c; echo child"])
"""
    lines = spoken(function, {"id": "a"})
    assert json.loads(lines[-1]) == {"id": "a", "ok": True, "result": {}}
    assert '{"type": "progress", "id": "a", "fraction": 0.5}' in lines
    assert "child" in lines
    assert any(line.endswith("0") for line in lines)  # the child read nothing


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        # The end.
        (b'{"id":"7","ok":true,"result":{"n":1}}', Answer()),
        # Progress, as other programs print it; what is none is not shown.
        (b'{"type":"progress","id":"7","fraction":0.25}', "<filter-progress>0.2500</filter-progress>"),
        (b'{"type":"progress","fraction":1}', "<filter-progress>1.0000</filter-progress>"),
        (b'{"type":"progress","fraction":2}', ""),
        (b'{"type":"progress","fraction":"half"}', ""),
        (b'{"type":"progress","fraction":true}', ""),
        # It said so already.
        (b'{"type":"ready","protocol":1}', ""),
        # Log.
        (b"loading", None),
        (b'{"not": "ours"}', None),
        (b'{"id":"7"}', None),
        (b"{", None),
        (b"{" * 100_000, None),
        (b"\xff", None),
        (b'{"\xff":1}', None),
        (b"[1]", None),
    ],
)
def test_a_line_means(line: bytes, meaning: object) -> None:
    assert Warm().understand(line, "7") == meaning


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":"6","ok":true}',
        b'{"id":7,"ok":true}',
        b'{"id":"7","ok":"yes"}',
        b'{"id":"7","ok":false,"error":{"message":"lost the GPU","retry":true}}',
    ],
)
def test_a_line_ends_the_container(line: bytes) -> None:
    with pytest.raises(Unusable):
        Warm().understand(line, "7")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (b'{"type":"NoTissue","message":"nothing\\nthere"}', "NoTissue: nothing there"),
        (b'{"message":"nothing"}', "nothing"),
        (b'"nothing"', "nothing"),
        (b"null", "no reason"),
        (b'{"message":"' + b"x" * 9000 + b'"}', "x" * 2000),
    ],
)
def test_a_reported_error_reads(tmp_path: Path, error: bytes, text: str) -> None:
    answer = Warm().understand(b'{"id":"7","ok":false,"error":' + error + b"}", "7")
    assert isinstance(answer, Answer)
    assert answer.error
    failed = answer.error(Ending(made(tmp_path), 1.0, ""))
    assert isinstance(failed, AlgorithmFailed)
    assert str(failed) == f"seg reported an error ({text}) after 1.0 s"


def test_another_version_is_not_spoken_with() -> None:
    assert not Warm().is_ready(b"loading the model")
    assert Warm().is_ready(b'{"type":"ready","protocol":1}')
    with pytest.raises(Unusable, match="protocol 2"):
        Warm().is_ready(b'{"type":"ready","protocol":2}')


def test_a_request_is_one_line_and_its_folders_are_not_the_orders_to_say(tmp_path: Path) -> None:
    (tmp_path / "tile.png").touch()
    run = made(tmp_path, request={"mpp": 0.25, "id": "x", "output_dir": "/etc", "note": "a\nb"})
    line = Warm().message(run, "7")
    assert line.count(b"\n") == 1
    document = json.loads(line)
    assert document.pop("deadline") > 0
    assert document == {
        "input": "/input/tile.png",
        "mpp": 0.25,
        "note": "a\nb",
        "id": "7",
        "order_id": "14",
        "input_dir": "/input",
        "output_dir": "/output",
    }


def test_the_shims_message_has_a_line_for_each_piece(tmp_path: Path) -> None:
    run = made(tmp_path, argv=("seg", "", "a\n\nb", "."))
    message = Shim().message(run, "7")
    assert message == b"7\n31\n14\na1\naseg\na\naa\nc\ncb\na.\n.\n"
    assert can_shim(run)
    assert not can_shim(made(tmp_path, order_id="14\nb"))


def test_the_shims_lines_are_its_own() -> None:
    shim = Shim()
    assert shim.understand(b"7 0", "7") == Answer()
    assert shim.understand(b"8 0", "7") is None
    assert shim.understand(b"out", "7") is None
    assert not shim.is_ready(b"ready")
    for line in (b"7 137", b"7 x", b"7"):
        with pytest.raises(Unusable):
            shim.understand(line, "7")


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_streams_are_taken_apart_wherever_they_are_cut(step: int) -> None:
    data = b"\1\0\0\0\0\0\0\3one\2\0\0\0\0\0\0\2no\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\4\ntwo"
    frames = Frames()
    pieces = [piece for at in range(0, len(data), step) for piece in frames.feed(data[at : at + step])]
    assert b"".join(piece for stream, piece in pieces if stream == 1) == b"one\ntwo"
    assert b"".join(piece for stream, piece in pieces if stream == 2) == b"no"


def test_lines_may_come_in_pieces_and_have_a_longest() -> None:
    lines = Lines()
    assert lines.feed(b"a") == []
    assert lines.feed(b"b\nc\n\nd") == [b"ab", b"c", b""]
    assert lines.feed(b"\n") == [b"d"]
    with pytest.raises(LineTooLong):
        lines.feed(b"x" * ((1 << 20) + 1))
