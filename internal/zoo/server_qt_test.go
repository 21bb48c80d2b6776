//go:build linux

package zoo

import "net/http"

// Qt's server of WebSockets is in desktop programs that pages talk to. Debian's
// libqt6websockets6, from Python.
var qtServer = server{
	name:         "Qt WebSockets",
	source:       debian("libqt6websockets6"),
	start:        python("qt_server.py"),
	path:         "/echo",
	subprotocols: []string{"zoo.v1", "zoo.v2"},
	leave:        askToLeave,
	private:      &offer{path: "/echo", header: http.Header{"Origin": {"http://elsewhere.example"}}},
}
