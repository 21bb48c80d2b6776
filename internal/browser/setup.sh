#!/bin/sh
# Installs Debian's Chromium, and certutil, by which it is told whom to trust.
# Needs root only where one is missing.
set -eu

missing=
command -v chromium >/dev/null || missing="$missing chromium"
command -v certutil >/dev/null || missing="$missing libnss3-tools"
if [ -n "$missing" ]; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update
	# shellcheck disable=SC2086 # a list of names
	apt-get install -y --no-install-recommends $missing
fi
