//go:build linux && (amd64 || arm64) && !noloop

package relay

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// This file decides how many loops there are, and which sessions they have.
//
// One loop is the cheapest: the more events it finds at a time, the less often it
// waits. It is enough until it is busy nearly all the time. Then it gives sessions
// to a loop that is not, or to a new one; and a loop that has little to do gives
// its sessions back to the first one, and ends.

// loops is the loops that run. A loop runs while it has sessions, and a moment
// longer, because it is dear to start one for each session.
var loops struct {
	sync.Mutex
	list []*loop
}

// A share is what a loop knows of its part of the work. Loads are in percent of the
// time.
type share struct {
	load     atomic.Int32 // in the window before; see loop.load
	measured atomic.Int64 // the end of that window, since the loop's base
	began    time.Duration
	slept    time.Duration // in this window
	calm     int           // how many windows in a row had little load

	// In this window, every n-th session that has something to do is given away; 0:
	// none.
	give   int
	window uint16 // the number of the window
	seen   int    // sessions that had something to do
	retire bool   // changed with loops; all sessions are given away
}

// shareRules are variable for tests.
var shareRules = struct {
	window          time.Duration
	busy, free, low int32 // loads: sessions are given away above busy, to loops below free; below low a loop may end
	calm            int   // windows with little load until it ends
	most            func() int
}{
	window: 100 * time.Millisecond, busy: 80, free: 50, low: 20, calm: 20,
	// One processor is left to what is not done in loops: handshakes, hooks, the
	// garbage collector, and the kernel's part. If loops had all processors, they
	// would wait for each other's, and find fewer events at a time: on two
	// processors, two loops took up to 60 % more processor time than one.
	most: func() int { return max(runtime.GOMAXPROCS(0)-1, 1) },
}

// movesPerTurn limits how long a loop that ends keeps its sessions waiting.
const movesPerTurn = 256

// joinLoop returns a loop for one more session, or nil if there is no descriptor
// for a loop.
func joinLoop() *loop {
	loops.Lock()
	defer loops.Unlock()
	l := freestLocked(nil)
	if l == nil {
		l = startLoopLocked()
	}
	return l.joinLocked()
}

// relief returns a loop for a session that this one is too busy for, or nil if
// there is none.
func (l *loop) relief() *loop {
	loops.Lock()
	defer loops.Unlock()
	if l.sessions < 2 {
		return nil
	}
	to := freestLocked(l)
	if to != nil && to.load() >= shareRules.free {
		to = nil
	}
	if to == nil && len(loops.list) < shareRules.most() {
		to = startLoopLocked()
	}
	return to.joinLocked()
}

// load returns the loop's load in the last window. A loop that sleeps measures
// nothing: its load is spread over the time since.
func (l *loop) load() int32 {
	load, since := l.share.load.Load(), time.Since(l.base)-time.Duration(l.share.measured.Load())
	if since > shareRules.window {
		load = int32(int64(load) * int64(shareRules.window) / int64(since))
	}
	return load
}

// freestLocked returns the first loop that is not busy, or else the one that is
// least busy; nil if there is none but except. loops is held.
func freestLocked(except *loop) (freest *loop) {
	for _, l := range loops.list {
		if l == except || l.share.retire {
			continue
		}
		load := l.load()
		if load < shareRules.free {
			return l
		}
		if freest == nil || load < freest.load() {
			freest = l
		}
	}
	return freest
}

// startLoopLocked starts another loop. loops is held.
func startLoopLocked() *loop {
	l := newLoop()
	if l != nil {
		loops.list = append(loops.list, l)
		go l.run()
	}
	return l
}

// joinLocked counts one more session. loops is held.
func (l *loop) joinLocked() *loop {
	if l != nil {
		l.sessions++
	}
	return l
}

// linger is how long a loop runs without sessions.
const linger = 100 * time.Millisecond

// leave is called when a session is no longer the loop's.
func (l *loop) leave() {
	loops.Lock()
	defer loops.Unlock()
	if l.sessions--; l.sessions == 0 {
		l.empty, l.emptyAt = true, time.Since(l.base)
	}
}

// endIfEmpty has the loop end if it has had no session for a while.
func (l *loop) endIfEmpty(now time.Duration) {
	loops.Lock()
	defer loops.Unlock()
	l.empty = l.sessions == 0
	if !l.empty || now-l.emptyAt < linger && !l.share.retire {
		return
	}
	l.last = true
	for i, other := range loops.list {
		if other == l {
			loops.list = append(loops.list[:i:i], loops.list[i+1:]...)
			break
		}
	}
}

// measure decides, once in each window, whether sessions are given away in the
// next.
func (l *loop) measure(now time.Duration) {
	h := &l.share
	if h.retire {
		l.giveAll()
		return
	}
	length := now - h.began
	if length < shareRules.window {
		return
	}
	load := int32(100 - 100*h.slept/length)
	h.load.Store(load)
	h.measured.Store(int64(now))
	h.began, h.slept, h.give, h.seen = now, 0, 0, 0
	h.window++
	l.alone = runtime.GOMAXPROCS(0) == 1
	if load >= shareRules.low {
		h.calm = 0
	} else {
		h.calm++
	}
	loops.Lock()
	defer loops.Unlock()
	many := len(loops.list)
	switch {
	case h.calm >= shareRules.calm && many > 1 && loops.list[0] != l && loops.list[0].load() < shareRules.free:
		h.retire = true
	case load >= shareRules.busy && many < shareRules.most():
		h.give = 2 // a new loop gets half of them
	case load >= shareRules.busy && many > 1:
		h.give = 4
	}
}

// shareSession gives a session away that has something to do, if it is its turn.
func (l *loop) shareSession(s *Session) {
	h, e := &l.share, &s.events
	if h.give == 0 || e.window == h.window {
		return
	}
	e.window = h.window
	if h.seen++; h.seen%h.give > 0 {
		return
	}
	if to := l.relief(); to != nil {
		l.move(s, to)
	} else {
		h.give = 0
	}
}

// giveAll gives the sessions to other loops.
func (l *loop) giveAll() {
	left := movesPerTurn
	for _, leg := range l.legs {
		if leg == nil {
			continue
		}
		if left--; left < 0 {
			l.wake()
			return
		}
		loops.Lock()
		to := freestLocked(l).joinLocked()
		l.share.retire = to != nil // otherwise all others have ended
		loops.Unlock()
		if to == nil {
			return
		}
		l.move(leg.s, to)
	}
}

// move moves a session to another loop. Nothing is lost: whatever has arrived, or
// arrives meanwhile, is reported when the other loop registers the connections.
func (l *loop) move(s *Session, to *loop) {
	e := &s.events
	for side := range s.legs {
		leg := &s.legs[side].eventLeg
		if fd := leg.fd; fd >= 0 {
			l.legs[fd] = nil
			epollRemove(l.epoll, int(fd))
		}
		leg.spent = false
	}
	wants := uint32(wantLook)
	if e.timer.set() {
		l.wheel.remove(s)
		wants |= wantTimer
	}
	e.registered, e.window = false, 0
	e.wants.Or(wants)
	e.loop.Store(to) // from here on the session is the other loop's
	to.call(s)
	l.leave()
}

// forward calls the loop that a session was moved to, and reports whether it was.
func (l *loop) forward(s *Session) bool {
	to := s.events.loop.Load()
	if to == l {
		return false
	}
	to.call(s)
	return true
}
