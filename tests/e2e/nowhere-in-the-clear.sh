#!/usr/bin/env bash
# A stored secret is in no file, no process's arguments or environment, and no output; a session
# token is only in the one file that stands in for a missing keyring.
. "$(dirname "$0")/lib/common.sh"

secret=sk-or-v1-$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')
printf %s "$secret" | agentkeys store my-agent openrouter - --verbose >"$home/out.store" 2>&1
agentkeys init --verbose >"$home/out.init" 2>&1
agentkeys list --verbose >"$home/out.list" 2>&1
agentkeys usage --verbose >"$home/out.usage" 2>&1
agentkeys audit verify --verbose >"$home/out.verify" 2>&1
agentkeys doctor --verbose >"$home/out.doctor" 2>&1 || true
agentkeys read my-agent openrouter --verbose >/dev/null 2>"$home/out.read"
agentkeys run my-agent --verbose -- true >"$home/out.run" 2>&1
agentkeys revoke my-agent --verbose >"$home/out.revoke" 2>&1
agentkeys read my-agent openrouter --verbose >"$home/out.denied" 2>&1 || true

# nowhere TEXT WHAT: in no file below the home, as it is, in hex, or in base64.
nowhere() {
    local text=$1 what=$2 form found
    shift 2
    for form in "$text" "$(printf %s "$text" | od -An -tx1 | tr -d ' \n')" "$(printf %s "$text" | base64 -w0 | tr -d '=')"; do
        found=$(grep -rlaF "$@" -e "$form" "$home" || true)
        [ -z "$found" ] || { printf '%s stands in:\n%s\n' "$what" "$found" >&2; exit 1; }
    done
    printf 'ok: %s is in no file\n' "$what"
}

say "The search finds what is there"
printf %s "$secret" >"$home/control"
if (nowhere "$secret" "the control") 2>/dev/null; then
    printf 'the search finds nothing at all\n' >&2
    exit 1
fi
rm "$home/control"

say "Files: data, state, log, cache, all output"
nowhere "$secret" "the secret"
sessions=$(find "$home" -name sessions.json)
[ "$(wc -l <<<"$sessions")" -eq 1 ] && [ "$(stat -c %a "$sessions")" = 600 ]
token=$(grep -oE 'agkm_[0-9a-f]{72}' "$sessions" | head -n 1)
[ -n "$token" ]
nowhere "$token" "the session token" --exclude=sessions.json

say "Processes: arguments and environment of the backend"
backends=0
for process in /proc/[0-9]*; do
    tr '\0' ' ' <"$process/cmdline" 2>/dev/null | grep -qF "$home" || continue
    tr '\0' ' ' <"$process/cmdline" 2>/dev/null | grep -q " serve " || continue
    backends=$((backends + 1))
    for file in cmdline environ; do
        if grep -qaF -e "$secret" -e "$token" "$process/$file" 2>/dev/null; then
            printf 'found in %s\n' "$process/$file" >&2
            exit 1
        fi
    done
done
[ "$backends" -eq 1 ]
printf 'ok: neither is in arguments or environment of the backend\n'

say "Modes: nobody else can read anything"
others=$(find "$home/.local" "$home/.config" \( -type f -o -type d \) -perm /077 2>/dev/null | grep -vE '/\.local$|/\.local/(share|state)$|/\.config$' || true)
[ -z "$others" ] || { printf 'open to others:\n%s\n' "$others" >&2; exit 1; }
printf 'ok: files 0600, folders 0700\n'
