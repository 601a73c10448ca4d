#!/usr/bin/env bash
# E2E-5: a third-party MCP server from npm, with a token pasted into a client's configuration. The
# token moves into the vault, the server has it all the same, and once its agent is revoked it does
# not start. Then an environment file.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/mcp.sh"

[ -n "$elsewhere" ] || agentkeys init
token=ghp_pasted0123456789
server=$mcp_root/target/test-tools/mcp-everything/node_modules/@modelcontextprotocol/server-everything/dist/index.js
config=$home/.cursor/mcp.json
mkdir -p "$(dirname "$config")"
jq -n --arg node "$(command -v node)" --arg server "$server" --arg token "$token" \
    '{mcpServers: {everything: {command: $node, args: [$server], env: {GITHUB_TOKEN: $token, LEVEL: "7"}, disabled: false}}}' >"$config"
cp "$config" "$home/before"

say "Its token goes into the vault"
agentkeys wire cursor --server everything
if grep -rqF "$token" "$home" --exclude=before; then echo "the token is still on disk" >&2; exit 1; fi
entry=$(jq -c .mcpServers.everything "$config")
expect '{"LEVEL":"7"}' jq -c .env <<<"$entry"
expect false jq -r .disabled <<<"$entry"
expect false jq -r .changed <<<"$(agentkeys wire cursor --server everything --json)"

say "Started from that entry, it has it"
start=$(jq -r .command <<<"$entry")
mapfile -t words < <(jq -r '.args[]' <<<"$entry")
listed=$(mcp_client --list -- "$start" "${words[@]}" | jq -r 'select(.step == "list") | .tools[].name')
tool=$(grep -i env <<<"$listed" | head -1)
told=$(mcp_client --env LEVEL=7 --call "$tool" '{}' -- "$start" "${words[@]}" | jq -r 'select(.step == "call") | .content[0].text')
contains "$told" "$token"
contains "$told" '"LEVEL": "7"'
case $told in *AGENTKEYS_*) echo "one of our variables is in it" >&2; exit 1 ;; esac

say "Revoked, it does not start"
agentkeys revoke everything
if mcp_client --list -- "$start" "${words[@]}" >"$home/said" 2>&1; then echo "it started" >&2; exit 1; fi
contains "$(cat "$home/said")" "was revoked"
agentkeys reinstate everything

say "Undone: byte for byte, out of the vault"
contains "$(agentkeys wire cursor --server everything --undo 2>&1)" "everything is as it was, in"
cmp "$config" "$home/before"
rm "$home/before" "$config"

say "An environment file: its keys go into the vault, references stay"
cd "$home"
printf '# ours\nexport OPENAI_API_KEY="sk-one"\nPORT=80\nSTRIPE_SECRET_KEY=sk_live_two\n' >.env
agentkeys import web .env --print
agentkeys import web .env
expect '# ours
export OPENAI_API_KEY=agentkeys://web/openai
PORT=80
STRIPE_SECRET_KEY=agentkeys://web/stripe' cat .env
expect "sk-one 80 sk_live_two" agentkeys run web --env-file .env --only -- \
    sh -c 'printf "%s %s %s" "$OPENAI_API_KEY" "$PORT" "$STRIPE_SECRET_KEY"'
contains "$(cat .env.agentkeys-backup)" sk_live_two
expect 600 stat -c %a .env.agentkeys-backup
contains "$(agentkeys import web .env 2>&1)" "no key stands in it"
