package relay

import (
	"sync"
	"sync/atomic"
	"time"
)

// This file is the lock of a leg that is held across I/O.

// A legState is what is true of a leg at the time, in bits.
//
// One of them is the leg's lock. It is held while bytes are written to the leg, and
// from there until the frame they belong to is complete. The event driver never waits
// for it; goroutines do with lockWaiters.
type legState struct{ bits atomic.Uint32 }

func (s *legState) is(what uint32) bool { return s.bits.Load()&what != 0 }

func (s *legState) set(what uint32, is bool) {
	if is {
		s.bits.Or(what)
	} else {
		s.bits.And(^what)
	}
}

func (s *legState) tryLock() bool { return s.bits.Or(legLocked)&legLocked == 0 }
func (s *legState) unlock()       { s.set(legLocked, false) }

// lockWaiters lets goroutines wait for a leg's lock. Unlike with a sync.Mutex, a
// waiter can give up, and counts as blocked in a testing/synctest bubble. It waits
// on a channel that is created only then.
type lockWaiters struct {
	waiting atomic.Int32
	freed   chan struct{} // guarded by the mutex that is passed in; closed by wake
}

// acquire waits for the leg's lock until giveUp is ready.
func (l *leg) acquire(giveUp <-chan time.Time) bool {
	return l.waiters.acquire(&l.state, &l.s.mu, giveUp)
}

func (w *lockWaiters) acquire(state *legState, mu *sync.Mutex, giveUp <-chan time.Time) bool {
	w.waiting.Add(1)
	defer w.waiting.Add(-1)
	for {
		mu.Lock()
		if w.freed == nil {
			w.freed = make(chan struct{})
		}
		freed := w.freed
		mu.Unlock()
		if state.tryLock() { // it may have been released before freed was created
			return true
		}
		select {
		case <-freed:
		case <-giveUp:
			return false
		}
	}
}

// wake wakes those who wait. It is called after the lock was released.
func (w *lockWaiters) wake(mu *sync.Mutex) {
	if w.waiting.Load() > 0 {
		mu.Lock()
		defer mu.Unlock()
		if w.freed != nil {
			close(w.freed)
			w.freed = nil
		}
	}
}
