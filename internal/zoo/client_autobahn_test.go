//go:build linux

package zoo

// autobahn-python on asyncio, with compression. Debian's python3-autobahn.
var autobahnClient = client{
	name:   "Autobahn",
	source: debian("python3-autobahn"),
	args:   []string{"/usr/bin/python3", testdata("python/autobahn_client.py"), "URL", "ROOT"},
}
