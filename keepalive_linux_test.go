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
		conns := [2]net.Conn{accepted, conn}
		var sockets [2]int // the event driver takes the connections over
		for side, c := range conns {
			raw, err := c.(*net.TCPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			raw.Control(func(fd uintptr) { sockets[side], err = syscall.Dup(int(fd)) })
			if err != nil {
				t.Fatal(err)
			}
			defer syscall.Close(sockets[side])
		}
		var s Session
		over := make(chan struct{})
		s.relay.Begin(time.Now())
		s.relay.Join(&p.relay, waitingHost{(*sessionHost)(&s), over}, 1, conns, [2][]byte{}, [2]byte{}, [2]byte{}, nil)
		for side, want := range []bool{true, test.want} {
			n, err := syscall.GetsockoptInt(sockets[side], syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
			if got := n != 0; err != nil || got != want {
				t.Errorf("%s: the connection of the %v has keep-alive: %v, %v", test.name, Side(side), got, err)
			}
		}
		go s.relay.Run()
		s.relay.Cut(causeCut, nil)
		<-over
	}
}
