//go:build linux

package zoo

import "fmt"

// Phoenix is Elixir's framework; LiveView runs over its channels. npm's phoenix,
// which is its client, at a server of our own on ws that speaks its protocol, for
// neither Debian nor npm has the server.
var phoenix = server{
	name:     "Phoenix",
	source:   npm("phoenix"),
	start:    node("phoenix.js"),
	path:     "/socket/websocket?vsn=2.0.0",
	fallback: true,
	kinds:    onlyText,
	greet: func(v *visit) error {
		_, err := v.ask(`["1","1","room:zoo","phx_join",{}]`, `["1","1","room:zoo","phx_reply",{"status":"ok"`)
		return err
	},
	say: func(v *visit, m message) error {
		return v.echoes(fmt.Sprintf(`["1","2","room:zoo","echo","%s"]`, m.data),
			fmt.Sprintf(`["1","2","room:zoo","phx_reply",{"status":"ok","response":"%s"}]`, m.data))
	},
	leave:   func(v *visit) error { return v.send(text(`["1","3","room:zoo","leave",{}]`)) },
	private: &offer{path: "/socket/websocket?vsn=2.0.0&token=wrong"},
	lives:   []life{script("its client", "phoenix_life.js")},
}
