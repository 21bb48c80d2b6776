package faults

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/peer"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A names is a name server on loopback: every name has its addresses.
type names struct {
	conn      net.PacketConn
	addresses atomic.Pointer[[]netip.Addr] // none: no such name
	asked     atomic.Int64                 // for addresses of IPv4
}

func newNames(t *testing.T, addresses ...string) *names {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &names{conn: conn}
	s.set(addresses...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve()
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return s
}

func (s *names) set(addresses ...string) {
	var list []netip.Addr
	for _, a := range addresses {
		list = append(list, netip.MustParseAddr(a))
	}
	s.addresses.Store(&list)
}

func (s *names) serve() {
	b := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(b)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		q, addresses := m.Questions[0], *s.addresses.Load()
		m.Response, m.Additionals = true, nil
		if len(addresses) == 0 {
			m.RCode = dnsmessage.RCodeNameError
		}
		if q.Type == dnsmessage.TypeA {
			s.asked.Add(1)
			for _, a := range addresses {
				m.Answers = append(m.Answers, dnsmessage.Resource{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 3600},
					Body:   &dnsmessage.AResource{A: a.As4()},
				})
			}
		}
		if out, err := m.Pack(); err == nil {
			s.conn.WriteTo(out, from)
		}
	}
}

// dialler returns the proxy's own dialer, except for the name server that it
// uses.
func (s *names) dialler() wsproxy.Option {
	d := net.Dialer{KeepAlive: -1, Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", s.conn.LocalAddr().String())
	}}}
	return wsproxy.WithDialContext(d.DialContext)
}

// F18: a name is looked up for each session. The session stays at the address
// that was found.
func TestNameMoves(t *testing.T) {
	t.Attr("case", "F18")
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(first.Addr().String())
	second, err := net.Listen("tcp", "127.0.0.2:"+port)
	if err != nil {
		first.Close()
		t.Skipf("no second address of this machine: %v", err)
	}
	s := newNames(t, "127.0.0.1")
	t.Cleanup(func() { first.Close(); second.Close() })
	r := peer.New(t, peer.Config{Target: "http://upstream.test.:" + port, Options: []wsproxy.Option{s.dialler()}})
	open := func(ln net.Listener) (c, u *wstest.Wire) {
		t.Helper()
		c = r.Connect()
		c.Send(peer.Request("/", ""))
		accepted, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		u = wstest.NewWire(t, accepted, false)
		peer.Accept(u, "")
		c.WantStatus(101)
		return c, u
	}
	c1, u1 := open(first)
	s.set("127.0.0.2")
	c2, u2 := open(second)
	// Nothing listens any longer at the first of two addresses.
	first.Close()
	s.set("127.0.0.1", "127.0.0.2")
	c3, u3 := open(second)
	if n := s.asked.Load(); n < 3 {
		t.Errorf("asked %d times for 3 sessions", n)
	}
	for _, pair := range [][2]*wstest.Wire{{c1, u1}, {c2, u2}, {c3, u3}} {
		pair[0].SendText("here")
		pair[1].Want(wstest.Text, "here")
		pair[0].Reset()
		pair[1].WantCloseAfterPings(1001)
		pair[1].Close()
	}
	r.Opened(0)
	if st := r.Proxy.Stats(); st.Opened != 3 {
		t.Errorf("counted %d sessions, want 3", st.Opened)
	}
}

// F1: a name that does not exist.
func TestNoSuchName(t *testing.T) {
	t.Attr("case", "F1")
	s := newNames(t)
	r := peer.New(t, peer.Config{Target: "http://upstream.test.:80", Options: []wsproxy.Option{s.dialler()}})
	refused(r, 502)
	if m := r.Failed(502, "name lookup"); m["op"] != "dial" {
		t.Errorf("logged %v, want it to be about dialling", m)
	}
}
