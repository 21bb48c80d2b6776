//go:build linux

package zoo

import (
	"path/filepath"
	"testing"
)

// ejabberd is a server of XMPP in Erlang, here over WebSockets (RFC 7395), with
// guests. Debian's ejabberd. Without a node name it needs no epmd.
var ejabberd = server{
	name:   "ejabberd",
	source: debian("ejabberd"),
	start: func(t *testing.T) *process {
		libs, _ := filepath.Glob("/usr/lib/*/ejabberd-*") // a fixed pattern is never malformed
		if libs == nil {
			unavailable(t, "ejabberd's modules are not installed: run setup.sh")
		}
		return command{
			args: []string{"erl", "-noinput", "-mnesia", "dir", `"DIR/db"`, "-s", "ejabberd"},
			env:  []string{"EJABBERD_CONFIG_PATH=DIR/conf.yml", "EJABBERD_LOG_PATH=DIR/log", "ERL_LIBS=" + filepath.Dir(libs[0])},
			files: map[string]string{"conf.yml": `
hosts: [zoo.example]
loglevel: info
listen:
  - port: PORT
    ip: 127.0.0.1
    module: ejabberd_http
    request_handlers:
      /ws: ejabberd_http_ws
auth_method: [anonymous]
anonymous_protocol: sasl_anon
modules:
  mod_disco: {}
  mod_muc:
    host: rooms.zoo.example
`},
			ready: answers("/ws"),
		}.start(t)
	},
	path:         "/ws",
	subprotocols: []string{"xmpp"},
	kinds:        onlyText,
	most:         70_000,
	greet:        greetXMPP,
	say:          sayXMPP,
	leave:        leaveXMPP,
	lives:        []life{roomXMPP("/ws")},
}
