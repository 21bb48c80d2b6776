#!/bin/sh
# Installs Debian's nginx and HAProxy, where they are missing, for the
# comparison in README.md. The tests run them by themselves: neither is left
# running as a service.
set -eu
PATH=$PATH:/usr/sbin # where others than root may not look

missing=
command -v nginx >/dev/null || missing="$missing nginx-light"
command -v haproxy >/dev/null || missing="$missing haproxy"
[ -n "$missing" ] || exit 0

export DEBIAN_FRONTEND=noninteractive
apt-get update
policy=/usr/sbin/policy-rc.d # whether packages may start services
if ! [ -e $policy ]; then
	trap 'rm -f $policy' EXIT
	trap 'exit 1' HUP INT TERM
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
fi
# shellcheck disable=SC2086 # a list of names
apt-get install -y --no-install-recommends $missing
for s in nginx haproxy; do
	case $missing in *$s*) update-rc.d "$s" disable ;; esac
done
