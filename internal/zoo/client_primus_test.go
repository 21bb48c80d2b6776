//go:build linux

package zoo

import "time"

// Primus's client, made by its server's options.
var primusClient = client{
	name:     "Primus's",
	source:   npm("primus"),
	args:     []string{"node", testdata("npm/primus_client.js")},
	of:       &primus,
	patience: 8 * time.Second,
}
