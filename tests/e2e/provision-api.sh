#!/usr/bin/env bash
# An agent gets its own key by the service's own interface: the official Python MCP client, the
# daemon, a backend, and a service on this machine that makes keys as OpenRouter does. The key is
# ended there with the agent's right, also when service and backend are away in between.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/mcp.sh"

admin=sk-or-management-4d5e6f
mkfifo "$home/service.in"
python3 "$here/tests/e2e/lib/key_service.py" --secret "$admin" <"$home/service.in" >"$home/service.out" &
exec 21>"$home/service.in"
within 20 test -s "$home/service.out"
url=$(cat "$home/service.out")
state() { curl -s "$url/state" | jq -r .keys; }
# What AWS gives cannot be ended, and runs out.
one_left() { [ "$(state)" = 1 ]; }

agentkeys init
umask 077
printf %s "$admin" >"$home/admin"
expect_exit 2 agentkeys provisioner set openrouter --set url="$url" --from-file "$home/admin"
contains "$error" "limit is missing"
rm "$home/admin"
printf wrong | agentkeys provisioner set openrouter --set limit=2 --set url="$url" -
expect_exit 1 agentkeys provisioner check openrouter
contains "$error" "ask OpenRouter which keys there are"
contains "$error" "refuses the account's own secret (status 401)"
printf %s "$admin" | agentkeys provisioner set openrouter --set limit=2 --set url="$url" -
agentkeys provisioner check openrouter
agentkeys provisioner list

say "Asked for, approved as an agent and then for keys to be made, made, and made once"
want='{"service":"openrouter","reason":"to answer questions"}'
made_once_when_approved "$want"
if grep -q sk-or- "$home/answers"; then echo "a key was shown" >&2; exit 1; fi
expect '{"keys":1,"made":1,"limits":[2]}' jq -c . <<<"$(curl -s "$url/state")"

say "A program uses it, and the service knows it"
expect 200 agentkeys run my-bot -- sh -c \
    "curl -s -o /dev/null -w '%{http_code}' -H \"authorization: Bearer \$OPENROUTER_API_KEY\" $url/api/v1/key"
contains "$(agentkeys list my-bot 2>&1)" "made for my-bot"

say "The same at OpenAI, GitHub and AWS"
printf %s "$admin" | agentkeys provisioner set openai --set project=proj_e2e --set url="$url" -
openssl genrsa -traditional 2048 2>/dev/null | agentkeys provisioner set github --set app=Iv1.e2e \
    --set installation=42 --set permissions=contents:read --set url="$url" -
printf aws-own-secret | agentkeys provisioner set aws --set access_key_id=AKIAIOSFODNN7EXAMPLE \
    --set role=arn:aws:iam::1:role/agents --set region=eu-central-1 --set url="$url" -
agentkeys scope my-bot --services openrouter,openai,github,aws --provision openrouter,openai,github,aws
calls=()
for service in openai github aws; do
    calls+=(--call provision "{\"service\":\"$service\"}" --call provision "{\"service\":\"$service\"}")
done
mcp_client "${calls[@]}" -- agentkeysd --agent my-bot >"$home/answers"
expect "true false true false true false" jq -rs \
    '[.[] | select(.step == "call") | .structuredContent.made] | map(tostring) | join(" ")' "$home/answers"
expect "4 4" jq -r '"\(.keys) \(.made)"' <<<"$(curl -s "$url/state")"
if grep -qE 'sk-svcacct|ghs_|ASIA|aws-s' "$home/answers"; then echo "a key was shown" >&2; exit 1; fi
expect "sk-svcacct-made-0002 ghs_ ASIA0000000000000004 aws-secret-4 aws-session-4" agentkeys run my-bot -- sh -c \
    'printf "%s %.4s %s %s %s" "$OPENAI_API_KEY" "$GITHUB_TOKEN" "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" "$AWS_SESSION_TOKEN"'
contains "$(agentkeys list my-bot 2>&1)" "and is renewed when it is read"

say "Nowhere in the clear"
agentkeys read my-bot openrouter >"$home/secrets"
printf '\n%s\naws-own-secret\naws-session-4\nsk-svcacct-made-0002\n' "$admin" >>"$home/secrets"
if grep -rqFf "$home/secrets" "$home" --exclude=secrets; then
    grep -rlFf "$home/secrets" "$home" --exclude=secrets >&2
    exit 1
fi
rm "$home/secrets"

say "Revoked while the service is away and the backend is stopped: ended all the same"
expect_exit 2 agentkeys provisioner remove openrouter
contains "$error" "1 are in use"
curl -s -X POST "$url/away" >/dev/null
agentkeys revoke my-bot
trouble() { agentkeys provisioner list 2>&1 | grep -q "not ended yet"; }
within 20 trouble
agentkeys provisioner list
agentkeys serve --stop
expect 4 state
curl -s -X POST "$url/back" >/dev/null
agentkeys provisioner list >/dev/null
within 40 one_left
gone() { agentkeys provisioner list | grep -q "openrouter *api *0 *0"; }
within 20 gone
contains "$(agentkeys usage my-bot 2>&1 || agentkeys usage)" "end upstream"
agentkeys provisioner remove openrouter
