package faults

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/peer"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// Toxiproxy's toxics, each on either leg and in either direction: towards the
// proxy or away from it. Toxiproxy runs in this process, in the middle of a leg.

// A way is a leg and a direction.
type way struct {
	leg     wsproxy.Side
	towards bool // the proxy
}

func (w way) String() string {
	if w.towards {
		return w.leg.String() + " to proxy"
	}
	return "proxy to " + w.leg.String()
}

// stream returns Toxiproxy's word for the direction: upstream is away from the
// side that dialled, which is the client on one leg and the proxy on the other.
func (w way) stream() string {
	if w.towards == (w.leg == wsproxy.Client) {
		return "upstream"
	}
	return "downstream"
}

var ways = []way{{wsproxy.Client, true}, {wsproxy.Client, false}, {wsproxy.Upstream, true}, {wsproxy.Upstream, false}}

// A poisoned rig has Toxiproxy on one leg.
type poisoned struct {
	*peer.Rig
	way   way
	toxic *toxiproxy.Proxy
}

func poison(t *testing.T, w way, legs peer.Legs, options ...wsproxy.Option) *poisoned {
	t.Helper()
	zerolog.SetGlobalLevel(zerolog.Disabled)
	p := &poisoned{way: w}
	p.Rig = peer.New(t, peer.Config{Legs: legs, Options: options, Via: func(side wsproxy.Side, address string) string {
		if side != w.leg {
			return address
		}
		p.toxic = toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "leg", "127.0.0.1:0", address)
		if err := p.toxic.Start(); err != nil {
			t.Fatal(err)
		}
		return p.toxic.Listen
	}})
	t.Cleanup(p.toxic.Stop)
	return p
}

// add adds a toxic in the way's direction.
func (p *poisoned) add(t *testing.T, kind, attributes string) {
	t.Helper()
	_, err := p.toxic.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(`{"type":%q,"stream":%q,"attributes":{%s}}`, kind, p.way.stream(), attributes)))
	if err != nil {
		t.Fatal(err)
	}
}

// sides returns the wire on the poisoned leg and the opposite one.
func (p *poisoned) sides() (bad, good *wstest.Wire) { return p.OpenSide(p.way.leg) }

// sender and receiver are the wires in the direction of the toxic.
func (p *poisoned) order(bad, good *wstest.Wire) (sender, receiver *wstest.Wire) {
	if p.way.towards {
		return bad, good
	}
	return good, bad
}

// goodbye closes the session with a closing handshake that the client starts.
func goodbye(t *testing.T, r *peer.Rig, a, b *wstest.Wire) {
	t.Helper()
	c, u := a, b
	if !a.Client {
		c, u = b, a
	}
	c.SendClose(1000, "")
	u.WantCloseAfterPings(1000)
	u.SendClose(1000, "")
	u.Close()
	c.WantCloseAfterPings(1000)
	c.WantGone()
	r.Ended(wsproxy.Client, wsproxy.ReasonClosed)
}

func eachWay(t *testing.T, cases string, f func(t *testing.T, w way, legs peer.Legs)) {
	for _, w := range ways {
		t.Run(w.String(), func(t *testing.T) {
			peer.EachOfFew(t, func(t *testing.T, legs peer.Legs) {
				if cases != "" {
					t.Attr("case", cases)
				}
				f(t, w, legs)
			})
		})
	}
}

// Latency below the Pong timeout only delays.
func TestToxicLatency(t *testing.T) {
	const latency = 150 * time.Millisecond
	eachWay(t, "F35", func(t *testing.T, w way, legs peer.Legs) {
		r := poison(t, w, legs, wsproxy.WithPing(latency, 20*latency))
		r.add(t, "latency", fmt.Sprintf(`"latency":%d`, latency.Milliseconds()))
		bad, good := r.sides()
		from, to := r.order(bad, good)
		for i := range 3 {
			message := strings.Repeat(fmt.Sprint(i), 5000)
			began := time.Now()
			from.SendText(message)
			wantButPings(t, to, message)
			if d := time.Since(began); d < latency {
				t.Errorf("came after %v: that was no latency", d)
			}
			to.SendText("thanks")
			wantButPings(t, from, "thanks")
		}
		goodbye(t, r.Rig, bad, good)
	})
}

// A leg that is cut in the middle: the opposite side gets a Close, and new
// sessions fail.
func TestToxicDown(t *testing.T) {
	for _, w := range []way{ways[0], ways[2]} {
		t.Run(w.leg.String(), func(t *testing.T) {
			peer.EachOfFew(t, func(t *testing.T, legs peer.Legs) {
				t.Attr("case", map[wsproxy.Side]string{wsproxy.Client: "F24", wsproxy.Upstream: "F21 F1"}[w.leg])
				r := poison(t, w, legs)
				bad, good := r.sides()
				bad.SendText("last words")
				good.Want(wstest.Text, "last words")
				r.toxic.Stop()
				good.WantCloseAfterPings(peer.Told(w.leg))
				good.SendClose(peer.Told(w.leg), "")
				good.Close()
				bad.WantEnd()
				r.Ended(w.leg, wsproxy.ReasonLost)
				if w.leg == wsproxy.Upstream {
					refused(r.Rig, 502)
					r.Failed(502, "refused")
				}
			})
		})
	}
}

// A low bandwidth slows everything down and loses nothing.
func TestToxicBandwidth(t *testing.T) {
	eachWay(t, "F32", func(t *testing.T, w way, legs peer.Legs) {
		r := poison(t, w, legs)
		r.add(t, "bandwidth", `"rate":200`) // kB per second
		bad, good := r.sides()
		from, to := r.order(bad, good)
		var want strings.Builder
		for i := range 12 {
			want.WriteString(from.Frame(wstest.Binary, strings.Repeat(fmt.Sprint(i%10), 10_000)))
		}
		began := time.Now()
		go io.WriteString(from, want.String())
		for i := range 12 {
			to.Want(wstest.Binary, strings.Repeat(fmt.Sprint(i%10), 10_000))
			to.SendText("ack") // the other direction has its full speed
			from.Want(wstest.Text, "ack")
		}
		if d := time.Since(began); d < 400*time.Millisecond {
			t.Errorf("took %v: that was no thin pipe", d)
		}
		goodbye(t, r.Rig, bad, good)
	})
}

// A connection whose end is delayed. Towards the proxy, the proxy waits for the
// upstream's end and notices a lost side later. Nothing takes longer than the
// close timeout.
func TestToxicSlowClose(t *testing.T) {
	for _, delay := range []time.Duration{300 * time.Millisecond, time.Minute} {
		t.Run(delay.String(), func(t *testing.T) {
			eachWay(t, "F23 F29", func(t *testing.T, w way, legs peer.Legs) {
				r := poison(t, w, legs, wsproxy.WithCloseTimeout(time.Second))
				r.add(t, "slow_close", fmt.Sprintf(`"delay":%d`, delay.Milliseconds()))
				bad, good := r.sides()
				bad.SendText("a")
				good.Want(wstest.Text, "a")
				c, u := bad, good
				if w.leg == wsproxy.Upstream {
					c, u = good, bad
				}
				began := time.Now()
				c.SendClose(1000, "")
				u.Want(wstest.Close, wstest.CloseBody(1000, ""))
				u.SendClose(1000, "")
				u.CloseWrite()
				c.Want(wstest.Close, wstest.CloseBody(1000, ""))
				r.Ended(wsproxy.Client, wsproxy.ReasonClosed)
				d := time.Since(began)
				if d > 8*time.Second {
					t.Errorf("ended after %v, want the close timeout of 1 s at most", d)
				}
				if w == ways[2] && legs.Upstream == wstest.TCP && d < min(delay, time.Second) { // TLS sends a close_notify before
					t.Errorf("ended after %v, before the upstream's end had come", d)
				}
				r.toxic.Stop()
				c.WantGone()
				u.WantGone()
			})
		})
	}
}

// A leg that loses everything in one direction. Pings detect it in both: either
// they don't arrive, or their answers don't.
func TestToxicTimeout(t *testing.T) {
	eachWay(t, "F28", func(t *testing.T, w way, legs peer.Legs) {
		r := poison(t, w, legs, pings(), wsproxy.WithCloseTimeout(soon))
		bad, good := r.sides()
		bad.SendText("a")
		good.Want(wstest.Text, "a")
		respond(bad)
		other := respond(good)
		answers(t, r.Rig, w.leg)
		began := time.Now()
		r.add(t, "timeout", `"timeout":0`)
		other.wantClosed(t, peer.Told(w.leg))
		lostBetween(t, r.Rig, w.leg, began, patient/2, silent)
		r.toxic.Stop()
	})
}

// The same, but the connection ends by itself after a while.
func TestToxicTimeoutEnds(t *testing.T) {
	eachWay(t, "F21 F24", func(t *testing.T, w way, legs peer.Legs) {
		r := poison(t, w, legs, wsproxy.WithCloseTimeout(soon))
		bad, good := r.sides()
		bad.SendText("a")
		good.Want(wstest.Text, "a")
		other := respond(good)
		gone := respond(bad)
		r.add(t, "timeout", `"timeout":200`)
		other.wantClosed(t, peer.Told(w.leg))
		gone.wantClosed(t, 0)
		r.Ended(w.leg, wsproxy.ReasonLost)
	})
}

// A reset instead of the first bytes that pass, which are the handshake's.
func TestToxicReset(t *testing.T) {
	eachWay(t, "", func(t *testing.T, w way, legs peer.Legs) {
		r := poison(t, w, legs, wsproxy.WithCloseTimeout(soon))
		r.add(t, "reset_peer", `"timeout":50`)
		c := r.Connect()
		if w.leg == wsproxy.Client && (w.towards || legs.Client == wstest.TLS) {
			// The request never comes: there is nothing to log.
			io.WriteString(c, peer.Request("/", ""))
			if _, err := http.ReadResponse(c.In, nil); err == nil {
				t.Error("the handshake went well")
			}
			r.NoDial()
			return
		}
		c.Send(peer.Request("/", ""))
		if w.leg == wsproxy.Client {
			t.Attr("case", "F25 F13") // its 101 is lost
			u := r.Accept()
			peer.Accept(u, "")
			c.WantGone()
			u.WantCloseAfterPings(1001)
			u.Close()
			r.Ended(wsproxy.Client, wsproxy.ReasonLost)
			return
		}
		t.Attr("case", "F4")
		u := r.Accept()
		if w.towards {
			go io.WriteString(u, peer.Answer(wstest.Key, "")) // it is lost
		}
		_, body := c.WantStatus(502)
		r.Phrase(502, body)
		u.WantGone()
		if kind := failedKind(r.Rig); kind != "reset" && kind != "closed" {
			t.Errorf("logged kind %q, want a reset", kind)
		}
	})
}

// Slicing a stream into a few bytes each does not change it.
func TestToxicSlicer(t *testing.T) {
	eachWay(t, "A56 C18", func(t *testing.T, w way, legs peer.Legs) {
		r := poison(t, w, legs, wsproxy.WithPing(20*time.Millisecond, wstest.Timeout))
		r.add(t, "slicer", `"average_size":2,"size_variation":1,"delay":0`)
		bad, good := r.sides()
		from, to := r.order(bad, good)
		messages := []string{"", "a", strings.Repeat("b", 125), strings.Repeat("c", 126), strings.Repeat("d", 5000)}
		var stream strings.Builder
		for _, m := range messages {
			stream.WriteString(from.Frame(wstest.Text, m))
		}
		for range 3 {
			go io.WriteString(from, stream.String())
			for _, m := range messages {
				wantButPings(t, to, m)
			}
			to.SendText("thanks")
			wantButPings(t, from, "thanks")
		}
		goodbye(t, r.Rig, bad, good)
	})
}

// A leg that is cut after a number of bytes: in the handshake, between frames,
// and within a frame.
func TestToxicLimitData(t *testing.T) {
	eachWay(t, "F28", func(t *testing.T, w way, legs peer.Legs) {
		if legs.Client == wstest.TLS { // the place of the cut is unknown there
			legs = peer.Legs{Client: wstest.TCP, Upstream: wstest.TCP, Detach: true}
		}
		for _, extra := range []int{0, 5} {
			t.Run(fmt.Sprint(extra), func(t *testing.T) {
				r := poison(t, w, legs, wsproxy.WithCloseTimeout(soon))
				bad, good := r.sides()
				from, to := r.order(bad, good)
				frame := from.Frame(wstest.Text, "whole")
				r.add(t, "limit_data", fmt.Sprintf(`"bytes":%d`, len(frame)+extra+3*min(extra, 1)))
				from.Send(frame)
				to.Want(wstest.Text, "whole")
				if extra > 0 {
					from.SendText("not any more")
				}
				if w.towards && extra > 0 { // the cut is within what was relayed
					to.WantGone()
				} else if w.towards {
					to.WantCloseAfterPings(peer.Told(w.leg))
				} else {
					to.WantGone()
					to.TCP().Close()
					from.WantCloseAfterPings(peer.Told(w.leg))
				}
				r.toxic.Stop()
				r.Ended(w.leg, wsproxy.ReasonLost)
				from.WantGone()
			})
		}
	})
}

// A leg that is cut in the handshake with the upstream.
func TestToxicLimitHandshake(t *testing.T) {
	for _, w := range ways[2:] {
		t.Run(w.String(), func(t *testing.T) {
			peer.EachOfFew(t, func(t *testing.T, legs peer.Legs) {
				t.Attr("case", "F4 F9")
				r := poison(t, w, legs)
				r.add(t, "limit_data", `"bytes":60`)
				c := r.Connect()
				c.Send(peer.Request("/", ""))
				u := r.Accept()
				if legs.Upstream == wstest.TCP && w.towards {
					peer.Accept(u, "")
				}
				go io.Copy(io.Discard, u)
				_, body := c.WantStatus(502)
				r.Phrase(502, body)
				failedKind(r.Rig)
				r.NoDial()
			})
		})
	}
}
