//go:build linux

package zoo

// npm's faye-websocket, with extensions left out, as by default.
var fayeWebsocketClient = client{
	name:   "faye-websocket",
	source: npm("faye-websocket"),
	args:   []string{"node", testdata("npm/faye_websocket_client.js"), "URL", "ROOT"},
}
