package wsproxy

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The lock admits one at a time, loses no wake-up, and can be waited for in
// simulated time.
func TestWriteLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			lock writeLock
			mu   sync.Mutex
			n    int // guarded by lock
			wg   sync.WaitGroup
		)
		for range 4 {
			wg.Go(func() {
				for range 1000 {
					if !lock.tryAcquire() {
						lock.acquire(&mu, nil)
					}
					n++
					if n%100 == 0 {
						time.Sleep(time.Second) // hold it across I/O
					}
					lock.release(&mu)
				}
			})
		}
		wg.Wait()
		if n != 4000 {
			t.Errorf("counted %d, want 4000", n)
		}
		lock.tryAcquire()
		began := time.Now()
		if lock.acquire(&mu, time.After(time.Minute)) || time.Since(began) != time.Minute {
			t.Errorf("waited %v for a lock that is held, want to give up after 1m", time.Since(began))
		}
		lock.release(&mu)
		if !lock.tryAcquire() {
			t.Error("it stays held after somebody has given up")
		}
	})
}
