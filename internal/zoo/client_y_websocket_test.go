//go:build linux

package zoo

import "time"

// y-websocket's provider, which joins an editor to others.
var yWebsocketClient = client{
	name:     "y-websocket's",
	source:   npm("y-websocket"),
	args:     []string{"node", testdata("npm/y_websocket_client.js")},
	of:       &yWebsocket,
	patience: 8 * time.Second,
}
