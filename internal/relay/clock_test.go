package relay

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// setBy returns the time that is d after the start of the program, where the wall clock
// was set forward.
func setBy(forward, d time.Duration) time.Time {
	t := started.Add(d)
	// A time.Time that has both clocks begins with the wall clock's seconds, above 30 bits of
	// nanoseconds.
	*(*uint64)(unsafe.Pointer(&t)) += uint64(forward/time.Second) << 30
	return t
}

func (e *eras) count() int {
	if later := e.later.Load(); later != nil {
		return 1 + len(*later)
	}
	return 1
}

// wantAt checks that a time is had back, by both clocks.
func (e *eras) wantAt(t *testing.T, d time.Duration, want time.Time) {
	t.Helper()
	got := e.at(d)
	if past := got.Sub(want); past != 0 {
		t.Errorf("%v: got %v later by the monotonic clock", d, past)
	}
	if past := got.Round(0).Sub(want.Round(0)); past.Abs() >= sameEra {
		t.Errorf("%v: got %v later by the wall clock", d, past)
	}
}

// Times are kept by both clocks, however the wall clock is set before and after.
func TestErasKeepTimes(t *testing.T) {
	const sec, year = time.Second, 365 * 24 * time.Hour
	var e eras
	steps := []struct {
		at   time.Time
		eras int // known after that
	}{
		{setBy(0, sec), 1},
		{setBy(0, 2*sec).Add(sameEra / 2), 1},
		{setBy(year, 3*sec), 2},
		{setBy(year, 4*sec), 2},
		{setBy(-50*year, 5*sec+sec/2), 3},
		{setBy(-50*year, 5*sec), 4}, // read before the last one, noted after it
		{setBy(-50*year, 6*sec), 4},
		{setBy(year, 4*sec+1), 4}, // read before the clock was set
		{setBy(0, 7*sec), 5},
		{setBy(0, 10*year), 5},
	}
	for i, step := range steps {
		if d := e.note(step.at); d != step.at.Sub(started) {
			t.Fatalf("step %d: noted as %v, want %v", i, d, step.at.Sub(started))
		}
		if n := e.count(); n != step.eras {
			t.Errorf("step %d: there are %d eras, want %d", i, n, step.eras)
		}
		for _, before := range steps[:i+1] {
			e.wantAt(t, before.at.Sub(started), before.at)
		}
	}
}

// The memory of a clock that is set all the time is limited; the latest are kept.
func TestErasAreForgotten(t *testing.T) {
	var e eras
	at := func(i int) time.Time { return setBy(time.Duration(i)*time.Hour, time.Duration(i)*time.Second) }
	const many = 2 * mostEras
	for i := range many {
		e.note(at(i))
	}
	if n := e.count(); n != 1+mostEras {
		t.Errorf("%d eras are kept, want %d", n, 1+mostEras)
	}
	for i := many - mostEras; i < many; i++ {
		e.wantAt(t, at(i).Sub(started), at(i))
	}
}

// Those who notice at the same time that the clock was set have one era.
func TestErasTogether(t *testing.T) {
	for range 20 {
		var e eras
		var all sync.WaitGroup
		e.mu.Lock()
		for range 4 {
			all.Go(func() {
				now := setBy(time.Hour, time.Minute)
				e.wantAt(t, e.note(now), now)
			})
		}
		for range 100 { // they come to the lock
			runtime.Gosched()
		}
		e.mu.Unlock()
		all.Wait()
		if n := e.count(); n != 2 {
			t.Fatalf("there are %d eras, want 2", n)
		}
	}
}

// In a bubble, times are the bubble's, also while the process knows other eras.
func TestErasInBubble(t *testing.T) {
	var e eras
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			now, known := time.Now(), e.count()
			d := e.note(now)
			time.Sleep(time.Hour)
			if got := e.at(d); !got.Equal(now) || time.Since(got) != time.Hour || time.Since(started)-d != time.Hour || !started.After(got) {
				t.Errorf("got %v, want %v, an hour ago", got, now)
			}
			if e.count() != known {
				t.Errorf("a bubble makes an era")
			}
		})
		e.note(setBy(-time.Hour, time.Minute))
	}
}

// The start of a session is the zero time before Begin, and then as given.
func TestBegan(t *testing.T) {
	var s Session
	if got := s.Began(); !got.IsZero() {
		t.Errorf("before Begin: %v, want the zero time", got)
	}
	now := time.Now()
	s.Begin(now)
	if got := s.Began(); got.Sub(now) != 0 || got.Location() != now.Location() {
		t.Errorf("got %v, want %v", got, now)
	}
}
