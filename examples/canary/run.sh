#!/usr/bin/env bash
# A new version of a service takes over in three steps.
source "$(dirname "$0")/../lib.sh"

start_control_plane
start_service reviews v1
start_service reviews v2
start_sidecar shopper shopper
eventually call shopper reviews

# version FLAGS…: which version answers one request.
version() { call shopper reviews "$@" | sed 's/.*"version":"\([^"]*\)".*/\1/'; }
# percent FLAGS…: how many of 200 requests v2 answers, in percent.
percent() { for _ in $(seq 200); do version "$@"; done | awk '/v2/ { n++ } END { print n / 2 }'; }
# share EXPECTED: says so if v2's share is within 5 points of it.
share() {
    local seen
    seen=$(percent)
    awk -v seen="$seen" -v expected="$1" 'BEGIN {
        print seen - expected <= 5 && expected - seen <= 5 ? expected " % within 5 points" : seen " %"
    }'
}
synced() { ! mesh status -o json | grep -q '"state": "\(waiting\|refused\)"'; }
step() {
    mesh apply -f "examples/canary/$1" >/dev/null
    eventually synced
}

mesh apply -f examples/canary/subsets.yaml >/dev/null

step testers.yaml
echo "testers only:  with canary: true $(version --header 'canary: true'), without $(version)"
step tenth.yaml
echo "one in ten:    v2 answers $(share 10)"
step all.yaml
echo "everybody:     v2 answers $(share 100)"
