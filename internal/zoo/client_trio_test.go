//go:build linux

package zoo

// trio-websocket. Debian's python3-trio-websocket.
var trioClient = client{
	name:   "trio-websocket",
	source: debian("python3-trio-websocket"),
	args:   []string{"/usr/bin/python3", testdata("python/trio_client.py"), "URL", "ROOT"},
}
