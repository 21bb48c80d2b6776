//go:build linux && (amd64 || arm64) && !noloop

package relay

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file takes a session into the event driver, and tells its loop of what others
// want of it.

// events is what a session needs in the event driver, apart from its legs.
type events struct {
	loop  atomic.Pointer[loop] // changed by the loop that has the session; nil: none has
	wants atomic.Uint32        // of the loop; the bits below
	mu    sync.Mutex           // held for a system call at most, and with TLS for encrypting a chunk

	// Owned by the loop.
	window     uint16 // see share
	registered bool
	over       bool
	timer      timer
}

// The bits of events.wants.
const (
	wantLook  = 1 << iota // the loop was called, and will look at the session
	wantTimer             // the timer is to be set to what the course says
	wantEnd               // a leg was reset: read to its end
)

// started is when the program has. In a testing/synctest bubble, whose clock begins
// with the year 2000, it is earlier. A loop belongs to no bubble: one that a bubble had
// started would keep that from ending, and one from outside would not know its time.
var started = time.Now()

// has reports whether the event driver has the session. Otherwise goroutines drive
// it, or it was not joined.
func (e *events) has() bool { return e.loop.Load() != nil }

// take takes a session's connections into the event driver, if the session's settings
// and the connections are such that it can have them. It takes their descriptors out
// of the runtime's poller, in which every event would wake somebody: it duplicates
// them, and closes the connections.
func (e *events) take(s *Session, conns [2]net.Conn) bool {
	none, shared := protocol.Rate{}, s.shared
	if shared.NoEvents || shared.Limits[frame.Client].Rate != none || shared.Limits[frame.Upstream].Rate != none || s.began.Before(started) {
		return false
	}
	for side, conn := range conns {
		if !s.legs[side].take(conn) {
			s.drop()
			return false
		}
	}
	l := joinLoop()
	if l == nil {
		s.drop()
		return false
	}
	e.loop.Store(l)
	for side, conn := range conns {
		s.legs[side].switchOver(conn)
		s.legs[side].plain = s.legs[0].tls != nil || s.legs[1].tls != nil
	}
	e.wants.Store(wantLook) // by start
	return true
}

// drop closes what take has taken.
func (s *Session) drop() {
	for side := range s.legs {
		e := &s.legs[side].eventLeg
		if e.fd > 0 {
			closeDescriptor(int(e.fd))
		}
		e.fd, e.tls = 0, nil
	}
}

// start has the loop begin with the session.
func (e *events) start(s *Session) {
	for side := range s.legs {
		s.legs[side].early = len(s.pumps[side].held()) > 0
	}
	s.mu.Lock()
	s.course.Start(s.now(), s.expiryLocked())
	s.mu.Unlock()
	e.wants.Or(wantTimer)
	e.loop.Load().call(s)
}

// call has the loop look at the session.
func (e *events) call(s *Session) {
	if e.wants.Or(wantLook)&wantLook != 0 {
		return
	}
	for {
		l := e.loop.Load()
		if l.call(s) || l == e.loop.Load() { // otherwise it was moved before its loop ended
			return
		}
	}
}

// arm sets the session's timer to what its course says.
func (e *events) arm(s *Session) {
	e.wants.Or(wantTimer)
	e.call(s)
}

// readToEnd makes the loop read to the end of a connection that was reset.
func (e *events) readToEnd(s *Session) {
	e.wants.Or(wantEnd)
	e.call(s)
}
