#!/usr/bin/env bash
# What somebody who has the name servers, the network or a service in hand would try with the gateway; and
# what floods it. Each is first seen to work: on a gateway without the check, on a server without the
# limit, or with the check off. gateway.sh and proxy.sh have the attacks on what a request says.
if [ -z "${ATTACKS_FLOW:-}" ]; then
    # A network of its own, in which the internet's addresses, and clouds' own, are this machine's; and
    # processes that end with the flow, whatever becomes of it.
    enter=(--mount --net --pid --fork --mount-proc --kill-child)
    [ "$(id -u)" -eq 0 ] || enter+=(--user --map-auto --map-root-user)
    ATTACKS_FLOW=1 exec unshare "${enter[@]}" "$0" "$@"
fi
. "$(dirname "$0")/lib/common.sh"
lib=$here/tests/e2e/lib
key=sk-real-0123456789abcdefghijklmnop
unset SSL_CERT_FILE SSL_CERT_DIR "${!HTTP@}" "${!http@}" "${!ALL_@}" NO_PROXY no_proxy all_proxy

say "A network with the attacker's name server, and services at all of its addresses"
ip link set lo up
for address in 93.184.216.34/32 93.184.216.36/32 169.254.169.254/32 100.100.100.200/32 10.1.2.3/32; do ip address add "$address" dev lo; done
ip address add fd00:ec2::254/128 dev lo nodad
printf 'nameserver 127.0.0.1\n' >"$home/resolv.conf"
printf 'hosts: files dns\n' >"$home/nsswitch.conf"
mount --bind "$home/resolv.conf" /etc/resolv.conf
mount --bind "$home/nsswitch.conf" /etc/nsswitch.conf
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj "/CN=a test authority" \
    -keyout "$home/ca.key" -out "$home/ca.pem" 2>/dev/null
names=$(printf 'DNS:%s,' api.mistral.ai api.groq.com api.together.xyz api.cohere.com api.deepseek.com api.cerebras.ai evil.example)
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj "/CN=services" \
    -addext "subjectAltName=${names}IP:127.0.0.1,IP:169.254.169.254" -addext basicConstraints=critical,CA:FALSE \
    -CA "$home/ca.pem" -CAkey "$home/ca.key" -keyout "$home/service.key" -out "$home/service.pem" 2>/dev/null
python3 "$lib/inside.py" "$home/service.pem" "$home/service.key" "$home/got" '{
    "api.mistral.ai": [["93.184.216.34"], ["127.0.0.1"]],
    "api.groq.com": [["169.254.169.254"]],
    "api.together.xyz": [["::ffff:169.254.169.254"]],
    "api.cohere.com": [["fd00:ec2::254"]],
    "api.deepseek.com": [["100.100.100.200"]],
    "api.cerebras.ai": [["93.184.216.35", "10.1.2.3"]],
    "plain.example": [["93.184.216.34"]],
    "evil.example": [["93.184.216.36"]]}' >"$home/inside" &
inside=$!
within 20 grep -q ready "$home/inside"
mkdir -m 700 "$home/run"
# Over TLS besides, for what speaks HTTP/2.
SSL_CERT_FILE=$home/ca.pem "$AGENTKEYS" serve --listen "unix:$home/run/s" --listen 127.0.0.1:8443 \
    --tls-cert "$home/service.pem" --tls-key "$home/service.key" --data "$home/data" \
    --service my-api=https://127.0.0.1 2>>"$home/serve.log" >"$home/ready" &
backend=$!
within 10 grep -q '8443' "$home/ready"
export AGENTKEYS_BACKEND=unix:$home/run/s
on_exit() {
    local code=$?
    kill "$inside" "$backend" 2>/dev/null || true
    finish "$code"
}
trap on_exit EXIT
agentkeys init >/dev/null 2>&1
for service in my-api mistral groq together cohere deepseek cerebras; do
    printf %s "$key" | agentkeys store my-agent "$service" - --env "$(echo "$service" | tr a-z- A-Z_)_API_KEY" >/dev/null 2>&1 ||
        printf %s "$key" | agentkeys store my-agent "$service" - >/dev/null 2>&1
done
listening() { sed -n 's/^listening //p' "$1"; }

say "A key goes to an address of the internet, over TLS, and to its own service"
numbers=(2852039166 0xa9fea9fe 0251.0376.0251.0376 0xa9.0xfe.0xa9.0xfe 169.254.43518 169.16689662 169.254.169.0xfe)
services=(mistral=https://api.mistral.ai groq=https://api.groq.com together=https://api.together.xyz cohere=https://api.cohere.com
    deepseek=https://api.deepseek.com cerebras=https://api.cerebras.ai my-api=https://127.0.0.1 clear=http://127.0.0.1
    "mapped=https://[::ffff:169.254.169.254]")
for n in "${!numbers[@]}"; do services+=("number-$n=https://${numbers[$n]}"); done
python3 "$lib/naive_fetcher.py" "$home/ca.pem" "$key" "${services[@]}" >"$home/naive" &
naive=$!
within 10 grep -q listening "$home/naive"
naive_at=http://127.0.0.1:$(listening "$home/naive")
env -u HTTPS_PROXY python3 "$lib/address_attacks.py" "$naive_at" "$home/got" "$key" >"$home/without"
cat "$home/without"
agentkeys run --proxy my-agent -- sh -c 'exec python3 "$0" "${MY_API_BASE_URL%/my-api}" "$1" "$2"' \
    "$lib/address_attacks.py" "$home/got" "$key" >"$home/with" 2>"$home/said"
cat "$home/with"
expect 10 grep -c ': through' "$home/without"
expect 10 grep -c ': held' "$home/with"

say "No way to write an address gets around that"
listed() { grep -c '"at": "169.254.169.254".*'"$1" "$home/got"; }
got=$(wc -l <"$home/got")
for n in "${!numbers[@]}"; do
    curl -s -o /dev/null "$naive_at/unchecked-number-$n/by-number"
    expect_exit 2 agentkeys serve --listen unix:"$home/run/other" --data "$home/other" --service "number=https://${numbers[$n]}"
done
# The operator's own word is taken for an address, and not for a number that some take for one.
expect "${#numbers[@]}" listed by-number
curl -s -o /dev/null "$naive_at/unchecked-mapped/mapped"
expect 2 listed mapped
expect_exit 2 agentkeys serve --listen unix:"$home/run/other" --data "$home/other" --service clear=http://127.0.0.1
curl -s -o /dev/null "$naive_at/unchecked-clear/clear"
contains "$(tail -n 1 "$home/got")" '"port": 80'
python3 "$lib/hosts_of_requests.py" "$home/run/s" my-api 127.0.0.1 169.254.169.254 '[::ffff:169.254.169.254]' '[::ffff:a9fe:a9fe]' \
    '[::a9fe:a9fe]' '[64:ff9b::a9fe:a9fe]' evil.example 127.0.0.1:80 http://127.0.0.1 127.0.0.1@evil.example evil.example#127.0.0.1 127.1 0x7f000001 \
    2130706433 017700000001 '[::ffff:127.0.0.1]' "${numbers[@]}"
kill "$naive"

say "The proxy leads to no metadata under --strict, however it is written"
proxied() { agentkeys run --proxy "$@" my-agent -- sh -c 'for host in 169.254.169.254 "[::ffff:169.254.169.254]" "[::ffff:a9fe:a9fe]"; do
    curl -gs -o /dev/null -w "%{http_code} " "http://$host/metadata"; curl -gsk -o /dev/null -w "%{http_code} " "https://$host/metadata" || true; done'; }
expect "200 200 200 200 200 200 " proxied
expect "403 000 403 000 403 000 " proxied --strict

say "A compressed bomb is not unpacked"
# peak PID COMMAND...: by how many MiB the process grew at most while the command ran.
peak() {
    local pid=$1 before
    shift
    echo 5 >"/proc/$pid/clear_refs"
    before=$(awk '/^VmHWM/ { print $2 }' "/proc/$pid/status")
    "$@" >/dev/null
    echo $((($(awk '/^VmHWM/ { print $2 }' "/proc/$pid/status") - before) / 1024))
}
python3 "$lib/naive_fetcher.py" "$home/ca.pem" "$key" my-api=https://127.0.0.1 >"$home/naive-bomb" &
naive=$!
within 10 grep -q listening "$home/naive-bomb"
grew=$(peak "$naive" curl -s --max-time 60 -o /dev/null "http://127.0.0.1:$(listening "$home/naive-bomb")/unchecked-my-api/bomb")
kill "$naive"
expect 1 sh -c "[ $grew -ge 400 ] && echo 1"
ask_for_bomb() { agentkeys run --broker my-agent -- sh -c 'curl -s -o "$HOME/answer" -w "%{http_code}" "$MY_API_BASE_URL/bomb" -H "Authorization: Bearer $MY_API_API_KEY"'; }
grew_ours=$(peak "$backend" ask_for_bomb)
expect 1 sh -c "[ $grew_ours -lt 64 ] && echo 1"
contains "$(cat "$home/answer")" "it was compressed, though that was not asked for"
printf 'ok: the naive one grew by %s MiB, ours by %s MiB\n' "$grew" "$grew_ours"

say "Floods over HTTP/2: a server without limits takes them, and ours ends the connection and serves others"
python3 "$lib/naive_http2.py" "$home/service.pem" "$home/service.key" >"$home/naive-http2" 2>"$home/naive-http2-said" &
naive=$!
within 10 grep -q listening "$home/naive-http2"
python3 "$lib/floods.py" http2 naive 127.0.0.1 "$(listening "$home/naive-http2")" "$naive" >"$home/without"
cat "$home/without"
kill "$naive"
python3 "$lib/floods.py" http2 backend 127.0.0.1 8443 "$backend" \
    curl -sf --max-time 20 --cacert "$home/ca.pem" -o /dev/null https://127.0.0.1:8443/health >"$home/with"
agentkeys run --proxy my-agent -- sh -c 'exec python3 "$0" http2 proxy 127.0.0.1 443 "$PPID" curl -sf --max-time 20 -o /dev/null https://127.0.0.1/others' \
    "$lib/floods.py" >>"$home/with"
cat "$home/with"
expect 5 grep -c ': through' "$home/without"
expect 10 grep -c ': held' "$home/with"

say "Heads and handshakes that never end, a byte at a time on fifty connections each, while others are served"
python3 "$lib/naive_gateway.py" 443 "$home/ca.pem" "$key" >"$home/naive-slow" &
naive=$!
within 10 grep -q listening "$home/naive-slow"
python3 "$lib/floods.py" slow 30 50 "naive=h1:127.0.0.1:$(listening "$home/naive-slow")" >"$home/without" &
beside=$!
python3 "$lib/floods.py" slow 30 50 "backend's socket=unix+h1:$home/run/s" "backend=tls+h1:127.0.0.1:8443" \
    "backend, HTTP/2=tls+h2:127.0.0.1:8443" "backend, HTTP/2 without a word=tls+h2-quiet:127.0.0.1:8443" "backend, handshake=handshake:127.0.0.1:8443" \
    -- curl -sf --max-time 20 --cacert "$home/ca.pem" -o /dev/null https://127.0.0.1:8443/health >"$home/with" &
of_backend=$!
agentkeys run --proxy my-agent -- sh -c 'exec python3 "$0" slow 30 50 "relay=h1:${HTTPS_PROXY##*@}" "proxy=proxy+tls+h1:127.0.0.1:443" \
    "proxy, HTTP/2=proxy+tls+h2:127.0.0.1:443" "proxy, HTTP/2 without a word=proxy+tls+h2-quiet:127.0.0.1:443" "proxy, handshake=proxy+handshake:127.0.0.1:443" \
    -- curl -sf --max-time 20 -o /dev/null https://127.0.0.1/others' "$lib/floods.py" >"$home/with-proxy"
wait "$beside" "$of_backend"
kill "$naive"
cat "$home/without" "$home/with" "$home/with-proxy"
expect 1 grep -c ': through' "$home/without"
expect 10 sh -c "cat $home/with $home/with-proxy | grep -c ': held'"
