//go:build linux

package zoo

import "time"

// Action Cable's client. It looks after its connection about every 6 s.
var actionCableClient = client{
	name:     "Action Cable's",
	source:   npm("@rails/actioncable"),
	args:     []string{"node", testdata("npm/actioncable_client.js")},
	of:       &actionCable,
	patience: 16 * time.Second,
}
