#!/bin/sh
# Installs AgentKeys for this user, into ~/.agentkeys/bin.
#
#   sh install.sh               installs it, or brings it up to date; run again, it changes nothing
#   sh install.sh --uninstall   takes it out again; your vault and your sessions stay
#   sh install.sh --no-path     leaves your shell's files alone
#
# AGENTKEYS_DIST=FOLDER takes the release from a folder instead of the network, and
# AGENTKEYS_RELEASE_KEY=FILE the public key (PEM) that its list of checksums is signed by, for builds
# of your own. Nothing is placed before signature and checksum are right.
set -eu

base=${AGENTKEYS_DOWNLOAD:-https://github.com/agentkeys/agentkeys/releases/latest/download}
# The public half of the key that releases are signed by; packaging/README.md says how it comes here.
release_key=''

mark='# added by the installer of AgentKeys'
say() { printf '%s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '  %s\n' "$line" >&2; done
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

path=yes
uninstall=no
for word in "$@"; do
    case $word in
        --uninstall) uninstall=yes ;;
        --no-path) path=no ;;
        -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) die "install.sh does not know \"$word\"" "it knows --uninstall, --no-path and --help" ;;
    esac
done
[ -n "${HOME:-}" ] && [ -d "$HOME" ] || die "there is no home folder" "set HOME"
home=$HOME/.agentkeys
bin=$home/bin

# files: the shells' files that may have a line of ours.
files() {
    printf '%s\n' "$HOME/.profile" "$HOME/.bash_profile" "$HOME/.bashrc" \
        "${ZDOTDIR:-$HOME}/.zshrc" "$HOME/.config/fish/conf.d/agentkeys.fish"
}

take_out() {
    if [ -x "$bin/agentkeys" ]; then
        "$bin/agentkeys" serve --stop >/dev/null 2>&1 || true
    fi
    rm -f "$bin/agentkeys" "$bin/agentkeysd"
    rm -rf "$home/share/agentkeys" "$home/share/man" "$home/share/bash-completion" \
        "$home/share/zsh" "$home/share/fish"
    rmdir "$bin" "$home/share" "$home" 2>/dev/null || true
    files | while IFS= read -r file; do
        if [ -f "$file" ] && grep -qF "$mark" "$file"; then
            grep -vF "$mark" "$file" >"$file.agentkeys-new" || true
            # Into the same file, so that links, owner and rights stay.
            cat "$file.agentkeys-new" >"$file"
            rm -f "$file.agentkeys-new"
            [ -s "$file" ] || case $file in */conf.d/agentkeys.fish) rm -f "$file" ;; esac
        fi
    done
    say "AgentKeys is gone from $bin."
    say "Your vault (${XDG_DATA_HOME:-$HOME/.local/share}/agentkeys) and the sessions of daemons ($home) stay;"
    say "remove them yourself if you do not want the keys in them any more."
}
if [ "$uninstall" = yes ]; then
    take_out
    exit 0
fi

case $(uname -s) in
    Linux) os=linux ;;
    Darwin) os=darwin ;;
    *) die "AgentKeys has no build for $(uname -s)" "it runs on Linux and macOS; on Windows, inside WSL" ;;
esac
case $(uname -m) in
    x86_64 | amd64) arch=x64 ;;
    aarch64 | arm64) arch=arm64 ;;
    *) die "AgentKeys has no build for $(uname -m)" "there are builds for x64 and arm64" \
        "from source: cargo install --git https://github.com/agentkeys/agentkeys" ;;
esac
name=agentkeys-$os-$arch.tar.gz

have openssl || die "openssl is missing" "the release's signature is checked with it" \
    "Debian, Ubuntu: apt-get install openssl"
if have sha256sum; then sha256() { sha256sum "$1"; }
elif have shasum; then sha256() { shasum -a 256 "$1"; }
else die "sha256sum is missing" "the release's checksum is checked with it"; fi

mkdir -p "$home"
chmod 700 "$home"
work=$(mktemp -d "$home/.install.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# fetch NAME: a copy that nobody else writes to; what is checked is what is placed.
fetch() {
    if [ -n "${AGENTKEYS_DIST:-}" ]; then
        [ -f "$AGENTKEYS_DIST/$1" ] || die "there is no $1 in $AGENTKEYS_DIST" \
            "packaging/dist.sh makes such a folder"
        cp "$AGENTKEYS_DIST/$1" "$work/$1"
    elif have curl; then
        curl --proto '=https' --tlsv1.2 -fsSL -o "$work/$1" "$base/$1" ||
            die "cannot download $base/$1" "look at your network, and try again"
    elif have wget; then
        wget -q --https-only -O "$work/$1" "$base/$1" ||
            die "cannot download $base/$1" "look at your network, and try again"
    else
        die "neither curl nor wget is there" "install one of them"
    fi
}
if [ -n "${AGENTKEYS_RELEASE_KEY:-}" ]; then
    cp "$AGENTKEYS_RELEASE_KEY" "$work/key.pem" || die "cannot read $AGENTKEYS_RELEASE_KEY"
elif [ -n "$release_key" ]; then
    printf '%s\n' "$release_key" >"$work/key.pem"
else
    die "this copy of install.sh has no release key in it" \
        "take the one of a release, or name the key of your own builds: AGENTKEYS_RELEASE_KEY=FILE"
fi
fetch SHA256SUMS
fetch SHA256SUMS.sig
openssl dgst -sha256 -verify "$work/key.pem" -signature "$work/SHA256SUMS.sig" "$work/SHA256SUMS" \
    >/dev/null 2>&1 || die "the signature of SHA256SUMS is not right" \
    "the release was changed on its way here, or is signed by another key; nothing was installed"
wanted=$(awk -v name="$name" '$2 == name || $2 == "*" name { print $1 }' "$work/SHA256SUMS")
[ -n "$wanted" ] || die "this release has no $name"
fetch "$name"
[ "$(sha256 "$work/$name" | cut -d' ' -f1)" = "$wanted" ] ||
    die "the checksum of $name is not right" "it was changed or cut off on its way here; nothing was installed"

tar -xzf "$work/$name" -C "$work" || die "$name is no archive"
new=$work/agentkeys/bin/agentkeys
version=$("$new" --version 2>"$work/said" | head -n 1) || version=
if [ -z "$version" ]; then
    sed 's/^/  /' "$work/said" >&2
    die "this build does not start here" "linux-x64 needs glibc 2.34 or newer (Debian 12, Ubuntu 22.04, RHEL 9)" \
        "from source: cargo install --git https://github.com/agentkeys/agentkeys"
fi

mkdir -p "$bin"
if cmp -s "$new" "$bin/agentkeys" 2>/dev/null && [ "$(readlink "$bin/agentkeysd" 2>/dev/null)" = agentkeys ]; then
    say "$version is there already, in $bin"
else
    # A rename: whoever starts it at this moment gets the old one or the new one.
    mv -f "$new" "$bin/agentkeys"
    ln -sfn agentkeys "$bin/agentkeysd"
    say "$version is in $bin"
fi
# Recipes, manual page and completions; what npm put beside the recipes stays.
if [ -d "$work/agentkeys/share" ] && ! diff -rq "$work/agentkeys/share" "$home/share" -x node_modules >/dev/null 2>&1; then
    mkdir -p "$home/share"
    cp -R "$work/agentkeys/share/." "$home/share/"
fi

# add FILE LINE: a line of ours, once.
add() {
    grep -qF "$mark" "$1" 2>/dev/null && return 0
    mkdir -p "$(dirname "$1")"
    printf '%s %s\n' "$2" "$mark" >>"$1"
    say "added it to the PATH in $1"
    opened=yes
}
opened=no
case :$PATH: in
    *":$bin:"*) path=no ;;
esac
if [ "$path" = yes ]; then
    posix="export PATH=\"\$HOME/.agentkeys/bin:\$PATH\""
    case ${SHELL:-} in
        */zsh) add "${ZDOTDIR:-$HOME}/.zshrc" "$posix" ;;
        */fish) add "$HOME/.config/fish/conf.d/agentkeys.fish" "fish_add_path -g \$HOME/.agentkeys/bin" ;;
        */bash)
            add "$HOME/.bashrc" "$posix"
            # A login shell reads the first of these that is there.
            if [ -f "$HOME/.bash_profile" ]; then add "$HOME/.bash_profile" "$posix"; else add "$HOME/.profile" "$posix"; fi
            ;;
        *) add "$HOME/.profile" "$posix" ;;
    esac
fi

# Having keys made in a browser needs more; nothing else does.
node_major=$(node --version 2>/dev/null | sed -n 's/^v\([0-9]*\).*/\1/p')
[ "${node_major:-0}" -ge 20 ] || warn "Node.js 20 or newer is not there: only recipes in a browser need it (agentkeys provisioner)"
browser=no
for one in chromium chromium-browser google-chrome google-chrome-stable; do have "$one" && browser=yes; done
[ "$browser" = yes ] || warn "Chromium is not there: only recipes in a browser need it (agentkeys provisioner)"

if [ "$opened" = yes ]; then
    say "Open a new terminal, or: export PATH=\"\$HOME/.agentkeys/bin:\$PATH\""
fi
say "Begin with: agentkeys quickstart"
