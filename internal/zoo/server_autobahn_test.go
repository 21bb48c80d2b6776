//go:build linux

package zoo

// Crossbar and Daphne are built on it. Debian's python3-autobahn, with Pings every second and compression.
var autobahn = server{
	name:         "Autobahn on Twisted",
	source:       debian("python3-autobahn"),
	start:        python("autobahn_server.py"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
