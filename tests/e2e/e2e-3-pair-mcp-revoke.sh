#!/usr/bin/env bash
# E2E-3: an MCP client of another language reads through a paired daemon, then is denied.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/mcp.sh"

[ -n "$elsewhere" ] || agentkeys init
get='{"service":"openrouter"}'

say "The official Python SDK: unpaired, approved, stored for, read, revoked, denied, in one session"
mcp_client --expect-error --list \
    --call get_credential "$get" \
    --shell a-person-approves \
    --until-changed 20 \
    --shell 'printf sk-or-v1-over-mcp | agentkeys store my-bot openrouter -' \
    --call get_credential "$get" \
    --call agentkeys.get_credential "$get" \
    --call list_credentials '{}' \
    --call get_credential '{"service":"github"}' \
    --shell 'agentkeys revoke my-bot' \
    --call get_credential "$get" \
    -- agentkeysd --agent my-bot | tee "$home/answers" | cut -c1-200
answer() { jq -c "select(.step == \"call\" or .step == \"list\" or .step == \"until-changed\")" "$home/answers" | sed -n "$1p"; }
contains "$(answer 1 | jq -r '[.tools[].name] | join(" ")')" "get_credential list_credentials request_access"
contains "$(answer 2)" waiting_for_approval
contains "$(answer 3)" '"told":true'
expect sk-or-v1-over-mcp jq -r .structuredContent.credential <<<"$(answer 4)"
expect sk-or-v1-over-mcp jq -r .structuredContent.credential <<<"$(answer 5)"
expect openrouter jq -r '.structuredContent.credentials[].service' <<<"$(answer 6)"
expect true jq -r .isError <<<"$(answer 7)"
expect true jq -r .isError <<<"$(answer 8)"
contains "$(answer 8 | jq -r '.content[0].text')" "was revoked"
contains "$(answer 8 | jq -r '.content[0].text')" "agentkeys reinstate my-bot"

say "The inspector, another client, with each protocol era"
agentkeys reinstate my-bot
printf sk-or-v1-second | agentkeys store second openrouter -
mcp_client --call get_credential "$get" --shell 'a-person-approves --as second' \
    --until-ok get_credential "$get" 20 --expect-error -- agentkeysd --agent second >/dev/null
# It takes words of the server that begin with a dash for its own.
printf '#!/bin/sh\nexec agentkeysd --agent second\n' >"$home/bin/second-daemon"
chmod +x "$home/bin/second-daemon"
for era in legacy modern; do
    mcp_inspector second-daemon --protocol-era "$era" --method tools/list --strict >/dev/null
    got=$(mcp_inspector second-daemon --protocol-era "$era" --method tools/call \
        --tool-name get_credential --tool-arg service=openrouter --format json)
    contains "$got" sk-or-v1-second
done
agentkeys revoke second
code=0
got=$(mcp_inspector second-daemon --method tools/call --tool-name get_credential \
    --tool-arg service=openrouter --format json) || code=$?
[ "$code" -eq 5 ] || { printf 'the inspector ended with %s\n%s\n' "$code" "$got" >&2; exit 1; }
contains "$got" "was revoked"

say "On record: each read, and each refusal"
expect "read allowed
read allowed
read denied" jq -r '.events[] | select(.action == "read") | "\(.action) \(.outcome)"' <<<"$(agentkeys usage my-bot --json)"
agentkeys audit verify
