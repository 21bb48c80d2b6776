//go:build linux

package zoo

import (
	"fmt"
	"strings"
)

// Primus puts one API on several of these libraries. npm's primus, with its transformer for
// ws.
var primus = server{
	name:     "Primus",
	source:   npm("primus"),
	start:    node("primus.js"),
	path:     "/primus",
	fallback: true,
	kinds:    onlyText,
	auto: func(m message) *message {
		if ping, ok := strings.CutPrefix(string(m.data), `"primus::ping::`); ok {
			return &message{false, []byte(`"primus::pong::` + ping)}
		}
		return nil
	},
	say: func(v *visit, m message) error {
		packet := fmt.Sprintf(`"%s"`, m.data)
		return v.echoes(packet, packet)
	},
	leave: func(v *visit) error { return v.send(text(`"leave"`)) },
	lives: []life{script("its client", "primus_life.js")},
}
