//go:build linux && (amd64 || arm64) && !noloop

package relay

import (
	"net"
	"sync/atomic"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file takes a session into the event driver, and tells its loop of what others
// want of it.

// events is what a session needs in the event driver.
type events struct {
	timer                      // owned by the loop
	loop  atomic.Pointer[loop] // changed by the loop that has the session
	legs  [2]eventLeg

	// Owned by the loop.
	registered bool
	over       bool
	window     uint32 // see share

	due    atomic.Int64 // when the timer is to fire, by Session.now; -1: as set
	called atomic.Bool  // the loop was called, and will look at the session
	toEnd  atomic.Bool  // a leg was reset: read to its end
}

// started is when the program has. In a testing/synctest bubble, whose clock begins
// with the year 2000, it is earlier. A loop belongs to no bubble: one that a bubble had
// started would keep that from ending, and one from outside would not know its time.
var started = time.Now()

// newEvents takes a session's connections into the event driver, if the settings
// and the connections are such that it can have them. Otherwise it returns nil. It
// takes their descriptors out of the runtime's poller, in which every event would
// wake somebody: it duplicates them, and closes the connections.
func newEvents(s *Session, shared *Settings, conns [2]net.Conn) *events {
	none := protocol.Rate{}
	if shared.NoEvents || shared.Limits[frame.Client].Rate != none || shared.Limits[frame.Upstream].Rate != none || s.began.Before(started) {
		return nil
	}
	e := new(events)
	e.s = s
	for side, conn := range conns {
		if !e.legs[side].take(conn) {
			e.drop()
			return nil
		}
	}
	l := joinLoop()
	if l == nil {
		e.drop()
		return nil
	}
	e.loop.Store(l)
	for side, conn := range conns {
		e.legs[side].switchOver(conn)
		e.legs[side].plain = e.legs[0].tls != nil || e.legs[1].tls != nil
	}
	e.called.Store(true) // by start
	return e
}

// drop closes what newEvents has taken.
func (e *events) drop() {
	for side := range e.legs {
		if fd := e.legs[side].fd; fd > 0 {
			closeDescriptor(int(fd))
		}
	}
}

func (e *events) leg(side frame.Side) *eventLeg { return &e.legs[side] }

// start has the loop begin with the session.
func (e *events) start() {
	s := e.s
	for side := range e.legs {
		e.legs[side].early = len(s.pumps[side].held()) > 0
	}
	s.mu.Lock()
	e.due.Store(int64(s.course.Start(s.now(), s.expiryLocked())))
	s.mu.Unlock()
	e.loop.Load().call(s)
}

// call has the loop look at the session.
func (e *events) call() {
	if !e.called.CompareAndSwap(false, true) {
		return
	}
	for {
		l := e.loop.Load()
		if l.call(e.s) || l == e.loop.Load() { // otherwise it was moved before its loop ended
			return
		}
	}
}

// arm sets the session's timer.
func (e *events) arm(due time.Duration) {
	e.due.Store(int64(due))
	e.call()
}

// readToEnd makes the loop read to the end of a connection that was reset.
func (e *events) readToEnd() {
	e.toEnd.Store(true)
	e.call()
}
