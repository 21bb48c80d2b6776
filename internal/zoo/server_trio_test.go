//go:build linux

package zoo

// Debian's python3-trio-websocket, with wsproto below.
var trio = server{
	name:         "trio-websocket",
	source:       debian("python3-trio-websocket"),
	start:        python("trio_server.py"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
