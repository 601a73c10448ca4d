#!/usr/bin/env bash
# The private backend under a real systemd: started by the first command that connects to the socket
# which systemd holds, ended and started again, and the unit files as systemd itself reads them.
#
# The manager runs in a mount namespace of its own, so that nothing of this machine's systemd, if it
# has one, is touched.
if [ -z "${SYSTEMD_FLOW:-}" ]; then
    enter=(--mount)
    [ "$(id -u)" -eq 0 ] || enter+=(--user --map-root-user)
    SYSTEMD_FLOW=1 exec unshare "${enter[@]}" "$0" "$@"
fi
. "$(dirname "$0")/lib/common.sh"
units=$here/packaging/systemd

say "The unit files, as systemd reads them"
mount -t tmpfs -o mode=755 tmpfs /run
# Where the program is, here.
mkdir -p "$home/system" "$HOME/.config/systemd/user"
sed "s#/usr/bin/agentkeys#$AGENTKEYS#" "$units/agentkeys.service" >"$home/system/agentkeys.service"
for kind in service socket; do
    sed "s#/usr/bin/agentkeys#$AGENTKEYS#" "$units/agentkeys.user.$kind" \
        >"$HOME/.config/systemd/user/agentkeys.$kind"
done
wrong=$(systemd-analyze verify --man=no "$home/system/agentkeys.service" 2>&1 | grep agentkeys || true)
expect "" printf '%s' "$wrong"
# 0 is fully confined, 10 not at all; systemd calls what is below 2 "OK".
systemd-analyze security --offline=yes --no-pager --threshold=20 "$home/system/agentkeys.service" |
    tail -n 1

say "A user's manager, and the socket enabled"
export XDG_RUNTIME_DIR=/run/user/$(id -u)
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR"
chmod 700 "$XDG_RUNTIME_DIR"
manager=$(command -v /usr/lib/systemd/systemd /lib/systemd/systemd | head -n 1)
"$manager" --user --log-target=console --log-level=notice >"$home/systemd.log" 2>&1 &
manager_pid=$!
on_exit() {
    local code=$?
    [ "$code" -eq 0 ] || tail -n 20 "$home/systemd.log" >&2
    systemctl --user stop agentkeys.socket agentkeys.service 2>/dev/null || true
    kill "$manager_pid" 2>/dev/null || true
    wait "$manager_pid" 2>/dev/null || true
    finish "$code"
}
trap on_exit EXIT
within 10 test -S "$XDG_RUNTIME_DIR/systemd/private"
systemctl --user enable --now agentkeys.socket 2>&1
state() { systemctl --user show --property "$1" --value agentkeys.service; }
expect "inactive" state ActiveState

say "The first command starts it, and no other"
printf 'sk-or-v1-of-systemd' | agentkeys store my-agent openrouter -
expect "active" state ActiveState
expect "sk-or-v1-of-systemd" agentkeys read my-agent openrouter
main=$(state MainPID)
expect "$main" pgrep -f "^$AGENTKEYS serve .*--data $HOME/"
agentkeys doctor | sed -n 1,8p

say "It has the protections of its unit"
status=$(cat "/proc/$main/status")
contains "$status" "NoNewPrivs:	1"
contains "$status" "Seccomp:	2"

say "Ended by hand, or killed: the next command finds one again"
agentkeys serve --stop
within 5 test "$(state ActiveState)" = inactive
expect "sk-or-v1-of-systemd" agentkeys read my-agent openrouter
[ "$(state MainPID)" != "$main" ]
kill -KILL "$(state MainPID)"
expect "sk-or-v1-of-systemd" agentkeys read my-agent openrouter

say "Ten first commands at once get the same one"
agentkeys serve --stop
reads=()
for n in 1 2 3 4 5 6 7 8 9 10; do
    agentkeys read my-agent openrouter >"$home/read.$n" &
    reads+=($!)
done
for pid in "${reads[@]}"; do wait "$pid"; done
expect "sk-or-v1-of-systemd" sort -u "$home"/read.{1,2,3,4,5,6,7,8,9,10}
expect "$(state MainPID)" pgrep -f "^$AGENTKEYS serve .*--data $HOME/"

say "Without the socket, commands start a backend of their own, over the same data"
systemctl --user disable --now agentkeys.socket 2>&1
systemctl --user stop agentkeys.service
expect "sk-or-v1-of-systemd" agentkeys read my-agent openrouter
expect "inactive" state ActiveState

say "With it again, the one of their own makes way"
systemctl --user enable --now agentkeys.socket 2>&1
expect "sk-or-v1-of-systemd" agentkeys read my-agent openrouter
expect "active" state ActiveState
expect "$(state MainPID)" pgrep -f "^$AGENTKEYS serve .*--data $HOME/"

say "Told to take systemd's sockets where there are none, it says so"
expect_exit 1 agentkeys serve --listen systemd --data "$home/other"
contains "$error" "LISTEN_FDS"

say "A TCP socket is taken as well: plain on loopback alone"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
held() { exec systemd-socket-activate -E HOME -l "$1:$port" "$AGENTKEYS" serve --listen systemd --data "$home/other" "${@:2}"; }
held 127.0.0.1 >"$home/held.log" 2>&1 &
held_pid=$!
answers() { curl -sf --max-time 5 "$@" | grep -q .; }
within 10 answers "http://127.0.0.1:$port/health"
kill "$held_pid"
wait "$held_pid" || true
contains "$(cat "$home/held.log")" "listening on http://127.0.0.1:$port"
held 0.0.0.0 --log-format json >"$home/open.log" 2>&1 &
held_pid=$!
within 5 sh -c "! curl -s --max-time 5 http://127.0.0.1:$port/health && grep -q 'without TLS only loopback' '$home/open.log'"
wait "$held_pid" && exit 1
held 0.0.0.0 --tls-self-signed >"$home/tls.log" 2>&1 &
held_pid=$!
within 10 answers -k "https://127.0.0.1:$port/health"
kill "$held_pid"
wait "$held_pid" || true
contains "$(cat "$home/tls.log")" "listening on https://0.0.0.0:$port"

say "What the system unit leaves of /proc is enough for it"
unshare --mount --pid --fork --mount-proc sh -c '
    mount -o remount,hidepid=invisible,subset=pid /proc
    ! [ -e /proc/meminfo ] || exit 1
    exec timeout --preserve-status 3 "$@"' sh \
    "$AGENTKEYS" serve --listen unix:"$home/proc/s" --data "$home/other" >"$home/proc.log" 2>&1 || true
contains "$(cat "$home/proc.log")" "listening on unix:"
