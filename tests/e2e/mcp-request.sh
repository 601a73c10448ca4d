#!/usr/bin/env bash
# An agent over MCP asks services with keys that it never sees: by the official Python client, a real
# daemon, a real backend and a service over TLS that writes down what it gets.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/mcp.sh"
. "$(dirname "$0")/lib/upstream.sh"
key='sk-real-0123456789abcdefghijklmnop'

begin_service
begin_backend "my-api=$service" "openai=$service"
for name in my-api openai; do
    printf '%s' "$key" | agentkeys store bot "$name" - --expose broker >/dev/null 2>&1
done
agentkeys rule bot my-api --ask 'POST /v1/charges*' >/dev/null 2>&1
plain='{"url":"/v1/plain?a=b","service":"my-api","headers":{"x-own":"1","authorization":"Bearer sk-mine"}}'
charge='{"url":"/v1/charges","service":"my-api","method":"POST","body":"amount=5&currency=eur","headers":{"content-type":"application/x-www-form-urlencoded"}}'

say "Paired, then: sent with the key, scrubbed, to its own host only, asked about, cut, refused"
mcp_client --expect-error \
    --call http_request "$plain" \
    --shell 'a-person-approves --as bot' \
    --until-ok http_request "$plain" 20 \
    --call http_request '{"url":"'"$service"'/reflect","service":"my-api"}' \
    --call http_request '{"url":"https://evil.example/x","service":"my-api"}' \
    --call http_request '{"url":"https://api.openai.com/v1/models"}' \
    --call http_request '{"url":"/million","service":"my-api"}' \
    --call http_request '{"url":"/v1/api_keys","service":"my-api"}' \
    --call get_credential '{"service":"my-api"}' \
    --call http_request "$charge" \
    --shell a-person-approves \
    --call http_request "$charge" \
    --call http_request "$charge" \
    --shell 'agentkeys deny "$(printf %s "$LAST" | jq -r .structuredContent.pair_code)"' \
    --call http_request "$charge" \
    --shell 'agentkeys revoke bot' \
    --call http_request "$plain" \
    -- agentkeysd --agent bot >"$home/answers"
cut -c1-160 "$home/answers"
answers=$(jq -c 'select(.step == "call" or .step == "until-ok")' "$home/answers")
answer() { sed -n "$1p" <<<"$answers"; }
is() { expect "$2" jq -r ".structuredContent.$3" <<<"$(answer "$1")"; }
is 1 waiting_for_approval status
is 2 answered status
is 2 200 http_status
contains "$(answer 3 | jq -r .structuredContent.body)" '*****'
is 4 refused status
contains "$(answer 4 | jq -r '.content[0].text')" "that host is not one of my-api's"
is 5 200 http_status
is 6 true truncated
expect 262144 jq -r '.structuredContent.body | length' <<<"$(answer 6)"
is 7 DENIED code
is 8 DENIED code
contains "$(answer 8 | jq -r '.content[0].text')" "http_request uses it all the same"
is 9 waiting_for_approval status
is 9 HighValueRelease request
is 10 200 http_status
is 11 waiting_for_approval status
is 12 DENIED code
contains "$(answer 12 | jq -r '.content[0].text')" "The master said no"
contains "$(answer 13 | jq -r '.content[0].text')" "was revoked"

say "The service got the key, and the model nothing of it"
expect 1 sh -c "jq -c 'select(.path == \"/v1/charges\")' '$home/got' | wc -l"
python3 - "$home/got" "$key" <<'END'
import json, sys
for line in map(json.loads, open(sys.argv[1])):
    headers = [value for name, value in line["headers"] if name.lower() == "authorization"]
    assert headers == [f"Bearer {sys.argv[2]}"], line
    assert "sk-mine" not in json.dumps(line), line
END
for form in "$key" "$(printf %s "$key" | base64 -w0)" "$(printf %s "$key" | od -An -v -tx1 | tr -d ' \n')"; do
    expect_exit 1 grep -qF "$form" "$home/answers"
done
