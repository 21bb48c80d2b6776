package relay

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// This file has a session keep its start in 8 bytes, a third of a time.Time: as the time
// since the program started, by the monotonic clock.

// started is when the program has. In a testing/synctest bubble, whose clock begins with
// the year 2000, it is later than now.
var started = time.Now()

// times are those of all sessions.
var times eras

// eras make times of durations since started. Within an era the wall clock has run along
// with the monotonic one. Whenever it is set, a new era begins.
type eras struct {
	mu    sync.Mutex                  // held to change later
	later atomic.Pointer[[]time.Time] // the first time that is known of each era after that of started
}

const (
	sameEra  = 100 * time.Millisecond // that the clocks may differ by: they are not read at once
	mostEras = 1000                   // to limit the memory; then the oldest one is forgotten
)

// at returns the time that was d after started.
func (e *eras) at(d time.Duration) time.Time {
	if later := e.later.Load(); later != nil {
		for _, t := range slices.Backward(*later) {
			if past := d - t.Sub(started); past >= 0 {
				return t.Add(past)
			}
		}
	}
	return started.Add(d)
}

// note returns how long after started a time is, so that at returns it. It must have been
// read from the clock a moment ago.
func (e *eras) note(now time.Time) time.Duration {
	d := now.Sub(started)
	if e.knows(now, d) {
		return d
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.knows(now, d) {
		return d
	}
	var later []time.Time
	if old := e.later.Load(); old != nil {
		later = slices.Clone((*old)[max(0, len(*old)-mostEras+1):])
	}
	later = append(later, now)
	e.later.Store(&later)
	return d
}

// knows reports whether at returns the time for d, give or take what is within an era.
func (e *eras) knows(now time.Time, d time.Duration) bool {
	return now.Round(0).Sub(e.at(d)).Abs() < sameEra // Round: by the wall clock
}
