//go:build linux

package zoo

// websockets is the most used library of Python. Debian's python3-websockets.
var pyWebsockets = server{
	name:         "websockets",
	keeps:        true,
	source:       debian("python3-websockets"),
	start:        python("websockets_server.py"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
