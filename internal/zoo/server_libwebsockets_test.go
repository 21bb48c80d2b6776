//go:build linux

package zoo

import (
	"strings"
	"testing"
)

// libwebsockets' own test server, which counts up by itself twenty times a
// second. Debian's libwebsockets-test-server.
var libwebsockets = server{
	name:   "libwebsockets",
	source: debian("libwebsockets-test-server"),
	start: func(t *testing.T) *process {
		return command{args: []string{"libwebsockets-test-server", "-p", "PORT"}}.start(t)
	},
	path:         "/",
	subprotocols: []string{"dumb-increment-protocol"},
	mute:         true,
	greet: func(v *visit) error {
		m, err := v.receive()
		if err == nil && strings.Trim(string(m.data), "0123456789") != "" {
			return errSlow
		}
		return err
	},
	leave: func(v *visit) error { return v.send(text("closeme\n")) },
}
