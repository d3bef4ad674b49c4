"""``python -m benchmarks`` lists the benchmarks; ``python -m benchmarks.NAME`` runs one."""

from __future__ import annotations

import ast
from pathlib import Path


def listed() -> list[tuple[str, str]]:
    """Return name and first line of the description of each benchmark that can be run."""
    found = []
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        text = path.read_text()
        if '__name__ == "__main__"' in text:
            found.append((path.stem, (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]))
    return found


def main() -> None:
    for name, description in listed():
        print(f"python -m benchmarks.{name:<10} {description}")
    print("Each tells its options with --help.")


if __name__ == "__main__":
    main()
