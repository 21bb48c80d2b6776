//go:build linux && (amd64 || arm64) && !noloop

package relay

import "sync/atomic"

// This file counts what the event driver has, for tests of what is left over.

// strays counts the connections that loops waited for, and the timers that they
// had, when they ended: for no session.
var strays atomic.Int64

// CountEvents returns what the event driver has.
func CountEvents() (c Census) {
	loops.Lock()
	c.Loops = len(loops.list)
	for _, l := range loops.list {
		c.Sessions += l.sessions
	}
	loops.Unlock()
	ended.Lock()
	c.Overs, c.Workers = ended.over.length, ended.workers
	ended.Unlock()
	c.Strays = int(strays.Load())
	return c
}

// countStrays is called when the loop has ended.
func (l *loop) countStrays() {
	n := 0
	for _, leg := range l.legs {
		if leg != nil {
			n++
		}
	}
	for level := range l.wheel.slots {
		for slot := range l.wheel.slots[level] {
			for s := l.wheel.slots[level][slot]; s != nil; s = s.events.timer.next {
				n++
			}
		}
	}
	strays.Add(int64(n))
}
