//go:build linux

package zoo

// libsoup 3, called from Python. Debian's gir1.2-soup-3.0.
var soupClient = client{
	name:   "libsoup",
	source: debian("libsoup-3.0-0"),
	args:   []string{"/usr/bin/python3", testdata("python/soup_client.py"), "URL", "ROOT"},
}
