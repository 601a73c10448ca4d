#!/usr/bin/env bash
# agentkeys doctor --prove: what it says of a room that holds, of a key that lies where the program can
# read it, of a service that is not reached, and of a machine without rooms.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/oidc.sh"
lib=$here/tests/e2e/lib
key=sk-real-0123456789abcdefghijklmnop

say "A service over TLS, and a backend"
oidc_certificate "$home" 127.0.0.1
python3 "$lib/upstream.py" "$home/issuer.pem" "$home/issuer.key" "$home/got" >"$home/upstream" &
upstream=$!
within 10 grep -q listening "$home/upstream"
port=$(sed -n 's/^listening //p' "$home/upstream")
mkdir -m 700 "$home/run"
SSL_CERT_FILE=$home/ca.pem "$AGENTKEYS" serve --listen "unix:$home/run/s" --data "$home/data" \
    --service "openai=https://127.0.0.1:$port" --service "my-api=https://127.0.0.1:$port,header=X-Own" \
    --service "gone=https://127.0.0.1:1" 2>"$home/serve.log" >"$home/ready" &
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
store() { printf %s "$2" | agentkeys store my-agent "$1" - >/dev/null 2>&1; }
store openai "$key"
store my-api 'my own key: not-like-the-others'
store gone sk-gone-0123456789
mkdir "$home/project"
cd "$home/project"
# proof CODE ARGUMENTS...: what it says is left in $proof.
proof() {
    local wanted=$1 code=0
    shift
    proof=$(agentkeys doctor --prove my-agent "$@" 2>&1 </dev/null) || code=$?
    printf '%s\n' "$proof"
    [ "$code" -eq "$wanted" ] || { printf 'wanted exit %s, got %s\n' "$wanted" "$code" >&2; exit 1; }
}

say "All of it holds"
proof 0 --service openai
contains "$proof" "OPENAI_API_KEY is sk-"
contains "$proof" "where the stand-in was found by the same looking"
contains "$proof" "GET /v1 of openai: 200, by the service"
contains "$proof" "proven: my-agent's programs use the key of openai"
expect 8 grep -c 'refused (.*); without the room it works$' <(printf '%s\n' "$proof" | grep -v -e trace -e 'memory of agentkeys')
case $proof in *"$key"* | *NOT*) echo "it shows the key, or a NOT" >&2; exit 1 ;; esac
# The service got the key, once, and nothing of what was tried is left.
expect 1 grep -c "Bearer $key" "$home/got"
expect "" sh -c "ls -d $home/.agentkeys-proof-* \"\${TMPDIR:-/tmp}\"/agentkeys-room-* 2>/dev/null || true"
expect "" ls -A "$home/project"
expect true jq -r '.proven' <<<"$(agentkeys doctor --prove my-agent --service my-api --path /plain --json)"
expect 0 jq '[.lines[] | select(.holds | not)] | length' <<<"$(agentkeys doctor --prove my-agent --service my-api --json)"

say "What was asked is on record"
contains "$(agentkeys usage my-agent --json | jq -r '.events[] | select(.action == "use") | .detail')" "GET 127.0.0.1:$port/v1"

say "A key that nobody is given is not looked for, and that is said"
agentkeys expose my-agent openai broker
proof 0 --service openai
contains "$proof" "the backend gives it to nobody, you included"
agentkeys expose my-agent openai reveal

say "NOT: the key lies in a file that the program may read, also in another writing"
printf 'OPENAI_API_KEY=%s\n' "$key" >.env
proof 1 --service openai
contains "$proof" "it is in $home/project/.env"
contains "$proof" "NOT proven"
printf 'x:%s' "$key" | base64 -w0 >.env
proof 1 --service openai
contains "$proof" "it is in $home/project/.env"
rm .env

say "NOT: the key stands in the program's environment"
export HARMLESS="Bearer $key"
proof 1 --service openai
contains "$proof" "it is in the program's environment and in the program's memory"
unset HARMLESS

say "NOT: the service does not answer, or a rule refuses"
proof 1 --service gone
contains "$proof" "by the gateway: gone did not answer"
agentkeys rule my-agent openai --allow 'GET /v1/models*' >/dev/null
proof 1 --service openai
contains "$proof" "403, by the gateway"
proof 0 --service openai --path /v1/models
agentkeys rule my-agent openai --clear >/dev/null

say "No room, no proof"
cd "$home"
expect_exit 2 agentkeys doctor --prove my-agent --service openai
contains "$error" "a folder of the program's own"
cd "$home/project"
# A kernel without Landlock, as a filter makes this one look.
cat >"$home/without_landlock.py" <<'PYTHON'
import ctypes, os, struct, sys
# landlock_create_ruleset is 444 everywhere; ENOSYS is 38.
program = b"".join(struct.pack("HBBI", *one) for one in ((0x20, 0, 0, 0), (0x15, 0, 1, 444), (6, 0, 0, 0x50000 | 38), (6, 0, 0, 0x7FFF0000)))
held = ctypes.create_string_buffer(program)
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(held)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter, 0, 0) == 0, ctypes.get_errno()
os.execvp(sys.argv[1], sys.argv[1:])
PYTHON
expect_exit 2 python3 "$home/without_landlock.py" agentkeys doctor --prove my-agent --service openai
contains "$error" "there is no closed room here"
printf '%s\n' "$error"
expect_exit 4 agentkeys doctor --prove my-agent --service github
expect_exit 2 agentkeys doctor --service openai
