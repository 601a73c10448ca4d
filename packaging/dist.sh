#!/usr/bin/env bash
# Makes what a release has for one platform, of a binary that was built before: the archive, the
# list of checksums over all archives in the folder, and its signature.
#
#   packaging/dist.sh FOLDER [--binary FILE] [--target linux-x64] [--key PRIVATE.pem]
#
# The same binary gives the same archive, byte for byte. Without --key the list is not signed, and
# install.sh does not take it. A key: openssl ecparam -genkey -name prime256v1 -noout -out KEY
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:?which folder?}
shift
binary=$root/target/release/agentkeys target=linux-x64 key=
while [ $# -gt 0 ]; do
    case $1 in
        --binary) binary=$2 ;;
        --target) target=$2 ;;
        --key) key=$2 ;;
        *) printf 'dist.sh: unknown: %s\n' "$1" >&2; exit 2 ;;
    esac
    shift 2
done
[ -f "$binary" ] || { printf 'dist.sh: no binary at %s: cargo build --release\n' "$binary" >&2; exit 1; }
"$root/packaging/glibc-floor.sh" "$binary" "$target" >/dev/null

mkdir -p "$out"
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/agentkeys/bin"
install -m 755 "$binary" "$stage/agentkeys/bin/agentkeys"
install -m 644 "$root/LICENSE" "$stage/agentkeys/LICENSE"
# The recipes, if they were built: they need no compiler then, and npm for their dependencies alone.
recipes=$root/scripts/provisioner
if [ -f "$recipes/dist/main.js" ]; then
    share=$stage/agentkeys/share/agentkeys/provisioner
    mkdir -p "$share"
    cp -R "$recipes/dist" "$recipes/package.json" "$recipes/package-lock.json" "$share/"
    rm -rf "$share/dist/test" "$share/dist/.built"
fi
# Manual page and completions, by the binary itself where it runs here.
if "$binary" --version >/dev/null 2>&1; then
    share=$stage/agentkeys/share
    mkdir -p "$share/man/man1" "$share/completions"
    "$binary" man >"$share/man/man1/agentkeys.1"
    "$binary" completions bash >"$share/completions/agentkeys.bash"
    "$binary" completions zsh >"$share/completions/_agentkeys"
    "$binary" completions fish >"$share/completions/agentkeys.fish"
fi
find "$stage/agentkeys" -type d -exec chmod 755 {} +
find "$stage/agentkeys" -type f ! -path '*/bin/*' -exec chmod 644 {} +
archive=$out/agentkeys-$target.tar.gz
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=ustar \
    -C "$stage" -cf - agentkeys | gzip -9n >"$archive"
(cd "$out" && sha256sum agentkeys-*.tar.gz >SHA256SUMS)
rm -f "$out/SHA256SUMS.sig"
[ -z "$key" ] || openssl dgst -sha256 -sign "$key" -out "$out/SHA256SUMS.sig" "$out/SHA256SUMS"
cp "$root/packaging/install.sh" "$out/install.sh"
printf '%s\n' "$archive"
