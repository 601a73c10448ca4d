#!/usr/bin/env bash
# The Debian package and the container image, made of the release binary and used as they are meant:
# installed by the real dpkg, and run by podman without root's rights on a file system that is not
# written to.
#
# dpkg works on a copy of this machine's file system that is gone afterwards, so root it must be, of
# a user namespace at least.
if [ -z "${PACKAGES_FLOW:-}" ]; then
    enter=(--mount)
    [ "$(id -u)" -eq 0 ] || enter+=(--user --map-auto --map-root-user)
    PACKAGES_FLOW=1 exec unshare "${enter[@]}" "$0" "$@"
fi
. "$(dirname "$0")/lib/common.sh"
packaging=$here/packaging

say "One binary gives one package, byte for byte"
deb=$("$packaging/deb.sh" "$home/one" --binary "$AGENTKEYS")
again=$("$packaging/deb.sh" "$home/two" --binary "$AGENTKEYS")
cmp "$deb" "$again"
contains "$(dpkg-deb --field "$deb" Depends)" "libc6 (>= 2.34)"
lint=$(lintian --fail-on error "$deb" 2>/dev/null) || { printf '%s\n' "$lint" >&2; exit 1; }

say "dpkg installs it"
mount -t tmpfs tmpfs /mnt
mkdir /mnt/{changed,work,machine}
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/changed,workdir=/mnt/work /mnt/machine
machine=/mnt/machine
mount -t tmpfs tmpfs "$machine/tmp"
mount -t proc proc "$machine/proc"
mount --rbind /dev "$machine/dev"
cp "$deb" "$machine/tmp/agentkeys.deb"
on() { chroot "$machine" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"; }
quietly() { "$@" >"$home/quiet.log" 2>&1 || { cat "$home/quiet.log" >&2; exit 1; }; }
quietly on dpkg --install /tmp/agentkeys.deb
expect "$("$AGENTKEYS" --version)" on agentkeys --version
expect "$("$AGENTKEYS" --version)" on agentkeysd --version
expect "600 root 64" on stat -c '%a %U %s' /etc/agentkeys/root-key
# Out of the package itself: some machines are told to install no manual pages.
dpkg-deb --fsys-tarfile "$deb" | tar -xO ./usr/share/man/man1/agentkeys.1.gz | gunzip >"$home/agentkeys.1"
contains "$(man --pager=cat --local-file "$home/agentkeys.1" 2>/dev/null)" "SYNOPSIS"
on bash -n /usr/share/bash-completion/completions/agentkeys
key=$(on sha256sum /etc/agentkeys/root-key)

say "Its service, as the unit starts it, keeps its data as the package's own user"
serve=$(sed -n 's/^ExecStart=//p' "$machine/usr/lib/systemd/system/agentkeys.service")
on install -d -m 700 -o agentkeys /var/lib/agentkeys /run/credentials
on install -m 400 -o agentkeys /etc/agentkeys/root-key /run/credentials/agentkeys-root-key
# The variable is split at spaces, as systemd does it.
printf 'exec setpriv --reuid agentkeys --regid agentkeys --clear-groups --no-new-privs --bounding-set -all %s\n' \
    "$serve" >"$machine/tmp/serve"
service=(HOME=/var/lib/agentkeys CREDENTIALS_DIRECTORY=/run/credentials)
on "${service[@]}" sh /tmp/serve >"$home/told.log" 2>&1 && exit 1
contains "$(cat "$home/told.log")" "serve wants --listen"
on "${service[@]}" AGENTKEYS_SERVE="--listen 127.0.0.1:0" sh /tmp/serve >"$home/serve.out" 2>"$home/serve.log" &
within 10 grep -q '^listening on' "$home/serve.out"
curl -sf "$(sed -n 's/^listening on //p' "$home/serve.out")/health" | grep -q ok
expect "agentkeys" on stat -c %U /var/lib/agentkeys/store
kill "$!"
wait "$!" || true

say "Installed over itself, and purged, it keeps the root key and the data"
quietly on dpkg --install /tmp/agentkeys.deb
expect "$key" on sha256sum /etc/agentkeys/root-key
contains "$(on dpkg --purge agentkeys 2>&1)" "stay"
expect "$key" on sha256sum /etc/agentkeys/root-key
on test -d /var/lib/agentkeys/store
on test ! -e /usr/bin/agentkeys

say "A base image like the one in the Containerfile, of this Debian's own packages"
# That one is out of reach here; it is made of the same packages in the same way.
mkdir -p "$home/base/etc" "$home/base/tmp" "$home/packages"
chmod 1777 "$home/base/tmp"
(
    cd "$home/packages"
    packages=(base-files libc6 libgcc-s1 libssl3 ca-certificates tzdata)
    # The lists of packages may be old, or not there.
    apt-get download "${packages[@]}" >/dev/null 2>&1 || {
        quietly apt-get update
        quietly apt-get download "${packages[@]}"
    }
    for package in *.deb; do dpkg-deb --extract "$package" "$home/base"; done
)
mkdir -p "$home/base/etc/ssl/certs"
cat "$home"/base/usr/share/ca-certificates/mozilla/*.crt >"$home/base/etc/ssl/certs/ca-certificates.crt"
printf 'root:x:0:0::/root:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n' >"$home/base/etc/passwd"
# As Debian's usrmerge has it, which libc6 alone does not set up.
for folder in lib lib64 bin sbin; do
    [ ! -d "$home/base/$folder" ] || [ -L "$home/base/$folder" ] || {
        mkdir -p "$home/base/usr/$folder"
        cp -a "$home/base/$folder/." "$home/base/usr/$folder/"
        rm -r "${home:?}/base/$folder"
        ln -s "usr/$folder" "$home/base/$folder"
    }
done
export CONTAINER_TOOL="podman --root $home/containers --runroot $home/containers-run --storage-driver vfs --runtime runc --cgroup-manager cgroupfs --log-level error"
read -ra podman <<<"$CONTAINER_TOOL"
on_exit() {
    local code=$?
    "${podman[@]}" rm --all --force --time 0 >/dev/null 2>&1 || true
    finish "$code"
}
trap on_exit EXIT
tar -C "$home/base" -c . | "${podman[@]}" import --quiet - localhost/base >/dev/null

say "The image builds, and runs as nobody, on a file system that is not written to"
quietly "$packaging/oci/build.sh" --binary "$AGENTKEYS" --tag localhost/agentkeys --base localhost/base
expect "65532:65532" "${podman[@]}" image inspect --format '{{.Config.User}}' localhost/agentkeys
mkdir -m 700 "$home/volume" "$home/volume/run"
head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$home/root-key"
chmod 400 "$home/root-key"
chown -R 65532:65532 "$home/volume" "$home/root-key"
chmod 711 "$home"
run=("${podman[@]}" run --read-only --cap-drop all --security-opt no-new-privileges --network host
    --ulimit nofile=4096:4096 --ulimit nproc=512:512 --volume "$home/volume:/var/lib/agentkeys"
    --volume "$home/root-key:/run/secrets/agentkeys-root-key:ro")
contains "$("${run[@]}" --rm localhost/agentkeys --version)" "agentkeys "
# start NAME: a backend, and its address in $https.
start() {
    "${run[@]}" --name "$1" --detach localhost/agentkeys serve --data /var/lib/agentkeys/store \
        --root-key file:/run/secrets/agentkeys-root-key --tls-self-signed --listen 127.0.0.1:0 \
        --listen unix:/var/lib/agentkeys/run/backend.sock >/dev/null
    within 20 sh -c "${podman[*]} logs $1 2>/dev/null | grep -q ^certificate"
    https=$("${podman[@]}" logs "$1" 2>/dev/null | sed -n 's/^listening on \(https.*\)/\1/p')
}
start first
curl -skf "$https/health" | grep -q ok
# A client of the same user reaches it by the socket on the volume.
as_it() { setpriv --reuid 65532 --regid 65532 --clear-groups env -i HOME="$home/volume/home" PATH="$PATH" \
    "$AGENTKEYS" --backend "unix:$home/volume/run/backend.sock" "$@"; }
install -d -m 700 -o 65532 -g 65532 "$home/volume/home"
quietly as_it init
printf 'sk-or-v1-in-a-box' | quietly as_it store my-agent openrouter -
expect "sk-or-v1-in-a-box" as_it read my-agent openrouter
"${podman[@]}" logs first 2>&1 | grep -q 'does not run' && exit 1

say "Stopped and started again from the same volume, it has what was stored"
begun=$SECONDS
"${podman[@]}" stop --time 20 first >/dev/null
[ $((SECONDS - begun)) -lt 15 ] || { printf 'it did not stop when it was told to\n' >&2; exit 1; }
expect "0" "${podman[@]}" inspect --format '{{.State.ExitCode}}' first
start second
expect "sk-or-v1-in-a-box" as_it read my-agent openrouter
"${podman[@]}" stop --time 20 second >/dev/null
