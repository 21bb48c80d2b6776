//go:build linux

package zoo

import (
	"bytes"
	"fmt"
	"testing"
)

// y-websocket joins editors of one document. npm's y-websocket with its own
// server.
var yWebsocket = server{
	name:   "y-websocket",
	source: npm("y-websocket"),
	start: func(t *testing.T) *process {
		return command{
			args: []string{"node", testdata("npm/node_modules/y-websocket/bin/server.cjs")},
			env:  []string{"PORT=PORT", "HOST=127.0.0.1"},
		}.start(t)
	},
	path:  "/room",
	keeps: true,
	most:  1,
	kinds: onlyBinary,
	greet: func(v *visit) error {
		_, err := v.receive() // what the server has, in sync's first step
		return err
	},
	say: func(v *visit, _ message) error { // what do you have: nothing
		if err := v.send(message{true, []byte{0, 0, 1, 0}}); err != nil {
			return err
		}
		got, err := v.receive()
		if err == nil && !bytes.Equal(got.data, []byte{0, 1, 2, 0, 0}) {
			return fmt.Errorf("%v came", got)
		}
		return err
	},
	lives: []life{script("two editors", "y_websocket_life.js")},
}
