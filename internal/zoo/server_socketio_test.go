//go:build linux

package zoo

import (
	"bytes"
	"fmt"
)

// Socket.IO is what most chats and games in Node.js are built on. npm's
// socket.io. Its client polls first.
var socketIO = server{
	name:     "Socket.IO",
	source:   npm("socket.io"),
	start:    node("socketio.js"),
	path:     "/socket.io/?EIO=4&transport=websocket",
	fallback: true,
	auto:     pongEngineIO,
	greet: func(v *visit) error {
		if _, err := v.receiveText("0{"); err != nil {
			return err
		}
		_, err := v.ask("40", "40{")
		return err
	},
	say: func(v *visit, m message) error {
		if !m.binary {
			packet := fmt.Sprintf(`42["echo","%s"]`, m.data)
			return v.echoes(packet, packet)
		}
		const header = `451-["echo",{"_placeholder":true,"num":0}]`
		if err := v.send(text(header)); err != nil {
			return err
		}
		if err := v.send(m); err != nil {
			return err
		}
		if got, err := v.receive(); err != nil || !got.is(header) {
			return fmt.Errorf("%v came, %v", got, err)
		}
		got, err := v.receive()
		if err == nil && !bytes.Equal(got.data, m.data) {
			return fmt.Errorf("%v came", got)
		}
		return err
	},
	leave: func(v *visit) error { return v.send(text(`42["leave"]`)) },
	lives: []life{script("its client", "socketio_life.js")},
}

// pongEngineIO answers a Ping of engine.io.
func pongEngineIO(m message) *message {
	if m.is("2") {
		return &message{false, []byte("3")}
	}
	return nil
}
