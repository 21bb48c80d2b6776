//go:build linux

package zoo

import "fmt"

// SockJS falls back on HTTP where there are no WebSockets. npm's sockjs.
var sockJS = server{
	name:     "SockJS",
	source:   npm("sockjs"),
	start:    node("sockjs.js"),
	path:     "/echo/123/abcdefgh/websocket",
	fallback: true,
	kinds:    onlyText,
	greet: func(v *visit) error {
		_, err := v.receiveText("o")
		return err
	},
	say: func(v *visit, m message) error {
		if err := v.send(text(fmt.Sprintf(`["%s"]`, m.data))); err != nil {
			return err
		}
		got, err := v.receiveText("a")
		if want := fmt.Sprintf(`a["%s"]`, m.data); err == nil && got != want {
			return fmt.Errorf("%.80q came", got)
		}
		return err
	},
	leave: func(v *visit) error { return v.send(text(`["leave"]`)) },
	lives: []life{script("its client", "sockjs_life.js")},
}
