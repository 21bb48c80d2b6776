//go:build linux

package zoo

import "testing"

// ws is what most servers in Node.js are built on. npm's ws, with HTTP
// authentication done in the server's upgrade event as its README says.
var npmWS = server{
	name:         "ws",
	source:       npm("ws"),
	start:        node("ws.js"),
	path:         "/",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}

// node starts a server in Node.js.
func node(script string) func(t *testing.T) *process {
	return func(t *testing.T) *process {
		return command{args: []string{"node", testdata("npm/" + script), "PORT"}}.start(t)
	}
}

// askToLeave makes one of our servers close.
func askToLeave(v *visit) error { return v.send(text("leave")) }
