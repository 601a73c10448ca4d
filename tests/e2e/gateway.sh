#!/usr/bin/env bash
# Journey 6: an agent's program uses keys that it never gets. The official SDKs, curl and others go
# through the gateway unchanged to a service over TLS that writes down what it gets; and what an
# attacker would try does not work.
if [ -z "${GATEWAY_FLOW:-}" ]; then
    # A name that leads to this machine, in a file system that nobody else sees; and processes that end
    # with the flow, whatever becomes of it.
    enter=(--mount --pid --fork --mount-proc --kill-child)
    [ "$(id -u)" -eq 0 ] || enter+=(--user --map-auto --map-root-user)
    GATEWAY_FLOW=1 exec unshare "${enter[@]}" "$0" "$@"
fi
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/oidc.sh"
tools=$here/target/test-tools
lib=$here/tests/e2e/lib
openai_key=sk-real-0123456789abcdefghijklmnop
anthropic_key=sk-ant-real/0123456789+abcdefghij
own_key='my own key: not-like-the-others'

say "A service over TLS, and a backend that is told where it is"
oidc_certificate "$home" 127.0.0.1
python3 "$lib/upstream.py" "$home/issuer.pem" "$home/issuer.key" "$home/got" >"$home/upstream" &
upstream=$!
within 10 grep -q listening "$home/upstream"
service=https://127.0.0.1:$(sed -n 's/^listening //p' "$home/upstream")
mkdir -m 700 "$home/run"
# A service of the catalog whose name leads to this machine, as a hostile resolver would have it.
{ cat /etc/hosts; printf '127.0.0.1 api.mistral.ai\n'; } >"$home/hosts"
mount --bind "$home/hosts" /etc/hosts
serve() {
    SSL_CERT_FILE=$home/ca.pem "$AGENTKEYS" serve --listen "unix:$home/run/s" --data "$home/data" \
        --service "openai=$service" --service "anthropic=$service" --service "my-api=$service" 2>>"$home/serve.log" >"$home/ready" &
    backend=$!
    within 10 grep -q '^listening' "$home/ready"
}
serve
export AGENTKEYS_BACKEND=unix:$home/run/s
on_exit() {
    local code=$?
    kill "$upstream" "$backend" 2>/dev/null || true
    finish "$code"
}
trap on_exit EXIT
agentkeys init >/dev/null 2>&1
store() { printf '%s' "$2" | agentkeys store my-agent "$1" - >/dev/null 2>&1; }
store openai "$openai_key"
store anthropic "$anthropic_key"
store my-api "$own_key"
broker() { agentkeys run --broker my-agent -- "$@"; }

say "The official SDKs, requests and fetch, unchanged"
broker "$tools/sdk-python/bin/python" "$lib/sdk_client.py"
broker node "$lib/sdk_client.mjs" "$tools"

say "The service got each key once, in its place, and no stand-in"
python3 - "$home/got" "$openai_key" "$anthropic_key" "$own_key" <<'END'
import json, sys
openai, anthropic, own = sys.argv[2:]
seen = {}
for line in open(sys.argv[1]):
    got = json.loads(line)
    headers = [(name.lower(), value) for name, value in got["headers"]]
    keys = {"/v1/chat/completions": ("authorization", f"Bearer {openai}"),
            "/v1/messages": ("x-api-key", anthropic)}
    wanted = keys.get(got["path"], ("authorization", f"Bearer {own}"))
    assert headers.count(wanted) == 1, (got["path"], headers)
    everything = json.dumps(got)
    for key in (openai, anthropic, own):
        assert everything.count(key) == (key in wanted[1]), got
    others = [name for name, _ in headers if name in ("authorization", "x-api-key") and name != wanted[0]]
    assert not others, headers
    assert not any(value == "sk-" or "agentkeys" in value for _, value in headers), headers
    seen[got["path"]] = seen.get(got["path"], 0) + 1
assert seen == {"/v1/chat/completions": 4, "/v1/messages": 2, "/upload?a=b": 1, "/plain": 1}, seen
print("ok:", seen)
END

say "Neither the program nor what stands beside it has a key anywhere"
broker sh -c 'curl -s "$OPENAI_BASE_URL/models" -H "Authorization: Bearer $OPENAI_API_KEY" >/dev/null
    echo $$ >"$HOME/program"; echo $PPID >"$HOME/relay"; sleep 600' &
beside=$!
within 10 test -s "$home/relay"
for key in "$openai_key" "$anthropic_key" "$own_key"; do
    for who in program relay; do
        printf '%s' "$key" | python3 "$lib/find_in_memory.py" "$(cat "$home/$who")"
    done
    expect_exit 1 grep -rqF "$key" "$home" --include='*' --exclude=got
done
# The looking finds what is there.
printf '%s' "$(tr '\0' '\n' <"/proc/$(cat "$home/program")/environ" | sed -n 's/^OPENAI_API_KEY=//p')" >"$home/stand-in"
expect_exit 1 sh -c "python3 $lib/find_in_memory.py $(cat "$home/program") <$home/stand-in"

say "A stand-in is good for its run, its user, its service and its place"
address=$(tr '\0' '\n' <"/proc/$(cat "$home/program")/environ" | sed -n 's/^OPENAI_BASE_URL=//p')
ask() { curl -s --max-time 10 -o "$home/answer" -w '%{http_code}' "$@"; }
bearer="Authorization: Bearer $(cat "$home/stand-in")"
expect 200 ask "$address/models" -H "$bearer"
expect 401 ask "$address/models"
expect 401 ask "$address/models" -H "Authorization: Bearer sk-$(head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n')"
contains "$(cat "$home/answer")" "has no placeholder of this run"
expect 403 ask "${address%/openai/v1}/my-api/x" -H "$bearer"
contains "$(cat "$home/answer")" "the placeholder of openai does not belong in a request to my-api"
contains "$(agentkeys usage my-agent --denied --json 2>/dev/null | jq -r '.events[-1].detail')" "the placeholder of openai does not belong in a request to my-api"
expect 403 ask "$address/models?again=$(cat "$home/stand-in")" -H "$bearer"
expect 403 ask "$address/models" -H "$bearer" -H "X-Copy: $(cat "$home/stand-in")"
expect 403 ask "$address/models" -H "$bearer" -H "Origin: http://evil.example"
expect 403 ask "$address/models" -H "$bearer" -H "Host: evil.example"
expect 404 ask "${address%/openai/v1}/github/user" -H "$bearer"
# Hung up on: curl has no answer, and says so by its exit code.
hung_up() { "$@" || true; }
expect 000 hung_up setpriv --reuid 65534 --clear-groups curl -s --max-time 10 -o /dev/null -w '%{http_code}' "$address/models" -H "$bearer"
got=$(wc -l <"$home/got")
kill "$(cat "$home/program")"
wait "$beside" || true
expect 000 hung_up ask "$address/models" -H "$bearer"
expect "$got" sh -c "wc -l <$home/got"

say "What a service shows of a key comes without it, also in pieces and in other writing"
for path in reflect reflect-in-two; do
    answer=$(broker sh -c "curl -sNi \"\$MY_API_BASE_URL/$path\" -H \"Authorization: Bearer \$MY_API_API_KEY\"")
    contains "$answer" '*****'
    for form in "$own_key" "$(printf '%s' "$own_key" | od -An -v -tx1 | tr -d ' \n')" "$(printf 'user:%s' "$own_key" | base64 -w0 | cut -c 8-40)"; do
        case $answer in *"$form"*) printf 'the key came through: %s\n' "$answer" >&2; exit 1 ;; esac
    done
done

say "Attacks: each gets through a gateway without checks, and not through ours"
python3 "$lib/naive_gateway.py" "${service##*:}" "$home/ca.pem" "$own_key" >"$home/naive" &
naive=$!
within 10 grep -q listening "$home/naive"
naive_at=http://127.0.0.1:$(sed -n 's/^listening //p' "$home/naive")/my-api
python3 "$lib/attacks.py" "$naive_at" sk-mine sk-another "$own_key" "$home/got" >"$home/without"
kill "$naive"
# A stand-in of a run that goes on beside the one which is attacked.
broker sh -c 'printf %s "$MY_API_API_KEY" >"$HOME/another"; sleep 600' &
beside=$!
within 10 test -s "$home/another"
broker sh -c 'exec python3 "$0" "$MY_API_BASE_URL" "$MY_API_API_KEY" "$(cat "$HOME/another")" "$1" "$HOME/got"' \
    "$lib/attacks.py" "$own_key" >"$home/with" 2>"$home/said"
kill "$beside"
wait "$beside" || true
paste -d'|' "$home/without" "$home/with"
expect 14 grep -c ': through$' "$home/without"
expect 14 grep -c ': held$' "$home/with"

say "A length without a body, sent past the relay, swallows nobody's request"
python3 "$lib/smuggle.py" "$home/run/s" "$home/got"

say "A key is shown no further than its tier"
expect "$own_key" agentkeys read my-agent my-api
expect "$own_key" agentkeys run my-agent -- printenv MY_API_API_KEY
agentkeys expose my-agent my-api inject
expect_exit 3 agentkeys read my-agent my-api
expect "$own_key" agentkeys run my-agent -- printenv MY_API_API_KEY
expect "$own_key" agentkeys run my-agent --only --env OWN=my-api -- printenv OWN
agentkeys expose my-agent my-api broker
expect_exit 3 agentkeys read my-agent my-api
contains "$error" "agentkeys run --broker my-agent"
expect_exit 1 agentkeys run my-agent -- printenv MY_API_API_KEY
contains "$error" "my-api is used by the gateway only"
expect_exit 3 agentkeys run my-agent --only --env OWN=my-api -- printenv OWN
expect 200 broker sh -c 'curl -s -o /dev/null -w "%{http_code}" "$MY_API_BASE_URL/plain" -H "Authorization: Bearer $MY_API_API_KEY"'

say "Rules: no way to write a path gets around one, each shown to get through without"
cat >"$home/tricks" <<'END'
/v1/admin
/v1/admin/
/v1/Admin/users
/v1/%61dmin
/v1/x/%61dmin
/v1//admin
//v1/admin
/v1/./admin
/v1/x/../admin
/v1/x/%2e%2e/admin
/v1%2Fadmin
/v1/x%2f..%2fadmin
/v1/admin;a=b
/v1/%2561dmin
/v1\admin
/v1/admin?x=/v1/models
END
tricks() {
    while IFS= read -r path; do
        # What the relay's own checks refuse, whatever the rules, says so by its status too.
        broker sh -c 'curl -s -o /dev/null -w "%{http_code}\n" --path-as-is "$MY_API_BASE_URL$0" -H "Authorization: Bearer $MY_API_API_KEY" "$@"' "$path" "$@"
    done <"$home/tricks"
}
through() { tricks "$@" | grep -c '^200$' || true; }
before=$(wc -l <"$home/got")
# Plain ones, which the service takes; the others are refused before any rule is looked at.
expect 7 through
expect "$((before + 7))" sh -c "wc -l <$home/got"
agentkeys rule my-agent my-api --deny '/v1/admin*' --deny '/v1/*/admin*'
expect 0 through
expect "$((before + 7))" sh -c "wc -l <$home/got"
status() { broker sh -c 'curl -s -o /dev/null -w "%{http_code}" -X "$1" "$MY_API_BASE_URL$0" -H "Authorization: Bearer $MY_API_API_KEY"' "$2" "$1"; }
expect 200 status GET /v1/models
agentkeys rule my-agent my-api --clear --allow 'GET /v1/models*'
expect 200 status GET /v1/models/a
expect 403 status DELETE /v1/models/a
expect 403 status GET /v1/modelsX/../admin
expect 403 status GET /V1/models
agentkeys rule my-agent my-api --clear
expect 403 status POST /v1/api_keys
expect 403 status POST /v1/API_Keys/
agentkeys rule my-agent my-api --allow 'POST /v1/api_keys' --allow '/*'
expect 200 status POST /v1/api_keys
# A header by which services take a request for another: seen by the service, if we let it through.
override() { broker sh -c 'curl -s -o /dev/null -w "%{http_code}" -X POST "$MY_API_BASE_URL/v1/models" -H "Authorization: Bearer $MY_API_API_KEY" -H "$0: DELETE"' "$1"; }
expect 200 override X-Harmless
for header in X-HTTP-Method-Override X-Method-Override X-Original-URL; do expect 422 override "$header"; done

say "A rule ends an answer that is under way"
broker sh -c 'curl -sN "$MY_API_BASE_URL/stream" -H "Authorization: Bearer $MY_API_API_KEY" >"$HOME/ruled"; date +%s.%N >"$HOME/ruled-at"' &
beside=$!
within 10 grep -qs tick "$home/ruled"
asked=$(date +%s.%N)
agentkeys rule my-agent my-api --deny '/stream*' >/dev/null
wait "$beside" || true
python3 -c "took = $(cat "$home/ruled-at") - $asked; assert took < 1, took"
agentkeys rule my-agent my-api --clear >/dev/null

say "A redirect is handed on, and not followed"
expect 302 broker sh -c 'curl -s -o /dev/null -w "%{http_code}" "$MY_API_BASE_URL/elsewhere" -H "Authorization: Bearer $MY_API_API_KEY"'

say "A name that leads to a private address gets no key"
store mistral sk-mistral-0123456789
answer=$(broker sh -c 'curl -s "$MISTRAL_BASE_URL/v1/models" -H "Authorization: Bearer $MISTRAL_API_KEY"')
contains "$answer" "no address of the internet"

say "Code and signals are the program's"
expect_exit 7 broker sh -c 'exit 7'
agentkeys run --broker my-agent -- sh -c 'trap "exit 9" TERM; echo ready >"$HOME/ready-to-end"; while :; do sleep 0.1; done' &
beside=$!
within 10 test -s "$home/ready-to-end"
kill -TERM "$beside"
ended=0
wait "$beside" || ended=$?
expect 9 printf '%s' "$ended"

say "A program that goes away ends its request at the service"
broker sh -c 'curl -sN --max-time 1 "$MY_API_BASE_URL/stream" -H "Authorization: Bearer $MY_API_API_KEY"' >"$home/ticks" || true
expect 1 sh -c "test \$(grep -c tick $home/ticks) -ge 5 && echo 1"
within 3 grep -q '"ended"' "$home/got"

say "Revoked in the middle of a hundred streams: all have ended within a second"
broker sh -c 'for n in $(seq 100); do
        curl -sN "$MY_API_BASE_URL/stream" -H "Authorization: Bearer $MY_API_API_KEY" >"$HOME/stream.$n" &
    done
    wait
    date +%s.%N >"$HOME/all-ended"' &
beside=$!
streaming() { [ "$(grep -l tick "$home"/stream.* 2>/dev/null | wc -l)" -eq 100 ]; }
within 40 streaming
asked=$(date +%s.%N)
agentkeys revoke my-agent >/dev/null 2>&1
wait "$beside" || true
python3 -c "took = $(cat "$home/all-ended") - $asked; assert took < 1, took; print(f'ok: all ended {took * 1000:.0f} ms after revoke was typed')"
expect_exit 3 broker true

say "Uses are on record, and so are refusals"
expect 1 sh -c 'agentkeys usage my-agent --json | jq -r "[.events[] | select(.action == \"use\" and .outcome == \"allowed\")] | length > 30" | grep -c true'
contains "$(agentkeys usage my-agent --json | jq -r '.events[] | select(.action == "use") | .detail' | sort -u)" "POST ${service#https://}/v1/chat/completions"
