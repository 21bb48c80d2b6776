package faults

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/peer"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Everything that can go wrong at the end of a server: drains, contexts that
// end, and the server's own limits.

// F38, F15: Shutdown closes every session, refuses new ones without dialling,
// and returns when the last one is over.
func TestDrain(t *testing.T) {
	t.Attr("case", "F38 F15 C29")
	peer.EachOfFew(t, func(t *testing.T, legs peer.Legs) {
		r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{wsproxy.WithDrain(soon, 1012)}})
		const n = 20
		var clients, upstreams []*responder
		for range n {
			c, u := r.Open()
			clients, upstreams = append(clients, respond(c)), append(upstreams, respond(u))
		}
		late := r.Connect() // is there before, and asks during the drain
		done := make(chan error, 1)
		go func() { done <- r.Proxy.Shutdown(context.Background()) }()
		if !wstest.Until(func() bool { return !r.Proxy.Stats().Drain.Began.IsZero() }) {
			t.Fatal("the drain doesn't begin")
		}
		late.Send(peer.Request("/", ""))
		if h, body := late.WantStatus(503); h.Get("Retry-After") == "" || body != "Service Unavailable\n" {
			t.Errorf("got %v, body %q; want Retry-After", h, body)
		}
		for i := range n {
			clients[i].wantClosed(t, 1012)
			upstreams[i].wantClosed(t, 1001)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if d := r.Proxy.Stats().Drain; d.Total != n || d.Told != n || d.Cut != 0 {
			t.Errorf("counted %+v, want %d sessions told and none cut", d, n)
		}
		for i := range n {
			r.EndedAs(i, wsproxy.Self, wsproxy.ReasonDrained)
		}
		r.Failed(503, "shutting down")
		r.NoDial()
	})
}

// F39: a drain finds a side within a frame. It waits for the end of the frame
// before the Close; if that never arrives, the connection is cut.
func TestDrainMidFrame(t *testing.T) {
	t.Attr("case", "F39")
	for _, completes := range []bool{true, false} {
		t.Run(map[bool]string{true: "completes", false: "doesn't"}[completes], func(t *testing.T) {
			peer.EachSideOfFew(t, func(t *testing.T, legs peer.Legs, sender wsproxy.Side) {
				limit := patient
				if completes {
					limit = wstest.Timeout
				}
				r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{wsproxy.WithCloseTimeout(limit), wsproxy.WithDrain(time.Millisecond, 1001)}})
				from, to := r.OpenSide(sender)
				frame := from.Frame(wstest.Binary, strings.Repeat("m", 50_000))
				from.Send(frame[:20_000])
				to.WantBytes(frame[:20_000])
				ctx, cancel := context.WithTimeout(context.Background(), wstest.Timeout)
				defer cancel()
				done := make(chan error, 1)
				go func() { done <- r.Proxy.Shutdown(ctx) }()
				from.WantCloseAfterPings(1001) // the other direction is at a boundary
				if !completes {
					to.WantEnd()
					from.WantGone()
				} else {
					from.Send(frame[20_000:])
					to.WantBytes(frame[20_000:])
					to.WantCloseAfterPings(1001)
					for _, w := range []*wstest.Wire{from, to} {
						w.SendClose(1001, "")
						if !w.Client {
							w.Close()
						}
					}
				}
				if err := <-done; err != nil {
					t.Error(err)
				}
				r.Ended(wsproxy.Self, wsproxy.ReasonDrained)
			})
		})
	}
}

// F38, F40: when Shutdown's context ends, the remaining sessions are cut, and
// the error contains their number.
func TestDrainDeadline(t *testing.T) {
	t.Attr("case", "F38 F40 C29")
	peer.EachOfFew(t, func(t *testing.T, legs peer.Legs) {
		r := peer.New(t, peer.Config{Legs: legs})
		var wires []*wstest.Wire
		for range 3 {
			c, u := r.Open()
			wires = append(wires, c, u) // which answer nothing
		}
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		var calls sync.WaitGroup
		for range 3 { // all at once
			calls.Go(func() {
				if err := r.Proxy.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want the context's end", err)
				}
			})
		}
		calls.Wait()
		for _, w := range wires {
			w.WantGone()
		}
		r.Opened(0)
		if err := r.Proxy.Shutdown(context.Background()); err != nil {
			t.Errorf("one more Shutdown: %v", err)
		}
		if d := r.Proxy.Stats().Drain; d.Total != 3 || d.Cut != 3 {
			t.Errorf("counted %+v, want 3 cut", d)
		}
	})
}

// F40: a drain ends handshakes under way, and is over at once without sessions.
func TestDrainHandshakes(t *testing.T) {
	t.Attr("case", "F40")
	peer.Each(t, func(t *testing.T, legs peer.Legs) {
		r := peer.New(t, peer.Config{Legs: legs})
		c := r.Connect()
		c.Send(peer.Request("/", ""))
		u := r.Accept()
		u.ReadRequest()
		if st := r.Proxy.Stats(); st.Handshakes != 1 {
			t.Errorf("%d handshakes are under way, want 1", st.Handshakes)
		}
		ctx, cancel := context.WithTimeout(context.Background(), wstest.Timeout)
		defer cancel()
		if err := r.Proxy.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		c.WantStatus(503)
		u.WantEnd()
		r.Failed(503, "shutting down")
		began := time.Now()
		if err := r.Proxy.Shutdown(ctx); err != nil || time.Since(began) > 5*time.Second {
			t.Errorf("with nothing open: %v after %v", err, time.Since(began))
		}
	})
}

// F41: the end of a request's context, for example by middleware, ends its
// session: both sides get a Close.
func TestContextEnds(t *testing.T) {
	t.Attr("case", "F41")
	for _, legs := range peer.Kinds {
		if legs.Detach { // where the session outlives the request
			continue
		}
		t.Run(legs.Name(), func(t *testing.T) {
			cancels := make(chan context.CancelFunc, 1)
			r := peer.New(t, peer.Config{Legs: legs, Wrap: func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					ctx, cancel := context.WithCancel(req.Context())
					defer cancel()
					cancels <- cancel
					h.ServeHTTP(w, req.WithContext(ctx))
				})
			}})
			c, u := r.Open()
			client, upstream := respond(c), respond(u)
			(<-cancels)()
			client.wantClosed(t, 1001)
			upstream.wantClosed(t, 1001)
			r.Ended(wsproxy.Self, wsproxy.ReasonCancelled)
		})
	}
}

// F43: the server's ReadTimeout and WriteTimeout apply to the handshake. A
// session outlives both.
func TestServerTimeouts(t *testing.T) {
	t.Attr("case", "F43")
	peer.EachOfFew(t, func(t *testing.T, legs peer.Legs) {
		const limit = 300 * time.Millisecond
		r := peer.New(t, peer.Config{Legs: legs,
			Options: []wsproxy.Option{wsproxy.WithPing(limit, wstest.Timeout)},
			Server: func(s *http.Server) {
				s.ReadTimeout, s.WriteTimeout, s.IdleTimeout = limit, limit, limit
			}})
		c, u := r.Open()
		began := time.Now()
		for time.Since(began) < 3*limit { // the Pings are the clock
			if f, err := c.ReadFrame(); err != nil || f.First != wstest.Ping {
				t.Fatalf("got %v, %v after %v, want a Ping", f, err, time.Since(began))
			}
			c.SendText("still here")
			wantButPings(t, u, "still here")
			u.SendText("me too")
			wantButPings(t, c, "me too")
		}
		c.SendClose(1000, "")
		u.WantCloseAfterPings(1000)
		u.SendClose(1000, "")
		u.Close()
		c.WantCloseAfterPings(1000)
		c.WantEnd()
		r.Ended(wsproxy.Client, wsproxy.ReasonClosed)
	})
}
