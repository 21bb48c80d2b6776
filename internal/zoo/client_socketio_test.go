//go:build linux

package zoo

import "time"

// Socket.IO's client with its default transports.
var socketIOClient = client{
	name:     "Socket.IO's",
	source:   npm("socket.io-client"),
	args:     []string{"node", testdata("npm/socketio_client.js")},
	of:       &socketIO,
	patience: 8 * time.Second,
}
