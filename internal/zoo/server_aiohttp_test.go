//go:build linux

package zoo

// aiohttp is what Home Assistant is built on. Debian's python3-aiohttp.
var aiohttpServer = server{
	name:         "aiohttp",
	source:       debian("python3-aiohttp"),
	start:        python("aiohttp_server.py"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
