#!/usr/bin/env bash
# E2E-1: store, use, revoke, denied; and the audit log shows exactly that.
. "$(dirname "$0")/lib/common.sh"

say "A key is stored; the first command starts the private backend"
agentkeys init
printf sk-or-v1-test | agentkeys store my-agent openrouter -

say "The agent's program finds it, and so does its master"
expect sk-or-v1-test agentkeys read my-agent openrouter
expect sk-or-v1-test agentkeys run my-agent -- printenv OPENROUTER_API_KEY

say "Revoked: the next use is denied, with when and by whom"
agentkeys revoke my-agent
expect_exit 3 agentkeys read my-agent openrouter
contains "$error" 'agent "my-agent" was revoked'
contains "$error" "UTC by the master session"
contains "$error" "agentkeys reinstate my-agent"
expect_exit 3 agentkeys run my-agent -- printenv OPENROUTER_API_KEY

say "The log lists just that, in order"
events=$(agentkeys usage my-agent --json | jq -r '.events[] | "\(.action) \(.service // "-") \(.outcome)"')
printf '%s\n' "$events"
[ "$events" = "store openrouter allowed
read openrouter allowed
read openrouter allowed
revoke - allowed
read openrouter denied
read - denied" ]
agentkeys audit verify

say "Reinstated, it works again; torn down, it is gone"
agentkeys reinstate my-agent
expect sk-or-v1-test agentkeys read my-agent openrouter
agentkeys teardown my-agent
expect_exit 4 agentkeys read my-agent openrouter
expect_exit 4 agentkeys run my-agent -- true
