#!/usr/bin/env bash
# Journey 8: services that want more than a key. AWS's SDK asks by stand-ins, and the backend signs.
. "$(dirname "$0")/lib/common.sh"
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
python3 "$lib/aws_service.py" "$home/service.pem" "$home/service.key" "$home/got" "$id" "$secret" "$session" >"$home/aws" &
aws=$!
within 10 grep -q listening "$home/aws"
mkdir -m 700 "$home/run"
SSL_CERT_FILE=$home/authority.pem "$AGENTKEYS" serve --listen "unix:$home/run/s" --data "$home/data" \
    --service "aws=https://127.0.0.1:$(port_of "$home/aws")" 2>>"$home/serve.log" >"$home/ready" &
backend=$!
on_exit() {
    local code=$?
    kill "$aws" "$backend" 2>/dev/null || true
    finish "$code"
}
trap on_exit EXIT
within 10 grep -q '^listening' "$home/ready"
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
agentkeys revoke my-agent >/dev/null
expect_exit 3 proxied true
