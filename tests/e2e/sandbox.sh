#!/usr/bin/env bash
# The closed room: a program that run --sandbox starts reaches its folder and the gateway, and nothing
# else. Each thing that it tries is first seen to work outside.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/oidc.sh"
lib=$here/tests/e2e/lib

say "A service over TLS, a backend, and a program with much to be tempted by"
oidc_certificate "$home" 127.0.0.1
python3 "$lib/upstream.py" "$home/issuer.pem" "$home/issuer.key" "$home/got" >"$home/upstream" &
upstream=$!
within 10 grep -q listening "$home/upstream"
port=$(sed -n 's/^listening //p' "$home/upstream")
mkdir -m 700 "$home/run"
SSL_CERT_FILE=$home/ca.pem "$AGENTKEYS" serve --listen "unix:$home/run/s" --data "$home/data" \
    --service "my-api=https://127.0.0.1:$port" 2>"$home/serve.log" >"$home/ready" &
backend=$!
within 10 grep -q '^listening' "$home/ready"
export AGENTKEYS_BACKEND=unix:$home/run/s
on_exit() {
    local code=$?
    kill "$upstream" "$backend" 2>/dev/null || true
    finish "$code"
}
trap on_exit EXIT
agentkeys init >/dev/null 2>&1
printf 'my own key' | agentkeys store my-agent my-api - --expose broker >/dev/null 2>&1
mkdir "$home/project" "$home/outside" "$home/tools"
printf 'a private key\n' >"$home/id_ed25519"
# As an interpreter or a script does that lies in somebody's home.
cp "$lib/room.py" "$home/tools/room.py"
cd "$home/project"
tempted() {
    MY_SECRET_TOKEN=x SSH_AUTH_SOCK=/x AWS_PROFILE=x agentkeys run --broker "$@" my-agent -- \
        "$(command -v /usr/bin/python3)" "$home/tools/room.py" "$home/id_ed25519" "$home/.local" "$home/outside" "$port" 9 "$home/run/s" "$upstream" \
        9<"$home/id_ed25519"
}
mkdir -p "$home/.local/share/agentkeys/kept"

say "Outside the room"
tempted >"$home/without" </dev/null
cat "$home/without"
rm "$home/outside/written"
say "In the room"
tempted --sandbox --allow-read "$home/tools" >"$home/with" </dev/null
cat "$home/with"
expect 22 grep -c ': held$' "$home/with"
expect 0 sh -c "grep -c ': through$' $home/with || true"
# Where this machine is a container, or wary, it refuses some of it outside as well.
expect 1 sh -c "[ \$(grep -c ': through$' $home/without) -ge 17 ] && echo 1"
contains "$(cat "$home/with")" "the gateway answers: 200"
expect_exit 1 test -e "$home/outside/written"

say "A shell, curl and Node work in it, and leave nothing behind"
room() { agentkeys run --broker --sandbox "$@"; }
expect 200 room my-agent -- sh -c 'curl -s -o /dev/null -w "%{http_code}" "$MY_API_BASE_URL/plain" -H "Authorization: Bearer $MY_API_API_KEY"'
expect 200 room my-agent -- node -e 'fetch(process.env.MY_API_BASE_URL + "/plain", { headers: { authorization: `Bearer ${process.env.MY_API_API_KEY}` } }).then((answer) => console.log(answer.status))'
expect_exit 7 room my-agent -- sh -c 'exit 7'
expect 0 sh -c 'ls -d "${TMPDIR:-/tmp}"/agentkeys-room-* 2>/dev/null | wc -l'

say "A program that lies elsewhere is not started, and the way is told"
cp /usr/bin/env "$home/tools/elsewhere"
expect_exit 126 room my-agent -- "$home/tools/elsewhere" true
contains "$error" "--allow-read FOLDER"
expect_exit 0 room --allow-read "$home/tools" my-agent -- "$home/tools/elsewhere" true

say "No room where it would be none"
cd "$home"
expect_exit 2 room my-agent -- true
contains "$error" "a folder of the program's own"
cd /
expect_exit 2 room my-agent -- true
mkdir -p "$home/.local/share/agentkeys/inside"
cd "$home/.local/share"
expect_exit 2 room my-agent -- true
contains "$error" "AgentKeys keeps what is its own"
cd "$home/project"
expect_exit 2 room --allow-read "$home" my-agent -- true
expect_exit 2 agentkeys run --sandbox my-agent -- true
expect_exit 2 agentkeys run --broker --allow-read / my-agent -- true
