#!/bin/sh
# Installs Debian's HAProxy, iproute2 and nftables. Needs root only where one is
# missing. The tests run HAProxy by themselves: what is installed here doesn't
# run as a service, neither now nor after a reboot.
set -eu
PATH=$PATH:/usr/sbin:/sbin # where others than root may not look

missing=
services=
command -v haproxy >/dev/null || { missing="$missing haproxy" services="$services haproxy"; }
command -v ip >/dev/null || missing="$missing iproute2"
command -v nft >/dev/null || { missing="$missing nftables" services="$services nftables"; }
[ -n "$missing" ] || exit 0

export DEBIAN_FRONTEND=noninteractive
apt-get update
policy=/usr/sbin/policy-rc.d # whether packages may start services
if [ -n "$services" ] && ! [ -e $policy ]; then
	trap 'rm -f $policy' EXIT
	trap 'exit 1' HUP INT TERM
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
fi
# shellcheck disable=SC2086 # a list of names
apt-get install -y --no-install-recommends $missing
for s in $services; do update-rc.d "$s" disable || true; done
