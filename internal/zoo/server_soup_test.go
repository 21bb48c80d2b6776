//go:build linux

package zoo

// libsoup is GNOME's library for HTTP. Debian's libsoup-3.0-0, from Python.
var soupServer = server{
	name:         "libsoup",
	source:       debian("libsoup-3.0-0"),
	start:        python("soup_server.py"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
