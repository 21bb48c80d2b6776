//go:build linux

package zoo

// What FastAPI runs on. Debian's python3-uvicorn and python3-starlette, with websockets below.
var uvicorn = server{
	name:         "Starlette on uvicorn",
	keeps:        true,
	source:       debian("python3-uvicorn"),
	start:        python("-m", "uvicorn", "--port", "PORT", "--ws-max-size", "2097152", "asgi_app:app"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
