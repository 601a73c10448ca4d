# The two official MCP clients, as scripts/install-test-tools.sh puts them there.

mcp_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
# Debian 12's Node is too old for the inspector; then a newer one is there.
[ ! -d "$mcp_root/target/test-tools/node" ] || PATH=$mcp_root/target/test-tools/node/node_modules/.bin:$PATH

# The Python SDK, one session for a sequence of calls: see mcp_client.py for the words.
mcp_client() {
    "$mcp_root/target/test-tools/mcp-python/bin/python" "$mcp_root/tests/e2e/lib/mcp_client.py" "$@"
}

# The inspector, one call a session: `mcp_inspector server command... --method tools/list`. Ends
# with 5 when a tool answers with an error. Words of the server that begin with a dash are taken
# for its own unless they stand before its first option.
mcp_inspector() {
    "$mcp_root/target/test-tools/mcp-inspector/node_modules/.bin/mcp-inspector" --cli --quiet "$@"
}

# made_once_when_approved WANT: provision is asked for by an agent that is not paired yet; a person
# approves the agent, then that keys may be made; one is made, and the next call finds it. What was
# answered is left in $home/answers.
made_once_when_approved() {
    mcp_client --expect-error \
        --call provision "$1" \
        --shell a-person-approves \
        --until-changed 20 \
        --call provision "$1" \
        --shell a-person-approves \
        --sleep 2 \
        --call provision "$1" \
        --call provision "$1" \
        -- agentkeysd --agent my-bot --services none | tee "$home/answers" | cut -c1-200
    contains "$(answer 1)" Pair
    contains "$(answer 2)" ScopeChange
    expect true jq -r .structuredContent.made <<<"$(answer 3)"
    expect false jq -r .structuredContent.made <<<"$(answer 4)"
}

# answer N: the Nth call's answer in $home/answers.
answer() { jq -c 'select(.step == "call")' "$home/answers" | sed -n "$1p"; }

# a-person-approves stands beside this file.
PATH=$mcp_root/tests/e2e/lib:$PATH
