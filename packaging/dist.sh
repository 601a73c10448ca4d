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
"$root/packaging/stage.sh" "$stage/agentkeys" "$binary"
install -m 644 "$root/LICENSE" "$stage/agentkeys/LICENSE"
# For those who want the private backend from their service manager.
share=$stage/agentkeys/share/agentkeys
mkdir -p "$share/systemd" "$share/launchd"
for kind in service socket; do
    sed 's#/usr/bin/agentkeys#%h/.agentkeys/bin/agentkeys#' \
        "$root/packaging/systemd/agentkeys.user.$kind" >"$share/systemd/agentkeys.$kind"
done
cp "$root/packaging/launchd/com.agentkeys.backend.plist" "$share/launchd/"
find "$share" -type d -exec chmod 755 {} +
find "$share" -type f -exec chmod 644 {} +
archive=$out/agentkeys-$target.tar.gz
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=ustar \
    -C "$stage" -cf - agentkeys | gzip -9n >"$archive"
# Over all that the folder has for people: other platforms' archives, a Debian package, an SBOM.
(
    shopt -s nullglob
    cd "$out"
    LC_ALL=C sha256sum agentkeys*.{tar.gz,deb,json} >SHA256SUMS
)
rm -f "$out/SHA256SUMS.sig"
[ -z "$key" ] || openssl dgst -sha256 -sign "$key" -out "$out/SHA256SUMS.sig" "$out/SHA256SUMS"
cp "$root/packaging/install.sh" "$out/install.sh"
printf '%s\n' "$archive"
