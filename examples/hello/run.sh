#!/usr/bin/env bash
# One service, one caller, a sidecar beside each, and one policy.
source "$(dirname "$0")/../lib.sh"

start_control_plane
start_service hello v1
start_sidecar visitor visitor
eventually call visitor hello

echo "hello says whom its sidecar has verified as the caller:"
call visitor hello | grep -o '"client":"[^"]*"'

echo
echo "a policy adds a header to each answer:"
mesh apply -f examples/hello/hello.yaml | head -1
greeted() { call visitor hello --include | tr -d '\r' | grep '^x-greeting:'; }
eventually greeted
greeted
