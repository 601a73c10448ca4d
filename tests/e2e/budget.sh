#!/usr/bin/env bash
# Budgets: what answers cost is read from them, counted before the next request, and a limit that is
# reached refuses or asks; also with fifty at once, and when the backend is killed in between.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/upstream.sh"

say "A service, and keys of three"
begin_service
begin_backend "openai=$service" "anthropic=$service" "my-api=$service"
for one in openai anthropic my-api; do
    printf 'key-of-%s-0123456789' "$one" | agentkeys store my-agent "$one" - --expose broker >/dev/null 2>&1
done
broker() { agentkeys run --broker my-agent -- "$@"; }
# ask PATH BODY: what the program gets for it.
cat >"$home/ask" <<'END'
case $1 in
    /v1/messages) curl -sN -w '%{http_code}' "$ANTHROPIC_BASE_URL$1" -H "x-api-key: $ANTHROPIC_API_KEY" -d "$2" ;;
    *) curl -sN -w '%{http_code}' ${3:-} "${OPENAI_BASE_URL%/v1}$1" -H "Authorization: Bearer $OPENAI_API_KEY" -d "$2" ;;
esac
END
ask() { broker sh "$home/ask" "$@" 2>"$home/said" || true; }
spent() { agentkeys budget my-agent "$1" --json 2>/dev/null | jq .spent.total; }

say "What an answer states is counted at the catalog's price: in one piece and as a stream"
contains "$(ask /v1/chat/completions '{"model":"gpt-4o","usage":{"prompt_tokens":100000,"completion_tokens":10000,"prompt_tokens_details":{"cached_tokens":40000}}}')" hello
# 60,000 at 2.50, 40,000 at 1.25 and 10,000 at 10 dollars a million.
expect 300000 spent openai
contains "$(ask /v1/chat/completions '{"model":"gpt-4o","stream":true,"usage":{"prompt_tokens":1000,"completion_tokens":100}}')" DONE
expect 303500 spent openai
contains "$(ask /v1/messages '{"model":"claude-sonnet-4-5-20250929","stream":true,"usage":{"input_tokens":1000,"output_tokens":200,"cache_read_input_tokens":10000,"cache_creation_input_tokens":1000}}')" message_stop
# 1,000 and 1,000 by 1.25 at 3, 10,000 at 0.30, 200 at 15 dollars a million.
expect 12750 spent anthropic
expect "0.316250" sh -c "agentkeys balance my-agent 2>/dev/null | grep 'service payment' | awk '{print \$NF}'"
contains "$(agentkeys usage my-agent 2>/dev/null)" "debit 0.30 USD: gpt-4o, 100000 tokens sent, 10000 answered"
contains "$(agentkeys usage my-agent 2>/dev/null)" "openai of my-agent cost 0.3035 USD today"

say "What states nothing, or is hung up on, is counted by what came of it"
contains "$(ask /v1/chat/completions '{"model":"gpt-4o","stream":true}')" DONE
more=$(($(spent openai) - 303500))
[ "$more" -gt 0 ] || { echo "nothing was counted" >&2; exit 1; }
contains "$(agentkeys usage my-agent 2>/dev/null)" "3 answered, at the price of a model that is not known, estimated"
before=$(spent openai)
ask /v1/chat/completions '{"model":"gpt-4o","stream":true,"slow":1}' '--max-time 0.5' >/dev/null
counted() { [ "$(spent openai)" -gt "$before" ]; }
within 5 counted
before=$(spent openai)
ask /v1/nothing '{"model":"gpt-4o"}' >/dev/null
expect "$before" spent openai

say "A limit that is reached refuses the next request, and says so; another is set by a person"
agentkeys budget my-agent anthropic --day 0.01 2>/dev/null
answer=$(ask /v1/messages '{"model":"claude-sonnet-4-5","usage":{"input_tokens":1,"output_tokens":1}}')
contains "$answer" "403"
contains "$answer" "0.01275 of 0.01 USD of this day are spent (UTC)"
agentkeys budget my-agent anthropic --day 1 --ask-at 1 2>/dev/null
ask /v1/messages '{"model":"claude-sonnet-4-5","usage":{"input_tokens":1,"output_tokens":1}}' >"$home/asked" &
asking=$!
within 10 grep -q 'agentkeys approve' "$home/said"
otp=$(sed -n 's/.*OTP \([0-9]*\).*/\1/p' "$home/said")
agentkeys approve "$(agentkeys pending --json 2>/dev/null | jq -r '.pending[].pair_code')" --yes --otp "$otp" 2>/dev/null
wait "$asking"
contains "$(cat "$home/asked")" "200"
expect_exit 2 agentkeys budget my-agent anthropic --day 0
expect_exit 2 agentkeys budget my-agent my-api --day 1
contains "$error" "what my-api costs is not known"

say "Fifty at once, a cent each, one dollar in all; the backend is killed in between"
agentkeys budget my-agent my-api --total 1 --per-request 0.01 2>/dev/null
cat >"$home/fifty.py" <<'END'
import http.client, os, sys, threading, time, urllib.request, urllib.error
base, key = os.environ["MY_API_BASE_URL"], os.environ["MY_API_API_KEY"]
answered, refused, lock, said = 0, 0, threading.Lock(), set()
def work():
    global answered, refused
    until = time.monotonic() + 40
    while time.monotonic() < until:
        request = urllib.request.Request(base + "/v1/one", b"{}", {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=20).read()
            with lock:
                answered += 1
                if answered == 40:
                    open(os.environ["HOME"] + "/forty", "w").close()
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            if error.code == 403:
                with lock:
                    refused += 1
                    said.add(text)
                return
            time.sleep(0.1)
        except (OSError, http.client.HTTPException):
            time.sleep(0.1)
workers = [threading.Thread(target=work) for _ in range(50)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
print(answered, refused)
print(*sorted(said)[:1], file=sys.stderr)
END
broker python3 "$home/fifty.py" >"$home/fifty" 2>"$home/fifty.said" &
fifty=$!
within 30 test -e "$home/forty"
kill -9 "$backend"
wait "$backend" 2>/dev/null || true
serve
wait "$fifty"
read -r answered refused <"$home/fifty"
total=$(spent my-api)
reached=$(grep -c '"path": "/v1/one"' "$home/got")
echo "answered $answered, refused $refused, at the service $reached, counted $total"
[ "$refused" -eq 50 ]
contains "$(cat "$home/fifty.said")" "of 1.00 USD are spent in all"
# Over it by those at most that were under way when it was reached; and before that by those that were
# under way when the backend was killed.
[ "$total" -ge 1000000 ] && [ "$total" -le 1500000 ]
[ "$reached" -le $((total / 10000 + 50)) ]
[ "$total" -ge $((answered * 10000)) ]
# It holds over one more restart.
kill "$backend"
wait "$backend" 2>/dev/null || true
serve
expect 403 sh -c "agentkeys run --broker my-agent -- sh -c 'curl -s -o /dev/null -w \"%{http_code}\" \"\$MY_API_BASE_URL/v1/one\" -H \"Authorization: Bearer \$MY_API_API_KEY\" -d {}' 2>/dev/null"
expect 200 sh -c "agentkeys budget my-agent my-api --total 2 >/dev/null 2>&1; agentkeys run --broker my-agent -- sh -c 'curl -s -o /dev/null -w \"%{http_code}\" \"\$MY_API_BASE_URL/v1/one\" -H \"Authorization: Bearer \$MY_API_API_KEY\" -d {}' 2>/dev/null"
