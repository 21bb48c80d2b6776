//go:build linux

package zoo

// ws4py is older than most. Debian's python3-ws4py and python3-cherrypy3.
var ws4py = server{
	name:         "ws4py on CherryPy",
	source:       debian("python3-ws4py"),
	start:        python("ws4py_server.py"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
}
