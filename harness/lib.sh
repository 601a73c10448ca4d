# What the harness scripts share: the plan, the test binary, and the two files that they write.
# Sourced, never run.
set -euo pipefail

harness=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$harness")
cd "$root"
# In the harness a check that had to be skipped is a check that failed.
export CI=true

stages="0 1 2 3 4 5 6 7"

die() {
    printf 'harness: %s\n' "$*" >&2
    exit 1
}

need() {
    command -v "$1" >/dev/null || die "$1 is missing: harness/init.sh installs what the harness needs"
}

# Names of a stage's tests, as the plan has them.
planned() {
    grep -v '^#' "$harness/plan/stage-$1.tests"
}

# The script of a flow: e2e::1_lifecycle is tests/e2e/e2e-1-lifecycle.sh. Nothing for other tests.
flow_of() {
    case $1 in
        e2e::*) local name=${1#e2e::}; printf '%s/tests/e2e/e2e-%s.sh' "$root" "${name//_/-}" ;;
    esac
}

# The flows, by the names that the plan gives them.
flows() {
    local script name
    for script in "$root"/tests/e2e/e2e-*.sh; do
        name=$(basename "$script" .sh)
        name=${name#e2e-}
        printf 'e2e::%s\n' "${name//-/_}"
    done
}

# The binary that the flows are run with: the one that is named, else the release build.
flow_binary() {
    if [ -n "${AGENTKEYS:-}" ]; then printf '%s' "$AGENTKEYS"; return; fi
    cargo build --release --quiet >&2 || die "the release binary does not build"
    printf '%s' "$root/target/release/agentkeys"
}

# All tests that exist and are not ignored, one a line: those of the integration binary, and flows.
existing() {
    local all ignored
    all=$(cargo test --quiet --test it -- --list --format terse) || die "the tests do not build"
    ignored=$(cargo test --quiet --test it -- --list --format terse --ignored)
    comm -23 <(sed -n 's/: test$//p' <<<"$all" | sort) <(sed -n 's/: test$//p' <<<"$ignored" | sort)
    flows
}

# Runs a stage's tests by name. Prints a line a test, and the count `passed total` last.
run_stage() {
    local stage=$1 names there out said passed=0 total=0 name
    names=$(planned "$stage")
    there=$(existing)
    local to_run=() binary= script
    out=
    for name in $names; do
        grep -qxF "$name" <<<"$there" || continue
        script=$(flow_of "$name")
        if [ -z "$script" ]; then
            to_run+=("$name")
            continue
        fi
        [ -n "$binary" ] || binary=$(flow_binary)
        if said=$(AGENTKEYS=$binary "$script" 2>&1); then
            out+="test $name ... ok"$'\n'
        else
            out+="---- $name"$'\n'"error: $(tail -n 20 <<<"$said")"$'\n'
        fi
    done
    if [ ${#to_run[@]} -gt 0 ]; then
        # A failing test fails its own line below; the run's own status adds nothing.
        out+=$(cargo test --quiet --test it -- --exact --format pretty "${to_run[@]}" 2>&1) || true
    fi
    for name in $names; do
        total=$((total + 1))
        if ! grep -qxF "$name" <<<"$there"; then
            printf 'MISSING  %s\n' "$name"
        elif grep -qE "^test $name( - should panic)? \.\.\. ok$" <<<"$out"; then
            printf 'ok       %s\n' "$name"
            passed=$((passed + 1))
        else
            printf 'FAILED   %s\n' "$name"
        fi
    done
    if [ "$passed" -ne "$total" ]; then
        printf '%s\n' "$out" | grep -E '^(----|thread|failures:|assertion| *left| *right|error)' | head -60 >&2 || true
    fi
    printf '%s %s\n' "$passed" "$total"
}

# Writes a stage's measured figures into progress.json.
record() {
    local stage=$1 passed=$2 total=$3 status=open file=$harness/progress.json current=0 n
    [ "$passed" -eq "$total" ] && status=done
    [ -s "$file" ] || printf '{"current_stage":0,"stages":{}}\n' >"$file"
    jq --arg s "$stage" --arg status "$status" --argjson p "$passed" --argjson t "$total" \
        '.stages[$s] = {status: $status, passed: $p, total: $t}' "$file" >"$file.new"
    mv "$file.new" "$file"
    for n in $stages; do
        [ "$(jq -r --arg s "$n" '.stages[$s].status // "open"' "$file")" = done ] || break
        current=$((n + 1))
    done
    [ "$current" -gt 7 ] && current=7
    jq --argjson c "$current" '.current_stage = $c' "$file" >"$file.new"
    mv "$file.new" "$file"
}

# Writes features.json: a row a planned test, implemented or not.
record_features() {
    local there stage name
    there=$(existing)
    for stage in $stages; do
        for name in $(planned "$stage"); do
            jq -n --arg name "${name//_/ }" --argjson stage "$stage" --arg test "$name" \
                --argjson there "$(grep -qxF "$name" <<<"$there" && echo true || echo false)" \
                '{name: $name, stage: $stage, implemented: $there, test: $test}'
        done
    done | jq -s . >"$harness/features.json.new"
    mv "$harness/features.json.new" "$harness/features.json"
}
