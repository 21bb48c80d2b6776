//go:build linux

package zoo

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"strconv"
)

// RabbitMQ speaks STOMP 1.2 over WebSockets with its plugin web_stomp, as the
// pages of many Java programs do. Debian's rabbitmq-server.
var rabbitSTOMP = server{
	name:         "RabbitMQ, STOMP",
	source:       debian("rabbitmq-server"),
	start:        startRabbitMQ("web_stomp"),
	path:         "/ws",
	subprotocols: []string{"v12.stomp"},
	kinds:        onlyText,
	greet: func(v *visit) error {
		if err := v.send(text("CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\x00")); err != nil {
			return err
		}
		if _, err := receiveSTOMP(v, "CONNECTED"); err != nil {
			return err
		}
		v.name = "/topic/" + rand.Text()
		return v.send(text("SUBSCRIBE\nid:0\ndestination:" + v.name + "\nreceipt:r\n\n\x00"))
	},
	say: func(v *visit, m message) error {
		if err := v.send(text(fmt.Sprintf("SEND\ndestination:%s\ncontent-length:%d\n\n%s\x00", v.name, len(m.data), m.data))); err != nil {
			return err
		}
		body, err := receiveSTOMP(v, "MESSAGE")
		if err == nil && !bytes.Equal(body, m.data) {
			err = fmt.Errorf("%d bytes came back as %d", len(m.data), len(body))
		}
		return err
	},
	leave: func(v *visit) error { return v.send(text("DISCONNECT\n\n\x00")) },
}

// receiveSTOMP receives frames up to one with this command and returns its body.
// The broker may split a frame into several messages.
func receiveSTOMP(v *visit, command string) ([]byte, error) {
	var got []byte
	for {
		m, err := v.receive()
		if err != nil {
			return nil, fmt.Errorf("waiting for %s: %w", command, err)
		}
		got = append(got, m.data...)
		for {
			frame, rest, ok := cutSTOMP(bytes.TrimLeft(got, "\n"))
			if !ok {
				break
			}
			got = rest
			head, body, _ := bytes.Cut(frame, []byte("\n\n"))
			switch {
			case bytes.HasPrefix(head, []byte(command+"\n")):
				return body, nil
			case bytes.HasPrefix(head, []byte("ERROR\n")):
				return nil, fmt.Errorf("%q", frame)
			}
		}
	}
}

// cutSTOMP cuts off the first frame, without the NUL that ends it.
func cutSTOMP(data []byte) (frame, rest []byte, ok bool) {
	head, body, ok := bytes.Cut(data, []byte("\n\n"))
	if !ok {
		return nil, data, false
	}
	if _, length, ok := bytes.Cut(head, []byte("\ncontent-length:")); ok {
		line, _, _ := bytes.Cut(length, []byte("\n"))
		n, err := strconv.Atoi(string(line))
		if err != nil || len(body) <= n {
			return nil, data, false
		}
		end := len(head) + 2 + n
		return data[:end], data[end+1:], true
	}
	return bytes.Cut(data, []byte{0})
}
