package faults

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/peer"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Everything that can go wrong on the proxy's own side: middleware, hooks,
// connections from user code, memory.

// A wrapped is a ResponseWriter of middleware.
type wrapped struct {
	http.ResponseWriter
	hijack func() (net.Conn, *bufio.ReadWriter, error)
}

func (w *wrapped) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.hijack() }

type plain struct{ http.ResponseWriter } // neither a Hijacker nor unwrapped

// F12: middleware whose ResponseWriter cannot be hijacked: 501, and nothing is
// dialled.
func TestNotHijackable(t *testing.T) {
	t.Attr("case", "F12")
	peer.Each(t, func(t *testing.T, legs peer.Legs) {
		r := peer.New(t, peer.Config{Legs: legs, Wrap: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { h.ServeHTTP(plain{w}, req) })
		}})
		refused(r, 501)
		r.NoDial()
		failedKind(r)
	})
}

// F13: hijacking fails after the upstream has accepted: the upstream's
// connection is closed.
func TestHijackFails(t *testing.T) {
	t.Attr("case", "F13")
	peer.Each(t, func(t *testing.T, legs peer.Legs) {
		r := peer.New(t, peer.Config{Legs: legs, Wrap: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				h.ServeHTTP(&wrapped{w, func() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errors.New("no") }}, req)
			})
		}})
		c := r.Connect()
		c.Send(peer.Request("/", ""))
		u := r.Accept()
		peer.Accept(u, "")
		_, body := c.WantStatus(500)
		r.Phrase(500, body)
		u.WantEnd()
		if m := r.Failed(500, failedKind(r)); m["op"] != "hijack" {
			t.Errorf("logged %v, want it to be about taking over", m)
		}
	})
}

// F13: the client is gone by the time of its 101.
func TestClientGoneAt101(t *testing.T) {
	t.Attr("case", "F13")
	peer.Each(t, func(t *testing.T, legs peer.Legs) {
		var c *wstest.Wire
		r := peer.New(t, peer.Config{Legs: legs, Wrap: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				h.ServeHTTP(&wrapped{w, func() (net.Conn, *bufio.ReadWriter, error) {
					conn, brw, err := http.NewResponseController(w).Hijack()
					conn.Close() // as good as gone
					return conn, brw, err
				}}, req)
			})
		}})
		c = r.Connect()
		c.Send(peer.Request("/", ""))
		u := r.Accept()
		peer.Accept(u, "")
		c.WantEnd()
		u.WantEnd()
		r.Failed(499, "client left")
	})
}

// F14: a hook that panics before the 101 causes a 500 for this handshake only.
// The open session and the limits are not affected.
func TestHooksPanic(t *testing.T) {
	var armed atomic.Pointer[string]
	panics := func(name string) {
		if p := armed.Load(); p != nil && *p == name {
			panic(name)
		}
	}
	hooks := []wsproxy.Option{
		wsproxy.WithOnOpen(func(*wsproxy.Session, *http.Request) error { panics("open"); return nil }),
		wsproxy.WithRewrite(func(*httputil.ProxyRequest) { panics("rewrite") }),
		wsproxy.WithDialContext(func(ctx context.Context, network, address string) (net.Conn, error) {
			panics("dial")
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		}),
		wsproxy.WithOnClose(func(*wsproxy.Session) { panics("close") }),
		wsproxy.WithMaxSessions(2),
	}
	peer.Each(t, func(t *testing.T, legs peer.Legs) {
		t.Attr("case", "F14")
		armed.Store(nil)
		r := peer.New(t, peer.Config{Legs: legs, Options: hooks})
		c, u := r.Open()
		for i, name := range []string{"open", "rewrite", "dial", "open", "rewrite", "dial"} { // more than the limit
			armed.Store(&name)
			refused(r, 500)
			r.FailedAs(i, 500, "panic")
		}
		r.NoDial()
		c.SendText("still here")
		u.Want(wstest.Text, "still here")
		name := "close"
		armed.Store(&name)
		goodbye(t, r, c, u)
		r.Opened(0)
		want := []any{"open", "rewrite", "dial", "open", "rewrite", "dial", "close"}
		var logged []any
		wstest.Until(func() bool { // a session is over before its last hook is called
			logged = nil
			for _, m := range r.Other() { // one for each, of which nobody else tells the stack
				logged = append(logged, m["panic"])
			}
			return len(logged) >= len(want)
		})
		if !slices.Equal(logged, want) {
			t.Errorf("logged panics %v, want %v", logged, want)
		}
	})
}

// F15: one session above the limit is refused before anything is dialled, and
// accepted when there is room.
func TestFull(t *testing.T) {
	t.Attr("case", "F15 A68")
	peer.Each(t, func(t *testing.T, legs peer.Legs) {
		r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{wsproxy.WithMaxSessions(1)}})
		for i := range 3 {
			c, u := r.Open()
			more := r.Connect()
			more.Send(peer.Request("/", ""))
			h, body := more.WantStatus(503)
			r.Phrase(503, body)
			if h.Get("Retry-After") == "" {
				t.Errorf("got %v, want Retry-After", h)
			}
			r.NoDial()
			r.FailedAs(i, 503, "limit")
			c.Reset()
			u.WantCloseAfterPings(1001)
			u.Close()
			r.EndedAs(i, wsproxy.Client, wsproxy.ReasonLost)
			r.Opened(0)
		}
	})
}

// A brittle is a connection from user code that panics when it is told to.
type brittle struct {
	net.Conn
	read, write *atomic.Bool
}

func (b brittle) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if b.read.Load() {
		panic("brittle")
	}
	return n, err
}

func (b brittle) Write(p []byte) (int, error) {
	if b.write.Load() {
		panic("brittle")
	}
	return b.Conn.Write(p)
}

// F47, F48: a panic while relaying ends that session, but neither the process
// nor another session.
func TestRelayPanics(t *testing.T) {
	t.Attr("case", "F47 F48")
	for _, what := range []string{"Read", "Write"} {
		t.Run(what, func(t *testing.T) {
			peer.Each(t, func(t *testing.T, legs peer.Legs) {
				var read, write atomic.Bool
				var dialled atomic.Int64
				r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{
					wsproxy.WithCloseTimeout(soon),
					wsproxy.WithDialContext(func(ctx context.Context, network, address string) (net.Conn, error) {
						var d net.Dialer
						c, err := d.DialContext(ctx, network, address)
						if err != nil || dialled.Add(1) > 1 {
							return c, err
						}
						return brittle{c, &read, &write}, nil
					}),
				}})
				c, u := r.Open()
				c2, u2 := r.Open()
				if what == "Read" {
					read.Store(true)
					u.SendText("ouch")
				} else {
					write.Store(true)
					c.SendText("ouch")
				}
				c.WantCloseAfterPings(1011)
				u.WantGone()
				m := r.Ended(wsproxy.Self, wsproxy.ReasonPanic)
				if text, _ := m["error"].(string); !strings.Contains(text, "brittle") {
					t.Errorf("logged %v, want the panic", m)
				}
				c2.SendText("still here")
				u2.Want(wstest.Text, "still here")
				c2.Reset()
				u2.WantCloseAfterPings(1001)
				u2.Close()
			})
		})
	}
}

// F45: the memory of an idle session in this process, including the share of
// its http.Server and of its two test peers.
func TestMemory(t *testing.T) {
	t.Attr("case", "F45")
	const n, most = 300, 128 << 10 // of blocking sessions over TLS, the dearest
	peer.Each(t, func(t *testing.T, legs peer.Legs) {
		r := peer.New(t, peer.Config{Legs: legs})
		inUse := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc + m.StackInuse
		}
		before := inUse()
		var wires []*wstest.Wire
		for range n {
			c, u := r.Open()
			wires = append(wires, c, u)
		}
		r.Opened(n)
		per := (max(inUse(), before) - before) / n
		t.Logf("%d bytes a session", per)
		if per > most {
			t.Errorf("%d bytes a session, want at most %d", per, most)
		}
		for _, w := range wires {
			w.TCP().Close()
		}
		r.Opened(0)
	})
}
