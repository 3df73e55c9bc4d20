#!/usr/bin/env bash
# Checks the manifests: against Kubernetes' schemas, and their flags against the program.
cd "$(dirname "$0")/../.."
validate=$PWD/tests/.venv/bin/kubernetes-validate
if [ ! -x "$validate" ]; then
    echo "kubernetes: $validate is missing (.ci/setup)" >&2
    if [ "${CI:-}" = true ]; then exit 1; else exit 0; fi
fi
cd - >/dev/null
source "$(dirname "$0")/../lib.sh"

for file in "$example"/*.yaml; do
    "$validate" --strict "$file" 2>&1 | sed "s#$example/##; s#^INFO ##; s# against version.*##"
done
tests/.venv/bin/python "$example/flags.py" "$outrigger" "$example"/*.yaml
