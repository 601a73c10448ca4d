#!/usr/bin/env bash
# Records the loop of the README in a real terminal, and makes docs/loop.svg of it: the commands are
# typed and run here, in a home of their own, with the release binary. For when what they say has
# changed; wants asciinema (Debian) and npm.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
AGENTKEYS=${AGENTKEYS:-$root/target/release/agentkeys}
renderer=svg-term-cli@2.1.1

if [ "${1:-}" = typed ]; then
    cd "$HOME"
    # Inside the recording. A person types about ten characters a second; this one is in a hurry.
    type_and_run() {
        printf '\033[1;32m$\033[0m '
        for ((at = 0; at < ${#1}; at++)); do
            printf '%s' "${1:at:1}"
            sleep 0.03
        done
        sleep 0.4
        printf '\n'
        eval "$1" || true
        sleep "${2:-1.2}"
    }
    clear
    type_and_run 'agentkeys store my-agent openrouter - <key.txt'
    type_and_run 'agentkeys run my-agent -- python3 agent.py'
    type_and_run 'agentkeys usage my-agent' 2
    type_and_run 'agentkeys revoke my-agent'
    type_and_run 'agentkeys run my-agent -- python3 agent.py' 4
    # Something at the end, so that the last picture stays.
    printf ' '
    exit 0
fi

home=$(mktemp -d)
trap 'HOME=$home "$AGENTKEYS" serve --stop >/dev/null 2>&1 || true; rm -rf "$home"' EXIT
mkdir "$home/bin"
ln -s "$AGENTKEYS" "$home/bin/agentkeys"
printf 'sk-or-v1-0f3a9c' >"$home/key.txt"
cat >"$home/agent.py" <<'END'
import os
key = os.environ["OPENROUTER_API_KEY"]
print(f"agent: I have a key of {len(key)} characters")
END
cd "$home"
env -i HOME="$home" PATH="$home/bin:/usr/bin:/bin" TERM=xterm-256color LANG=C.UTF-8 AGENTKEYS="$AGENTKEYS" \
    asciinema rec --quiet --overwrite --cols 80 --rows 22 --command "'$root/scripts/record.sh' typed" "$home/loop.cast"
npx --yes --package "$renderer" svg-term --in "$home/loop.cast" --out "$root/docs/loop.svg" --window --no-cursor \
    --width 80 --height 22
printf '%s\n' "docs/loop.svg"
