#!/usr/bin/env bash
# Builds the OCI image of a binary that was built before, with podman or what behaves like it.
#
#   packaging/oci/build.sh [--binary FILE] [--tag NAME] [--base IMAGE]
#
# $CONTAINER_TOOL is what builds it, with options of its own if need be: podman, unless told.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
binary=$root/target/release/agentkeys tag=agentkeys base=()
while [ $# -gt 0 ]; do
    case $1 in
        --binary) binary=$2 ;;
        --tag) tag=$2 ;;
        --base) base=(--build-arg "BASE=$2") ;;
        *) printf 'build.sh: unknown: %s\n' "$1" >&2; exit 2 ;;
    esac
    shift 2
done
[ -f "$binary" ] || { printf 'build.sh: no binary at %s: cargo build --release\n' "$binary" >&2; exit 1; }
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
mkdir "$context/data"
install -m 755 "$binary" "$context/agentkeys"
install -m 644 "$root/LICENSE" "$context/LICENSE"
cp "$root/packaging/oci/Containerfile" "$context/"
read -ra tool <<<"${CONTAINER_TOOL:-podman}"
"${tool[@]}" build --build-arg "VERSION=$version" "${base[@]}" --tag "$tag" \
    --file "$context/Containerfile" "$context"
