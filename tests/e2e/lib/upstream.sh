# What the gateway's flows share: a service over TLS that writes down what it gets in $home/got, and a
# backend that is told where it is. Sourced after common.sh.
. "$(dirname "${BASH_SOURCE[0]}")/oidc.sh"
lib=$here/tests/e2e/lib

# begin_service: starts it; its address is in $service.
begin_service() {
    oidc_certificate "$home" 127.0.0.1
    touch "$home/got"
    python3 "$lib/upstream.py" "$home/issuer.pem" "$home/issuer.key" "$home/got" >"$home/upstream" &
    upstream=$!
    within 10 grep -q listening "$home/upstream"
    service=https://127.0.0.1:$(sed -n 's/^listening //p' "$home/upstream")
}

# begin_backend NAME=URL...: starts a backend with services at these addresses, and signs in.
begin_backend() {
    local one
    own=()
    for one in "$@"; do own+=(--service "$one"); done
    mkdir -m 700 "$home/run"
    serve
    export AGENTKEYS_BACKEND=unix:$home/run/s
    agentkeys init >/dev/null 2>&1
}

# serve: starts the same backend, again if need be.
serve() {
    SSL_CERT_FILE=$home/ca.pem "$AGENTKEYS" serve --listen "unix:$home/run/s" --data "$home/data" \
        "${own[@]}" 2>>"$home/serve.log" >"$home/ready" &
    backend=$!
    within 10 grep -q '^listening' "$home/ready"
}

on_exit() {
    local code=$?
    kill "$upstream" "$backend" 2>/dev/null || true
    finish "$code"
}
trap on_exit EXIT
upstream=
backend=
