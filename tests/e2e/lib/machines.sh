# Machines of the flow's own, inside this one: each has its own network and host name, and a folder,
# $home/own, that it alone sees; it is joined to another only where `link` says so. Sourced, never run.
#
# Everything is gone when the flow ends: the namespaces live as long as the process that holds them.

declare -A machine_pids=()

# machine NAME: makes one. Its home is $home/own/home, on a file system that no other machine sees.
machine() {
    local ready=$home/machine-$1
    mkdir -p "$home/own"
    mkfifo "$ready"
    unshare --net --mount --uts --ipc --propagation private sh -ec '
        mount -t tmpfs -o mode=700 tmpfs "$3"
        mkdir -m 700 "$3/home"
        hostname "$1"
        ip link set lo up
        echo ready >"$2"
        exec sleep infinity' sh "$1" "$ready" "$home/own" &
    machine_pids[$1]=$!
    read -r _ <"$ready"
}

# link A ADDRESS B ADDRESS: one cable between two machines, and no route beyond it.
link() {
    local a=${machine_pids[$1]} b=${machine_pids[$3]} name=${1:0:5}-${3:0:5}
    ip link add "$name" netns "$a" type veth peer name "$name" netns "$b"
    on "$1" ip address add "$2/24" dev "$name"
    on "$1" ip link set "$name" up
    on "$3" ip address add "$4/24" dev "$name"
    on "$3" ip link set "$name" up
}

# on NAME COMMAND...: runs it there, with nothing of this environment but PATH.
on() {
    local pid=${machine_pids[$1]}
    shift
    nsenter --target "$pid" --net --mount --uts --ipc -- \
        env -i -C "$home/own/home" HOME="$home/own/home" PATH="$PATH" "$@"
}

# command_on NAME FILE [VARIABLE=VALUE...] COMMAND: makes FILE a command that runs COMMAND there with
# its own arguments. $AGENT_HOME, if it is set, is the folder below $home/own that is its home.
command_on() {
    local pid=${machine_pids[$1]} file=$2
    shift 2
    {
        printf '#!/bin/sh\nhome=%q/${AGENT_HOME:-home}\n' "$home/own"
        printf 'exec nsenter --target %s --net --mount --uts --ipc -- ' "$pid"
        printf 'env -i -C %q HOME="$home" PATH=%q ' "$home/own" "$PATH"
        while [ $# -gt 1 ]; do
            printf '%q ' "$1"
            shift
        done
        printf %q' ' sh -c 'mkdir -p "$HOME" && exec "$0" "$@"' "$1"
        printf '"$@"\n'
    } >"$file"
    chmod +x "$file"
}

# Namespaces want root, or a user namespace in which one is root.
as_root_of_namespaces() {
    [ "$(id -u)" -eq 0 ] || exec unshare --user --map-root-user --net "$0" "$@"
}
