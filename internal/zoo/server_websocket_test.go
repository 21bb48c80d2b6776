//go:build linux

package zoo

// websocket is older than ws. npm's websocket, with Pings every second.
var npmWebsocket = server{
	name:         "websocket",
	source:       npm("websocket"),
	start:        node("websocket.js"),
	path:         "/",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
