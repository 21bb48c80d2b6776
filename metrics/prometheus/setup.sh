#!/bin/sh
# Installs Debian's prometheus, with promtool, for the tests. Needs root only
# where it is missing. The tests run the server by themselves: what is installed
# here doesn't run as a service, neither now nor after a reboot.
set -eu

if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
	exit
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update
(
	policy=/usr/sbin/policy-rc.d # whether packages may start services
	if ! [ -e $policy ]; then
		trap 'rm -f $policy' EXIT
		trap 'exit 1' HUP INT TERM
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
	fi
	apt-get install -y --no-install-recommends prometheus
)
update-rc.d prometheus disable
