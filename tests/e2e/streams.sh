#!/usr/bin/env bash
# Journey 6, streams: a thousand at once are whole and cost little; who does not read holds up nobody
# else; and what a program that dies leaves behind has ended at the service.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/oidc.sh"
lib=$here/tests/e2e/lib
# Most systems' limit, for this flow and the program: a thousand streams want more, and get it.
ulimit -Sn 1024

say "A service over TLS, and a backend that is told where it is"
oidc_certificate "$home" 127.0.0.1
(ulimit -Sn "$(ulimit -Hn)"; exec python3 "$lib/upstream.py" "$home/issuer.pem" "$home/issuer.key" "$home/got") >"$home/upstream" &
upstream=$!
within 10 grep -qs listening "$home/upstream"
service=https://127.0.0.1:$(sed -n 's/^listening //p' "$home/upstream")
node -e 'const fs = require("fs"), [cert, key] = process.argv.slice(1).map(path => fs.readFileSync(path));
    const server = require("http2").createSecureServer({cert, key}, (asked, answer) => answer.end(`HTTP/${asked.httpVersion}`));
    server.listen(0, "127.0.0.1", () => console.log("listening", server.address().port));' \
    "$home/issuer.pem" "$home/issuer.key" >"$home/h2" &
h2=$!
within 10 grep -qs listening "$home/h2"
h2_service=https://127.0.0.1:$(sed -n 's/^listening //p' "$home/h2")
mkdir -m 700 "$home/run"
SSL_CERT_FILE=$home/ca.pem AGENTKEYS_LOG=warn "$AGENTKEYS" serve --listen "unix:$home/run/s" --data "$home/data" \
    --service "my-api=$service" --service "h2-api=$h2_service" 2>"$home/serve.log" >"$home/ready" &
backend=$!
on_exit() {
    local code=$?
    kill "$upstream" "$h2" "$backend" 2>/dev/null || true
    finish "$code"
}
trap on_exit EXIT
within 10 grep -qs "^listening" "$home/ready"
export AGENTKEYS_BACKEND=unix:$home/run/s
agentkeys init >/dev/null 2>&1
for agent in my-agent another; do
    printf 'the real key of %s' "$agent" | agentkeys store "$agent" my-api - >/dev/null 2>&1
done
printf 'a key of a service that speaks HTTP/2' | agentkeys store my-agent h2-api - >/dev/null 2>&1
broker() { agentkeys run --broker "${agent:-my-agent}" -- "$@"; }
agent=

say "The program has the limit of descriptors that was there before"
expect 1024 broker sh -c 'ulimit -Sn'

say "A service that speaks nothing but HTTP/2 is asked by it"
expect HTTP/2.0 broker sh -c 'curl -s "$H2_API_BASE_URL/" -H "Authorization: Bearer $H2_API_API_KEY"'

say "A thousand streams at once, while another agent's requests come through"
broker sh -c 'echo $PPID >"$HOME/relay"; ulimit -Sn "$(ulimit -Hn)"
    exec python3 "$0" "$MY_API_BASE_URL" "$MY_API_API_KEY" 1000 20 500 "$HOME/all-begun"' "$lib/many_streams.py" &
beside=$!
within 60 test -e "$home/all-begun"
memory() { sed -n 's/^Pss: *\([0-9]*\) kB$/\1/p' "/proc/$1/smaps_rollup"; }
relay=$(memory "$(cat "$home/relay")")
serve=$(memory "$backend")
agent=another expect 200 broker sh -c 'curl -s -o /dev/null -w "%{http_code}" "$MY_API_BASE_URL/plain" -H "Authorization: Bearer $MY_API_API_KEY"'
if [ -n "$relay" ] && [ -n "$serve" ]; then
    printf 'memory (PSS): agentkeys run %d MB, the backend %d MB\n' $((relay / 1024)) $((serve / 1024))
    [ $(((relay + serve) / 1024)) -lt 150 ]
else
    # Neither is dumpable: only root sees it.
    printf 'SKIPPED: memory is shown to root only\n'
fi
wait "$beside"

say "Who does not read holds up nobody else"
broker sh -c 'exec python3 "$0" "$MY_API_BASE_URL" "$MY_API_API_KEY" "$1"' "$lib/slow_reader.py" "$home/got"

say "A program that is killed in the middle of a stream ends its request at the service"
ended() { [ "$(grep -c '"ended"' "$home/got")" -eq "$1" ]; }
stream='curl -sN "$MY_API_BASE_URL/events/600/100" -H "Authorization: Bearer $MY_API_API_KEY" >"$HOME/ticks"'
: >"$home/ticks"
broker sh -c "$stream & echo \$! >\"\$HOME/program\"; wait; exec sleep 600" &
beside=$!
within 10 grep -q 'data: 3' "$home/ticks"
expect 0 sh -c "grep -c '\"ended\"' $home/got || true"
kill -9 "$(cat "$home/program")"
within 3 ended 1

say "So does the end of agentkeys run itself, and of the program with it"
kill "$beside"
wait "$beside" || true
: >"$home/ticks"
broker sh -c "echo \$PPID >\"\$HOME/relay\"; $stream" &
beside=$!
within 10 grep -q 'data: 3' "$home/ticks"
kill -9 "$(cat "$home/relay")"
wait "$beside" || true
within 3 ended 2
