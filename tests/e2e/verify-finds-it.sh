#!/usr/bin/env bash
# A data folder that is put back to an older copy: this client has seen a later head, says so, and
# raises nobody's rights until the loss is accepted.
. "$(dirname "$0")/lib/common.sh"

printf sk-or-v1-test | agentkeys store my-agent openrouter -
agentkeys audit verify
agentkeys serve --stop
data=$home/.local/share/agentkeys
cp -a "$data" "$home/yesterday"
agentkeys revoke my-agent
agentkeys serve --stop

say "Yesterday's copy has forgotten the revocation; the client has not"
rm -rf "$data"
cp -a "$home/yesterday" "$data"
expect_exit 1 agentkeys audit verify
contains "$error" "older than what was seen before"
contains "$error" "not the one that this client saw before"

say "Nobody's rights are raised on it; what lowers them works"
expect_exit 3 agentkeys read my-agent openrouter
contains "$error" "agentkeys audit accept"
agentkeys revoke my-agent
expect_exit 3 agentkeys reinstate my-agent

say "Accepted, it goes on, and both are on record"
agentkeys audit accept --yes
agentkeys reinstate my-agent
expect sk-or-v1-test agentkeys read my-agent openrouter
expect "head_contradicted
head_accepted" jq -r '.events[].action | select(startswith("head_"))' <<<"$(agentkeys usage --json)"
agentkeys audit verify
