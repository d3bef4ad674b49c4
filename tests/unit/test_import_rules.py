"""Who may import what. The table is the design; this test keeps it true."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dynsvc", "bridge", "workers")

#: Modules of values and decisions: no clients, no files, no Celery.
PURE = (
    "dynsvc/measured.py",
    "dynsvc/errors.py",
    "dynsvc/orders.py",
    "dynsvc/identifiers.py",
    "dynsvc/fields.py",
    "dynsvc/regions.py",
    "dynsvc/tiles.py",
    "dynsvc/parameters.py",
    "dynsvc/commands.py",
    "dynsvc/algmeta.py",
    "dynsvc/slides.py",
    "dynsvc/runtime.py",
    "dynsvc/progress.py",
    "dynsvc/retry.py",
    "dynsvc/kue/backoff.py",
    "dynsvc/kue/encoding.py",
    "dynsvc/kue/ids.py",
)
PURE_MODULES = {path.removesuffix(".py").replace("/", ".") for path in PURE}
STANDARD_OR_PYDANTIC = {"pydantic", "dynsvc"}

#: Import -> the only files that may have it.
ONLY = {
    "celery": ("dynsvc/celery.py", "workers/*", "bridge/dispatch.py", "celeryconfig.py"),
    "kombu": ("dynsvc/broker.py", "dynsvc/celery.py", "workers/*", "bridge/dispatch.py", "celeryconfig.py"),
    "docker": ("workers/runtimes/engine.py",),
    "hiredis": ("dynsvc/kue/connection.py",),
    "redis": ("dynsvc/kue/*", "dynsvc/leases/*", "bridge/*"),
    "requests": ("dynsvc/http*",),
    "workers": ("workers/*",),
    "bridge": ("bridge/*",),
}

#: Kue's words. A state is a word of English too; these are not.
KUE_WORDS = ("q:job", ":jobs:", "workerId", "promote_at", "ttl exceeded", "failed attempt", "max_attempts")


def every_file() -> Iterator[Path]:
    yield ROOT / "celeryconfig.py"
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


FILES = list(every_file())


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def allowed(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_it_may(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    for line, module in imports(path):
        top = module.partition(".")[0]
        if top in ONLY:
            assert allowed(name, ONLY[top]), f"{name}:{line} imports {module}"


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_imports_pure_modules_only(name: str) -> None:
    for line, module in imports(ROOT / name):
        top = module.partition(".")[0]
        if top == "dynsvc":
            parts = module.split(".")
            known = {".".join(parts[:length]) for length in range(2, len(parts) + 1)}
            assert known & PURE_MODULES or module == "dynsvc", f"{name}:{line} imports {module}"
        else:
            assert top in sys.stdlib_module_names or top == "pydantic", f"{name}:{line} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_kues_words_stay_in_kue(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    if name.startswith("dynsvc/kue/"):
        return
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            for word in KUE_WORDS:
                assert word not in node.value, f"{name}:{node.lineno} has {word!r}"


def test_importing_the_library_reads_no_settings_and_opens_nothing() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in FILES
        if path.name not in {"__main__.py", "celeryconfig.py", "guard.py"}
    ]
    # A setting that does not exist would end any module that reads settings when it is imported.
    program = (
        "import os, socket, importlib\n"
        "os.environ['DYNSVC_NO_SUCH_SETTING'] = '1'\n"
        "def refuse(*_): raise AssertionError('a connection at import')\n"
        "socket.socket.connect = refuse\n"
        f"[importlib.import_module(name.removesuffix('.__init__')) for name in {modules!r}]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
