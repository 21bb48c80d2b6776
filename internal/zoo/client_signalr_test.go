//go:build linux

package zoo

import "time"

// SignalR's client, withAutomaticReconnect.
var signalRClient = client{
	name:     "SignalR's",
	source:   npm("@microsoft/signalr"),
	args:     []string{"node", testdata("npm/signalr_client.js")},
	of:       &signalR,
	patience: 8 * time.Second,
}
