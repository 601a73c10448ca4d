#!/usr/bin/env bash
# A backend on one machine, the master on another, the agent in a sandbox on a third: network
# namespaces that share nothing but the way to the backend's TLS port. The issuer of OpenID Connect
# is on a fourth, as it is on the internet. Journey 2 as a person walks it, then E2E-3 and E2E-4
# between the same machines.
. "$(dirname "$0")/lib/machines.sh"
as_root_of_namespaces "$@"
. "$(dirname "$0")/lib/common.sh"
. "$(dirname "$0")/lib/mcp.sh"
. "$(dirname "$0")/lib/oidc.sh"

# The program itself, and what a person carries between the machines, is on all of them.
on_exit() {
    finish
    kill "${machine_pids[@]}" 2>/dev/null || true
}
trap on_exit EXIT

say "Four machines"
for name in backend master agent issuer; do machine "$name"; done
link backend 10.97.1.1 master 10.97.1.2
link backend 10.97.2.1 agent 10.97.2.2
link backend 10.97.3.1 issuer 10.97.3.2
link master 10.97.4.1 issuer 10.97.4.2
# The issuer has one address for all, which is on none of its cables.
on issuer ip address add 10.97.9.9/32 dev lo
on backend ip route add 10.97.9.9 via 10.97.3.2
on master ip route add 10.97.9.9 via 10.97.4.2

say "An issuer, with a certificate that its users' machines trust"
oidc_certificate "$home" 10.97.9.9
mkfifo "$home/issuer.commands"
exec 8<>"$home/issuer.commands"
on issuer OIDC_LISTEN=10.97.9.9:443 OIDC_CERTIFICATE="$home/issuer.pem" OIDC_KEY="$home/issuer.key" \
    node "$oidc_provider" "$oidc_folder" <&8 >"$home/issuer.json" 2>"$home/issuer.log" &
within 20 test -s "$home/issuer.json"
issuer=$(jq -r .issuer "$home/issuer.json")

say "A backend, with a certificate of its own making, and nobody signed in yet"
on backend SSL_CERT_FILE="$home/ca.pem" "$AGENTKEYS" serve --listen 0.0.0.0:443 --tls-self-signed \
    --data "$home/own/home/data" --oidc-issuer "$issuer" --oidc-client-id agentkeys-tests \
    >"$home/backend.out" 2>"$home/backend.log" &
within 20 grep -qs "^certificate " "$home/backend.out"
pin=$(sed -n 's/^certificate //p' "$home/backend.out")
contains "$(cat "$home/backend.log")" "first to sign in"

mkdir "$home/commands"
command_on master "$home/commands/agentkeys" AGENTKEYS_BACKEND="https://10.97.1.1#$pin" \
    SSL_CERT_FILE="$home/ca.pem" "$AGENTKEYS"
ln -s "$AGENTKEYS" "$home/agentkeysd"
command_on agent "$home/commands/agentkeysd" AGENTKEYS_BACKEND="https://10.97.2.1#$pin" "$home/agentkeysd"
PATH=$home/commands:$PATH

say "They share nothing but the way to the backend's TLS port"
for pair in "master 10.97.2.2" "agent 10.97.1.2" "agent 10.97.9.9"; do
    read -r from to <<<"$pair"
    if on "$from" curl -sk --max-time 2 "https://$to/" >/dev/null; then
        printf '%s reaches %s\n' "$from" "$to" >&2
        exit 1
    fi
done
contains "$(on agent curl -sk --max-time 5 https://10.97.2.1/health)" '"ok"'
listens() { on backend ss -Hltn | awk '{print $4}'; }
expect "0.0.0.0:443" listens

say "The master signs in with a phone: no browser on that machine, no key typed"
oidc_device=(on issuer NODE_EXTRA_CA_CERTS="$home/ca.pem")
oidc_person alice agentkeys init --device
contains "$(cat "$home/said")" "signed in as"

say "Pair: the daemon only dials out"
get='{"service":"openrouter"}'
mcp_client --expect-error --call get_credential "$get" --shell a-person-approves --until-changed 20 \
    --shell 'printf sk-or-v1-three | agentkeys store my-bot openrouter -' \
    --until-ok get_credential "$get" 20 \
    --shell 'agentkeys revoke my-bot' --call get_credential "$get" \
    -- agentkeysd --agent my-bot >"$home/answers"
contains "$(cat "$home/answers")" sk-or-v1-three
contains "$(tail -n 1 "$home/answers")" "was revoked"
agentkeys teardown my-bot --yes

say "E2E-3 and E2E-4, between these machines"
for flow in e2e-3-pair-mcp-revoke e2e-4-recovery; do
    E2E_COMMANDS=$home/commands AGENTKEYS=$AGENTKEYS "$(dirname "$0")/$flow.sh"
    for agent in $(agentkeys list --json | jq -r '.agents[].wallet'); do
        agentkeys teardown "$agent" --yes
    done
    on agent rm -rf "$home/own/home/.agentkeys" "$home/own/first" "$home/own/second"
done

say "What the machines kept: no credential anywhere, and nothing of one on another"
for name in backend master agent; do
    if on "$name" grep -r -l -e sk-or-v1 "$home/own"; then
        printf 'a credential lies in the clear on %s\n' "$name" >&2
        exit 1
    fi
done
agentkeys doctor || true
agentkeys audit verify
