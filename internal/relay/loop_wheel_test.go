//go:build linux && (amd64 || arm64) && !noloop

package relay

import (
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"
)

// Timers fire at their tick or, if the wheel is late, at the next look; each once,
// in order of their ticks, and those that were set again or removed meanwhile as
// set last. A hundred thousand are set, set again ten times and removed by the same short
// steps.
func TestWheel(t *testing.T) {
	const many = 100_000
	type entry struct {
		Session
		fired int64
	}
	var w wheel
	random := rand.New(rand.NewPCG(1, 2))
	all := make([]entry, many)
	spans := []int64{1, 10, 64, 100, 4096, 10_000, 300_000, 3_000_000}
	at := func() int64 { return w.now + 1 + random.Int64N(spans[random.IntN(len(spans))]) }
	for i := range all {
		e := &all[i]
		e.fired = -1
		w.set(&e.Session, at())
	}
	removed := 0
	for range 10 { // the heartbeat of a busy proxy: nothing fires, all is set again
		for i := range all {
			w.set(&all[i].Session, at())
		}
	}
	for i := range all {
		if i%10 == 9 {
			w.remove(&all[i].Session)
			removed++
		}
	}
	fired, again, stops, last := 0, 0, 0, int64(0)
	for w.now < 4_000_000 {
		before := w.now
		to := before + 1 + random.Int64N(5000)
		fire := func(s *Session) {
			e, x := (*entry)(unsafe.Pointer(s)), &s.events.timer // it is the first field
			if x.at <= before || x.at > to || x.at < last && last <= to && x.at < w.now {
				t.Fatalf("a timer for %d fired between %d and %d", x.at, before, to)
			}
			if e.fired == x.at {
				t.Fatalf("a timer for %d fired twice", x.at)
			}
			last, e.fired = x.at, x.at
			fired++
			if fired%3 == 0 && again < many/10 {
				again++
				w.set(s, at())
			}
		}
		for { // a slot may hold more than what it stops at, but of one tick
			n := fired
			w.advance(to, 20, fire)
			if w.now == to {
				break
			}
			if stops++; w.now > to || fired-n < 20 {
				t.Fatalf("the wheel is at %d after %d timers, want %d", w.now, fired-n, to)
			}
		}
	}
	if stops == 0 {
		t.Error("the wheel has not stopped early")
	}
	if want := many - removed + again; fired != want {
		t.Errorf("%d timers fired, want %d", fired, want)
	}
	if _, _, _, left := w.first(); left {
		t.Error("a slot is in use")
	}
}

// The edges: a timer in the past fires at the next tick, one that is never due
// does not make the wheel turn forever, and fire may set and remove others.
func TestWheelEdges(t *testing.T) {
	var w wheel
	var past, far, other, victim Session
	w.advance(1000, 1, nil)
	w.set(&past, 3)
	w.set(&far, 1<<62)
	w.set(&victim, 1001)
	var got []*Session
	w.advance(1001, 10, func(x *Session) {
		got = append(got, x)
		switch x {
		case &past:
			w.remove(&victim)
			w.set(&other, 0)
		case &victim:
			w.remove(&past)
			w.set(&other, 0)
		}
	})
	if len(got) != 1 || w.now != 1001 {
		t.Errorf("%d timers fired at %d, want one at 1001", len(got), w.now)
	}
	w.advance(1002, 10, func(x *Session) { got = append(got, x) })
	if len(got) != 2 || got[1] != &other {
		t.Errorf("%d timers fired, want the other one second", len(got))
	}
	w.advance(int64(24*365*time.Hour/tick), 10, func(x *Session) { t.Error("the far one fired") })
	w.remove(&far)
}

// However many timers and calls there are, a turn looks for events, and after some
// of them the next turn does.
func TestTimersKeepNoEventsWaiting(t *testing.T) {
	l := newLoop()
	if l == nil {
		t.Fatal("no loop")
	}
	defer func() {
		l.wheel = wheel{} // the timers of no session
		l.close()
	}()
	const many = 10 * perTurn
	var due [many]Session
	for i := range due {
		l.wheel.set(&due[i], int64(1+i))
	}
	l.base = l.base.Add(-(many + 1) * tick)
	l.wake()
	if n := l.wait(); n != 1 {
		t.Errorf("%d events while timers are due, want the one that there is", n)
	}
	fired := 0
	l.wheel.advance(l.ticks(time.Since(l.base)), perTurn, func(*Session) { fired++ })
	if fired != perTurn {
		t.Errorf("%d timers of different ticks fired in a turn, want %d", fired, perTurn)
	}
	s := new(Session)
	s.events.loop.Store(l)
	for range many {
		l.call(s)
	}
	taken := 0
	for calls := l.takeCalls(); len(calls) > 0; calls = l.takeCalls() {
		if taken += len(calls); len(calls) > perTurn {
			t.Fatalf("%d calls are answered in a turn, want %d at most", len(calls), perTurn)
		}
	}
	if taken != many {
		t.Errorf("%d calls were answered, want %d", taken, many)
	}
}
