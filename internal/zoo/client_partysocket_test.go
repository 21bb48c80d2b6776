//go:build linux

package zoo

import "time"

// PartySocket goes on where reconnecting-websocket ended.
var partySocketClient = client{
	name:     "PartySocket",
	source:   npm("partysocket"),
	args:     []string{"node", testdata("npm/partysocket_client.js")},
	of:       &npmWS,
	patience: 12 * time.Second,
}
