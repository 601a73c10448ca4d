#!/usr/bin/env bash
# Runs the tests of one stage by name; ends with 0 only if each exists, is not ignored, and passes.
# Usage: harness/stage-done.sh N [--record]
. "$(dirname "$0")/lib.sh"
need jq
need cargo
stage=${1:?which stage?}
case " $stages " in *" $stage "*) ;; *) die "there is no stage $stage" ;; esac
result=$(run_stage "$stage")
printf '%s\n' "$result" | sed '$d'
read -r passed total <<<"$(tail -n 1 <<<"$result")"
printf 'stage %s: %s of %s passed\n' "$stage" "$passed" "$total"
if [ "${2:-}" = --record ]; then
    record "$stage" "$passed" "$total"
    record_features
fi
[ "$passed" -eq "$total" ]
