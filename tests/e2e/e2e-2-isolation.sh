#!/usr/bin/env bash
# E2E-2: two agents, two services, four reads: two values, two denials, all on record.
. "$(dirname "$0")/lib/common.sh"

printf sk-or-v1-alpha | agentkeys store agent-a openrouter -
printf ghp_beta | agentkeys store agent-b github -

say "Each agent has its own"
expect sk-or-v1-alpha agentkeys read agent-a openrouter
expect ghp_beta agentkeys read agent-b github

say "and not the other's"
expect_exit 3 agentkeys read agent-a github
contains "$error" 'agent "agent-a" was not given "github"'
expect_exit 3 agentkeys read agent-b openrouter

say "A program of one sees nothing of the other's"
expect "" agentkeys run agent-a -- sh -c 'printf %s "${GITHUB_TOKEN-}"'

say "The attempts are on record"
denied=$(agentkeys usage --json | jq -r '.events[] | select(.outcome == "denied") | "\(.agent_name) \(.service)"')
printf '%s\n' "$denied"
[ "$denied" = "agent-a github
agent-b openrouter" ]
agentkeys audit verify
