//go:build linux

package zoo

// What Django's channels run on, with Twisted and Autobahn below. Debian's python3-daphne.
var daphne = server{
	name:         "Starlette on Daphne",
	keeps:        true,
	source:       debian("python3-daphne"),
	start:        python("-m", "daphne", "-b", "127.0.0.1", "-p", "PORT", "asgi_app:app"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
