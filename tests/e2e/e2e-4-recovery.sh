#!/usr/bin/env bash
# E2E-4: pair, store, link, kill -9 the daemon, recover elsewhere: the same key comes back.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/mcp.sh"

if [ -z "$elsewhere" ]; then
    agentkeys serve --dev --listen 127.0.0.1:0 --data "$home/server" >"$home/address" 2>"$home/log" &
    server=$!
    trap 'kill $server 2>/dev/null || true; finish' EXIT
    while [ ! -s "$home/address" ]; do sleep 0.05; done
    export AGENTKEYS_BACKEND
    AGENTKEYS_BACKEND=$(sed 's/listening on //' "$home/address")
    agentkeys init --mock-token alice
fi
# The two sandboxes are homes of their own: nothing of one is in the other.
for name in first second; do
    mkdir "$home/$name"
    printf '#!/bin/sh\nexport HOME=%s AGENT_HOME=%s\nexec agentkeysd "$@"\n' "$home/$name" "$name" \
        >"$home/bin/daemon-in-$name"
done
chmod +x "$home/bin"/*
get='{"service":"openrouter"}'

say "A daemon in the first sandbox is paired, and its agent gets a key and a name"
mcp_client --expect-error --call get_credential "$get" --shell a-person-approves --until-changed 20 \
    --shell 'printf sk-or-v1-comes-back | agentkeys store my-bot openrouter -' \
    --shell 'agentkeys link my-bot --email bot@example.com' \
    --until-ok get_credential "$get" 20 \
    --shell 'pkill -KILL -f "agentkeysd --agent my-bot" || true' \
    -- daemon-in-first --agent my-bot >"$home/first.answers" || true
contains "$(cat "$home/first.answers")" sk-or-v1-comes-back
wallet=$(agentkeys list --json | jq -r '.agents[0].wallet')

say "The sandbox died; in another one, it is recovered by its e-mail address"
mcp_client --expect-error --call get_credential "$get" --shell 'a-person-approves' \
    --until-ok get_credential "$get" 20 --call list_credentials '{}' \
    -- daemon-in-second --recover bot@example.com >"$home/second.answers"
expect sk-or-v1-comes-back jq -r 'select(.step == "until-ok").structuredContent.credential' "$home/second.answers"
expect "$wallet" jq -r 'select(.name == "list_credentials").structuredContent.agent' "$home/second.answers"

say "The same agent, and no other; the first one's mirror is worth nothing"
expect "$wallet" jq -r '.agents[].wallet' <<<"$(agentkeys list --json)"
mcp_client --expect-error --call get_credential "$get" -- daemon-in-first --agent my-bot >"$home/third.answers"
third=$(jq -r 'select(.step == "call").content[0].text' "$home/third.answers")
contains "$third" "was ended"

say "Started again in the second sandbox, it asks nobody"
mcp_client --call get_credential "$get" -- daemon-in-second --recover bot@example.com >"$home/fourth.answers"
contains "$(cat "$home/fourth.answers")" sk-or-v1-comes-back
agentkeys audit verify
