#!/usr/bin/env bash
# Lays out below a prefix what every package of ours has: the program by its two names, its manual
# page and completions where shells and man look for them, and the recipes if they were built.
#
#   packaging/stage.sh PREFIX BINARY
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
prefix=${1:?below which prefix?} binary=${2:?which binary?}

mkdir -p "$prefix/bin" "$prefix/share/man/man1"
install -m 755 "$binary" "$prefix/bin/agentkeys"
ln -sfn agentkeys "$prefix/bin/agentkeysd"

# By the binary itself, so it has to run here.
completions() {
    mkdir -p "$prefix/share/$2"
    "$binary" completions "$1" >"$prefix/share/$2/$3"
}
"$binary" man >"$prefix/share/man/man1/agentkeys.1"
ln -sfn agentkeys.1 "$prefix/share/man/man1/agentkeysd.1"
completions bash bash-completion/completions agentkeys
completions zsh zsh/site-functions _agentkeys
completions fish fish/vendor_completions.d agentkeys.fish

# They need no compiler then, and npm for their dependencies alone.
recipes=$root/scripts/provisioner
share=$prefix/share/agentkeys/provisioner
if [ -f "$recipes/dist/main.js" ]; then
    mkdir -p "$share"
    cp -R "$recipes/dist" "$recipes/package.json" "$recipes/package-lock.json" "$share/"
    rm -rf "$share/dist/test" "$share/dist/.built"
fi
find "$prefix" -type d -exec chmod 755 {} +
find "$prefix" -type f ! -path "$prefix/bin/*" -exec chmod 644 {} +
