#!/usr/bin/env bash
# Each MCP client's own configuration file: the daemon goes in, starts from it with no PATH and in
# another folder, lists its tools over the official Python client, and comes out again byte for byte.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/mcp.sh"

agentkeys init
mkdir -p "$home/.config/Code/User" "$home/.config/Claude" "$home/.cursor" "$home/.codex" "$home/elsewhere"
printf '{\n  "numStartups": 7,\n  "projects": {"/p": {"history": ["a"]}},\n  "mcpServers": {}\n}' >"$home/.claude.json"
printf '{\r\n\t"mcpServers": {\r\n\t\t"files": { "command": "npx", "args": ["-y", "files"] }\r\n\t}\r\n}\r\n' \
    >"$home/.config/Claude/claude_desktop_config.json"
printf '// mine\n{\n    "servers": {\n        /* theirs */\n        "a": {"command": "b",},\n    },\n    "inputs": [],\n}\n' \
    >"$home/.config/Code/User/mcp.json"
printf 'model = "x"   # mine\n\n[mcp_servers.files]\ncommand = "npx"\nargs = ["-y", "files"]\n\n[tui]\ntheme = "dark"\n' \
    >"$home/.codex/config.toml"
# Cursor's is not there yet.

# file CLIENT: where its configuration lies.
file() {
    case $1 in
        claude-code) echo "$home/.claude.json" ;;
        claude-desktop) echo "$home/.config/Claude/claude_desktop_config.json" ;;
        cursor) echo "$home/.cursor/mcp.json" ;;
        vscode) echo "$home/.config/Code/User/mcp.json" ;;
        codex) echo "$home/.codex/config.toml" ;;
    esac
}

# entry CLIENT: its entry of ours as JSON, read by other programs than ours.
entry() {
    case $1 in
        codex) python3 -c 'import json, sys, tomllib; print(json.dumps(tomllib.load(open(sys.argv[1], "rb"))["mcp_servers"]["agentkeys"]))' "$(file codex)" ;;
        vscode) sed -e 's|^// mine||' -e 's|/\* theirs \*/||' "$(file vscode)" | tr -d '\n' | sed 's/,\( *[]}]\)/\1/g' | jq -c .servers.agentkeys ;;
        *) jq -c .mcpServers.agentkeys "$(file "$1")" ;;
    esac
}

for client in claude-code claude-desktop cursor vscode codex; do
    say "$client"
    path=$(file "$client")
    [ ! -e "$path" ] || cp "$path" "$home/before"
    agentkeys wire "$client" my-bot --print | tail -n +1 >"$home/printed"
    contains "$(cat "$home/printed")" "$AGENTKEYS"
    [ ! -e "$path" ] || cmp "$path" "$home/before"
    contains "$(agentkeys wire "$client" my-bot 2>&1)" "there is no agent my-bot yet"
    cp "$path" "$home/once"
    expect false jq -r .changed <<<"$(agentkeys wire "$client" my-bot --json)"
    cmp "$path" "$home/once"
    entry "$client" >"$home/entry"
    command=$(jq -r .command "$home/entry")
    contains "$command" /
    mapfile -t arguments < <(jq -r '.args[]' "$home/entry")
    listed=$(cd "$home/elsewhere" && PATH= mcp_client --env PATH= --list -- "$command" "${arguments[@]}")
    contains "$listed" get_credential
    contains "$(agentkeys wire "$client" --undo 2>&1)" "agentkeys is out of"
    if [ "$client" = cursor ]; then
        [ ! -e "$path" ] || { echo "$path was not there before" >&2; exit 1; }
    else
        cmp "$path" "$home/before"
        echo "ok: byte for byte"
    fi
    expect_exit 4 agentkeys wire "$client" --undo
done

say "A file that others have written to since: ours goes, theirs stays"
agentkeys wire cursor my-bot
jq '.mcpServers.theirs = {command: "npx"}' "$home/.cursor/mcp.json" >"$home/theirs"
cp "$home/theirs" "$home/.cursor/mcp.json"
agentkeys wire cursor --undo
expect '{"theirs":{"command":"npx"}}' jq -c .mcpServers "$home/.cursor/mcp.json"
agentkeys wire cursor my-bot
jq '.mcpServers.agentkeys.command = "/mine"' "$home/.cursor/mcp.json" >"$home/theirs"
cp "$home/theirs" "$home/.cursor/mcp.json"
expect_exit 2 agentkeys wire cursor --undo
contains "$error" "is not as it was left"
cmp "$home/theirs" "$home/.cursor/mcp.json"

say "What it cannot read it leaves alone; a project's file is another; a backend that is named goes along"
printf '{ "mcpServers": { ghp_secret }' >"$home/.cursor/mcp.json"
cp "$home/.cursor/mcp.json" "$home/before"
expect_exit 2 agentkeys wire cursor
contains "$error" "nothing was changed"
case $error in *ghp_secret*) echo "it was repeated" >&2; exit 1 ;; esac
cmp "$home/.cursor/mcp.json" "$home/before"
cd "$home/elsewhere"
AGENTKEYS_BACKEND=https://keys.example.org agentkeys wire vscode --project
expect https://keys.example.org jq -r .servers.agentkeys.env.AGENTKEYS_BACKEND .vscode/mcp.json
expect_exit 2 agentkeys wire claude-desktop --project
expect_exit 2 agentkeys wire emacs
contains "$error" "claude-code, claude-desktop, cursor, vscode, codex"
