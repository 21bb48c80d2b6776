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
// set last. A million are set, set again and removed by the same short steps.
func TestWheel(t *testing.T) {
	const many = 1_000_000
	type entry struct {
		timer
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
		w.set(&e.timer, at())
	}
	removed := 0
	for i := range all { // the heartbeat of a busy proxy: nothing fires, all is set again
		if i%10 == 9 {
			w.remove(&all[i].timer)
			removed++
		} else {
			w.set(&all[i].timer, at())
		}
	}
	fired, again, last := 0, 0, int64(0)
	for w.now < 4_000_000 {
		before := w.now
		to := before + 1 + random.Int64N(5000)
		w.advance(to, func(x *timer) {
			e := (*entry)(unsafe.Pointer(x)) // it is the first field
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
				w.set(x, at())
			}
		})
		if w.now != to {
			t.Fatalf("the wheel is at %d, want %d", w.now, to)
		}
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
	var past, far, other, victim timer
	w.advance(1000, nil)
	w.set(&past, 3)
	w.set(&far, 1<<62)
	w.set(&victim, 1001)
	var got []*timer
	w.advance(1001, func(x *timer) {
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
	w.advance(1002, func(x *timer) { got = append(got, x) })
	if len(got) != 2 || got[1] != &other {
		t.Errorf("%d timers fired, want the other one second", len(got))
	}
	w.advance(int64(24*365*time.Hour/tick), func(x *timer) { t.Error("the far one fired") })
	w.remove(&far)
}
