//go:build linux

package zoo

// What Quart runs on. Debian's python3-hypercorn.
var hypercorn = server{
	name:         "Starlette on Hypercorn",
	source:       debian("python3-hypercorn"),
	start:        python("-m", "hypercorn", "--bind", "127.0.0.1:PORT", "asgi_app:app"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
