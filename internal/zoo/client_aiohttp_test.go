//go:build linux

package zoo

// aiohttp, with compression. Debian's python3-aiohttp.
var aiohttpClient = client{
	name:   "aiohttp",
	source: debian("python3-aiohttp"),
	args:   []string{"/usr/bin/python3", testdata("python/aiohttp_client.py"), "URL", "ROOT"},
}
