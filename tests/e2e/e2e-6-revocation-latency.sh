#!/usr/bin/env bash
# E2E-6: while clients read flat out, not one read that began after `revoke` returned is answered;
# how long it took until the first denial is printed.
. "$(dirname "$0")/lib/common.sh"

[ -n "$elsewhere" ] || agentkeys init
printf sk-or-v1-flat-out | agentkeys store my-agent openrouter -
mkdir "$home/reads"

# reader N: reads until it is told to stop, and writes down when each read began and ended, in
# nanoseconds, and how.
reader() {
    local began how
    while [ ! -e "$home/stop" ]; do
        began=$(date +%s%N)
        how=denied
        if agentkeys read my-agent openrouter >/dev/null 2>"$home/reads/$1.error"; then how=answered; fi
        printf '%s %s %s\n' "$began" "$(date +%s%N)" "$how"
    done >"$home/reads/$1"
}
for n in 1 2 3 4; do reader $n & done
all_read() { [ "$(cat "$home"/reads/[1-4] | wc -l)" -ge 40 ]; }
within 30 all_read

say "Revoked while four read"
asked=$(date +%s%N)
agentkeys revoke my-agent
returned=$(date +%s%N)
some_denied() { [ "$(cat "$home"/reads/[1-4] | grep -c denied)" -ge 20 ]; }
within 30 some_denied
touch "$home/stop"
wait

cat "$home"/reads/[1-4] | awk -v asked="$asked" -v returned="$returned" '
    $3 == "answered" { answered++; if ($1 > returned) late++ }
    $3 == "denied" { denied++; if ($1 < asked && $2 < asked) early++; if (!first || $2 < first) first = $2 }
    END {
        printf "%d reads answered, %d denied\n", answered, denied
        printf "revoke took %.1f ms; the first denial came %.1f ms after it was asked for\n", (returned - asked) / 1e6, (first - asked) / 1e6
        printf "%d answered that began after it returned\n", late
        exit late > 0 || early > 0 || answered == 0 || denied == 0
    }'
contains "$(cat "$home/reads/1.error")" "was revoked"
agentkeys audit verify
