# What the examples share: starts processes on free ports, waits for their ready lines, cleans up.
# Sourced by each run.sh; needs cargo and curl. `run.sh --check` compares the output with expected.txt.

set -euo pipefail
example=$(cd "$(dirname "$0")" && pwd)
if [ "${1:-}" = --check ]; then
    diff --unified "$example/expected.txt" <("$0") && echo "$(basename "$example"): as expected"
    exit
fi
cd "$example/../.."

profile=${OUTRIGGER_PROFILE:-dev}
cargo build --quiet --workspace --bins --profile "$profile"
target=${CARGO_TARGET_DIR:-target}/$([ "$profile" = dev ] && echo debug || echo "$profile")
outrigger=$target/outrigger
state=$(mktemp -d "${TMPDIR:-/tmp}/outrigger-example-XXXXXX")

clean_up() {
    # Only what we have started.
    kill $(jobs -p) 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$state"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# start NAME ARGS…: runs outrigger ARGS and waits until it is ready.
start() {
    local name=$1
    shift
    "$outrigger" "$@" >"$state/$name.out" 2>"$state/$name.log" &
    local pid=$!
    for _ in $(seq 600); do
        grep -q '^ready ' "$state/$name.out" && return
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    echo "$name did not start:" >&2
    cat "$state/$name.log" >&2
    exit 1
}

# address NAME FIELD: an address from NAME's ready line.
address() {
    sed -n "s/^ready .*\"$2\":\"\([^\"]*\)\".*/\1/p" "$state/$1.out"
}

# mesh COMMAND…: the operator's command line, against this example's control plane.
mesh() {
    "$outrigger" "$@" --control-plane "https://$(address control-plane grpc)" --data-dir "$state/state"
}

start_control_plane() {
    start control-plane control-plane --grpc 127.0.0.1:0 --http 127.0.0.1:0 --data-dir "$state/state"
}

# start_service SERVICE VERSION: one service of the shop and its sidecar.
start_service() {
    local name=$1-$2
    start "$name" demo-app "$1" --version "$2" --listen 127.0.0.1:0 --upstream none
    start_sidecar "$1" "$name-sidecar" --label "version=$2" --port 9080 --ready-path /healthz \
        --app "$(address "$name" listen)"
}

# start_sidecar SERVICE NAME FLAGS…: a sidecar on free ports.
start_sidecar() {
    local service=$1 name=$2
    shift 2
    mesh token create "$service" >"$state/$name.token" 2>/dev/null
    start "$name" sidecar --service "$service" --join-token-file "$state/$name.token" \
        --control-plane "https://$(address control-plane grpc)" --advertise-address 127.0.0.1 \
        --outbound 127.0.0.1:0 --inbound 127.0.0.1:0 --admin 127.0.0.1:0 \
        --metrics 127.0.0.1:0 --readiness 127.0.0.1:0 "$@"
}

# eventually COMMAND…: tries until it succeeds, for a minute.
eventually() {
    for _ in $(seq 600); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "gave up: $*" >&2
    exit 1
}

# call SIDECAR HOST FLAGS…: what HOST answers to an application beside SIDECAR.
call() {
    curl --silent --fail --noproxy '' --proxy "$(address "$1" outbound)" "${@:3}" "http://$2:9080/"
}
