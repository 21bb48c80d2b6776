//go:build linux

package zoo

// npm's ws, as most programs in Node.js use it.
var wsClient = client{
	name:   "ws",
	source: npm("ws"),
	args:   []string{"node", testdata("npm/ws_client.js"), "URL", "ROOT"},
}
