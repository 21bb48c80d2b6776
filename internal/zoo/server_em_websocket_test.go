//go:build linux

package zoo

import (
	"testing"
)

// Many Ruby servers are built on em-websocket. Debian's
// ruby-em-websocket.
var emWebsocket = server{
	name:   "em-websocket",
	source: debian("ruby-em-websocket"),
	start: func(t *testing.T) *process {
		return command{args: []string{"ruby", testdata("ruby/em_websocket.rb"), "PORT"}}.start(t)
	},
	path:  "/",
	leave: askToLeave,
}
