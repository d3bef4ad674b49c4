"""The documentation and the code tell the same story."""

from __future__ import annotations

import itertools
import re
import subprocess
import tomllib
import typing
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dynsvc import errors, messages
from dynsvc.cli import COMMANDS
from dynsvc.cli import main as click_main
from dynsvc.settings import PREFIX, Settings
from dynsvc.site import summary
from tests.support.pages import PAGES, ROOT, page_name, shell_blocks

#: What begins the name of a file of the project.
FOLDERS = (
    "algorithms/",
    "benchmarks/",
    "bridge/",
    "deploy/",
    "docs/",
    "dynsvc/",
    "requirements/",
    "scripts/",
    "tests/",
    "workers/",
)


def options_of(name: str) -> set[str]:
    """The options of a command of ours, and of its subcommands."""
    command = click_main.get_command(click.Context(click_main), name)
    todo, found = [command], {"--help"}
    while todo:
        each = todo.pop()
        todo += list(getattr(each, "commands", {}).values())
        found |= {
            option for parameter in each.params for option in (*parameter.opts, *parameter.secondary_opts)
        }
    return found


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def code_spans(text: str) -> Iterator[str]:
    """What stands between backticks, outside of blocks."""
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^\s*```.*?^\s*```", "", text))


def rows(page: str, section: str = "") -> list[list[str]]:
    """The cells of all tables of a page, or of one section of it."""
    text = text_of(page)
    if section:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Every setting, by the path of its key in config.json."""
    for name, field in model.model_fields.items():
        here = (*path, "imageServer" if name == "image_server" else name)
        candidates = [field.annotation, *typing.get_args(field.annotation)]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if section:
            yield from leaves(section, here)
        else:
            yield here, field


def shown_default(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(value)
        case float():
            return f"{value:.10g}"
        case _:
            return str(value)


SETTINGS = dict(leaves(Settings))


@pytest.fixture(scope="module")
def settings_rows() -> dict[str, list[str]]:
    """Rows of the settings page by their variable."""
    found = [
        row for row in rows("docs/reference/settings.md") if row[0].startswith(f"`{PREFIX}") and len(row) == 5
    ]
    by_name = {row[0].strip("`"): row for row in found}
    assert len(by_name) == len(found), "a variable is described twice"
    return by_name


def test_every_setting_is_described_and_no_other(settings_rows: dict[str, list[str]]) -> None:
    known = {PREFIX + "__".join(path).upper() for path in SETTINGS}
    assert set(settings_rows) == known


@pytest.mark.parametrize("path", SETTINGS, ids=".".join)
def test_a_setting_is_described_as_it_is(path: tuple[str, ...], settings_rows: dict[str, list[str]]) -> None:
    _, key, kind, default, meaning = settings_rows[PREFIX + "__".join(path).upper()]
    field = SETTINGS[path]
    assert key == f"`{'.'.join(path)}`"
    assert meaning
    for part in (field.annotation, *typing.get_args(field.annotation)):
        if typing.get_origin(part) is typing.Literal:
            assert re.findall(r"`([^`]+)`", kind) == list(typing.get_args(part))
    if field.is_required():
        assert default == "needed"
    elif field.default_factory or field.default in (None, ""):
        assert default == "–"  # noqa: RUF001  (the table's dash)
    else:
        assert default == f"`{shown_default(field.default)}`"


@pytest.mark.parametrize("path", SETTINGS, ids=".".join)
def test_a_described_variable_is_read(path: tuple[str, ...]) -> None:
    # A value of the wrong kind is another error than a name that has no meaning.
    try:
        Settings.load({PREFIX + "__".join(path).upper(): "1"})
    except errors.SettingsInvalid as error:
        assert "no setting of dynsvc" not in str(error)  # noqa: PT017


def test_every_variable_in_the_docs_exists() -> None:
    known = {PREFIX + "__".join(path).upper() for path in SETTINGS} | {"DYNSVC_CONFIG"}
    # What algorithms are given.
    known |= set(re.findall(r"DYNSVC_[A-Z_]+", text_of("workers/runtimes/environment.py")))
    named = {
        (page.relative_to(ROOT).as_posix(), name)
        for page in PAGES
        for name in re.findall(r"DYNSVC_[A-Z0-9_]*[A-Z0-9]", page.read_text(encoding="utf-8"))
    }
    assert [(page, name) for page, name in sorted(named) if name not in known] == []


def error_classes() -> dict[str, type[errors.DynsvcError]]:
    found = {name: getattr(errors, name) for name in errors.__all__}
    return {name: value for name, value in found.items() if isinstance(value, type)}


def test_every_error_is_described_once_with_its_kind() -> None:
    described: dict[str, list[str]] = {}
    for row in rows("docs/reference/errors.md"):
        if match := re.match(r'<a id="([a-z]+)"></a>`(\w+)`$', row[0]):
            assert match[1] == match[2].lower()
            assert match[2] not in described, f"{match[2]} is described twice"
            described[match[2]] = row
    classes = error_classes()
    bases = {"DynsvcError", "Transient"}
    assert set(described) == set(classes) - bases
    for name, row in described.items():
        if len(row) == 4:
            assert row[1] == ("yes" if classes[name].transient else "no"), name
            assert row[2], name


def test_everything_public_of_the_errors_is_named() -> None:
    page = text_of("docs/reference/errors.md")
    # Formats a value inside a message; nobody outside needs it.
    assert [name for name in errors.__all__ if name not in page and name != "shown"] == []


def test_every_error_that_the_docs_name_exists() -> None:
    word = re.compile(
        r"(?:Slide|Region|Peer|Output|Artifact|Algorithm|Engine|Storage|Worker|Loader|Order|Descriptor|Settings|"
        r"Delivery|Device|Dependency|Attempt|Unknown|Invalid|Picture|TimeLimit|OutOf)[A-Z]\w+"
    )
    # Classes of the code that are no errors.
    others = {"UnknownError", "OutputLimits", "OutputFile", "SlideLocator"}
    for page in PAGES:
        for span in code_spans(page.read_text(encoding="utf-8")):
            if word.fullmatch(span):
                assert span in {*errors.__all__, *others}, f"{page.relative_to(ROOT)}: {span}"


def test_every_task_and_queue_is_described_and_no_other() -> None:
    page = "docs/reference/tasks-and-queues.md"
    tasks = {row[0].strip("`"): row[1] for row in rows(page, "Tasks") if row[0].startswith("`")}
    assert list(tasks) == [
        *messages.STEPS[:-1],
        messages.RUN_TILES,
        messages.MERGE_TILES,
        messages.UPLOAD_ZIP,
    ]
    queues = [row[0].strip("`") for row in rows(page, "Queues") if row[0].startswith("`")]
    assert queues == [messages.IO, messages.CPU, messages.GPU]
    for step, queue in tasks.items():
        computes = step in (messages.RUN_ALGORITHM, messages.RUN_TILES)
        expected = {messages.CPU, messages.GPU} if computes else {messages.IO}
        assert set(re.findall(r"`(\w+)`", queue)) == expected, step


def test_every_task_that_the_docs_name_exists() -> None:
    others = {"dynsvc.runtimes"}  # the entry point group
    labels = set(re.findall(r'"(dynsvc\.[\w-]+)"', text_of("workers/runtimes/container.py")))
    for page in PAGES:
        for span in code_spans(page.read_text(encoding="utf-8")):
            if re.fullmatch(r"dynsvc\.[a-z_]+", span) and not (ROOT / "dynsvc" / f"{span[7:]}.py").exists():
                tasks = {*messages.STEPS, messages.RUN_TILES, messages.MERGE_TILES}
                assert span in {*tasks, *others, *labels}, f"{page.relative_to(ROOT)}: {span}"


def test_container_labels_are_described() -> None:
    page = text_of("docs/reference/tasks-and-queues.md")
    for name in re.findall(r'"(dynsvc\.[\w-]+)"', text_of("workers/runtimes/container.py")):
        assert f"`{name}`" in page, name


def test_the_ledgers_keys_are_described_and_no_other() -> None:
    described = {
        re.sub(r"^dynsvc:q:|:<\w+>$", "", row[0].strip("`"))
        for row in rows("docs/reference/tasks-and-queues.md")
        if row[0].startswith("`dynsvc:q:")
    }
    source = "".join(
        path.read_text() for path in sorted((ROOT / "dynsvc/leases").iterdir()) if path.is_file()
    )
    used = set(re.findall(r"(?:head|KEYS\[1\]) \.\. '([a-z-]+)", source))
    used |= set(re.findall(r"\{(?:self\._)?head\}([a-z-]+)", source))
    assert described == used


def test_everything_in_an_orders_result_is_described() -> None:
    message = messages.Message(order_id="1", job_type="order", token="dynsvc:1")
    (row,) = [row for row in rows("docs/reference/tasks-and-queues.md") if row[0] == "`result`"]
    assert set(re.findall(r"`(\w+)`", row[1])) == set(summary(message, "loader job 1"))


def test_every_metric_is_described_and_no_other() -> None:
    described = {
        name for row in rows("docs/reference/metrics.md") for name in re.findall(r"`(dynsvc_\w+)`", row[0])
    }
    source = "".join(text_of(path) for path in ("dynsvc/metrics.py", "bridge/status.py", "workers/status.py"))
    # The library adds a counter's ending where it is missing.
    counters = set(re.findall(r'CounterMetricFamily\(\s*"(dynsvc_\w+)"', source))
    used = set(re.findall(r'"(dynsvc_\w+)"', source)) - counters | {f"{name}_total" for name in counters}
    assert described == used
    for page in ("deploy/prometheus/alerts.yml", "deploy/grafana/dynsvc.json"):
        told = {
            re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"dynsvc_\w+", text_of(page))
        }
        assert told - used == set(), page


def test_every_command_is_described() -> None:
    page = text_of("docs/reference/cli.md")
    for name in COMMANDS:
        assert re.search(rf"(?m)^## dynsvc {name}\b", page), name


def test_every_command_that_the_docs_use_exists() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = "\n".join(re.findall(r"(?ms)^\s*```.*?^\s*```", text)).splitlines()
        used = [*code_spans(text), *(line.strip() for line in blocks)]
        for line in used:
            if match := re.match(r"(?:[A-Z_]+=\S+ )*dynsvc ([a-z]+)", line):
                assert match[1] in COMMANDS, f"{page.relative_to(ROOT)}: {line}"


@pytest.mark.parametrize("page", [page for page in PAGES if shell_blocks(page)], ids=page_name)
def test_commands_of_a_page_are_shell(page: Path) -> None:
    for block in shell_blocks(page):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stderr}"


def test_what_compose_commands_name_exists() -> None:
    files = ("docker-compose.yml", "deploy/worker-host.yml", "deploy/redis-tls.yml")
    composed = "\n".join(text_of(name) for name in files)
    profiles = set(re.findall(r"profiles: \[(\w+)\]", composed))
    services = set(re.findall(r"(?m)^  ([a-z-]+):$", composed))
    seen = 0
    for page in PAGES:
        for block in shell_blocks(page):
            for line in block.replace("\\\n", " ").splitlines():
                match = re.search(r"docker compose (.*?)(?:#|\||$)", line)
                if match is None:
                    continue
                seen += 1
                words = match[1].split()
                for name, value in itertools.pairwise(words):
                    assert name != "--profile" or value in profiles, line
                    assert name != "-f" or value in files, line
                    assert name != "exec" or value in services, line
    assert seen > 5


COMMANDS_OF_OTHERS = {
    # celery -A dynsvc ...: the first word that is no option.
    "worker": "celery.bin.worker",
    "flower": "flower.command",
    "inspect": "celery.bin.control",
}


def test_celery_commands_exist() -> None:
    for page in PAGES:
        for block in shell_blocks(page):
            for word in re.findall(r"celery -A dynsvc (\w+)", block):
                assert find_spec(COMMANDS_OF_OTHERS[word]) is not None


OPTIONS = {name: options_of(name) for name in COMMANDS}


def test_every_option_of_ours_that_the_docs_use_exists() -> None:
    for page in PAGES:
        for block in shell_blocks(page):
            for line in block.replace("\\\n", " ").splitlines():
                match = re.search(r"(?:^|\s)dynsvc ([a-z]+)(.*?)(?:#|\||;|$)", line)
                if match is None or match[1] not in COMMANDS:
                    continue
                for option in re.findall(r"\s(--[a-z][a-z-]*)", match[2]):
                    assert option in OPTIONS[match[1]], f"{page.relative_to(ROOT)}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"(?ms)^\s*```.*?^\s*```", "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert found.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(found), target


def anchors(page: Path) -> set[str]:
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"(?m)^#+ (.+)$", text)
    slugs = {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)"></a>', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    # Made at the site, not in the repository.
    ignored = text_of("deploy/.gitignore").split()
    for span in code_spans(page.read_text(encoding="utf-8")):
        if span.startswith(FOLDERS) and not re.search(r"[<>*{} :]|NAME|mean-colour", span):
            assert (ROOT / span).exists() or span.removeprefix("deploy/") in ignored, span


def test_every_page_is_reached_from_the_index() -> None:
    reached: set[Path] = set()
    todo = [ROOT / "docs/index.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        todo += [(page.parent / link).resolve() for link in links if not re.match(r"[a-z]+:", link)]
    assert [page for page in sorted((ROOT / "docs").rglob("*.md")) if page not in reached] == []


def test_the_changelog_has_the_version_and_the_entry_point_is_named() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    assert f"## [{project['version']}]" in text_of("CHANGELOG.md")
    page = text_of("docs/how-to/add-an-image-source-or-sink.md")
    assert "dynsvc.runtimes" in project["entry-points"]
    assert "`dynsvc.runtimes`" in page
