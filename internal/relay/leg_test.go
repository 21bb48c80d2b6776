package relay

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// A Close that waits for a frame's end isn't mixed with another one: the first
// wins, and a Ping waits beside it.
func TestPendingClose(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	s := &Session{began: time.Now(), course: protocol.NewCourse(&protocol.Policy{Close: time.Minute, Write: time.Minute}, 1)}
	s.course.Blame(protocol.CauseIdle, nil)
	for side := range s.legs {
		l := &s.legs[side]
		l.s, l.side, l.threadLeg = s, frame.Side(side), &threadLeg{conn: near}
		s.pumps[side].from = l
	}
	l := &s.legs[frame.Client]
	l.state.tryLock() // as if a frame were part-written
	for _, frame := range []uint32{pingPending, 1001, 1012, pingPending, 4095} {
		l.inject(frame)
	}
	go l.release()
	far.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 2+protocol.PingBodySize+2+2+len(protocol.CauseIdle.Text))
	if _, err := io.ReadFull(far, b); err != nil {
		t.Fatal(err)
	}
	if code := binary.BigEndian.Uint16(b[2+protocol.PingBodySize+2:]); b[0] != 0x89 || b[2+protocol.PingBodySize] != 0x88 || code != 1001 {
		t.Errorf("got %#x then %#x with code %d, want a Ping and Close 1001", b[0], b[2+protocol.PingBodySize], code)
	}
}

// The lock admits one at a time, loses no wake-up, and can be waited for in
// simulated time.
func TestWriteLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			state   legState
			waiters lockWaiters
			mu      sync.Mutex
			n       int // guarded by the lock
			wg      sync.WaitGroup
		)
		for range 4 {
			wg.Go(func() {
				for range 1000 {
					if !state.tryLock() {
						waiters.acquire(&state, &mu, nil)
					}
					n++
					if n%100 == 0 {
						time.Sleep(time.Second) // hold it across I/O
					}
					state.unlock()
					waiters.wake(&mu)
				}
			})
		}
		wg.Wait()
		if n != 4000 {
			t.Errorf("counted %d, want 4000", n)
		}
		state.tryLock()
		began := time.Now()
		if waiters.acquire(&state, &mu, time.After(time.Minute)) || time.Since(began) != time.Minute {
			t.Errorf("waited %v for a lock that is held, want to give up after 1m", time.Since(began))
		}
		state.unlock()
		waiters.wake(&mu)
		if !state.tryLock() {
			t.Error("it stays held after somebody has given up")
		}
	})
}
