//go:build linux

package zoo

// Python's websocket-client, which knows no compression. Debian's python3-websocket.
var websocketClientPython = client{
	name:   "websocket-client",
	source: debian("python3-websocket"),
	args:   []string{"/usr/bin/python3", testdata("python/websocket_client.py"), "URL", "ROOT"},
}
