//go:build linux

package zoo

// Flask-SocketIO speaks Socket.IO from Python. Debian's python3-flask-socketio
// on python3-eventlet.
var flaskSocketIO = server{
	name:     "Flask-SocketIO",
	keeps:    true,
	source:   debian("python3-flask-socketio"),
	start:    python("flask_socketio_server.py"),
	path:     socketIO.path,
	fallback: true,
	nginx:    actionCable.nginx,
	why:      actionCable.why,
	kinds:    onlyBinary,
	auto:     pongEngineIO,
	greet:    socketIO.greet,
	say:      socketIO.say,
}
