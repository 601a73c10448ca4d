#!/usr/bin/env bash
# Prepares a fresh checkout for a stage: what its tests need is installed, and they are built.
# Safe to run twice. Usage: harness/init.sh N
. "$(dirname "$0")/lib.sh"
stage=${1:?for which stage?}
case " $stages " in *" $stage "*) ;; *) die "there is no stage $stage" ;; esac
"$root/scripts/install-test-tools.sh"
cargo test --quiet --no-run --test it
printf 'ready for stage %s: %s tests planned\n' "$stage" "$(planned "$stage" | wc -l)"
