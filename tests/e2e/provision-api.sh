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
none_left() { [ "$(state)" = 0 ]; }

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
mcp_client --expect-error \
    --call provision "$want" \
    --shell a-person-approves \
    --until-changed 20 \
    --call provision "$want" \
    --shell a-person-approves \
    --sleep 2 \
    --call provision "$want" \
    --call provision "$want" \
    -- agentkeysd --agent my-bot --services none | tee "$home/answers" | cut -c1-200
answer() { jq -c 'select(.step == "call")' "$home/answers" | sed -n "$1p"; }
contains "$(answer 1)" Pair
contains "$(answer 2)" ScopeChange
expect true jq -r .structuredContent.made <<<"$(answer 3)"
expect false jq -r .structuredContent.made <<<"$(answer 4)"
if grep -q sk-or- "$home/answers"; then echo "a key was shown" >&2; exit 1; fi
expect '{"keys":1,"made":1,"limits":[2]}' jq -c . <<<"$(curl -s "$url/state")"

say "A program uses it, and the service knows it"
expect 200 agentkeys run my-bot -- sh -c \
    "curl -s -o /dev/null -w '%{http_code}' -H \"authorization: Bearer \$OPENROUTER_API_KEY\" $url/api/v1/key"
contains "$(agentkeys list my-bot 2>&1)" "made for my-bot"

say "Nowhere in the clear"
key=$(agentkeys read my-bot openrouter)
if grep -rqF -e "$key" -e "$admin" "$home"; then
    grep -rlF -e "$key" -e "$admin" "$home" >&2
    exit 1
fi

say "Revoked while the service is away and the backend is stopped: ended all the same"
expect_exit 2 agentkeys provisioner remove openrouter
contains "$error" "1 are in use"
curl -s -X POST "$url/away" >/dev/null
agentkeys revoke my-bot
trouble() { agentkeys provisioner list 2>&1 | grep -q "not ended yet"; }
within 20 trouble
agentkeys provisioner list
agentkeys serve --stop
expect 1 state
curl -s -X POST "$url/back" >/dev/null
agentkeys provisioner list >/dev/null
within 40 none_left
gone() { agentkeys provisioner list | grep -q "openrouter *api *0 *0"; }
within 20 gone
contains "$(agentkeys usage my-bot 2>&1 || agentkeys usage)" "end upstream"
agentkeys provisioner remove openrouter
