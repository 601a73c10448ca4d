# An issuer of OpenID Connect for the flows: npm's certified oidc-provider, as
# scripts/install-test-tools.sh puts it there, and a person at its pages. Sourced, never run.

oidc_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
# Debian 12's Node is too old for it; then a newer one is there.
[ ! -d "$oidc_root/target/test-tools/node" ] || PATH=$oidc_root/target/test-tools/node/node_modules/.bin:$PATH
oidc_provider=$oidc_root/tests/e2e/lib/oidc_provider.mjs
oidc_folder=$oidc_root/target/test-tools/oidc-provider

# oidc_certificate FOLDER ADDRESS: an authority (ca.pem) and a certificate of it for the address
# (issuer.pem, issuer.key).
oidc_certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj "/CN=a test authority" \
        -keyout "$1/ca.key" -out "$1/ca.pem" 2>/dev/null
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj "/CN=issuer" \
        -addext "subjectAltName=IP:$2" -addext basicConstraints=critical,CA:FALSE \
        -CA "$1/ca.pem" -CAkey "$1/ca.key" -keyout "$1/issuer.key" -out "$1/issuer.pem" 2>/dev/null
}

# oidc_person WHO COMMAND...: runs a command that signs in by the device flow, and does what it asks
# a person to do, on the device that the words of $oidc_device lead to. What the command says is left in $home/said.
oidc_person() {
    local who=$1 address
    shift
    : >"$home/said"
    "$@" 2>"$home/said" &
    local command=$!
    until address=$(grep -o 'https\?://[^ ]*user_code=[^ ]*' "$home/said" | head -n 1) && [ -n "$address" ]; do
        kill -0 "$command" 2>/dev/null || { cat "$home/said" >&2; return 1; }
        sleep 0.1
    done
    "${oidc_device[@]}" OIDC_LOGIN="$who" node "$oidc_root/tests/e2e/lib/oidc_browser.mjs" "$address"
    wait "$command" || { cat "$home/said" >&2; return 1; }
}
