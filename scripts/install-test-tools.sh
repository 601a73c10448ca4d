#!/usr/bin/env bash
# Installs what the tests need beyond Rust: Debian's packages, the two official MCP clients, an
# OpenID provider, and what drives a browser, in folders of their own below target/. Does nothing
# when it is there.
set -euo pipefail
cd "$(dirname "$0")/.."

# The MCP clients, pinned: a new release is a change of the tests.
mcp_python=2.3.0
mcp_inspector=2.12.0
# An MCP server of somebody else's, which says what is in its environment.
mcp_everything=2026.8.31
# AWS's own SDK, which signs what our signatures are compared with.
botocore=1.44.8
# The official SDKs of OpenAI and Anthropic, which go through the gateway unchanged.
openai_python=3.57.0
anthropic_python=2.14.0
openai_node=7.57.0
anthropic_node=1.14.0
# The OpenID provider, certified; a real one for the tests of sign-in.
oidc_provider=9.9.1
# A Node that takes its proxy from the environment, and a client of WebSockets.
node_with_proxy=24.9.0
websockets=17.4
# What drives Debian's Chromium; it brings no browser along.
playwright=1.64.1

# command -> package
wanted="curl:curl jq:jq gcc:gcc git:git dbus-run-session:dbus gnome-keyring-daemon:gnome-keyring
secret-tool:libsecret-tools mkfs.ext4:e2fsprogs setpriv:util-linux script:bsdutils tmux:tmux
python3:python3 node:nodejs npm:npm ip:iproute2 nsenter:util-linux openssl:openssl
chromium:chromium systemd-socket-activate:systemd pgrep:procps podman:podman runc:runc lintian:lintian
man:man-db go:golang-go"
missing=()
# Not on the PATH of everybody.
[ -x /usr/sbin/dovecot ] && [ -x /usr/lib/dovecot/imap ] || missing+=(dovecot-imapd)
[ -x /usr/lib/dovecot/lmtp ] || missing+=(dovecot-lmtpd)
for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
# Debian splits venv off; without it `python3 -m venv` starts and fails.
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
if [ ${#missing[@]} -ne 0 ]; then
    as_root=
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            printf 'install these packages first: %s\n' "${missing[*]}" >&2
            exit 1
        }
        as_root=sudo
    fi
    command -v apt-get >/dev/null || {
        printf 'not Debian: install the equivalents of %s first\n' "${missing[*]}" >&2
        exit 1
    }
    export DEBIAN_FRONTEND=noninteractive
    $as_root apt-get update -qq
    $as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# A folder is complete once its mark names the version; a broken install is made again.
tools=target/test-tools
python=$tools/mcp-python
if [ "$(cat $python/.installed 2>/dev/null)" != "$mcp_python $botocore" ]; then
    rm -rf "$python"
    mkdir -p "$tools"
    python3 -m venv "$python"
    "$python/bin/python3" -m pip install --quiet --disable-pip-version-check \
        "mcp==$mcp_python" "botocore==$botocore"
    printf '%s\n' "$mcp_python $botocore" >"$python/.installed"
fi
sdks=$tools/sdk-python
if [ "$(cat $sdks/.installed 2>/dev/null)" != "$openai_python $anthropic_python $websockets" ]; then
    rm -rf "$sdks"
    python3 -m venv "$sdks"
    "$sdks/bin/python3" -m pip install --quiet --disable-pip-version-check \
        "openai==$openai_python" "anthropic==$anthropic_python" "websockets==$websockets" requests
    printf '%s\n' "$openai_python $anthropic_python $websockets" >"$sdks/.installed"
fi
# Debian 12 has Node 18, and these need 20.
node=$PWD/$tools/node/node_modules/node/bin/node
if [ "$(node --version | sed 's/^v\([0-9]*\).*/\1/')" -ge 20 ]; then
    node=node
elif [ ! -x "$node" ]; then
    npm install --silent --no-audit --no-fund --prefix "$tools/node" node@22 >&2
fi
# npm_tool NAME PACKAGE VERSION: into a folder of that name.
npm_tool() {
    local folder=$tools/$1
    [ "$(cat "$folder/.installed" 2>/dev/null)" != "$3" ] || return 0
    rm -rf "$folder"
    mkdir -p "$folder"
    npm install --silent --no-audit --no-fund --prefix "$folder" "$2@$3" >&2
    printf '%s\n' "$3" >"$folder/.installed"
}
npm_tool mcp-inspector @modelcontextprotocol/inspector "$mcp_inspector"
npm_tool mcp-everything @modelcontextprotocol/server-everything "$mcp_everything"
npm_tool openai-node openai "$openai_node"
npm_tool anthropic-node @anthropic-ai/sdk "$anthropic_node"
npm_tool oidc-provider oidc-provider "$oidc_provider"
npm_tool node-with-proxy node "$node_with_proxy"
npm_tool playwright playwright-core "$playwright"

# The recipes, built from their lock file and their sources.
recipes=scripts/provisioner
sources=$(find "$recipes" -name node_modules -prune -o -name dist -prune -o -type f -print0 |
    sort -z | xargs -0 sha256sum | sha256sum)
if [ "$(cat $recipes/dist/.built 2>/dev/null)" != "$sources" ]; then
    rm -rf "$recipes/dist"
    npm ci --silent --no-audit --no-fund --prefix "$recipes" >&2
    "$node" "$recipes/node_modules/typescript/bin/tsc" -p "$recipes"
    printf '%s\n' "$sources" >"$recipes/dist/.built"
fi
