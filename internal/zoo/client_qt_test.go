//go:build linux

package zoo

// Qt 6's WebSockets, called from Python. Debian's python3-pyqt6.qtwebsockets.
var qtClient = client{
	name:   "Qt WebSockets",
	source: debian("libqt6websockets6"),
	args:   []string{"/usr/bin/python3", testdata("python/qt_client.py"), "URL", "ROOT"},
}
