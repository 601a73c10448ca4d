#!/usr/bin/env bash
# Writes down what is in the binary: every crate of the lock file that it is built of, with version,
# licence and checksum, as CycloneDX 1.5 in JSON. cargo-cyclonedx, by CycloneDX's own people, does it.
#
#   packaging/sbom.sh FOLDER
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:?into which folder?}
wanted=0.5.9
cargo cyclonedx --version 2>/dev/null | grep -qF "$wanted" ||
    cargo install --quiet --locked "cargo-cyclonedx@$wanted"
mkdir -p "$out"
cd "$root"
# One time for one commit, so that the list is the same whenever it is made.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
cargo cyclonedx --quiet --format json --spec-version 1.5 --all --target x86_64-unknown-linux-gnu \
    --override-filename agentkeys.cdx
# Where this tree lies is nobody's business.
sed "s#path+file://$root#path+file:///agentkeys#g" agentkeys.cdx.json >"$out/agentkeys.cdx.json"
rm agentkeys.cdx.json
printf '%s\n' "$out/agentkeys.cdx.json"
