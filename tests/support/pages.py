"""The pages of the documentation, and the commands in them."""

from __future__ import annotations

import functools
import re
import textwrap
from pathlib import Path

__all__ = ["PAGES", "ROOT", "blocks", "commands", "page_name", "shell_blocks"]

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "algorithms").glob("*/*.md")])


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """Return what stands between fences that name *language*, a pattern."""
    text = page.read_text(encoding="utf-8")
    return [textwrap.dedent(body) for body in re.findall(rf"(?ms)^\s*```(?:{language})\n(.*?)^\s*```", text)]


def shell_blocks(page: Path) -> list[str]:
    return blocks(page, "sh|bash")


@functools.cache
def commands() -> dict[str, list[str]]:
    """Return each command of all pages, on one line and without its comment, and the pages that have it."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for block in shell_blocks(page):
            joined = re.sub(r"\|[ \t]*\n", "| ", block.replace("\\\n", " "))
            for line in joined.splitlines():
                if command := " ".join(re.sub(r"(^|\s)#.*", "", line).split()):
                    found.setdefault(command, []).append(page_name(page))
    return found
