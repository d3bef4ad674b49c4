"""``python -m benchmarks`` lists the benchmarks; ``python -m benchmarks NAME`` runs one."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

#: Parts of others: the comparison of the chaos run, and the floor of the orders.
_PARTS = frozenset({"bare"})


def listed() -> list[tuple[str, str]]:
    """Return name and first line of the description of each benchmark that can be run."""
    found = []
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        text = path.read_text()
        if path.stem not in _PARTS and '__name__ == "__main__"' in text:
            found.append((path.stem, (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]))
    return found


def main() -> int:
    names = [name for name, _ in listed()]
    if len(sys.argv) > 1 and sys.argv[1] in names:
        name = sys.argv.pop(1)
        sys.argv[0] = f"python -m benchmarks {name}"
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=False)
        return 0
    for name, description in listed():
        print(f"python -m benchmarks {name:<11} {description}")
    print("Each tells its options with --help, and writes its figures as JSON with --json.")
    return 2 if len(sys.argv) > 1 else 0


if __name__ == "__main__":
    sys.exit(main())
