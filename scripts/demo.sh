#!/usr/bin/env bash
# Install dynsvc into .venv and run its demo. Arguments go to `dynsvc demo`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/venv.sh demo
exec .venv/bin/dynsvc demo "$@"
