#!/usr/bin/env bash
# Installs what the tests need beyond Rust, from Debian's packages; does nothing when it is there.
set -euo pipefail
# command -> package
wanted="curl:curl jq:jq gcc:gcc git:git dbus-run-session:dbus gnome-keyring-daemon:gnome-keyring
secret-tool:libsecret-tools mkfs.ext4:e2fsprogs setpriv:util-linux script:bsdutils tmux:tmux"
missing=()
for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
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
