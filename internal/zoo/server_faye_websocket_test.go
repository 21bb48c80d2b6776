//go:build linux

package zoo

// faye-websocket is what SockJS and webpack's older server run on. npm's
// faye-websocket, with Pings every second.
var fayeWebsocket = server{
	name:         "faye-websocket",
	source:       npm("faye-websocket"),
	start:        node("faye_websocket.js"),
	path:         "/",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
}
