//go:build linux

package zoo

// Tornado, with compression. Debian's python3-tornado.
var tornadoClient = client{
	name:   "Tornado",
	source: debian("python3-tornado"),
	args:   []string{"/usr/bin/python3", testdata("python/tornado_client.py"), "URL", "ROOT"},
}
