//go:build linux

package zoo

import "time"

// Phoenix's client.
var phoenixClient = client{
	name:     "Phoenix's",
	source:   npm("phoenix"),
	args:     []string{"node", testdata("npm/phoenix_client.js")},
	of:       &phoenix,
	patience: 8 * time.Second,
}
