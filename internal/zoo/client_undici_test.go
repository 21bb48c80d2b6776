//go:build linux

package zoo

// undici's WebSocket, which Node.js has built in.
var undiciClient = client{
	name:   "undici",
	source: npm("undici"),
	args:   []string{"node", testdata("npm/undici_client.js"), "URL", "ROOT"},
}
