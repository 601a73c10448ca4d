#!/usr/bin/env bash
# Signing in at a backend elsewhere in a real browser, by an issuer that is one: `agentkeys init`
# opens it, the person logs in and agrees, and the browser comes back.
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/oidc.sh"

mkfifo "$home/issuer.commands"
exec 8<>"$home/issuer.commands"
node "$oidc_provider" "$oidc_folder" <&8 >"$home/issuer.json" 2>"$home/issuer.log" &
issuer=$!
within 20 test -s "$home/issuer.json"
agentkeys serve --listen 127.0.0.1:0 --tls-self-signed --data "$home/server" --oidc-client-id agentkeys-tests \
    --oidc-issuer "$(jq -r .issuer "$home/issuer.json")" >"$home/backend.out" 2>"$home/backend.log" &
backend=$!
trap 'kill $issuer $backend 2>/dev/null || true; finish' EXIT
within 20 grep -qs "^certificate " "$home/backend.out"
address=$(sed -n 's/^listening on //p' "$home/backend.out")#$(sed -n 's/^certificate //p' "$home/backend.out")
export AGENTKEYS_BACKEND=$address

say "The browser is opened, and comes back with an answer for this command alone"
cat >"$home/bin/browser" <<BROWSER
#!/bin/sh
OIDC_LOGIN=alice PLAYWRIGHT=$oidc_root/target/test-tools/playwright SCREENSHOT=${SCREENSHOT:-} \\
    exec node $oidc_root/tests/e2e/lib/chromium_browser.mjs "\$1" >$home/page 2>&1
BROWSER
chmod +x "$home/bin/browser"
BROWSER=$home/bin/browser agentkeys init 2>"$home/said" || { cat "$home/said" "$home/page" >&2; exit 1; }
contains "$(cat "$home/said")" "signed in as oidc:"
contains "$(cat "$home/said")" "alice@example.org"
within 30 test -s "$home/page"
cat "$home/page"

say "Signed in: a key is stored, and read again"
printf sk-or-v1-by-browser | agentkeys store my-agent openrouter -
expect sk-or-v1-by-browser agentkeys read my-agent openrouter
agentkeys audit verify
