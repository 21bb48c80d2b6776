//go:build linux

package zoo

// The same application in a worker of gunicorn. Debian's gunicorn.
var gunicorn = server{
	name:         "gevent-websocket on gunicorn",
	source:       debian("gunicorn"),
	start:        python("-m", "gunicorn", "--chdir", testdata("python"), "-b", "127.0.0.1:PORT", "-k", "geventwebsocket.gunicorn.workers.GeventWebSocketWorker", "gevent_server:app"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/private"},
}
