//go:build linux

package zoo

// engine.io's client with its default transports.
var engineIOClient = client{
	name:   "engine.io's",
	source: npm("engine.io-client"),
	args:   []string{"node", testdata("npm/engineio_client.js")},
	of:     &engineIO,
}
