#!/usr/bin/env bash
# Has systemd check the units, and shows how exposed each is (0 is nothing, 10 everything).
set -euo pipefail
example=$(cd "$(dirname "$0")" && pwd)
if [ "${1:-}" = --check ]; then
    if ! command -v systemd-analyze >/dev/null; then
        echo "systemd: skipped, there is no systemd-analyze here" >&2
        exit
    fi
    diff --unified "$example/expected.txt" <("$0") && echo "systemd: as expected"
    exit
fi

units=$(mktemp -d "${TMPDIR:-/tmp}/outrigger-units-XXXXXX")
trap 'rm -rf "$units"' EXIT
# The program and its users need not be on this machine: units are checked, not started.
for unit in "$example"/*.service; do
    sed 's#/usr/local/bin/outrigger#/bin/true#; s#^\(User\|Group\)=.*#\1=daemon#' "$unit" >"$units/$(basename "$unit")"
done
cd "$units"
for unit in *.service; do
    instance=${unit/@.service/@reviews.service}
    [ "$unit" = "$instance" ] || ln -s "$unit" "$instance"
    found=$(systemd-analyze verify --man=no --recursive-errors=no "./$instance" 2>&1 | grep -F "${unit%%.*}" || true)
    echo "$unit: ${found:-nothing wrong}"
done
