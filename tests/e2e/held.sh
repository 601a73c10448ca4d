#!/usr/bin/env bash
# Requests that wait for their master: held by a rule, approved for their very body, released at once,
# and refused with everything else when nobody says yes.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/upstream.sh"
key='a key of ours: 0123456789'

say "A service, and a rule that has its charges wait"
begin_service
begin_backend "my-api=$service"
printf '%s' "$key" | agentkeys store my-agent my-api - --expose broker >/dev/null 2>&1
agentkeys rule my-agent my-api --ask 'POST /v1/charges*' 2>/dev/null

# A run that does what it is told, a line of shell at a time; what it does goes on in the background.
begin() {
    mkfifo "$home/$1.do"
    agentkeys run --broker my-agent -- sh -c 'while read -r line; do eval "$line" & done <"$0"; wait' \
        "$home/$1.do" 2>"$home/$1.said" &
    eval "$1_run=\$!"
    eval "exec $2>\"\$home/$1.do\""
}
begin one 7
# charge RUN BODY FILE [PATH]: sends it; FILE has the answer's status once there is one.
charge() {
    local to=7
    [ "$1" = one ] || to=8
    printf 'curl -s -o "$HOME/%s.body" -w "%%%%{http_code}" -d "%s" "$MY_API_BASE_URL%s" -H "Authorization: Bearer $MY_API_API_KEY" >"$HOME/%s.part"; mv "$HOME/%s.part" "$HOME/%s"\n' \
        "$3" "$2" "${4:-/v1/charges}" "$3" "$3" "$3" | sed 's/%%/%/g' >&$to
}
codes() { agentkeys pending --json 2>/dev/null | jq -r '.pending[].pair_code'; }
asked() { [ "$(codes | wc -l)" -eq "$1" ]; }
otp_of() { sed -n "s/.*agentkeys approve $1 (OTP \([0-9]*\)).*/\1/p" "$home"/*.said | head -1; }
approve() {
    local code=$1
    shift
    within 5 sh -c "cat $home/*.said | grep -q $code"
    agentkeys approve "$code" --yes --otp "$(otp_of "$code")" "$@" 2>"$home/shown"
}
bodies() { jq -r 'select(.path | startswith("/v1/charges")) | select(.method == "POST") | .body' "$home/got"; }

say "What the rule does not name goes at once; what it names waits, and its code is told"
printf 'curl -s -o /dev/null -w "%%{http_code}" "$MY_API_BASE_URL/v1/charges" -H "Authorization: Bearer $MY_API_API_KEY" >"$HOME/read"\n' >&7
within 10 grep -qs 200 "$home/read"
charge one 'amount=2000&currency=eur' first
within 10 asked 1
code=$(codes)
sleep 0.3
expect "" bodies
approve "$code"
within 5 test -e "$home/first"
expect 200 cat "$home/first"
expect 'amount=2000&currency=eur' bodies
contains "$(cat "$home/shown")" "2000 EUR, in its smallest unit, as its body says"
contains "$(cat "$home/shown")" "\"POST ${service#https://}/v1/charges\""
expect_exit 1 agentkeys approve "$code" --yes --otp "$(otp_of "$code")"
contains "$error" "was already answered"
contains "$(agentkeys usage my-agent 2>/dev/null)" "ask POST ${service#https://}/v1/charges"

say "The approval of one body releases no other, and a second of the same asks again"
charge one amount=1 a
within 10 asked 1
code_a=$(codes)
charge one amount=2 b
within 10 asked 2
code_b=$(codes | grep -v "$code_a")
approve "$code_a"
within 5 test -e "$home/a"
sleep 0.5
expect_exit 1 test -e "$home/b"
expect 200 cat "$home/a"
charge one amount=1 again
within 10 asked 2
agentkeys deny "$code_b" 2>/dev/null
within 5 test -e "$home/b"
expect 403 cat "$home/b"
contains "$(cat "$home/b.body")" "the master said no"
# What was just refused is not asked about again.
charge one amount=2 b2
within 5 test -e "$home/b2"
expect 403 cat "$home/b2"
expect $'amount=2000&currency=eur\namount=1' bodies
approve "$(codes)"
within 5 test -e "$home/again"

say "Equal ones that wait are one question, and its answer says how many there are"
for at in 1 2 3; do charge one amount=3 "equal$at"; done
within 10 asked 1
code=$(codes)
# shows CODE TEXT: what approve shows of it, with digits that are wrong, has the text in it.
shows() { { agentkeys approve "$1" --yes --otp 000000 2>&1 || true; } | tr -s ' \n' ' ' | grep -q "$2"; }
within 10 shows "$code" "3 such requests wait"
approve "$code"
for at in 1 2 3; do within 5 test -e "$home/equal$at" && expect 200 cat "$home/equal$at"; done
charge one amount=3 equal4
within 10 asked 1
sleep 0.3
expect_exit 1 test -e "$home/equal4"

say "One that gave up may be sent again once, after it was approved"
charge one amount=4 '../gone'
within 10 asked 2
gone=$(codes | grep -v "$(codes | head -1)")
pkill -f 'curl.*amount=4'
within 10 shows "$gone" "no more: it may be sent again, once"
approve "$gone"
charge one amount=4 back
within 5 test -e "$home/back"
expect 200 cat "$home/back"
approve "$(codes)"
within 5 test -e "$home/equal4"

say "For a time: others like it, whatever their body, in any run; not another path"
charge one amount=5 five
within 10 asked 1
approve "$(codes)" --for 1m
begin two 8
charge two amount=6 six
within 5 test -e "$home/six"
expect 200 cat "$home/six"
charge two amount=6 other /v1/charges/ch_1/refund
within 10 asked 1
approve "$(codes)"
within 5 test -e "$home/other"

say "For this run: others like it in this run, and in no other"
charge two amount=1 run1 /v1/charges/run
within 10 asked 1
approve "$(codes)" --for run
charge two amount=2 run2 /v1/charges/run
within 5 test -e "$home/run2"
charge one amount=3 run3 /v1/charges/run
within 10 asked 1
agentkeys deny "$(codes)" 2>/dev/null
within 5 test -e "$home/run3"
expect 403 cat "$home/run3"

say "How soon a held request goes on: from the approval on record to the service, twelve times"
for at in $(seq 12); do
    charge one "amount=$at" "soon$at" /v1/charges/soon
    within 10 asked 1
    approve "$(codes)"
    date +%s%3N >>"$home/approved"
    within 5 test -e "$home/soon$at"
done
python3 - "$home/got" "$home/approved" <<'END'
import json, sys
sent = [line["time"] * 1000 for line in map(json.loads, open(sys.argv[1])) if line["path"] == "/v1/charges/soon"]
approved = [int(line) for line in open(sys.argv[2])]
late = [round(there - said) for there, said in zip(sent, approved, strict=True)]
print("ms after approve had ended:", late)
assert max(late) < 100, late
END

say "In a terminal watch asks, and does what it is told"
charge one amount=8 watched /v1/charges/soon
within 10 asked 1
charge one amount=9 refused /v1/charges/soon
within 10 asked 2
python3 "$lib/in_terminal.py" 'agentkeys watch my-agent' \
    'Enter: later: ' yes 'has it sent now' '' 'Enter: later: ' no 'denied' $'\x03' >"$home/watch"
within 5 test -e "$home/watched"
within 5 test -e "$home/refused"
expect "200 403" sh -c 'cat "$HOME/watched" "$HOME/refused" | tr -d "\n" | sed "s/^\(...\)/\1 /"'
agentkeys watch --json >"$home/lines" 2>/dev/null &
watching=$!
# It shows what comes after it has begun.
begun() {
    agentkeys read my-agent my-api >/dev/null 2>&1 || true
    grep -q '"action":"read"' "$home/lines"
}
within 10 begun
charge one amount=8 told /v1/charges/soon
within 10 grep -q '"action":"ask"' "$home/lines"
within 10 grep -q '"kind":"HighValueRelease"' "$home/lines"
kill "$watching"
agentkeys deny "$(codes)" 2>/dev/null

say "Revoked: what waits is refused within a second"
charge one amount=7 revoked /v1/charges/soon
within 10 asked 1
began=$(date +%s%3N)
agentkeys revoke my-agent >/dev/null 2>&1
within 5 test -e "$home/revoked"
took=$(($(date +%s%3N) - began))
expect 403 cat "$home/revoked"
[ "$took" -lt 1000 ] || { echo "it took $took ms" >&2; exit 1; }
echo "ok: $took ms with revoke itself"
exec 7>&- 8>&-
wait "$one_run" "$two_run"
