from __future__ import annotations

import sys

try:
    from .program import main
except ModuleNotFoundError as missing:
    sys.exit(f"{missing.name} is not installed; as part of dynsvc: pip install dynsvc[nuclei]")

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
