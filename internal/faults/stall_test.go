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

// Everything that can go wrong while nobody leaves: a side stalls, reads
// nothing, or answers in its own way. Pings tell dead peers from slow ones.

// Pings for tests that wait for them. A live peer answers well within patient.
const (
	pingEvery = 200 * time.Millisecond
	patient   = 800 * time.Millisecond
)

func pings() wsproxy.Option { return wsproxy.WithPing(pingEvery, patient) }

// responder answers Pings and Closes as a well-behaved peer does, and collects
// everything else.
type responder struct {
	frames chan wstest.Frame // closed at the end of the stream
	pings  atomic.Int64
}

func respond(w *wstest.Wire) *responder {
	p := &responder{frames: make(chan wstest.Frame, 1000)}
	go func() {
		defer close(p.frames)
		for {
			f, err := w.ReadFrame()
			if err != nil {
				w.TCP().Close()
				return
			}
			if f.First == wstest.Ping {
				p.pings.Add(1)
				io.WriteString(w, w.Frame(wstest.Pong, f.Payload))
				continue
			}
			p.frames <- f
			if f.First == wstest.Close {
				io.WriteString(w, w.Frame(wstest.Close, f.Payload))
				if !w.Client {
					w.TCP().Close()
					return
				}
			}
		}
	}()
	return p
}

// wantClosed expects a Close with that code and then the end; 0: the end
// without a Close.
func (p *responder) wantClosed(t *testing.T, code int) {
	t.Helper()
	got := 0
	for f := range p.frames {
		got = f.Code()
	}
	if got != code {
		t.Errorf("the other side ended with Close %d, want %d", got, code)
	}
}

// lostBetween checks that the session ended because that side was lost, not
// before the Ping's answer was overdue.
func lostBetween(t *testing.T, r *peer.Rig, faulty wsproxy.Side, began time.Time, least time.Duration, why string) {
	t.Helper()
	if m := r.Ended(faulty, wsproxy.ReasonLost); !mentions(m, why) {
		t.Errorf("logged %v, want %q", m, why)
	}
	if d := time.Since(began); d < least || d > least+10*time.Second {
		t.Errorf("lost after %v, want a bit more than %v", d, least)
	}
}

// mentions reports whether the record's error contains why.
func mentions(m map[string]any, why string) bool {
	return strings.Contains(fmt.Sprint(m["error"]), why)
}

// answers waits until the side has answered a Ping: from then on it must
// answer.
func answers(t *testing.T, r *peer.Rig, side wsproxy.Side) {
	t.Helper()
	if !wstest.Until(func() bool {
		for _, n := range r.Proxy.Stats().RoundTrips[side].Counts {
			if n > 0 {
				return true
			}
		}
		return false
	}) {
		t.Fatalf("the %v has answered no Ping", side)
	}
}

// answerOne reads a Ping and answers it.
func answerOne(t *testing.T, w *wstest.Wire) {
	t.Helper()
	f, err := w.ReadFrame()
	if err != nil || f.First != wstest.Ping {
		t.Fatalf("%s: got %v, %v, want a Ping", w.Who(), f, err)
	}
	w.Send(w.Frame(wstest.Pong, f.Payload))
}

// What the record of a lost peer mentions: the Ping that it did not answer, or
// the write that it blocked.
const silent, stuck = "ping", "write timeout"

// F26, F27: a side that is connected, has answered a Ping, and then sends
// nothing, not even Pongs.
func TestSilence(t *testing.T) {
	peer.EachSideOfFew(t, func(t *testing.T, legs peer.Legs, faulty wsproxy.Side) {
		t.Attr("case", map[wsproxy.Side]string{wsproxy.Client: "F26", wsproxy.Upstream: "F27"}[faulty])
		r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{pings()}})
		mute, across := r.OpenSide(faulty)
		other := respond(across)
		answerOne(t, mute)
		began := time.Now()
		if f, err := mute.ReadFrame(); err != nil || f.First != wstest.Ping {
			t.Fatalf("got %v, %v, want a Ping", f, err)
		}
		mute.WantEnd()
		other.wantClosed(t, peer.Told(faulty))
		lostBetween(t, r, faulty, began, patient, silent)
		if other.pings.Load() == 0 {
			t.Error("the side across was not pinged")
		}
	})
}

// A side that answers no Ping at all, but is there, is not dropped for that:
// such applications exist and work well otherwise.
func TestNeverAnswers(t *testing.T) {
	t.Attr("case", "F27 F35")
	peer.EachSideOfFew(t, func(t *testing.T, legs peer.Legs, faulty wsproxy.Side) {
		r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{pings()}})
		mute, across := r.OpenSide(faulty)
		other := respond(across)
		for range 3 * int(patient/pingEvery) {
			if f, err := mute.ReadFrame(); err != nil || f.First != wstest.Ping {
				t.Fatalf("got %v, %v, want a Ping", f, err)
			}
		}
		mute.SendText("here I am")
		if f := <-other.frames; f.Payload != "here I am" {
			t.Errorf("the other side got %v", f)
		}
		mute.Reset()
		if m := r.Ended(faulty, wsproxy.ReasonLost); m[faulty.String()+"_ignores_pings"] != true {
			t.Errorf("logged %v", m)
		}
		if n := r.Proxy.Stats().IgnoredPings; n[faulty] != 1 || n[faulty^1] != 0 {
			t.Errorf("counted %v", n)
		}
	})
}

// F30: a side stalls within a frame's payload. Nothing is written into that
// frame, and the other direction continues. In the end, the opposite connection
// can only be closed without a Close frame.
func TestStallMidFrame(t *testing.T) {
	t.Attr("case", "F30 F28")
	peer.EachSideOfFew(t, func(t *testing.T, legs peer.Legs, faulty wsproxy.Side) {
		r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{pings()}})
		stalled, across := r.OpenSide(faulty)
		answerOne(t, stalled)
		answerOne(t, across)
		began := time.Now()
		part := stalled.Frame(wstest.Binary, strings.Repeat("x", 60_000))[:30_000]
		stalled.Send(part)
		across.WantBytes(part)
		for i := range 5 {
			across.SendText(fmt.Sprint("other way ", i))
		}
		for i := range 5 {
			wantButPings(t, stalled, fmt.Sprint("other way ", i))
		}
		across.WantEnd()
		stalled.WantGone()
		lostBetween(t, r, faulty, began, patient, silent)
	})
}

// wantButPings expects a message after any number of Pings, which stay
// unanswered.
func wantButPings(t *testing.T, w *wstest.Wire, message string) {
	t.Helper()
	for {
		f, err := w.ReadFrame()
		switch {
		case err != nil || f.First != wstest.Ping && f != (wstest.Frame{First: wstest.Text, Payload: message}):
			t.Fatalf("%s: got %v, %v, want %q", w.Who(), f, err, message)
		case f.First != wstest.Ping:
			return
		}
	}
}

// F31: a side stalls within a frame's header, or within a Close. The proxy has
// held back that part: the opposite side is pinged meanwhile, and gets a Close.
func TestStallMidHeader(t *testing.T) {
	t.Attr("case", "F31")
	for _, n := range []int{1, 3, 5} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			peer.EachSideOfFew(t, func(t *testing.T, legs peer.Legs, faulty wsproxy.Side) {
				r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{pings()}})
				stalled, across := r.OpenSide(faulty)
				other := respond(across)
				answerOne(t, stalled)
				began := time.Now()
				frame := stalled.Frame(wstest.Binary, strings.Repeat("x", 70_000))
				if n == 5 {
					frame = stalled.Frame(wstest.Close, wstest.CloseBody(1000, "goodbye"))
				}
				stalled.Send(frame[:n])
				stalled.WantGone()
				other.wantClosed(t, peer.Told(faulty))
				lostBetween(t, r, faulty, began, patient, silent)
				if other.pings.Load() == 0 {
					t.Error("the side across was not pinged")
				}
			})
		})
	}
}

// F32: a side that reads nothing blocks its sender, is dropped at the write
// timeout, and does not affect the other direction until then.
func TestSlowReader(t *testing.T) {
	t.Attr("case", "F32 A66")
	const timeout = 3 * patient // in which the sender is seen to stand still, and the other side writes
	peer.EachSideOfFew(t, func(t *testing.T, legs peer.Legs, faulty wsproxy.Side) {
		r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{wsproxy.WithWriteTimeout(timeout), wsproxy.WithCloseTimeout(soon), wsproxy.WithPing(0, 0)}})
		began := time.Now()
		lazy, across := r.OpenSide(faulty)
		<-flood(across)
		lazy.SendText("but I do write")
		across.Want(wstest.Text, "but I do write")
		across.WantCloseAfterPings(peer.Told(faulty))
		across.WantEnd()
		lostBetween(t, r, faulty, began, timeout, stuck)
		if lazy.WantGone() == 0 {
			t.Error("what had been written to it is lost")
		}
	})
}

// F33: both sides write and neither reads: the session ends at the write
// timeout.
func TestBothFull(t *testing.T) {
	t.Attr("case", "F33")
	peer.EachOfFew(t, func(t *testing.T, legs peer.Legs) {
		r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{wsproxy.WithWriteTimeout(patient), wsproxy.WithCloseTimeout(soon), pings()}})
		began := time.Now()
		c, u := r.Open()
		a, b := flood(c), flood(u)
		<-a
		<-b
		r.Opened(0)
		if d := time.Since(began); d < patient || d > patient+15*time.Second {
			t.Errorf("ended after %v, want about %v", d, patient)
		}
		c.WantGone()
		u.WantGone()
	})
}

// F34: a frame that takes longer than Ping interval and timeout together is not
// disturbed while it makes progress: the Ping to its receiver waits for its
// end.
func TestLongFrame(t *testing.T) {
	t.Attr("case", "F34")
	const pongs = 500 * time.Millisecond
	peer.EachSideOfFew(t, func(t *testing.T, legs peer.Legs, sender wsproxy.Side) {
		r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{wsproxy.WithPing(pingEvery, pongs), wsproxy.WithCloseTimeout(soon)}})
		from, to := r.OpenSide(sender)
		long := from.Frame(wstest.Binary, strings.Repeat("l", 300_000))
		began := time.Now()
		sent := make(chan error, 1)
		go func() { // paced by a clock: the time it takes is what this is about
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for b := long; len(b) > 0; b = b[min(len(b), 6000):] {
				<-tick.C
				if _, err := io.WriteString(from, b[:min(len(b), 6000)]); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		to.WantBytes(long)
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d < 2*(pingEvery+pongs) {
			t.Fatalf("took %v: that was no long frame", d)
		}
		f, err := to.ReadFrame()
		if err != nil || f.First != wstest.Ping {
			t.Fatalf("got %v, %v, want a Ping behind the frame", f, err)
		}
		from.Reset()
		r.Ended(sender, wsproxy.ReasonLost)
	})
}

// F35, F36: everything that arrives from a side proves that it is alive, not
// only the right Pong. Its own Pings, and Pongs that do not answer ours, are
// relayed.
func TestSignsOfLife(t *testing.T) {
	signs := []struct {
		name, cases string
		passes      bool
		sign        func(w *wstest.Wire, first string) string
	}{
		{"Pong with a wrong body", "F35", true, func(w *wstest.Wire, _ string) string { return w.Frame(wstest.Pong, "wrong") }},
		{"Pong to the first Ping only", "F35 F36", false, func(w *wstest.Wire, first string) string { return w.Frame(wstest.Pong, first) }},
		{"Ping of its own", "F36", true, func(w *wstest.Wire, _ string) string { return w.Frame(wstest.Ping, "mine") }},
	}
	const answer = 400 * time.Millisecond
	for _, s := range signs {
		t.Run(s.name, func(t *testing.T) {
			t.Attr("case", s.cases)
			peer.EachSideOfFew(t, func(t *testing.T, legs peer.Legs, odd wsproxy.Side) {
				r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{wsproxy.WithPing(pingEvery, answer)}})
				from, across := r.OpenSide(odd)
				other := respond(across)
				f, err := from.ReadFrame()
				if err != nil || f.First != wstest.Ping {
					t.Fatalf("got %v, %v, want a Ping", f, err)
				}
				began := time.Now()
				for time.Since(began) < 3*answer {
					from.Send(s.sign(from, f.Payload))
					again, err := from.ReadFrame() // the next Ping: it has been silent again
					for err == nil && again.First == wstest.Pong {
						again, err = from.ReadFrame()
					}
					if err != nil || again.First != wstest.Ping {
						t.Fatalf("got %v, %v after %v, want Pings to go on", again, err, time.Since(began))
					}
				}
				from.Reset()
				r.Ended(odd, wsproxy.ReasonLost)
				var got int
				for f := range other.frames {
					if f.First == wstest.Pong {
						got++
					}
				}
				if strings.HasPrefix(s.name, "Ping") {
					got = int(other.pings.Load())
				}
				if s.passes != (got > 0) {
					t.Errorf("the other side got %d of them, want passed on: %v", got, s.passes)
				}
			})
		})
	}
}

// F37: no data in either direction for the idle timeout, although both sides
// are alive: both get a Close.
func TestIdle(t *testing.T) {
	t.Attr("case", "F37 C28")
	peer.EachOfFew(t, func(t *testing.T, legs peer.Legs) {
		r := peer.New(t, peer.Config{Legs: legs, Options: []wsproxy.Option{wsproxy.WithIdleTimeout(patient), pings()}})
		began := time.Now()
		c, u := r.Open()
		client, upstream := respond(c), respond(u)
		client.wantClosed(t, 1001)
		upstream.wantClosed(t, 1001)
		r.Ended(wsproxy.Self, wsproxy.ReasonIdle)
		if d := time.Since(began); d < patient || d > patient+10*time.Second {
			t.Errorf("ended after %v, want %v", d, patient)
		}
		if client.pings.Load() == 0 || upstream.pings.Load() == 0 {
			t.Error("neither Pings nor Pongs are data, but there were none")
		}
	})
}
