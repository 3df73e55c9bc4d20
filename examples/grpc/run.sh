#!/usr/bin/env bash
# Two servers and a client of gRPC's own library, with an agent beside each instead of a sidecar.
source "$(dirname "$0")/../lib.sh"

python=tests/.venv/bin/python
if ! "$python" -c 'import grpc' 2>/dev/null; then
    echo "grpcio is missing; run .ci/setup once" >&2
    exit 1
fi
free_port() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# start_agent SERVICE NAME FLAGS…: an agent on free ports.
start_agent() {
    local service=$1 name=$2
    shift 2
    mesh token create "$service" >"$state/$name.token" 2>/dev/null
    start "$name" agent --service "$service" --join-token-file "$state/$name.token" --dir "$state/$name" \
        --control-plane "https://$(address control-plane grpc)" --advertise-address 127.0.0.1 \
        --admin 127.0.0.1:0 --metrics 127.0.0.1:0 --readiness 127.0.0.1:0 "$@"
}

start_control_plane
for version in v1 v2; do
    port=$(free_port)
    start_agent greeter "greeter-$version" --label "version=$version" --app "127.0.0.1:$port" --port 50051 \
        -- "$python" examples/grpc/greeter.py "$version" "$port"
done
start_agent visitor visitor

# greet FLAGS…: what one call is answered.
greet() { GRPC_XDS_BOOTSTRAP=$state/visitor/bootstrap.json "$python" examples/grpc/caller.py "$@"; }
eventually greet

echo "a server without a sidecar says whom it has verified as the caller:"
greet | sed 's/^v[12] //'

mesh apply -f examples/grpc/canary.yaml >/dev/null
synced() { ! mesh status -o json | grep -q '"state": "\(waiting\|refused\)"'; }
eventually synced
is() { [ "$(greet "${@:2}" | cut -d' ' -f1)" = "$1" ]; }
eventually is v2 canary=true
eventually is v1
echo
echo "a document leads its library as it leads a sidecar:"
echo "with canary: true $(greet canary=true | cut -d' ' -f1), without $(greet | cut -d' ' -f1)"
