//go:build linux

package zoo

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"testing"
)

// Mosquitto is the MQTT broker of most homes. Debian's mosquitto, with a
// listener for WebSockets.
var mosquitto = server{
	name:         "Mosquitto",
	source:       debian("mosquitto"),
	start:        startMosquitto,
	path:         "/mqtt",
	subprotocols: []string{"mqtt"},
	kinds:        onlyBinary,
	most:         100_000, // a megabyte takes it half a minute
	greet:        greetMQTT,
	say:          sayMQTT,
	leave: func(v *visit) error { // a CONNECT for the second time
		return v.send(message{true, connectMQTT})
	},
}

func startMosquitto(t *testing.T) *process {
	return command{
		args:  []string{"mosquitto", "-c", "conf"},
		files: map[string]string{"conf": "listener PORT2 127.0.0.1\nlistener PORT 127.0.0.1\nprotocol websockets\nallow_anonymous true\npersistence false\nuser root\n"},
	}.start(t)
}

var connectMQTT = packetMQTT(0x10, []byte("\x00\x04MQTT\x04\x02\x00\x3c\x00\x03zoo"))

// greetMQTT logs in and subscribes to a topic that no other visit has (MQTT 3.1.1, 3.1 and 3.8).
func greetMQTT(v *visit) error {
	v.name = rand.Text()[:7]
	name := rand.Text()[:12] // the broker disconnects another client of the same name
	packet := append([]byte("\x00\x04MQTT\x04\x02\x00\x3c\x00"), byte(len(name)))
	if err := v.send(message{true, packetMQTT(0x10, append(packet, name...))}); err != nil {
		return err
	}
	if err := wantMQTT(v, []byte("\x20\x02\x00\x00")); err != nil {
		return err
	}
	if err := v.send(message{true, packetMQTT(0x82, fmt.Appendf(nil, "\x00\x01\x00\x07%s\x00", v.name))}); err != nil {
		return err
	}
	return wantMQTT(v, []byte("\x90\x03\x00\x01\x00"))
}

// sayMQTT publishes a message and receives it.
func sayMQTT(v *visit, m message) error {
	body := append(fmt.Appendf(nil, "\x00\x07%s", v.name), m.data...)
	packet := packetMQTT(0x30, body)
	if err := v.send(message{true, packet}); err != nil {
		return err
	}
	return wantMQTT(v, packet)
}

func packetMQTT(kind byte, body []byte) []byte {
	return append(binary.AppendUvarint([]byte{kind}, uint64(len(body))), body...)
}

// wantMQTT receives a packet, which the broker may split into several messages.
func wantMQTT(v *visit, packet []byte) error {
	var got []byte
	for len(got) < len(packet) {
		m, err := v.receive()
		if err != nil {
			return err
		}
		got = append(got, m.data...)
	}
	if !bytes.Equal(got, packet) {
		return fmt.Errorf("got %.40x, want %.40x", got, packet)
	}
	return nil
}
