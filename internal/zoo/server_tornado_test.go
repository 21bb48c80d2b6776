//go:build linux

package zoo

import "testing"

// Jupyter and many dashboards are built on Tornado. Debian's
// python3-tornado, with Pings every second and compression.
var tornado = server{
	name:         "Tornado",
	source:       debian("python3-tornado"),
	start:        python("tornado_server.py"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	nginx:        ownHost,
	why:          "it compares the page's origin with Host",
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}

// ownHost makes nginx pass on the client's Host, which the proxy does by default.
// Without it the server considers the page to be of another origin.
const ownHost = "proxy_set_header Host $http_host;"

// python starts a server in Debian's Python: a file of testdata that takes its
// port, or something else.
func python(args ...string) func(t *testing.T) *process {
	return func(t *testing.T) *process {
		if args[0] != "-m" {
			args = []string{testdata("python/" + args[0]), "PORT"}
		}
		return command{
			args: append([]string{"/usr/bin/python3"}, args...),
			env:  []string{"PYTHONPATH=" + testdata("python"), "PYTHONDONTWRITEBYTECODE=1"},
		}.start(t)
	}
}
