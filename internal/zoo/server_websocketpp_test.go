//go:build linux

package zoo

import "testing"

// WebSocket++ is in many programs in C++. Debian's libwebsocketpp-dev and
// libasio-dev.
var websocketpp = server{
	name:   "WebSocket++",
	source: debian("libwebsocketpp-dev"),
	start: func(t *testing.T) *process {
		program := compile(t, "websocketpp.cc", "-std=c++17", "-DASIO_STANDALONE", "-lz", "-pthread")
		return command{args: []string{program, "PORT"}}.start(t)
	},
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
