#!/usr/bin/env bash
# A data folder that is put back to an older copy: this client has seen a later head, and says so.
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
contains "$error" "cut off"

