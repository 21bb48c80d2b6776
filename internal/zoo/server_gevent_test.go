//go:build linux

package zoo

// gevent-websocket is what many Flask applications run on. Debian's python3-gevent-websocket.
var gevent = server{
	name:         "gevent-websocket",
	source:       debian("python3-gevent-websocket"),
	start:        python("gevent_server.py"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
