#!/usr/bin/env bash
# The gateway as a good client: it asks again where a service did nothing, and not where it may have;
# it waits as long as the service says, and keeps to a rate. And who does not read is cut off too.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/upstream.sh"

begin_service
free=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
begin_backend "my-api=$service" "late-api=https://127.0.0.1:$free"
for name in my-api late-api; do printf 'a-key-of-%s' "$name" | agentkeys store my-agent "$name" - >/dev/null 2>&1; done
broker() { agentkeys run --broker my-agent -- "$@"; }
# ask PATH [CURL'S OPTIONS]: the status that the program sees.
ask() { broker sh -c 'path=$1; shift; curl -s -o /dev/null -w "%{http_code}" "$@" "$MY_API_BASE_URL$path" -H "Authorization: Bearer $MY_API_API_KEY"' sh "$@"; }
came() { grep -c "\"/busy/[^\"]*/$1\"" "$home/got"; }

say "A service that did nothing is asked again, three times at most, and each time is on record"
expect 200 ask /busy/2/-/twice
expect 3 came twice
expect 3 sh -c "agentkeys usage my-agent --json 2>/dev/null | jq '[.events[] | select(.action == \"use\" and (.detail | test(\"/twice\")))] | length'"
expect 429 ask /busy/9/-/ever
expect 4 came ever
expect 200 ask /busy/1/-/posted -d '{"a":1}'
expect 2 came posted

say "Not before the service says, and not at all when that is long or the body was not kept"
began=$(date +%s%3N)
expect 200 ask /busy/1/1/second
took=$(($(date +%s%3N) - began))
[ "$took" -ge 1000 ] || { echo "it took $took ms" >&2; exit 1; }
expect 429 ask /busy/1/60/long
expect 1 came long
head -c 300000 /dev/zero >"$home/large"
expect 429 ask /busy/1/-/large --data-binary "@$home/large"
expect 1 came large
expect 429 ask /busy/1/-/chunked -H 'Transfer-Encoding: chunked' -d '{"a":1}'
expect 1 came chunked

say "A service that is not there yet"
(sleep 0.5; exec python3 - "$free" "$home" <<'END'
import http.server, ssl, sys
class Here(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Here)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(sys.argv[2] + "/issuer.pem", sys.argv[2] + "/issuer.key")
server.socket = tls.wrap_socket(server.socket, server_side=True)
server.timeout = 10
server.handle_request()
END
) &
late=$!
status=$(broker sh -c 'for again in 1 2 3; do curl -s -o /dev/null -w "%{http_code}\n" "$LATE_API_BASE_URL/" -H "Authorization: Bearer $LATE_API_API_KEY"; done')
kill "$late" 2>/dev/null || true
contains "$status" 200

say "A rate: ten seconds of it at once, others in their turn, and none that would wait long"
agentkeys budget my-agent my-api --per-minute 60 2>/dev/null
rate=$(broker sh -c 'seq 40 | xargs -P 40 -I{} curl -s -o /dev/null -w "%{http_code} %{time_total}\n" "$MY_API_BASE_URL/rate/{}" -H "Authorization: Bearer $MY_API_API_KEY"' | sort)
fast=$(awk '$1 == 200 && $2 < 0.9' <<<"$rate" | wc -l)
turn=$(awk '$1 == 200 && $2 >= 0.9' <<<"$rate" | wc -l)
refused=$(grep -c '^429' <<<"$rate" || true)
echo "at once $fast, in their turn $turn, refused $refused"
# Starting forty programs takes a while on a busy machine, and a turn comes each second of it.
[ "$fast" -ge 9 ] && [ "$fast" -le 15 ]
[ "$turn" -ge 6 ] && [ "$turn" -le 12 ]
[ $((fast + turn + refused)) -eq 40 ]
agentkeys budget my-agent my-api --per-minute none 2>/dev/null

say "Nothing is kept for whoever has no good session: they are refused before their body is there"
master=$(jq -r '.sessions[0].session' "$(find "$home" -name sessions.json)")
call() { curl -s --unix-socket "$home/run/s" -H "Authorization: Bearer $master" -H 'Content-Type: application/json' "http://localhost$1" -d "$2"; }
child=$(call /session/child '{"agent_id":"my-agent","scope":{"read_only":true}}')
call /session/revoke "{\"target_session\":\"$(jq -r .session_id <<<"$child")\"}" >/dev/null
expect "403 0" python3 "$lib/stranger.py" "$home/run/s" "$(jq -r .session <<<"$child")" my-agent my-api

say "A program that does not read: the service is hung up on within a second of the revocation"
broker python3 -c '
import os, socket, time, urllib.parse
base = urllib.parse.urlsplit(os.environ["MY_API_BASE_URL"])
s = socket.create_connection((base.hostname, base.port))
key = os.environ["MY_API_API_KEY"]
s.sendall(f"GET {base.path}/flood HTTP/1.1\r\nHost: {base.netloc}\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
print(s.recv(100)[:12])
open(os.environ["HOME"] + "/begun", "w").close()
time.sleep(60)' >/dev/null 2>&1 &
stalled=$!
within 10 test -e "$home/begun"
sleep 1
expect 0 sh -c "grep -c '\"ended\"' $home/got || true"
began=$(date +%s%3N)
agentkeys revoke my-agent >/dev/null 2>&1
ended() { grep -q '"ended"' "$home/got"; }
within 5 ended
took=$(($(date +%s%3N) - began))
[ "$took" -lt 1000 ] || { echo "it took $took ms" >&2; exit 1; }
echo "ok: $took ms with revoke itself"
pkill -P "$stalled" || true
wait "$stalled" || true
