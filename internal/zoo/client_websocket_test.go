//go:build linux

package zoo

// npm's websocket, by its event API.
var websocketClient = client{
	name:   "websocket",
	source: npm("websocket"),
	args:   []string{"node", testdata("npm/websocket_client.js"), "URL", "ROOT"},
}
