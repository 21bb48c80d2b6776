#!/bin/sh
# Installs the animals that are not Go modules: Debian's packages in one go, and
# one npm project. Needs root only where a Debian package is missing. What is
# installed here doesn't run as a service, neither now nor after a reboot: the
# tests run each program by themselves.
set -eu
cd "$(dirname "$0")"

# What carries and what everything is built with.
packages="nginx-light haproxy nodejs python3 gcc libc6-dev curl"
# Servers and clients in Python.
packages="$packages python3-websockets python3-tornado python3-aiohttp
	python3-uvicorn python3-hypercorn python3-starlette python3-wsproto
	python3-daphne python3-autobahn python3-trio-websocket python3-websocket
	python3-flask-socketio gunicorn python3-gevent-websocket python3-eventlet
	python3-cherrypy3 python3-ws4py python3-paho-mqtt
	jupyter-server python3-ipykernel websockify"
# Libraries that are called from Python.
packages="$packages python3-pyqt6.qtwebsockets gir1.2-soup-3.0 python3-gi
	glib-networking"
# In Ruby and Perl.
packages="$packages ruby-actioncable puma ruby-em-websocket ruby-faye
	ruby-faye-websocket libmojolicious-perl libio-socket-ssl-perl"
# In Java. A class is run from its source.
packages="$packages default-jdk-headless libtomcat10-java libjetty9-java
	libjetty9-extra-java libnetty-java"
# In C and C++, to be compiled.
packages="$packages libvncserver-dev libcivetweb-dev libwebsockets-dev
	g++ libwebsocketpp-dev libasio-dev zlib1g-dev"
# Browsers, and certutil, by which they are told whom to trust.
packages="$packages chromium firefox-esr libnss3-tools"
# Whole programs.
packages="$packages mosquitto mosquitto-clients libwebsockets-test-server
	prosody websocketd libnginx-mod-nchan ejabberd rabbitmq-server janus
	cockpit-ws cockpit-bridge uwsgi-core uwsgi-plugin-python3"

# services lists what starts at boot: scripts, and units of systemd.
services() {
	find /etc/init.d /etc/systemd/system/*.wants ! -type d 2>/dev/null | sed 's,.*/,,' | sort -u
}

missing=
for p in $packages; do
	case $(dpkg-query -W -f '${Status}' "$p" 2>/dev/null) in
	*' installed') ;;
	*)
		# A program that came by another way than Debian's will do.
		case $p in
		nodejs) ! command -v node >/dev/null || continue ;;
		default-jdk-headless) ! command -v javac >/dev/null || continue ;;
		esac
		missing="$missing $p"
		;;
	esac
done
# Debian's nodejs comes without npm.
command -v npm >/dev/null || case $missing in
*' nodejs'*) missing="$missing npm" ;;
esac
if [ -n "$missing" ]; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update
	before=$(services)
	(
		policy=/usr/sbin/policy-rc.d # whether packages may start services
		if ! [ -e $policy ]; then
			trap 'rm -f $policy' EXIT
			trap 'exit 1' HUP INT TERM
			printf '#!/bin/sh\nexit 101\n' >$policy
			chmod 755 $policy
		fi
		# shellcheck disable=SC2086 # a list of names
		apt-get install -y --no-install-recommends $missing
	)
	for s in $(services); do
		! echo "$before" | grep -qxF "$s" || continue
		case $s in
		*.*) rm -f /etc/systemd/system/*.wants/"$s" ;;
		*) update-rc.d "$s" disable || true ;;
		esac
	done
fi

cd testdata/npm
npm ci --ignore-scripts --no-audit --no-fund --prefer-offline
