#!/usr/bin/env bash
# Quickstart on a fresh machine: the whole loop, twice, and nothing of the user's is changed.
. "$(dirname "$0")/lib/common.sh"

say "In an empty home, without a terminal"
shown=$(agentkeys quickstart </dev/null 2>&1)
printf '%s\n' "$shown"
for word in stored "used without having it" used revoked denied "used over MCP" "denied: and over MCP" \
    "agentkeys store my-agent openrouter"; do
    grep -qi "$word" <<<"$shown" || { printf 'it does not show: %s\n' "$word" >&2; exit 1; }
done

left=$(find "$HOME" -name '*quickstart*')
[ -z "$left" ] || { printf 'it left: %s\n' "$left" >&2; exit 1; }

say "Again, beside what the user has made"
printf sk-or-v1-mine | agentkeys store my-agent openrouter -
before=$(agentkeys list --json | jq -c '[.agents[] | {name, wallet, scope}]')
agentkeys quickstart </dev/null >/dev/null 2>&1
after=$(agentkeys list --json | jq -c '[.agents[] | {name, wallet, scope}]')
[ "$before" = "$after" ] || { printf 'before: %s\nafter:  %s\n' "$before" "$after" >&2; exit 1; }
expect sk-or-v1-mine agentkeys read my-agent openrouter
agentkeys audit verify
