//go:build linux

package zoo

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strconv"

	nats "github.com/nats-io/nats-server/v2/server"
)

// NATS is a message broker, here with its listener for WebSockets, with
// compression. nats-server, embedded.
var natsServer = server{
	name:   "NATS",
	keeps:  true,
	source: goModule("github.com/nats-io/nats-server/v2"),
	start: goServer("nats", func(addr string) error {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			return err
		}
		s, err := nats.NewServer(&nats.Options{
			DontListen: true, // for plain TCP
			NoSigs:     true,
			Websocket:  nats.WebsocketOpts{Host: host, Port: n, NoTLS: true, Compression: true},
		})
		if err != nil {
			return err
		}
		s.Start()
		s.WaitForShutdown()
		return errors.New("it has shut down")
	}),
	path:  "/",
	kinds: onlyBinary,
	most:  500_000, // a message may have 1 MiB, with its header
	greet: func(v *visit) error {
		if err := awaitNATS(v, "INFO ", "\r\n"); err != nil {
			return err
		}
		v.name = "zoo." + rand.Text()
		if err := v.send(message{true, fmt.Appendf(nil, "CONNECT {\"verbose\":false}\r\nSUB %s 1\r\nPING\r\n", v.name)}); err != nil {
			return err
		}
		return awaitNATS(v, "PONG\r\n", "")
	},
	say: func(v *visit, m message) error {
		if err := v.send(message{true, fmt.Appendf(nil, "PUB %s %d\r\n%s\r\n", v.name, len(m.data), m.data)}); err != nil {
			return err
		}
		return awaitNATS(v, "MSG "+v.name, string(m.data)+"\r\n")
	},
	leave: func(v *visit) error { return v.send(message{true, []byte("NONSENSE\r\n")}) },
}

// awaitNATS receives what begins with a text and ends with another, and which the
// server may split.
func awaitNATS(v *visit, prefix, suffix string) error {
	var got []byte
	for {
		m, err := v.receive()
		if err != nil {
			return fmt.Errorf("waiting for %q: %w", prefix, err)
		}
		got = append(got, m.data...)
		// Its Ping may come first.
		if rest, ok := bytes.CutPrefix(got, []byte("PING\r\n")); ok {
			got = rest
		}
		if bytes.HasPrefix(got, []byte(prefix)) && bytes.HasSuffix(got, []byte(suffix)) && len(got) >= len(prefix)+len(suffix) {
			return nil
		}
	}
}
