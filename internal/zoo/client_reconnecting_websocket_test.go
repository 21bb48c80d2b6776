//go:build linux

package zoo

import "time"

// reconnecting-websocket is a WebSocket that reconnects, for browsers, here on
// ws.
var reconnectingWebsocketClient = client{
	name:     "reconnecting-websocket",
	source:   npm("reconnecting-websocket"),
	args:     []string{"node", testdata("npm/reconnecting_client.js")},
	of:       &npmWS,
	patience: 12 * time.Second,
}
