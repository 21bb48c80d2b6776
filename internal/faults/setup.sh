#!/bin/sh
# Installs what the tests make networks of their own with: iproute2 and
# nftables. Needs root only where one of them is missing.
set -eu
PATH=$PATH:/usr/sbin:/sbin # where others than root may not look

missing=
command -v ip >/dev/null || missing="$missing iproute2"
command -v nft >/dev/null || missing="$missing nftables"
if [ -n "$missing" ]; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update
	# shellcheck disable=SC2086 # a list of names
	apt-get install -y --no-install-recommends $missing
fi
