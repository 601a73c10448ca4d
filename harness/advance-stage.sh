#!/usr/bin/env bash
# Moves from a finished stage to the next: refuses unless FROM is done, then records it and tags it.
# Usage: harness/advance-stage.sh FROM TO
. "$(dirname "$0")/lib.sh"
need jq
from=${1:?from which stage?} to=${2:?to which stage?}
[ "$to" -eq $((from + 1)) ] || die "stages are taken one after the other: $from leads to $((from + 1))"
"$harness/stage-$from-done.sh" --record || die "stage $from is not done"
if git rev-parse -q --verify "refs/tags/stage-$from-done" >/dev/null; then
    printf 'stage-%s-done is tagged already\n' "$from"
else
    git tag "stage-$from-done"
fi
printf 'stage %s is done; stage %s begins\n' "$from" "$to"
