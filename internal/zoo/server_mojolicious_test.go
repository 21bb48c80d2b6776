//go:build linux

package zoo

import (
	"testing"
)

// Mojolicious is Perl's. Debian's libmojolicious-perl, with compression.
var mojolicious = server{
	name:   "Mojolicious",
	source: debian("libmojolicious-perl"),
	start: func(t *testing.T) *process {
		return command{
			args: []string{"/usr/bin/perl", testdata("perl/mojo.pl"), "daemon", "-l", "http://127.0.0.1:PORT"},
			env:  []string{"MOJO_INACTIVITY_TIMEOUT=0"},
		}.start(t)
	},
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private/"},
}
