//go:build linux

package zoo

import "testing"

// uWSGI serves Python, and WebSockets by itself. Debian's uwsgi-core with
// uwsgi-plugin-python3. Its programs don't learn whether a message is text.
var uwsgi = server{
	name:   "uWSGI",
	keeps:  true,
	source: debian("uwsgi-core"),
	start: func(t *testing.T) *process {
		return command{args: []string{
			"uwsgi", "--plugins", "http,python3", "--http-socket", "127.0.0.1:PORT", "--threads", "16",
			"--websockets-max-size", "2048", "--wsgi-file", testdata("python/uwsgi_app.py"),
		}, env: []string{"PYTHONDONTWRITEBYTECODE=1"}}.start(t)
	},
	path:    "/echo",
	kinds:   onlyText,
	noPong:  true,
	leave:   askToLeave,
	private: &offer{path: "/private"},
}
