//go:build linux

package zoo

// SockJS's client.
var sockJSClient = client{
	name:   "SockJS's",
	source: npm("sockjs-client"),
	args:   []string{"node", testdata("npm/sockjs_client.js")},
	of:     &sockJS,
}
