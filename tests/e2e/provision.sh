#!/usr/bin/env bash
# An agent gets its own key: the official Python MCP client, the daemon, the recipe in Chromium, a
# dovecot, and a service to sign up at. Then two of the ways in which that fails.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/mcp.sh"

recipes=$here/scripts/provisioner
export AGENTKEYS_RECIPES=$recipes TMPDIR=$home/tmp
mkdir "$TMPDIR"

# background NAME ARGUMENTS...: a program of the tests that stays until its input ends; its first
# line is left in $said.
background() {
    local name=$1
    shift
    rm -f "$home/$name.in" "$home/$name.out"
    mkfifo "$home/$name.in"
    # As root it is another user's, who does not get into our home.
    TMPDIR=/tmp node "$recipes/dist/test/$name.js" "$@" <"$home/$name.in" >"$home/$name.out" &
    # Held open by this shell, so that it ends with it.
    eval "exec $((++descriptor))>\"$home/$name.in\""
    within 20 test -s "$home/$name.out"
    said=$(cat "$home/$name.out")
}
descriptor=20
background dovecot
imap=$(jq -r .imap <<<"$said") lmtp=$(jq -r .lmtp <<<"$said") password=$(jq -r .password <<<"$said")
background site --lmtp "$lmtp"
url=$(jq -r .url <<<"$said")

# left: what a run must not leave behind.
left() { ls -A "$TMPDIR" | grep agentkeys-recipe || pgrep -af "$recipes/dist/main.js" || true; }

agentkeys init
printf %s "$password" | agentkeys provisioner set openrouter --way browser --set email=ada@service.test \
    --set imap="$imap" --set imap_user=ada --set from=codes@service.test --set url="$url" -
agentkeys provisioner list
agentkeys provisioner check openrouter
expect "" left

say "Asked for, approved as an agent and then for keys to be made, made, and made once"
want='{"service":"openrouter","reason":"to answer questions"}'
made_once_when_approved "$want"
contains "$(cat "$home/answers")" '"step": "progress"'
contains "$(cat "$home/answers")" 'wait for the mail'
if grep -q sk-or-v1- "$home/answers"; then echo "the key was shown" >&2; exit 1; fi
expect "1 1" jq -r '"\(.accounts) \(.keys)"' <<<"$(curl -s "$url/state")"
expect "" left

say "A program uses it, and the site knows it"
expect 200 agentkeys run my-bot -- sh -c \
    "curl -s -o /dev/null -w '%{http_code}' -H \"authorization: Bearer \$OPENROUTER_API_KEY\" $url/api/v1/key"

say "Nowhere in the clear"
key=$(agentkeys read my-bot openrouter)
if grep -rqF -e "$key" -e "$password" "$home" --exclude=dovecot.out; then
    grep -rlF -e "$key" -e "$password" "$home" --exclude=dovecot.out >&2
    exit 1
fi

say "Without a browser, and without Node, it says so"
export AGENTKEYS_CHROMIUM=/nowhere
expect_exit 1 agentkeys provisioner check openrouter
contains "$error" "there is no browser"
unset AGENTKEYS_CHROMIUM
AGENTKEYS_NODE=/nowhere expect_exit 1 agentkeys provisioner check openrouter
contains "$error" "install Node.js"
expect "" left

say "The daemon is killed while the browser waits for a mail that never comes: nothing is left"
background site --lmtp "$lmtp" --fault no-mail
printf %s "$password" | agentkeys provisioner set openrouter --way browser --set email=ada@service.test \
    --set imap="$imap" --set imap_user=ada --set from=codes@service.test \
    --set url="$(jq -r .url <<<"$said")" -
printf sk-other | agentkeys store second other -
agentkeys scope second --services other,openrouter --provision openrouter
mcp_client --expect-error --call provision "$want" --shell 'a-person-approves --as second' --sleep 2 \
    --call provision "$want" -- agentkeysd --agent second --services other,+openrouter \
    >"$home/answers" 2>&1 &
browsing() { pgrep -f "user-data-dir=$TMPDIR/agentkeys-recipe" >/dev/null; }
within 40 browsing
pkill -KILL -f "agentkeysd --agent second"
ended() { ! browsing && [ -z "$(left)" ]; }
within 15 ended
wait %% 2>/dev/null || true
