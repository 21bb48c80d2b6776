//go:build linux

package zoo

// The same with wsproto below, uvicorn's other library.
var uvicornWsproto = server{
	name:         "Starlette on uvicorn, wsproto",
	source:       debian("python3-wsproto"),
	start:        python("-m", "uvicorn", "--port", "PORT", "--ws", "wsproto", "asgi_app:app"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
