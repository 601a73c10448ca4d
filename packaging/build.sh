#!/usr/bin/env bash
# Builds the binary of a release, into FOLDER/agentkeys: from the lock file, and with nothing in it of
# the machine that built it, so that two builds of one commit by one version of Rust are the same
# file. packaging/reproduce.sh shows it.
#
#   packaging/build.sh FOLDER [--target TRIPLE]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:?into which folder?}
shift
target=$(rustc -vV | sed -n 's/^host: //p')
while [ $# -gt 0 ]; do
    case $1 in
        --target) target=$2 ;;
        *) printf 'build.sh: unknown: %s\n' "$1" >&2; exit 2 ;;
    esac
    shift 2
done
cargo_home=${CARGO_HOME:-$HOME/.cargo}
build=${CARGO_TARGET_DIR:-$root/target}/dist
# Where the sources and the crates lie, in messages of panics and in what C compilers write down.
unit=$'\x1f'
export CARGO_ENCODED_RUSTFLAGS="--remap-path-prefix=$root=/agentkeys${unit}--remap-path-prefix=$cargo_home=/cargo"
prefixes="-ffile-prefix-map=$root=/agentkeys -ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$build=/build"
export CFLAGS="$prefixes ${CFLAGS:-}"
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct)}
export CARGO_INCREMENTAL=0 LC_ALL=C TZ=UTC
cd "$root"
cargo build --release --locked --target "$target" --target-dir "$build"
mkdir -p "$out"
install -m 755 "$build/$target/release/agentkeys" "$out/agentkeys"
