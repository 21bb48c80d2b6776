//go:build linux

package zoo

import "time"

// subscriptions-transport-ws's client, which is told to reconnect.
var subscriptionsTransportWSClient = client{
	name:     "subscriptions-transport-ws's",
	source:   npm("subscriptions-transport-ws"),
	args:     []string{"node", testdata("npm/subscriptions_transport_ws_client.js")},
	of:       &subscriptionsTransportWS,
	patience: 10 * time.Second,
}
