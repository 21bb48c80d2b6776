package wsproxy

import (
	"net"
	"syscall"
	"testing"
	"time"
)

// TCP keep-alives are on for upstreams that are not pinged, and always for
// clients. Upstreams that are pinged do not need them.
func TestTCPKeepAlive(t *testing.T) {
	for _, test := range []struct {
		name    string
		options []Option
		want    bool
	}{
		{"defaults", nil, false},
		{"no Pings", []Option{WithPing(0, 0)}, true},
		{"none to upstreams", []Option{WithPingTo(Upstream, 0, 0)}, true},
		{"none to clients", []Option{WithPingTo(Client, 0, 0)}, false},
		{"seldom to upstreams", []Option{WithPingTo(Upstream, time.Hour, time.Minute)}, true},
	} {
		p, err := New("http://127.0.0.1", test.options...)
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0") // as http.Server does
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		conn, err := p.dialContext(t.Context(), "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		accepted, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		var s Session
		s.relay.Begin(time.Now())
		s.relay.Join(&p.relay, (*sessionHost)(&s), 1, [2]net.Conn{accepted, conn}, [2][]byte{}, [2]byte{}, [2]byte{}, nil)
		keepAlive := func(c net.Conn) (on bool) {
			raw, err := c.(*net.TCPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			raw.Control(func(fd uintptr) {
				n, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
				on = err == nil && n != 0
			})
			return on
		}
		if got := keepAlive(conn); got != test.want {
			t.Errorf("%s: the upstream's connection has keep-alive: %v", test.name, got)
		}
		if !keepAlive(accepted) {
			t.Errorf("%s: the client's connection has no keep-alive", test.name)
		}
	}
}
