# What the flows share: a home of their own, the binary under test, and checks that read well.
# Sourced, never run.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
AGENTKEYS=${AGENTKEYS:-$here/target/release/agentkeys}
[ -x "$AGENTKEYS" ] || { printf 'no binary at %s: cargo build --release\n' "$AGENTKEYS" >&2; exit 1; }

home=$(mktemp -d)
mkdir "$home/bin"
ln -s "$AGENTKEYS" "$home/bin/agentkeys"
# The daemon, as its own name starts it: the one that was installed beside it, where there is one.
daemon=$(dirname "$AGENTKEYS")/agentkeysd
[ -x "$daemon" ] || daemon=$AGENTKEYS
ln -s "$daemon" "$home/bin/agentkeysd"
# Between machines, the two commands lead to the master's and to the agent's: three-machines.sh.
elsewhere=${E2E_COMMANDS:-}
unset "${!AGENTKEYS_@}" "${!XDG_@}" DBUS_SESSION_BUS_ADDRESS 2>/dev/null || true
export HOME=$home PATH=$home/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
[ -z "$elsewhere" ] || cp --remove-destination "$elsewhere"/* "$home/bin/"

finish() {
    local code=${1:-$?}
    [ -n "$elsewhere" ] || agentkeys serve --stop >/dev/null 2>&1 || true
    rm -rf "$home"
    [ "$code" -eq 0 ] && printf 'passed: %s\n' "$(basename "$0")" || printf 'FAILED: %s\n' "$(basename "$0")" >&2
}
trap finish EXIT

say() { printf '\n# %s\n' "$*"; }

# expect WANTED COMMAND...: the command succeeds and prints just that.
expect() {
    local wanted=$1 got
    shift
    got=$("$@") || { printf 'exit %s from: %s\n' "$?" "$*" >&2; exit 1; }
    [ "$got" = "$wanted" ] || { printf 'wanted: %s\ngot:    %s\nfrom: %s\n' "$wanted" "$got" "$*" >&2; exit 1; }
    printf 'ok: %s\n' "$*"
}

# expect_exit CODE COMMAND...: the command ends with that code; its error is left in $error.
expect_exit() {
    local wanted=$1 code=0
    shift
    error=$("$@" 2>&1 >/dev/null </dev/null) || code=$?
    [ "$code" -eq "$wanted" ] || { printf 'wanted exit %s, got %s from: %s\n%s\n' "$wanted" "$code" "$*" "$error" >&2; exit 1; }
    printf 'ok: exit %s from %s\n' "$code" "$*"
}

# contains TEXT PART: the text has the part in it.
contains() {
    case $1 in
        *"$2"*) printf 'ok: it says "%s"\n' "$2" ;;
        *) printf 'nothing says "%s" in:\n%s\n' "$2" "$1" >&2; exit 1 ;;
    esac
}

# within SECONDS COMMAND...: waits until the command succeeds, and no longer.
within() {
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$until" ] || { printf 'not within its time: %s\n' "$*" >&2; exit 1; }
        sleep 0.05
    done
}
