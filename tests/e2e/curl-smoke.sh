#!/usr/bin/env bash
# The wire by hand: curl against `serve --dev`, and bad input of every kind, each with its own
# answer, after which the server still serves.
. "$(dirname "$0")/lib/common.sh"

agentkeys serve --dev --listen 127.0.0.1:0 --data "$home/data" >"$home/ready" 2>"$home/log" &
server=$!
for _ in $(seq 100); do [ -s "$home/ready" ] && break; sleep 0.1; done
url=$(sed -n 's/^listening on //p' "$home/ready")
[ -n "$url" ]

# call METHOD PATH [curl arguments...]: leaves $status and $body.
call() {
    local method=$1 path=$2
    shift 2
    body=$(curl -sS -m 60 -X "$method" -w '\n%{http_code}' "$url$path" "$@") || true
    status=${body##*$'\n'}
    body=${body%$'\n'*}
}
json=(-H 'Content-Type: application/json')

# answers STATUS CODE: the last call's status, and its problem's code ("-" for none).
answers() {
    local code
    code=$(jq -r '.code // "-"' <<<"$body" 2>/dev/null || echo 'no JSON')
    [ "$status $code" = "$1 $2" ] || { printf 'wanted %s %s, got %s: %s\n' "$1" "$2" "$status" "$body" >&2; exit 1; }
    printf 'ok: %s %s\n' "$1" "$2"
}

say "Sign in, seal, store, read, revoke, denied"
call POST /session/create "${json[@]}" -d '{"auth_token":"ada"}'
answers 200 -
session=$(jq -r .session <<<"$body")
bearer=(-H "Authorization: Bearer $session")
agentkeys init --mock-token ada --backend "$url" >/dev/null 2>&1
sealed=$(printf sk-or-v1-test | agentkeys seal my-agent openrouter --backend "$url")
store="{\"agent_id\":\"my-agent\",\"service\":\"openrouter\",\"ciphertext\":\"$sealed\"}"
call POST /credential/store "${json[@]}" "${bearer[@]}" -d "$store"
answers 200 -
call GET '/credential/read?agent_id=my-agent&service=openrouter' "${bearer[@]}"
answers 200 -
[ "$(jq -r .credential <<<"$body" | base64 -d)" = sk-or-v1-test ]
call POST /session/revoke "${json[@]}" "${bearer[@]}" -d '{"agent_id":"my-agent"}'
answers 200 -
call GET '/credential/read?agent_id=my-agent&service=openrouter' "${bearer[@]}"
answers 403 DENIED
call POST /session/revoke "${json[@]}" "${bearer[@]}" -d "{\"target_session\":\"$session\"}"
answers 200 -
call GET '/credential/read?agent_id=my-agent&service=openrouter' "${bearer[@]}"
answers 403 DENIED

say "Bad input of every kind"
create() { call POST /session/create "${json[@]}" "$@"; }
create -d '{"auth_token":""}'
answers 401 UNAUTHORIZED
create -d "{\"auth_token\":\"$(printf 'x%.0s' $(seq 300))\"}"
answers 401 UNAUTHORIZED
create -d '{"auth_token":"ada","typo":1}'
answers 422 INVALID
create -d '{"auth_token":17}'
answers 422 INVALID
create -d '{"auth_token":'
answers 422 INVALID
create --data-binary @<(head -c 100000 /dev/zero | tr '\0' '[')
answers 422 INVALID
create --data-binary @<(printf '{"auth_token":"\xff\xfe"}')
answers 422 INVALID
call POST /session/create -H 'Content-Type: text/plain' -d '{"auth_token":"ada"}'
answers 422 INVALID
head -c 100000000 /dev/zero >"$home/big"
create --data-binary "@$home/big"
answers 413 TOO_LARGE
create -H 'Transfer-Encoding: chunked' --data-binary "@$home/big"
answers 413 TOO_LARGE
create -d '{"auth_token":"bob"}'
answers 200 -
bearer=(-H "Authorization: Bearer $(jq -r .session <<<"$body")")
call POST /credential/store "${json[@]}" "${bearer[@]}" -d '{"agent_id":"a","service":"b","ciphertext":"***"}'
answers 422 INVALID
call GET '/credential/read?agent_id=nobody&service=openrouter' "${bearer[@]}"
answers 404 AGENT_NOT_FOUND
call GET '/credential/read?agent_id=nobody&service=openrouter'
answers 401 UNAUTHORIZED
call GET /no/such/path
answers 404 NOT_FOUND
call GET /health -H 'Host: evil.example'
answers 403 DENIED
call GET /health -H 'Origin: https://evil.example'
answers 403 DENIED
call GET /health
answers 200 -

say "--dev refuses what it must"
kill "$server"
wait "$server" || true
expect_exit 1 agentkeys serve --listen 127.0.0.1:0 --data "$home/data"
contains "$error" "--dev"
expect_exit 2 agentkeys serve --dev --listen 0.0.0.0:0 --data "$home/data2"
