#!/usr/bin/env bash
# Shows that a stage's script notices what it must: a test that was renamed, and one that was
# ignored, each make it fail. Works on a copy of the tree, with the same build folder.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target} CI=true
git -C "$root" ls-files -z --cached --others --exclude-standard |
    (cd "$root" && tar --null --files-from=- --ignore-failed-read -cf - 2>/dev/null) | tar -xf - -C "$copy"

fails_with() {
    local line=$1 out
    if out=$("$copy/harness/stage-0-done.sh" 2>&1); then
        printf 'the stage passed although: %s\n%s\n' "$line" "$out" >&2
        exit 1
    fi
    grep -qxF "$line" <<<"$out" || { printf 'wanted the line: %s\ngot:\n%s\n' "$line" "$out" >&2; exit 1; }
    printf 'ok: noticed: %s\n' "$line"
}

sed -i 's/fn layer_enum/fn layer_enum_renamed/' "$copy"/tests/it/payment.rs
sed -i '0,/#\[test\]/s//#[test]\n#[ignore]/' "$copy"/tests/it/otp.rs
ignored=$(sed -n '/#\[ignore\]/,$ s/^fn \([a-z_]*\).*/\1/p' "$copy"/tests/it/otp.rs | head -n 1)
fails_with "MISSING  payment::layer_enum"
fails_with "MISSING  otp::$ignored"
