#!/usr/bin/env bash
# Install everything that the tests need into .venv and run them: style, types, tests.
# Arguments go to pytest. Tests whose service is missing are skipped, and fail where CI=true.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/venv.sh dev
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/pytest "$@"
