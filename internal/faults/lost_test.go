package faults

import (
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/peer"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Everything that can go wrong in an open session: one side leaves, in whatever
// way, and the other one gets a Close if possible.

// F21, F22, F24, F25: a side leaves without a Close frame, by FIN or RST,
// between frames and within one. Its complete frames have arrived; the other
// side gets a Close, unless it is in the middle of a frame.
func TestLost(t *testing.T) {
	tails := []struct {
		name string
		tail func(w *wstest.Wire) string
		sent int  // of the tail's bytes go on
		mid  bool // the other side is then within a frame
	}{
		{"between frames", func(*wstest.Wire) string { return "" }, 0, false},
		{"between fragments", func(w *wstest.Wire) string { return w.Frame(wstest.OpText, "to be") }, 1 << 20, false},
		{"in a header", func(w *wstest.Wire) string { return w.Frame(wstest.Binary, strings.Repeat("x", 300))[:3] }, 0, false},
		{"in a Close", func(w *wstest.Wire) string { return w.Frame(wstest.Close, wstest.CloseBody(1000, "bye"))[:5] }, 0, false},
		{"in a payload", func(w *wstest.Wire) string { return w.Frame(wstest.Binary, "12345678")[:9] }, 1 << 20, true},
		{"in a long payload", func(w *wstest.Wire) string { return w.Frame(wstest.Binary, strings.Repeat("x", 200_000))[:100_000] }, 1 << 20, true},
	}
	for _, reset := range []bool{false, true} {
		how := map[bool]string{false: "FIN", true: "RST"}[reset]
		t.Run(how, func(t *testing.T) {
			peer.EachSide(t, func(t *testing.T, legs peer.Legs, faulty wsproxy.Side) {
				t.Attr("case", map[string]string{"FIN client": "F24", "RST client": "F25", "FIN upstream": "F21", "RST upstream": "F22"}[how+" "+faulty.String()])
				for _, tail := range tails {
					t.Run(tail.name, func(t *testing.T) { testLost(t, legs, faulty, reset, tail.tail, tail.sent, tail.mid) })
				}
			})
		})
	}
}

func testLost(t *testing.T, legs peer.Legs, faulty wsproxy.Side, reset bool, tail func(*wstest.Wire) string, sent int, mid bool) {
	r := peer.New(t, peer.Config{Legs: legs})
	gone, left := r.OpenSide(faulty)
	whole, rest := gone.Frame(wstest.Text, "last words"), tail(gone)
	passed := whole + rest[:min(sent, len(rest))]
	gone.Send(whole + rest)
	left.WantBytes(passed)
	began := time.Now()
	if reset {
		gone.Reset()
	} else {
		gone.CloseWrite()
	}
	if !mid {
		left.WantCloseAfterPings(peer.Told(faulty))
		left.SendClose(peer.Told(faulty), "")
		if faulty == wsproxy.Client { // an upstream closes first (RFC 6455, 7.1.1)
			left.Close()
		}
	}
	left.WantEnd()
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("told after %v, want it at once", d)
	}
	if !reset {
		gone.WantEnd()
	}
	m := r.Ended(faulty, wsproxy.ReasonLost)
	if m["from_"+faulty.String()+".bytes"] != uint64(len(passed)) {
		t.Errorf("logged %v, want %d bytes from the %v", m, len(passed), faulty)
	}
}

// F23: a Close is relayed unchanged and answered, and the connections end: the
// client's is closed by the proxy, the upstream's by the upstream.
func TestClose(t *testing.T) {
	t.Attr("case", "F23")
	codes := []struct {
		code   int
		reason string
	}{{0, ""}, {1000, ""}, {1001, "moving on"}, {3000, strings.Repeat("r", 123)}, {4999, "ours"}}
	peer.EachSide(t, func(t *testing.T, legs peer.Legs, first wsproxy.Side) {
		for _, c := range codes {
			t.Run(fmt.Sprint(c.code), func(t *testing.T) {
				r := peer.New(t, peer.Config{Legs: legs})
				from, to := r.OpenSide(first)
				from.SendClose(c.code, c.reason)
				to.Want(wstest.Close, wstest.CloseBody(c.code, c.reason))
				to.SendClose(c.code, "")
				from.Want(wstest.Close, wstest.CloseBody(c.code, ""))
				client, upstream := from, to
				if first == wsproxy.Upstream {
					client, upstream = to, from
				}
				client.WantEnd()
				upstream.Close()
				want := int64(c.code)
				if c.code == 0 {
					want = 1005 // which stands for none, and is never sent
				}
				if m := r.Ended(first, wsproxy.ReasonClosed); m["code"] != want {
					t.Errorf("logged %v, want code %d", m, want)
				}
			})
		}
	})
}

// F23: a Close that is never answered is waited for until the timeout; then its
// sender gets it back.
func TestCloseUnanswered(t *testing.T) {
	t.Attr("case", "F23 A59")
	peer.EachSideOfFew(t, func(t *testing.T, legs peer.Legs, first wsproxy.Side) {
		r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{wsproxy.WithCloseTimeout(soon)}})
		from, to := r.OpenSide(first)
		withinLimit(t, func() {
			from.SendClose(4000, "bye")
			to.Want(wstest.Close, wstest.CloseBody(4000, "bye"))
			to.SendText("not yet")
			from.Want(wstest.Text, "not yet")
			from.Want(wstest.Close, wstest.CloseBody(4000, ""))
			from.WantEnd()
		})
		to.WantEnd()
		r.Ended(first, wsproxy.ReasonClosed)
	})
}

// F29: a side that has half-closed still gets what the other one sends, until
// that one has answered the Close.
func TestHalfClose(t *testing.T) {
	t.Attr("case", "F29")
	peer.EachSide(t, func(t *testing.T, legs peer.Legs, first wsproxy.Side) {
		r := peer.New(t, peer.Config{Legs: legs})
		half, whole := r.OpenSide(first)
		half.SendText("over to you")
		half.CloseWrite()
		whole.Want(wstest.Text, "over to you")
		whole.WantCloseAfterPings(peer.Told(first))
		rest := strings.Repeat(whole.Frame(wstest.Binary, strings.Repeat("y", 30_000)), 60)
		go io.WriteString(whole, rest+whole.Frame(wstest.Close, wstest.CloseBody(peer.Told(first), "")))
		for range 60 {
			half.Want(wstest.Binary, strings.Repeat("y", 30_000))
		}
		half.WantEnd()
		whole.Close()
		r.Ended(first, wsproxy.ReasonLost)
	})
}

// F29: but not for longer than the close timeout, if that one keeps sending, or
// sends nothing.
func TestHalfCloseBounded(t *testing.T) {
	t.Attr("case", "F29")
	for _, talks := range []bool{false, true} {
		t.Run(fmt.Sprintf("talks=%v", talks), func(t *testing.T) {
			peer.EachSideOfFew(t, func(t *testing.T, legs peer.Legs, first wsproxy.Side) {
				r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{wsproxy.WithCloseTimeout(soon), wsproxy.WithWriteTimeout(soon)}})
				half, whole := r.OpenSide(first)
				began := time.Now()
				half.CloseWrite()
				whole.WantCloseAfterPings(peer.Told(first))
				if talks {
					message := whole.Frame(wstest.Binary, strings.Repeat("z", 1000))
					go func() {
						for {
							if _, err := io.WriteString(whole, message); err != nil {
								return
							}
						}
					}()
				}
				if n := half.WantGone(); talks && n == 0 {
					t.Error("nothing was delivered meanwhile")
				}
				r.Ended(first, wsproxy.ReasonLost)
				if d := time.Since(began); d < soon || d > 15*time.Second {
					t.Errorf("ended after %v, want about the close timeout of %v", d, soon)
				}
				if !talks {
					whole.WantEnd()
				}
			})
		})
	}
}

// F42: the end of one direction also ends the other one if that is blocked in a
// write. A side that reads nothing and leaves ends the session at once.
func TestStuckAndGone(t *testing.T) {
	t.Attr("case", "F42 A70")
	peer.EachSideOfFew(t, func(t *testing.T, legs peer.Legs, faulty wsproxy.Side) {
		r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{wsproxy.WithCloseTimeout(soon)}})
		stuck, writer := r.OpenSide(faulty)
		<-flood(writer)
		began := time.Now()
		stuck.Reset()
		r.Ended(faulty, wsproxy.ReasonLost)
		if d := time.Since(began); d > 15*time.Second {
			t.Errorf("ended after %v, want no waiting for the write timeout", d)
		}
		writer.WantGone()
	})
}

// F42: if a side leaves while the other one reads nothing, the rest is
// delivered for as long as the timeout of that side allows, and no longer.
func TestGoneBehindStuck(t *testing.T) {
	t.Attr("case", "F42 F25")
	peer.EachSideOfFew(t, func(t *testing.T, legs peer.Legs, faulty wsproxy.Side) {
		r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{wsproxy.WithWriteTimeout(2 * soon), wsproxy.WithCloseTimeout(soon)}})
		gone, stuck := r.OpenSide(faulty)
		<-flood(gone)
		gone.Reset()
		r.Opened(0)
		stuck.WantGone()
	})
}

// flood has the wire write messages for as long as they are accepted. The
// channel gets a value when that stops, for a while or for good.
func flood(w *wstest.Wire) (stalled <-chan struct{}) {
	message := w.Frame(wstest.Binary, strings.Repeat("f", 16_000))
	var written atomic.Int64
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			if _, err := io.WriteString(w, message); err != nil {
				return
			}
			written.Add(1)
		}
	}()
	c := make(chan struct{}, 1)
	go func() {
		defer func() { c <- struct{}{} }()
		for before := int64(-1); ; {
			select {
			case <-over:
				return
			case <-time.After(100 * time.Millisecond): // long for a loopback to take nothing
			}
			if now := written.Load(); now == before && now > 0 {
				return
			} else {
				before = now
			}
		}
	}()
	return c
}

// F46, F49, F50: a hundred sessions that end in ten ways. Each has two
// descriptors in the proxy while it is open, and is counted and logged once,
// with its bytes.
func TestManyEnds(t *testing.T) {
	t.Attr("case", "F42 F46 F49 F50 C31")
	ends := []func(c, u *wstest.Wire){
		func(c, u *wstest.Wire) { c.Reset() },
		func(c, u *wstest.Wire) { u.Reset() },
		func(c, u *wstest.Wire) { c.TCP().Close() },
		func(c, u *wstest.Wire) { u.TCP().Close() },
		func(c, u *wstest.Wire) { c.Reset(); u.Reset() },
		func(c, u *wstest.Wire) { c.Send("\xFF\xFF") },
		func(c, u *wstest.Wire) { u.Send("\xFF\xFF") },
		func(c, u *wstest.Wire) {
			c.SendClose(1000, "")
			u.WantCloseAfterPings(1000)
			u.SendClose(1000, "")
			u.Close()
		},
		func(c, u *wstest.Wire) {
			c.Send(c.Frame(wstest.Binary, strings.Repeat("x", 100_000))[:50_000])
			c.Reset()
		},
		func(c, u *wstest.Wire) {
			u.Send(u.Frame(wstest.Binary, strings.Repeat("x", 100_000))[:50_000])
			u.Reset()
		},
	}
	peer.Each(t, func(t *testing.T, legs peer.Legs) {
		r := peer.New(t, peer.Config{Legs: legs})
		const each = 10
		var clients, upstreams []*wstest.Wire
		sockets := peer.Sockets()
		for range each * len(ends) {
			c, u := r.Open()
			c.SendText("up")
			u.Want(wstest.Text, "up")
			u.SendText("down")
			c.Want(wstest.Text, "down")
			clients, upstreams = append(clients, c), append(upstreams, u)
		}
		if got, want := peer.Sockets()-sockets, 4*len(clients); got != want { // ours are half of them
			t.Errorf("%d sessions and their peers have %d sockets, want %d", len(clients), got, want)
		}
		r.Opened(len(clients))
		for i, c := range clients {
			ends[i%len(ends)](c, upstreams[i])
		}
		for i, c := range clients {
			c.TCP().Close()
			upstreams[i].TCP().Close()
		}
		r.Opened(0)
		if !wstest.Until(func() bool { return peer.Sockets() == sockets }) {
			t.Errorf("%d sockets, %d before", peer.Sockets(), sockets)
		}
		st := r.Proxy.Stats()
		if st.Opened != uint64(len(clients)) || st.FromClients.Messages < uint64(len(clients)) || st.FromUpstreams.Messages < uint64(len(clients)) {
			t.Errorf("counted %d sessions, %+v, %+v; want %d, each with a message each way", st.Opened, st.FromClients, st.FromUpstreams, len(clients))
		}
	})
}
