#!/usr/bin/env bash
# Journey 8: services that want more than a key. AWS's SDK asks by stand-ins, and the backend signs; access tokens
# of OAuth 2 are got and renewed in the backend.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/mcp.sh"
tools=$here/target/test-tools
lib=$here/tests/e2e/lib
python=$tools/mcp-python/bin/python3
id=AKIAREAL0123456789AB
secret=real/Secret+0123456789abcdefghijklmnopqr
session=FwoGZXIvYXdzEREAL/session+token==0123456789
unset SSL_CERT_FILE SSL_CERT_DIR CURL_CA_BUNDLE REQUESTS_CA_BUNDLE AWS_CA_BUNDLE "${!AWS_@}" 2>/dev/null || true
unset "${!HTTP@}" "${!http@}" "${!ALL_@}" NO_PROXY no_proxy all_proxy
export AWS_EC2_METADATA_DISABLED=true AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null

say "A stand-in for AWS, and a backend that is told where it is"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj "/CN=test-authority" \
    -keyout "$home/authority.key" -out "$home/authority.pem" 2>/dev/null
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj "/CN=service" \
    -addext "subjectAltName=IP:127.0.0.1" -addext basicConstraints=critical,CA:FALSE \
    -CA "$home/authority.pem" -CAkey "$home/authority.key" -keyout "$home/service.key" -out "$home/service.pem" 2>/dev/null
port_of() { sed -n 's/^listening //p' "$1"; }
"$python" "$lib/aws_service.py" "$home/service.pem" "$home/service.key" "$home/got" "$id" "$secret" "$session" >"$home/aws" &
aws=$!
within 10 grep -q listening "$home/aws"
client_id=client:1 client_secret='client+secret/0123456789=?' refresh=rt-first-0123456789abcdef
python3 "$lib/oauth_service.py" "$home/service.pem" "$home/service.key" "$home/asked" "$client_id" "$client_secret" "$refresh" >"$home/oauth" &
oauth=$!
within 10 grep -q listening "$home/oauth"
service=https://127.0.0.1:$(port_of "$home/oauth")
mkdir -m 700 "$home/run"
start() {
    SSL_CERT_FILE=$home/authority.pem "$AGENTKEYS" serve --listen "unix:$home/run/s" --data "$home/data" \
        --service "aws=https://127.0.0.1:$(port_of "$home/aws")" --service "clients=$service,oauth=$service/token read write" \
        --service "refreshed=$service,oauth=$service/token" 2>>"$home/serve.log" >"$home/ready" &
    backend=$!
    within 10 grep -q '^listening' "$home/ready"
}
on_exit() {
    local code=$?
    kill "$aws" "$oauth" "$backend" 2>/dev/null || true
    finish "$code"
}
trap on_exit EXIT
: >"$home/ready"
start
export AGENTKEYS_BACKEND=unix:$home/run/s
agentkeys init >/dev/null 2>&1
printf '{"AccessKeyId":"%s","SecretAccessKey":"%s","SessionToken":"%s"}' "$id" "$secret" "$session" |
    agentkeys store my-agent aws - >/dev/null 2>&1
agentkeys expose my-agent aws broker >/dev/null
proxied() { agentkeys run --proxy my-agent -- "$@"; }
status() { proxied curl -s -o "$home/answer" -w '%{http_code}' --max-time 20 "$@"; }

say "AWS's SDK, unchanged: STS, S3 by host and by path, DynamoDB, Lambda"
proxied "$python" "$lib/aws_client.py"
python3 - "$home/got" "$id" "$secret" <<'END'
import json, sys
log = open(sys.argv[1]).read()
lines = [json.loads(line) for line in log.splitlines()]
assert sys.argv[3] not in log
for got in lines:
    headers = {name.lower(): value for name, value in got["headers"]}
    assert got["wrong"] is None and f"Credential={sys.argv[2]}/" in headers["authorization"], got
    assert "agentkeys" not in json.dumps(got), got
hosts = {dict((n.lower(), v) for n, v in got["headers"])["host"] for got in lines}
for host in ("sts.us-east-1.amazonaws.com", "sts.eu-west-3.amazonaws.com", "bucket.s3.eu-central-1.amazonaws.com",
             "s3.eu-central-1.amazonaws.com", "dynamodb.ap-southeast-2.amazonaws.com"):
    assert host in hosts, (host, hosts)
print("ok:", len(lines), "requests, each signed with the agent's own key")
END

say "curl: its own signature, and none"
expect 200 proxied sh -c 'curl -s -o /dev/null -w "%{http_code}" --aws-sigv4 aws:amz:eu-central-1:s3 \
    --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" https://bucket.s3.eu-central-1.amazonaws.com/plain'
expect 200 status https://bucket.s3.eu-central-1.amazonaws.com/plain
expect hello cat "$home/answer"
expect 200 status -X POST -d 'Action=GetCallerIdentity&Version=2011-06-15' https://sts.amazonaws.com/

say "The stand-in for AWS looks at signatures"
for with in "$secret 200" "other 403"; do
    expect "${with##* }" curl -s -o /dev/null -w '%{http_code}' --cacert "$home/authority.pem" --aws-sigv4 aws:amz:us-east-1:sts \
        --user "$id:${with%% *}" -H "x-amz-security-token: $session" -H "x-amz-content-sha256: UNSIGNED-PAYLOAD" \
        "https://127.0.0.1:$(port_of "$home/aws")/"
done

say "What is refused, and goes nowhere"
count() { wc -l <"$home/got"; }
before=$(count)
expect 403 proxied sh -c 'curl -s -o /dev/null -w "%{http_code}" --aws-sigv4 aws:amz:eu-central-1:s3 \
    --user "AKIAIOSFODNN7EXAMPLE:another" https://bucket.s3.eu-central-1.amazonaws.com/plain'
expect 422 status 'https://bucket.s3.amazonaws.com/plain?X-Amz-Signature=0&X-Amz-Credential=A'
contains "$(cat "$home/answer")" 'its address holds a signature'
expect 422 status -X PUT -H 'x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD' -d x https://bucket.s3.amazonaws.com/plain
contains "$(cat "$home/answer")" 'signed piece by piece'
head -c 17000000 /dev/zero >"$home/large"
expect 413 status -X POST --data-binary @"$home/large" https://sqs.eu-central-1.amazonaws.com/
expect 413 status -X POST -H 'transfer-encoding: chunked' --data-binary @"$home/large" https://sqs.eu-central-1.amazonaws.com/
expect 403 status -H 'Host: iam.amazonaws.com' https://sts.amazonaws.com/
expect 403 status http://s3.amazonaws.com/
expect "$before" count
agentkeys usage my-agent --json >"$home/usage"
contains "$(cat "$home/usage")" 'PUT bucket.s3.eu-central-1.amazonaws.com/large'
expect_exit 3 agentkeys read my-agent aws

say "The program has nothing of the key"
proxied env >"$home/env"
for part in "$id" "$secret" "$session"; do
    if grep -qF -- "$part" "$home/env" "$home/serve.log" "$home/usage"; then exit 1; fi
done
agentkeys revoke my-agent >/dev/null 2>&1
expect_exit 3 proxied true
agentkeys reinstate my-agent >/dev/null 2>&1

say "OAuth 2, by client credentials: one token for many requests at once, and a new one after a 401"
tokens() { grep -c "\"grant\": \"$1\"" "$home/asked" || true; }
control() { curl -s --cacert "$home/authority.pem" "$service/control?$1" >/dev/null; }
store() { printf '%s' "$2" | agentkeys store my-agent "$1" - >/dev/null 2>&1; }
brokered() { agentkeys run --broker my-agent -- sh -c "$1"; }
ask() { brokered "curl -s -o '$home/answer' -w '%{http_code}' -H \"Authorization: Bearer \$$1_API_KEY\" ${3:-} \"\$$1_BASE_URL$2\""; }
store clients "{\"client_id\":\"$client_id\",\"client_secret\":\"$client_secret\"}"
expect 40 brokered 'seq 40 | sed "s,.*,url = $CLIENTS_BASE_URL/many/&\noutput = /dev/null," >"$HOME/many"
    curl -sZ --parallel-max 40 -K "$HOME/many" -H "Authorization: Bearer $CLIENTS_API_KEY" -w "%{http_code}\n" | grep -c 200'
expect 1 tokens client_credentials
contains "$(grep grant "$home/asked")" '"scope": "read write", "fields": ["grant_type", "scope"], "basic": true'
expect 200 ask CLIENTS /reflect
contains "$(cat "$home/answer")" '"token": "***'
contains "$(cat "$home/answer")" '"secret": "***'
control drop=1
expect 401 ask CLIENTS /charge '-d amount=1'
expect 1 grep -c /charge "$home/asked"
expect 200 ask CLIENTS /charge '-d amount=1'
expect 2 tokens client_credentials
control 'life=2'
control drop=1
expect 401 ask CLIENTS /a
expect 200 ask CLIENTS /a
sleep 2
expect 200 ask CLIENTS /a
expect 4 tokens client_credentials

say "What a token URL answers that is no token: nothing is sent, and the client's secret goes nowhere"
for mood in elsewhere busy huge; do
    control "life=1&mood=$mood"
    store clients "{\"client_id\":\"$client_id\",\"client_secret\":\"$client_secret\" }"
    sleep 1
    case $(ask CLIENTS "/$mood") in 4?? | 503) ;; *) exit 1 ;; esac
    if grep -q "/$mood" "$home/asked"; then exit 1; fi
    contains "$(cat "$home/answer")" 'no token of clients could be got'
done
control 'life=3600&mood=%20'
store clients '{"client_id":"other","client_secret":"wrong-secret-0123"}'
expect 422 ask CLIENTS /b
contains "$(cat "$home/answer")" 'invalid_client'
if grep -qF SHOWN "$home/answer"; then exit 1; fi
store clients sk-plain
expect 422 ask CLIENTS /b

say "OAuth 2, by a refresh token that each answer replaces: many at once, kill -9, and none is sent twice"
control 'life=3'
store refreshed "{\"refresh_token\":\"$refresh\",\"client_id\":\"$client_id\",\"client_secret\":\"$client_secret\"}"
many='seq 30 | sed "s,.*,url = $REFRESHED_BASE_URL/many/&\noutput = /dev/null," >"$HOME/many"
    curl -sZ --parallel-max 30 -K "$HOME/many" -H "Authorization: Bearer $REFRESHED_API_KEY" -w "%{http_code}\n" | grep -c 200'
for round in 1 2 3; do
    expect 200 ask REFRESHED /reflect
    contains "$(cat "$home/answer")" '"refresh": "***'
    stored=$(agentkeys read my-agent refreshed | jq -r .refresh_token)
    [ "$stored" != "$refresh" ] || exit 1
    kill -9 "$backend"
    wait "$backend" 2>/dev/null || true
    : >"$home/ready"
    start
    sleep 3
    [ "$round" -lt 3 ] || control 'life=3600'
    expect 30 brokered "$many"
    sleep 3
done
expect 200 ask REFRESHED /at-the-end
agentkeys usage my-agent --json >"$home/usage"
contains "$(cat "$home/usage")" 'a new refresh token, by its service'
agentkeys audit verify >/dev/null
for part in "$client_secret" "$stored" $(grep -o 'at-[0-9a-f]\{32\}' "$home/asked" | head -3); do
    if grep -qF -- "$part" "$home/usage" "$home/serve.log"; then exit 1; fi
done

say "A model asks AWS over MCP"
who='{"url":"https://sts.eu-west-1.amazonaws.com/","method":"POST","body":"Action=GetCallerIdentity&Version=2011-06-15","headers":{"content-type":"application/x-www-form-urlencoded"}}'
mcp_client --expect-error --call http_request "$who" --shell 'a-person-approves --as my-agent' --until-ok http_request "$who" 20 \
    -- agentkeysd --agent my-agent >"$home/answers"
contains "$(tail -n 1 "$home/answers")" 'arn:aws:iam::123456789012:user/agent'
contains "$(tail -n 1 "$home/got")" '/eu-west-1/sts/aws4_request'
