#!/usr/bin/env bash
# Says the oldest glibc that a Linux binary starts with, and refuses one that needs a newer one than
# the packages promise.
#
#   packaging/glibc-floor.sh BINARY [TARGET]
set -euo pipefail
# Debian 12, Ubuntu 22.04, RHEL 9 and newer.
floor=2.34
binary=${1:?which binary?}
case ${2:-linux-x64} in linux-x64) ;; *) echo none; exit 0 ;; esac
needs=$(grep -ao 'GLIBC_2\.[0-9]*' "$binary" | sed 's/GLIBC_//' | sort -uV | tail -1)
[ -n "$needs" ] || { echo none; exit 0; }
if [ "$(printf '%s\n%s\n' "$needs" "$floor" | sort -V | tail -1)" != "$floor" ]; then
    printf 'glibc-floor.sh: %s needs glibc %s, and %s is promised\n' "$binary" "$needs" "$floor" >&2
    exit 1
fi
echo "$floor"
