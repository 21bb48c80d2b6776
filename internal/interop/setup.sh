#!/bin/sh
# Installs the peers that are not Go modules: npm's ws, Socket.IO and Vite, and
# Debian's python3-websockets, nginx, HAProxy, and a C compiler with LibVNCServer
# and CivetWeb. Needs root only where a Debian package is missing. The tests run
# nginx and HAProxy by themselves: what is installed here doesn't run as a
# service, neither now nor after a reboot.
set -eu
cd "$(dirname "$0")"
PATH=$PATH:/usr/sbin # where others than root may not look

missing=
services=
command -v node >/dev/null || missing="$missing nodejs"
command -v npm >/dev/null || missing="$missing npm"
/usr/bin/python3 -c 'import websockets' 2>/dev/null || missing="$missing python3-websockets"
command -v nginx >/dev/null || { missing="$missing nginx-light" services=nginx; }
command -v haproxy >/dev/null || { missing="$missing haproxy" services="$services haproxy"; }
command -v cc >/dev/null || missing="$missing gcc libc6-dev"
[ -e /usr/include/rfb/rfb.h ] || missing="$missing libvncserver-dev"
[ -e /usr/include/civetweb.h ] || missing="$missing libcivetweb-dev"
if [ -n "$missing" ]; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update
	(
		policy=/usr/sbin/policy-rc.d # whether packages may start services
		if [ -n "$services" ] && ! [ -e $policy ]; then
			trap 'rm -f $policy' EXIT
			trap 'exit 1' HUP INT TERM
			printf '#!/bin/sh\nexit 101\n' >$policy
			chmod 755 $policy
		fi
		# shellcheck disable=SC2086 # a list of names
		apt-get install -y --no-install-recommends $missing
	)
	for s in $services; do update-rc.d "$s" disable; done
fi

cd testdata/npm
npm ci --ignore-scripts --no-audit --no-fund --prefer-offline
