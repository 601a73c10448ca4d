#!/usr/bin/env bash
# Fails when features.json calls a test implemented that does not exist, leaves out one that
# does, or no longer matches the plan.
. "$(dirname "$0")/lib.sh"
need jq
there=$(existing)
bad=0
while read -r test implemented; do
    if grep -qxF "$test" <<<"$there"; then found=true; else found=false; fi
    if [ "$found" != "$implemented" ]; then
        printf '%s: features.json says implemented=%s, the test binary says %s\n' "$test" "$implemented" "$found"
        bad=1
    fi
done < <(jq -r '.[] | "\(.test) \(.implemented)"' "$harness/features.json")
planned_names=$(for stage in $stages; do planned "$stage"; done | sort)
if ! diff <(printf '%s\n' "$planned_names") <(jq -r '.[].test' "$harness/features.json" | sort); then
    printf 'features.json does not list the planned tests\n'
    bad=1
fi
[ "$bad" -eq 0 ] && printf 'features.json: %s rows, all true\n' "$(jq length "$harness/features.json")"
exit "$bad"
