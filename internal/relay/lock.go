package relay

import (
	"sync"
	"sync/atomic"
	"time"
)

// This file is the lock of a leg that is held across I/O.

// A writeLock is a lock that is held across I/O. The event driver never waits for
// it; goroutines do with lockWaiters.
type writeLock struct{ held atomic.Bool }

func (w *writeLock) tryAcquire() bool { return w.held.CompareAndSwap(false, true) }
func (w *writeLock) release()         { w.held.Store(false) }

// lockWaiters lets goroutines wait for a writeLock. Unlike with a sync.Mutex, a
// waiter can give up, and counts as blocked in a testing/synctest bubble. It waits
// on a channel that is created only then.
type lockWaiters struct {
	waiting atomic.Int32
	freed   chan struct{} // guarded by the mutex that is passed in; closed by wake
}

// acquire waits for the leg's lock until giveUp is ready.
func (l *leg) acquire(giveUp <-chan time.Time) bool {
	return l.waiters.acquire(&l.lock, &l.s.mu, giveUp)
}

func (w *lockWaiters) acquire(lock *writeLock, mu *sync.Mutex, giveUp <-chan time.Time) bool {
	w.waiting.Add(1)
	defer w.waiting.Add(-1)
	for {
		mu.Lock()
		if w.freed == nil {
			w.freed = make(chan struct{})
		}
		freed := w.freed
		mu.Unlock()
		if lock.tryAcquire() { // it may have been released before freed was created
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
