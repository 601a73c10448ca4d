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

# a-person-approves stands beside this file.
PATH=$mcp_root/tests/e2e/lib:$PATH
