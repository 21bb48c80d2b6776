//go:build linux

package zoo

import (
	"path/filepath"
	"testing"
)

// Cowboy is Erlang's server, below Phoenix and RabbitMQ. Debian has it as a part
// of rabbitmq-server, whose version the table has. It cuts what is silent for 60 s,
// Pings apart.
var cowboy = server{
	name:   "Cowboy",
	source: debian("rabbitmq-server"),
	start: func(t *testing.T) *process {
		libs, _ := filepath.Glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/plugins") // a fixed pattern is never malformed
		if libs == nil {
			unavailable(t, "RabbitMQ's modules are not installed: run setup.sh")
		}
		return command{
			args: []string{"escript", testdata("erlang/cowboy.erl"), "PORT"},
			env:  []string{"ERL_LIBS=" + libs[0]},
		}.start(t)
	},
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
