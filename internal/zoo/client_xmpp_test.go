//go:build linux

package zoo

import "time"

// xmpp.js, with Prosody, as a guest of its.
var xmppClient = client{
	name:     "xmpp.js",
	source:   npm("@xmpp/client"),
	args:     []string{"node", testdata("npm/xmpp_client.js")},
	of:       &prosody,
	patience: 8 * time.Second,
}
