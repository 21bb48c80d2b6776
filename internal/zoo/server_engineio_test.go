//go:build linux

package zoo

import (
	"bytes"
	"fmt"
)

// engine.io is what Socket.IO is built on. npm's engine.io, with compression.
var engineIO = server{
	name:     "engine.io",
	source:   npm("engine.io"),
	start:    node("engineio.js"),
	fallback: true, // for polling
	path:     "/engine.io/?EIO=4&transport=websocket",
	auto:     pongEngineIO,
	greet: func(v *visit) error {
		_, err := v.receiveText("0{")
		return err
	},
	say: func(v *visit, m message) error {
		if !m.binary {
			return v.echoes("4"+string(m.data), "4"+string(m.data))
		}
		if err := v.send(m); err != nil {
			return err
		}
		got, err := v.receive()
		if err == nil && !bytes.Equal(got.data, m.data) {
			return fmt.Errorf("%v came", got)
		}
		return err
	},
	leave: func(v *visit) error { return v.send(text("4leave")) },
}
