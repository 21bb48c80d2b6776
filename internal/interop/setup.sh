#!/bin/sh
# Installs the peers that are not Go modules: npm's ws, and Debian's
# python3-websockets. Needs root only where a Debian package is missing.
set -eu
cd "$(dirname "$0")"

missing=
command -v node >/dev/null || missing="$missing nodejs"
command -v npm >/dev/null || missing="$missing npm"
/usr/bin/python3 -c 'import websockets' 2>/dev/null || missing="$missing python3-websockets"
if [ -n "$missing" ]; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update
	# shellcheck disable=SC2086 # a list of names
	apt-get install -y --no-install-recommends $missing
fi

cd testdata/npm
npm ci --ignore-scripts --no-audit --no-fund --prefer-offline
