//go:build linux

package zoo

// Python's websockets. Debian's python3-websockets.
var websocketsClient = client{
	name:   "websockets",
	source: debian("python3-websockets"),
	args:   []string{"/usr/bin/python3", testdata("python/websockets_client.py"), "URL", "ROOT"},
}
