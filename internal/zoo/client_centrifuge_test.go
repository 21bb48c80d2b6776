//go:build linux

package zoo

import "time"

// Centrifuge's client for JavaScript.
var centrifugeClient = client{
	name:     "centrifuge-js",
	source:   npm("centrifuge"),
	args:     []string{"node", testdata("npm/centrifuge_client.js")},
	of:       &centrifugeServer,
	patience: 8 * time.Second,
}
