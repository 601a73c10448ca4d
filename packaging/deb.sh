#!/usr/bin/env bash
# Makes the Debian package of a binary that was built before. The same binary gives the same package,
# byte for byte.
#
#   packaging/deb.sh FOLDER [--binary FILE] [--architecture amd64]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:?which folder?}
shift
binary=$root/target/release/agentkeys architecture=amd64
while [ $# -gt 0 ]; do
    case $1 in
        --binary) binary=$2 ;;
        --architecture) architecture=$2 ;;
        *) printf 'deb.sh: unknown: %s\n' "$1" >&2; exit 2 ;;
    esac
    shift 2
done
[ -f "$binary" ] || { printf 'deb.sh: no binary at %s: cargo build --release\n' "$binary" >&2; exit 1; }
case $architecture in
    amd64) floor=$("$root/packaging/glibc-floor.sh" "$binary" linux-x64) ;;
    *) printf 'deb.sh: no build for %s yet\n' "$architecture" >&2; exit 2 ;;
esac
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
package_version=$version-1
# One time for everything in it: that of the release, which the changelog tells.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 0)}

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"
"$root/packaging/stage.sh" "$stage/usr" "$binary"
usr=$stage/usr/share
strip --strip-unneeded --remove-section=.comment "$stage/usr/bin/agentkeys"
# Debian's own places, where they are others.
mv "$usr/zsh/site-functions" "$usr/zsh/vendor-completions"
rm "$usr/man/man1/agentkeysd.1"
gzip -9n "$usr/man/man1/agentkeys.1"
ln -s agentkeys.1.gz "$usr/man/man1/agentkeysd.1.gz"

units=$root/packaging/systemd
install -D -m 644 "$units/agentkeys.service" "$stage/usr/lib/systemd/system/agentkeys.service"
install -D -m 644 "$units/agentkeys.user.service" "$stage/usr/lib/systemd/user/agentkeys.service"
install -D -m 644 "$units/agentkeys.user.socket" "$stage/usr/lib/systemd/user/agentkeys.socket"
install -D -m 644 "$units/agentkeys.default" "$stage/etc/default/agentkeys"

doc=$usr/doc/agentkeys
mkdir -p "$doc"
gzip -9nc "$root/CHANGELOG.md" >"$doc/changelog.gz"
maintainer=$(sed -n 's/^Maintainer: //p' "$root/packaging/debian/about")
printf 'agentkeys (%s) unstable; urgency=medium\n\n  * Release %s; changelog.gz has what is new.\n\n -- %s  %s\n' \
    "$package_version" "$version" "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" |
    gzip -9n >"$doc/changelog.Debian.gz"
{
    printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n'
    printf 'Upstream-Name: agentkeys\nSource: %s\n\n' "$(sed -n 's/^repository = "\(.*\)"/\1/p' "$root/Cargo.toml")"
    printf 'Files: *\nCopyright: %s\nLicense: Expat or Apache-2.0\n\n' \
        "$(sed -n 's/^Copyright (c) //p' "$root/LICENSE-MIT")"
    printf 'License: Expat\n'
    sed -e '1,/^Copyright/d' -e 's/^$/./' -e 's/^/ /' "$root/LICENSE-MIT" | sed '1{/^ \.$/d}'
    printf '\nLicense: Apache-2.0\n On Debian, the text is in /usr/share/common-licenses/Apache-2.0.\n'
} >"$doc/copyright"
find "$stage" -type d -exec chmod 755 {} +
find "$doc" -type f -exec chmod 644 {} +

debian=$stage/DEBIAN
mkdir "$debian"
install -m 755 "$root"/packaging/debian/{postinst,prerm,postrm} "$debian/"
printf '/etc/default/agentkeys\n' >"$debian/conffiles"
size=$(du -sk --exclude=DEBIAN --apparent-size "$stage" | cut -f1)
cat >"$debian/control" <<EOF
Package: agentkeys
Version: $package_version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $size
Depends: adduser, libc6 (>= $floor), libgcc-s1
Recommends: ca-certificates
Suggests: gnome-keyring | kwalletmanager, nodejs (>= 20), npm, chromium
Section: utils
Priority: optional
Homepage: $(sed -n 's/^repository = "\(.*\)"/\1/p' "$root/Cargo.toml")
Description: $(sed -n 's/^description = "\(.*\)"/\1/p' "$root/Cargo.toml" | sed 's/^S/s/')
$(sed -n '/^Description:/,$p' "$root/packaging/debian/about" | tail -n +2)
EOF
(cd "$stage" && find usr etc -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$debian/md5sums"
chmod 644 "$debian"/{control,conffiles,md5sums}

mkdir -p "$out"
package=$out/agentkeys_${package_version}_$architecture.deb
dpkg-deb --root-owner-group -Zxz -z2 --build "$stage" "$package" >/dev/null
printf '%s\n' "$package"
