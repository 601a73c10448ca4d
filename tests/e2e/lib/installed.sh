# Installs the release binary as people do, by install.sh and by npm, each in a home of its own;
# $installed_by_sh and $installed_by_npm are what they start then. Sourced by scripts/test, with the
# binary in $release.

# Short, since sockets lie below it.
installed=$(mktemp -d)
trap 'rm -rf "$installed"' EXIT
mkdir -p "$installed/sh" "$installed/npm"
openssl ecparam -genkey -name prime256v1 -noout -out "$installed/key.pem"
openssl ec -in "$installed/key.pem" -pubout -out "$installed/public.pem" 2>/dev/null
packaging/dist.sh "$installed/dist" --binary "$release" --key "$installed/key.pem"
begun=$SECONDS
HOME=$installed/sh AGENTKEYS_DIST=$installed/dist AGENTKEYS_RELEASE_KEY=$installed/public.pem \
    sh packaging/install.sh --no-path
installed_by_sh=$installed/sh/.agentkeys/bin/agentkeys
# In an empty home, without a terminal and without a question.
HOME=$installed/sh "$installed_by_sh" quickstart </dev/null >/dev/null 2>&1
HOME=$installed/sh "$installed_by_sh" serve --stop
printf 'install.sh and quickstart: %s s\n' "$((SECONDS - begun))"

node packaging/npm/pack.mjs --out "$installed/packed" --binary "linux-x64=$release"
begun=$SECONDS
printf '{"private":true}\n' >"$installed/npm/package.json"
HOME=$installed/npm npm install --silent --no-audit --no-fund --prefix "$installed/npm" \
    "$installed"/packed/agentkeys-{daemon,cli,linux-x64}-*.tgz
installed_by_npm=$installed/npm/node_modules/.bin/agentkeys
(cd "$installed/npm" && HOME=$installed/npm npx --no-install agentkeys quickstart </dev/null >/dev/null 2>&1)
HOME=$installed/npm "$installed_by_npm" serve --stop
printf 'npm install and npx agentkeys quickstart: %s s\n' "$((SECONDS - begun))"
