#!/usr/bin/env bash
# Runs the tests of the recipes (`npm test` in scripts/provisioner, built before) with a Node that
# is new enough: the machine's, or that of scripts/install-test-tools.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/install-test-tools.sh
own=$PWD/target/test-tools/node/node_modules/node/bin
[ ! -x "$own/node" ] || PATH=$own:$PATH
npm test --silent --prefix scripts/provisioner
