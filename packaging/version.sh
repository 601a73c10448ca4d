#!/usr/bin/env bash
# Says the version of this tree, which stands in Cargo.toml and nowhere else, and checks what has to
# fit it: the newest heading of the changelog, Cargo.lock, and, with TAG, the tag of a release.
#
#   packaging/version.sh [TAG]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
die() { printf 'version.sh: %s\n' "$*" >&2; exit 1; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
[ -n "$version" ] || die "Cargo.toml has no version"
grep -A1 '^name = "agentkeys"$' "$root/Cargo.lock" | grep -qx "version = \"$version\"" ||
    die "Cargo.lock has another version: cargo update --workspace"
heading=$(grep -m 1 '^## ' "$root/CHANGELOG.md" | sed 's/^## //')
[ "${heading%%,*}" = "$version" ] || die "the changelog begins with \"$heading\", and this is $version"
if [ $# -gt 0 ]; then
    [ "$1" = "v$version" ] || die "the tag is $1, and this is $version"
    [[ ${heading#*, } =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}$ ]] ||
        die "the changelog says \"$heading\": a release wants its date there, as in \"## $version, 2026-01-31\""
    ! grep -q "^release_key=''" "$root/packaging/install.sh" || die "install.sh has no release key in it yet"
fi
printf '%s\n' "$version"
