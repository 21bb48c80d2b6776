package wsproxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

// A watch records the frames that reach a wire, and when. It answers Pings, and
// Closes as a well-behaved peer does.
type watch struct {
	frames []wstest.Frame
	times  []time.Duration // of the frames
	end    time.Duration   // when the stream ended; 0: not yet
}

// watched starts a watch. Its fields may be read after a synctest.Wait.
func watched(w *wstest.Wire) *watch { return startWatch(w, true) }

// heardBy is watched for a side that sends nothing, not even Pongs.
func heardBy(w *wstest.Wire) *watch { return startWatch(w, false) }

func startWatch(w *wstest.Wire, answer bool) *watch {
	began, k := time.Now(), new(watch)
	go func() {
		for {
			f, err := w.ReadFrame()
			if err != nil {
				k.end = time.Since(began)
				w.Close()
				return
			}
			k.frames, k.times = append(k.frames, f), append(k.times, time.Since(began))
			switch {
			case !answer:
			case f.First == wstest.Ping:
				io.WriteString(w, w.Frame(wstest.Pong, f.Payload))
			case f.First == wstest.Close:
				io.WriteString(w, w.Frame(wstest.Close, f.Payload))
				if !w.Client { // RFC 6455, 7.1.1: an upstream closes first
					w.Close()
				}
			}
		}
	}()
	return k
}

// only returns the frames that begin with first, and when they came.
func (k *watch) only(first byte) (payloads []string, times []time.Duration) {
	for i, f := range k.frames {
		if f.First == first {
			payloads, times = append(payloads, f.Payload), append(times, k.times[i])
		}
	}
	return payloads, times
}

// wantClosed checks that the stream ended exactly at the given time, with a
// Close of that code; 0: without a Close.
func (k *watch) wantClosed(t *testing.T, code int, at time.Duration) {
	t.Helper()
	synctest.Wait()
	got := 0
	if bodies, _ := k.only(wstest.Close); len(bodies) == 1 {
		got = int(bodies[0][0])<<8 | int(bodies[0][1])
	}
	if got != code || k.end != at {
		t.Errorf("ended after %v with Close %d, want %v and %d; got frames %.200v", k.end, got, at, code, k.frames)
	}
}

// wantAt checks that d has passed since began.
func wantAt(t *testing.T, began time.Time, d time.Duration) {
	t.Helper()
	if got := time.Since(began); got != d {
		t.Errorf("%v have passed, want %v", got, d)
	}
}

// A Ping is due when a leg has been silent for pingLeast to pingMost.
const (
	pingLeast = 22500 * time.Millisecond
	pingMost  = 25 * time.Second
)

// pongTime is how long a Ping may stay unanswered.
const pongTime = 35 * time.Second

// answerOnce has each wire of a session answer its first Ping, so that later
// Pings must be answered.
func answerOnce(t *testing.T, wires ...*wstest.Wire) {
	t.Helper()
	for _, w := range wires {
		f, err := w.ReadFrame()
		if err != nil || f.First != wstest.Ping || len(f.Payload) > 125 {
			t.Fatalf("%s: got %v %v, want a Ping", w.Who(), f, err)
		}
		w.Send(w.Frame(wstest.Pong, f.Payload))
	}
	synctest.Wait()
}

// C27, F36: each leg is pinged separately, and only when nothing has come from
// it for the interval. The Pongs to the proxy's Pings are not relayed.
func TestPingSilentLegOnly(t *testing.T) {
	t.Attr("case", "C27 F36")
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		busy, silent := w.open(r, "", "")
		toBusy, toSilent := watched(busy), watched(silent)
		for range 60 {
			wstest.Elapse(10 * time.Second)
			busy.SendText("x")
		}
		synctest.Wait()
		if len(toBusy.frames) > 0 {
			t.Errorf("the busy side got %v, want nothing", toBusy.frames)
		}
		if _, pongs := toSilent.only(wstest.Pong); pongs != nil {
			t.Errorf("got Pongs at %v", pongs)
		}
		if texts, _ := toSilent.only(wstest.Text); len(texts) != 60 {
			t.Errorf("got %d messages, want 60", len(texts))
		}
		_, pings := toSilent.only(wstest.Ping)
		if len(pings) < 24 || len(pings) > 26 {
			t.Fatalf("got %d Pings in 600 s", len(pings))
		}
		for i, at := range pings[1:] {
			if gap := at - pings[i]; gap < pingLeast || gap > pingMost {
				t.Errorf("Ping %v after the one before", gap)
			}
		}
	})
}

// C27: sessions that start together do not ping in step, and the payload of
// each Ping is different.
func TestPingJitter(t *testing.T) {
	t.Attr("case", "C27")
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		r := c.rig(t)
		var legs []*watch
		for range 30 {
			client, upstream := r.open("", "")
			legs = append(legs, watched(client), watched(upstream))
		}
		wstest.Elapse(40 * time.Second)
		synctest.Wait()
		times, bodies := make(map[time.Duration]int), make(map[string]bool)
		least, most := time.Hour, time.Duration(0)
		for _, k := range legs {
			body, at := k.only(wstest.Ping)
			if len(at) != 1 || at[0] < pingLeast || at[0] > pingMost {
				t.Fatalf("Pings at %v", at)
			}
			least, most = min(least, at[0]), max(most, at[0])
			times[at[0]]++
			bodies[body[0]] = true
		}
		if len(times) < 20 || most-least < time.Second {
			t.Errorf("%d different times between %v and %v", len(times), least, most)
		}
		if len(bodies) != len(legs) {
			t.Errorf("%d different bodies, want %d", len(bodies), len(legs))
		}
	})
}

// A timeout longer than the interval does not lengthen the interval.
func TestPingLongTimeout(t *testing.T) {
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t, wsproxy.WithPing(20*time.Second, time.Minute))
		from, to := w.open(r, "", "")
		k := watched(from)
		heardBy(to)
		wstest.Elapse(58 * time.Second)
		synctest.Wait()
		_, pings := k.only(wstest.Ping)
		if len(pings) < 2 {
			t.Fatalf("Pings at %v, want one every 18 s to 20 s", pings)
		}
		for i, at := range pings[1:] {
			if gap := at - pings[i]; gap < 18*time.Second || gap > 20*time.Second {
				t.Errorf("Ping %v after the one before", gap)
			}
		}
		from.Close()
	})
}

// F26, F27: a side that has answered Pings and then vanishes is detected by an
// unanswered Ping. It gets no Close, as nobody is there.
func TestVanished(t *testing.T) {
	t.Attr("case", "F26 F27")
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to := w.open(r, "", "")
		answerOnce(t, from, to)
		began := time.Now()
		k := watched(to)
		if f, err := from.ReadFrame(); err != nil || f.First != wstest.Ping || len(f.Payload) > 125 {
			t.Fatalf("got %v %v, want a Ping", f, err)
		}
		pinged := time.Since(began)
		from.WantEnd()
		wantAt(t, began, pinged+pongTime)
		k.wantClosed(t, w.toldOther, pinged+pongTime)
		m := r.wantEnded(w.name, "lost")
		if m["error"] != "no answer to a ping" {
			t.Errorf("logged error %v", m["error"])
		}
		if _, ok := m[w.name+"_ignores_pings"]; ok {
			t.Errorf("logged %v of a side that has answered", m)
		}
	})
}

// A side that has never answered a Ping is not dropped for that: some
// applications answer none. It is still pinged at the interval, and the
// session, the log and the stats report it. After its first answer it must
// answer the following Pings.
func TestNeverAnswers(t *testing.T) {
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		side := wsproxy.Client
		if w.name == "upstream" {
			side = wsproxy.Upstream
		}
		r := c.rig(t)
		from, to := w.open(r, "", "")
		s := r.the()
		watched(to)
		k := heardBy(from)
		wstest.Elapse(pingMost)
		synctest.Wait()
		if s.IgnoresPings(side) {
			t.Error("said to ignore Pings before there was the time to answer one")
		}
		wstest.Elapse(6 * time.Hour)
		synctest.Wait()
		if k.end != 0 {
			t.Fatalf("given up after %v", k.end)
		}
		_, pings := k.only(wstest.Ping)
		for i, at := range pings[1:] {
			if gap := at - pings[i]; gap < pingLeast || gap > pingMost {
				t.Fatalf("Ping %v after the one before", gap)
			}
		}
		if !s.IgnoresPings(side) || s.IgnoresPings(side^1) || s.IgnoresPings(wsproxy.Self) {
			t.Error("want just the silent side to ignore Pings")
		}
		to.SendClose(1000, "")
		r.wantOver()
		m := r.logs.Wait(t, 0)
		if _, other := m[(side^1).String()+"_ignores_pings"]; m[w.name+"_ignores_pings"] != true || other {
			t.Errorf("logged %v", m)
		}
		if got := r.proxy.Stats().IgnoredPings; got[side] != 1 || got[side^1] != 0 {
			t.Errorf("counted %v", got)
		}

		from, to = w.open(r, "", "")
		s = r.the()
		watched(to)
		began := time.Now()
		var last wstest.Frame
		for time.Since(began) < time.Hour {
			last, _ = from.ReadFrame()
		}
		from.Send(from.Frame(wstest.Pong, last.Payload))
		synctest.Wait()
		if s.IgnoresPings(side) {
			t.Error("said to ignore Pings after it has answered one")
		}
		heardBy(from)
		began = time.Now()
		r.wantOver()
		if d := time.Since(began); d < pingLeast+pongTime || d > pingMost+pongTime {
			t.Errorf("given up %v after its only answer", d)
		}
		r.wantRecord(1, w.name, "lost")
	})
}

// A side that sends data but answers no Ping ignores Pings, too.
func TestIgnoresPingsAndTalks(t *testing.T) {
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to := w.open(r, "", "")
		s := r.the()
		watched(to)
		heardBy(from)
		for range 3 {
			wstest.Elapse(pingMost)
			synctest.Wait()
			from.SendText("x")
		}
		side := wsproxy.Client
		if w.name == "upstream" {
			side = wsproxy.Upstream
		}
		if !s.IgnoresPings(side) {
			t.Error("Pings were not answered, and it isn't told")
		}
	})
}

// WithPingTo sets one side: with an interval of 0 nothing is injected there,
// whatever the other side's setting, and its silence does not end the session.
func TestPingTo(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		options func(wsproxy.Side) []wsproxy.Option
		other   time.Duration // interval at which the other side is pinged
	}{
		{"off for one", func(side wsproxy.Side) []wsproxy.Option {
			return []wsproxy.Option{wsproxy.WithPingTo(side, 0, 0)}
		}, pingMost},
		{"later option counts", func(side wsproxy.Side) []wsproxy.Option {
			return []wsproxy.Option{wsproxy.WithPingTo(side, time.Second, time.Second), wsproxy.WithPing(10*time.Second, 10*time.Second), wsproxy.WithPingTo(side, 0, 0)}
		}, 10 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachWayInTime(t, func(t *testing.T, c carrier, w way) {
				side := wsproxy.Client
				if w.name == "upstream" {
					side = wsproxy.Upstream
				}
				r := c.rig(t, test.options(side)...)
				from, to := w.open(r, "", "")
				k, l := heardBy(from), watched(to)
				wstest.Elapse(time.Hour)
				synctest.Wait()
				if len(k.frames) > 0 || k.end != 0 {
					t.Errorf("got %v and an end at %v, want nothing", k.frames, k.end)
				}
				_, pings := l.only(wstest.Ping)
				if least := int(time.Hour / test.other); len(pings) < least || len(pings) > least*10/9+1 {
					t.Errorf("the other side got %d Pings in an hour", len(pings))
				}
			})
		})
	}
}

// F28, C27: every byte is a sign of life, even of a frame that never completes,
// and so is a Pong with a wrong payload, an old one or a late one.
func TestSignsOfLife(t *testing.T) {
	t.Attr("case", "F28")
	t.Parallel()
	signs := map[string]func(w *wstest.Wire, n int, ping string) string{
		"drip in a header": func(w *wstest.Wire, n int, _ string) string {
			return w.Frame(wstest.Binary, strings.Repeat("x", 70_000))[n%8:][:1]
		},
		"drip in a Close": func(w *wstest.Wire, n int, _ string) string {
			return w.Frame(wstest.Close, wstest.CloseBody(1000, "reason"))[n:][:1]
		},
		"drip in a payload": func(w *wstest.Wire, n int, _ string) string {
			return w.Frame(wstest.Binary, strings.Repeat("x", 70_000))[8*n:][:8]
		},
		"wrong Pong":         func(w *wstest.Wire, _ int, _ string) string { return w.Frame(wstest.Pong, "wrong") },
		"wrong Pong of 12":   func(w *wstest.Wire, _ int, _ string) string { return w.Frame(wstest.Pong, "twelve bytes") },
		"Pong to the first":  func(w *wstest.Wire, _ int, first string) string { return w.Frame(wstest.Pong, first) },
		"Ping of its own":    func(w *wstest.Wire, _ int, _ string) string { return w.Frame(wstest.Ping, "") },
		"start of a message": func(w *wstest.Wire, n int, _ string) string { return w.Frame(byte(min(n, 1)^1), "x") },
	}
	for name, sign := range signs {
		t.Run(name, func(t *testing.T) {
			eachWayInTime(t, func(t *testing.T, c carrier, w way) {
				r := c.rig(t)
				from, to := w.open(r, "", "")
				answerOnce(t, from, to)
				watched(to)
				k := heardBy(from)
				for n := range 8 {
					wstest.Elapse(57 * time.Second) // past the Ping, short of its timeout
					synctest.Wait()
					pings, _ := k.only(wstest.Ping)
					if len(pings) != n+1 {
						t.Fatalf("got %d Pings by sign %d", len(pings), n)
					}
					from.Send(sign(from, n, pings[0]))
				}
				// Without another sign of life it is lost after one more Ping.
				wstest.Elapse(61 * time.Second)
				synctest.Wait()
				if pings, _ := k.only(wstest.Ping); len(pings) != 9 || k.end == 0 {
					t.Errorf("got %d Pings and an end at %v, want 9 and one", len(pings), k.end)
				}
				r.wantEnded(w.name, "lost")
			})
		})
	}
}

// F30: a side that stalls in the middle of a frame. Nothing is written into
// that frame, neither a Ping nor a Close. The other direction continues. In the
// end the side is lost, and the other connection is closed without a Close
// frame.
func TestStallMidFrame(t *testing.T) {
	t.Attr("case", "F30")
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to := w.open(r, "", "")
		answerOnce(t, from, to)
		part := from.Frame(wstest.Binary, strings.Repeat("x", 1000))[:500]
		from.Send(part)
		began := time.Now()
		k := heardBy(from) // its Pongs would be payload
		var ticking sync.WaitGroup
		defer ticking.Wait()
		ticking.Go(func() {
			for range 6 {
				wstest.Elapse(5 * time.Second)
				to.SendText("tick")
			}
		})
		to.WantBytes(part)
		to.WantEnd()
		if d := time.Since(began); d < pingLeast+pongTime || d > pingMost+pongTime {
			t.Errorf("ended after %v", d)
		}
		k.wantClosed(t, 0, time.Since(began))
		if ticks, _ := k.only(wstest.Text); len(ticks) != 6 {
			t.Errorf("the other direction carried %d messages", len(ticks))
		}
		r.wantEnded(w.name, "lost")
	}, carrier.relaysFrames)
}

// F31: a stall in the middle of a header, or of a Close frame. The proxy has
// held back that part, so it can still write Pings and the Close.
func TestStallMidHeader(t *testing.T) {
	t.Attr("case", "F31")
	t.Parallel()
	for _, n := range []int{1, 2, 3} {
		eachWayInTime(t, func(t *testing.T, c carrier, w way) {
			r := c.rig(t)
			from, to := w.open(r, "", "")
			answerOnce(t, from, to)
			began := time.Now()
			if n == 3 {
				from.Send(from.Frame(wstest.Close, wstest.CloseBody(1000, "x"))[:5-1])
			} else {
				from.Send(from.Frame(wstest.Binary, strings.Repeat("x", 1000))[:n])
			}
			k, stalled := watched(to), heardBy(from)
			r.wantOver()
			r.wantEnded(w.name, "lost")
			at := time.Since(began)
			if at < pingLeast+pongTime || at > pingMost+pongTime {
				t.Errorf("ended after %v", at)
			}
			k.wantClosed(t, w.toldOther, at)
			stalled.wantClosed(t, 0, at)
			if _, pings := k.only(wstest.Ping); len(pings) != 2 || len(k.frames) != 3 {
				t.Errorf("got %v, want two Pings and a Close", k.frames)
			}
		})
	}
}

// flood has the wire write messages, n bytes in total, for as long as they are
// accepted.
func flood(w *wstest.Wire, n int) {
	go func() {
		message := w.Frame(wstest.Binary, strings.Repeat("x", 4000))
		for ; n > 0; n -= len(message) {
			if _, err := io.WriteString(w, message); err != nil {
				return
			}
		}
	}()
}

// F32, F28: a side that reads nothing. It ends the session when the write to it
// has made no progress for the write timeout, and not before. The other
// direction works until then. The opposite side, which is not read meanwhile,
// does not count as silent, however long that takes.
func TestSlowReader(t *testing.T) {
	t.Attr("case", "F32 F28")
	t.Parallel()
	for _, timeout := range []time.Duration{60 * time.Second, 3 * time.Minute} {
		eachWayInTime(t, func(t *testing.T, c carrier, w way) {
			r := c.rig(t, wsproxy.WithWriteTimeout(timeout))
			from, to := w.open(r, "", "")
			began := time.Now()
			flood(to, 10*wstest.MemBuffer)
			k := watched(to)
			n := int(timeout/(9*time.Second)) - 1
			for range n {
				wstest.Elapse(9 * time.Second)
				from.SendText("other way")
			}
			r.wantOver()
			wantAt(t, began, timeout)
			if m := r.wantEnded(w.name, "lost"); !strings.Contains(fmt.Sprint(m["error"]), "write timeout") {
				t.Errorf("logged error %v", m["error"])
			}
			k.wantClosed(t, w.toldOther, timeout)
			if texts, _ := k.only(wstest.Text); len(texts) != n {
				t.Errorf("the other direction carried %d messages, want %d", len(texts), n)
			}
		})
	}
}

// F32: a Ping blocks because its peer has left so much unread that there is no
// room. It delays neither the other side's Pings nor data. When the peer reads
// again, the Ping arrives complete and in its place.
func TestStuckPing(t *testing.T) {
	t.Attr("case", "F32")
	t.Parallel()
	for _, recovers := range []bool{false, true} {
		eachWayInTime(t, func(t *testing.T, c carrier, w way) {
			r := c.rig(t)
			from, to := w.open(r, "", "")
			began := time.Now()
			full := to.Frame(wstest.Binary, strings.Repeat("x", wstest.MemBuffer-len(to.Frame(wstest.Binary, strings.Repeat("x", 1000)))+1000))
			to.Send(full)
			k := watched(to)
			wstest.Elapse(40 * time.Second)
			from.SendText("other way")
			if recovers {
				to.SendText("after")
				c.want(from, full)
				if f, err := from.ReadFrame(); err != nil || f.First != wstest.Ping {
					t.Fatalf("got %v %v, want a Ping", f, err)
				}
				from.Want(wstest.Text, "after")
				from.SendClose(1000, "")
				if w.masked() {
					from.Want(wstest.Close, wstest.CloseBody(1000, ""))
				} else {
					from.Close()
				}
			}
			r.wantOver()
			synctest.Wait()
			if texts, _ := k.only(wstest.Text); len(texts) != 1 {
				t.Errorf("the other side got %v, want a message", k.frames)
			}
			if recovers {
				r.wantEnded(w.name, "closed")
				return
			}
			r.wantEnded(w.name, "lost")
			at := time.Since(began)
			if at < pingLeast+60*time.Second || at > pingMost+60*time.Second {
				t.Errorf("ended after %v, want the write timeout after the Ping", at)
			}
			k.wantClosed(t, w.toldOther, at)
			if _, pings := k.only(wstest.Ping); len(pings) != 3 {
				t.Errorf("the other side got Pings at %v, want 3", pings)
			}
		})
	}
}

// F33: both sides write and neither reads. The session ends at the write
// timeout.
func TestBothFull(t *testing.T) {
	t.Attr("case", "F33")
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		r := c.rig(t)
		client, upstream := r.open("", "")
		began := time.Now()
		flood(client, 10*wstest.MemBuffer)
		flood(upstream, 10*wstest.MemBuffer)
		r.wantOver()
		wantAt(t, began, 60*time.Second)
		if m := r.logs.Wait(t, 0); m["reason"] != "lost" || !strings.Contains(fmt.Sprint(m["error"]), "write timeout") {
			t.Errorf("logged %v", m)
		}
		for _, w := range []*wstest.Wire{client, upstream} {
			if _, err := io.Copy(io.Discard, w.In); err != nil {
				t.Error(err)
			}
		}
	})
}

// F34: a frame that takes hours and makes progress all the time is not
// disturbed: the Ping that is due to its silent receiver waits for the end of
// the frame.
func TestLongFrame(t *testing.T) {
	t.Attr("case", "F34")
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to := w.open(r, "", "")
		began := time.Now()
		k := watched(from)
		long := from.Frame(wstest.Binary, strings.Repeat("x", 2<<20))
		go func() {
			for b := long; len(b) > 0; b = b[min(len(b), 4000):] {
				wstest.Elapse(20 * time.Second)
				from.Send(b[:min(len(b), 4000)])
			}
		}()
		to.WantBytes(long)
		if time.Since(began) < time.Hour {
			t.Fatal("that was no long frame")
		}
		f, err := to.ReadFrame()
		if err != nil || f.First != wstest.Ping {
			t.Fatalf("got %v %v, want a Ping", f, err)
		}
		to.Send(to.Frame(wstest.Pong, f.Payload))
		to.SendText("thanks")
		synctest.Wait()
		if len(k.frames) != 1 || k.frames[0] != (wstest.Frame{First: wstest.Text, Payload: "thanks"}) {
			t.Errorf("the sender got %v", k.frames)
		}
	}, carrier.relaysFrames)
}

// F37, C28: if no data frame passes in either direction for the idle timeout,
// both sides get Close 1001 at that instant. Pings and Pongs are not data,
// whether the proxy or a peer sends them; a data frame from either side is.
func TestIdle(t *testing.T) {
	t.Attr("case", "C28 F37")
	t.Parallel()
	for _, test := range []struct {
		name string
		say  func(w *wstest.Wire) string // at 50 s
		end  time.Duration
	}{
		{"nothing", func(*wstest.Wire) string { return "" }, 60 * time.Second},
		{"a Ping", func(w *wstest.Wire) string { return w.Frame(wstest.Ping, "app") }, 60 * time.Second},
		{"a Pong", func(w *wstest.Wire) string { return w.Frame(wstest.Pong, "app") }, 60 * time.Second},
		{"half a header", func(w *wstest.Wire) string { return w.Frame(wstest.Text, "x")[:1] }, 60 * time.Second},
		{"an empty message", func(w *wstest.Wire) string { return w.Frame(wstest.Text, "") }, 110 * time.Second},
		{"a fragment", func(w *wstest.Wire) string { return w.Frame(0x01, "x") }, 110 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachWayInTime(t, func(t *testing.T, c carrier, w way) {
				r := c.rig(t, wsproxy.WithIdleTimeout(60*time.Second))
				from, to := w.open(r, "", "")
				k, l := watched(from), watched(to)
				wstest.Elapse(50 * time.Second)
				from.Send(test.say(from))
				r.wantOver()
				k.wantClosed(t, 1001, test.end)
				l.wantClosed(t, 1001, test.end)
				if _, pings := l.only(wstest.Ping); len(pings) < 2 {
					t.Errorf("Pings at %v: want the keepalive's as well", pings)
				}
				if m := r.wantEnded("proxy", "idle"); m["code"] != int64(1001) {
					t.Errorf("logged %v", m)
				}
			})
		})
	}
}

// F37, F39: if a session ends while a frame is partly written, its Close waits
// for the end of that frame. If the frame never completes, the connections are
// cut at the close timeout.
func TestEndMidFrame(t *testing.T) {
	t.Attr("case", "F37 F39")
	t.Parallel()
	ends := map[string]struct {
		option wsproxy.Option
		begin  func(t *testing.T, r *rig)
	}{
		"idle": {wsproxy.WithIdleTimeout(10 * time.Second), func(*testing.T, *rig) { wstest.Elapse(10 * time.Second) }},
		"drained": {wsproxy.WithIdleTimeout(0), func(t *testing.T, r *rig) {
			go func() {
				if err := r.proxy.Shutdown(t.Context()); err != nil {
					t.Errorf("Shutdown: %v", err)
				}
			}()
		}},
	}
	for reason, end := range ends {
		for _, finishes := range []bool{true, false} {
			eachWayInTime(t, func(t *testing.T, c carrier, w way) {
				r := c.rig(t, end.option)
				from, to := w.open(r, "", "")
				whole := from.Frame(wstest.Binary, strings.Repeat("x", 1000))
				from.Send(whole[:500])
				to.WantBytes(whole[:500])
				end.begin(t, r)
				from.WantClose(1001)
				began := time.Now()
				wstest.Elapse(4 * time.Second)
				if finishes {
					from.Send(whole[500:] + from.Frame(wstest.Text, "too late") + from.Frame(wstest.Close, wstest.CloseBody(1001, "")))
					to.WantBytes(whole[500:])
					to.WantClose(1001)
					wantAt(t, began, 4*time.Second)
					to.SendClose(1001, "")
					from.Close()
					to.Close()
				}
				to.WantEnd()
				from.WantEnd()
				r.wantOver()
				if !finishes {
					wantAt(t, began, 5*time.Second)
				}
				r.wantEnded("proxy", reason)
			}, carrier.relaysFrames)
		}
	}
}

// The close handshake has a time limit: a side that has sent a Close and gets
// no answer gets its own code back then. A side that closed its connection
// instead of answering is not waited for.
func TestCloseUnanswered(t *testing.T) {
	t.Parallel()
	for _, code := range []int{0, 1000, 4401} {
		for _, leaves := range []bool{false, true} {
			eachWayInTime(t, func(t *testing.T, c carrier, w way) {
				r := c.rig(t)
				from, to := w.open(r, "", "")
				began := time.Now()
				from.SendClose(code, "")
				to.WantClose(code)
				want := 5 * time.Second
				if leaves {
					want = 0
					to.Close()
				}
				from.WantClose(code)
				wantAt(t, began, want)
				if !leaves || w.masked() {
					from.WantEnd()
				}
				from.Close()
				r.wantOver()
				wantAt(t, began, want)
				to.WantEnd()
				r.wantEnded(w.name, "closed")
			})
		}
	}
}

// F23: when both sides have sent their Close, the client's connection is closed
// at once. The upstream should close its own, and has the close timeout to do
// so.
func TestWhoClosesFirst(t *testing.T) {
	t.Attr("case", "F23")
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t)
		from, to := w.open(r, "", "")
		began := time.Now()
		from.SendClose(1000, "")
		to.WantClose(1000)
		to.SendClose(1000, "")
		from.WantClose(1000)
		client, upstream := from, to
		if !w.masked() {
			client, upstream = to, from
		}
		client.WantEnd()
		wantAt(t, began, 0)
		upstream.WantEnd()
		wantAt(t, began, 5*time.Second)
		r.wantOver()
		r.wantEnded(w.name, "closed")
	})
}

// F42: every other end is also bounded by the close timeout, if the peers do
// nothing, and each peer still gets its Close.
func TestEndsUnanswered(t *testing.T) {
	t.Attr("case", "F42")
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		r := c.rig(t, wsproxy.WithCloseTimeout(7*time.Second))
		for n, test := range []struct {
			do      func(from *wstest.Wire)
			reason  string
			toldBad int
		}{
			{func(from *wstest.Wire) { from.Send("ÿÿ") }, "protocol error", w.toldBad},
			{func(from *wstest.Wire) { from.CloseWrite() }, "lost", 0},
			{func(from *wstest.Wire) { from.Close() }, "lost", 0},
		} {
			from, to := w.open(r, "", "")
			began := time.Now()
			test.do(from)
			to.WantClose(w.toldOther)
			wantAt(t, began, 0)
			if test.toldBad != 0 {
				from.WantClose(test.toldBad) // last, because to might have had something to send to it
			}
			from.WantEnd()
			to.WantEnd()
			r.wantOver()
			wantAt(t, began, 7*time.Second)
			r.wantRecord(n, w.name, test.reason)
		}
	})
}

// A side that sends without end after its Close, or after a violation, does not
// keep the session open.
func TestFloodAfterEnd(t *testing.T) {
	t.Parallel()
	eachWayInTime(t, func(t *testing.T, c carrier, w way) {
		for _, last := range []string{wstest.CloseBody(1000, ""), "\x00"} {
			r := c.rig(t)
			from, to := w.open(r, "", "")
			began := time.Now()
			from.Send(from.Frame(wstest.Close, last))
			var flooding sync.WaitGroup
			defer flooding.Wait()
			flooding.Go(func() {
				for time.Since(began) < time.Minute {
					if _, err := io.WriteString(from, strings.Repeat("x", 1000)); err != nil {
						return
					}
					wstest.Elapse(time.Millisecond)
				}
			})
			r.wantOver()
			wantAt(t, began, 5*time.Second)
			if _, err := io.Copy(io.Discard, to.In); err != nil {
				t.Error(err)
			}
		}
	})
}

// F43: the server's own timeouts apply to the handshake. They do not cut a
// session.
func TestServerTimeouts(t *testing.T) {
	t.Attr("case", "F43")
	t.Parallel()
	eachSessionInTime(t, func(t *testing.T, c carrier) {
		r := c.rig(t)
		r.front = wstest.Listen(t, wstest.Memory)
		s := &http.Server{Handler: r.proxy, ReadTimeout: time.Second, WriteTimeout: time.Second, IdleTimeout: time.Second}
		go s.Serve(r.front)
		defer s.Close()
		client, upstream := r.open("", "")
		for range 5 {
			wstest.Elapse(2 * time.Second)
			client.SendText("up")
			upstream.Want(wstest.Text, "up")
			upstream.SendText("down")
			client.Want(wstest.Text, "down")
		}
	})
}
