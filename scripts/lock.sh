#!/usr/bin/env bash
# Write requirements/*.txt again from pyproject.toml: exact versions with hashes, no addresses. Needs uv.
set -euo pipefail
cd "$(dirname "$0")/.."

# lock NAME INPUT...: write requirements/NAME.txt.
lock() {
  local name=$1
  shift
  uv pip compile "$@" --universal --python-version 3.11 \
    --generate-hashes --no-emit-index-url --no-annotate --quiet --upgrade \
    --custom-compile-command scripts/lock.sh --output-file "requirements/$name.txt"
}

for extra in demo dev; do
  lock "$extra" pyproject.toml requirements/build.in --extra "$extra"
done
# The images: what the service needs and no more; what builds it stays out of them.
lock service pyproject.toml --extra s3 --extra tracing
lock build requirements/build.in
lock slide requirements/slide.in
# With the versions of dev: both go into one environment.
lock chart requirements/chart.in --constraint requirements/dev.txt
