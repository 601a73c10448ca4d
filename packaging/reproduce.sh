#!/usr/bin/env bash
# Builds the current commit twice: in two folders, with two homes of cargo, by two numbers of jobs,
# at two places in time and language. Fails if the two binaries, or the archives made of them, differ.
# Takes two whole builds.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
commit=$(git -C "$root" rev-parse HEAD)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# one FOLDER JOBS VARIABLE=VALUE...
one() {
    local folder=$work/$1 jobs=$2
    shift 2
    mkdir -p "$folder"
    git clone --quiet "$root" "$folder/source"
    git -C "$folder/source" checkout --quiet "$commit"
    # The crates as they were downloaded; they are unpacked again.
    mkdir -p "$folder/cargo/registry"
    cp -R "${CARGO_HOME:-$HOME/.cargo}/registry/cache" "${CARGO_HOME:-$HOME/.cargo}/registry/index" \
        "$folder/cargo/registry/" 2>/dev/null || true
    [ ! -f "${CARGO_HOME:-$HOME/.cargo}/config.toml" ] || cp "${CARGO_HOME:-$HOME/.cargo}/config.toml" "$folder/cargo/"
    env -u CARGO_TARGET_DIR CARGO_HOME="$folder/cargo" CARGO_BUILD_JOBS="$jobs" "$@" \
        "$folder/source/packaging/build.sh" "$folder/out"
    "$folder/source/packaging/dist.sh" "$folder/out" --binary "$folder/out/agentkeys" >/dev/null
    rm -rf "$folder/source/target"
}
one a 2 TZ=Asia/Kolkata LANG=C.UTF-8
one another-folder-with-a-longer-name 3 TZ=America/Lima LANG=de_DE.UTF-8
cd "$work"
sha256sum */out/agentkeys */out/*.tar.gz
cmp {a,another-folder-with-a-longer-name}/out/agentkeys
cmp {a,another-folder-with-a-longer-name}/out/agentkeys-linux-x64.tar.gz
printf 'two builds of %s are the same\n' "$commit"
