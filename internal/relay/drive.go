package relay

import (
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file carries out what protocol.Course orders. It drives a session with
// goroutines, one for each direction and the timer's, unless a loop does (loop.go).

// Run runs the session in the event driver, or the upstream's direction in the
// caller's goroutine and the rest in others. It may return before the session is
// over.
func (s *Session) Run() {
	if s.events.has() {
		s.events.start(s)
		return
	}
	s.launch()
	s.pumps[frame.Upstream].run()
}

// Detach is Run in goroutines of the session's own only.
func (s *Session) Detach() {
	if s.events.has() {
		s.events.start(s)
		return
	}
	s.launch()
	go s.pumps[frame.Upstream].run()
}

func (s *Session) launch() {
	s.mu.Lock()
	now := s.now()
	s.rare.running.Store(2)
	s.rare.timer = time.AfterFunc(s.course.Start(now, s.expiryLocked())-now, s.tick)
	s.mu.Unlock()
	go s.pumps[frame.Client].run()
}

// finish is called when both pumps have stopped.
func (s *Session) finish() {
	s.mu.Lock()
	s.finished = true
	s.helpers++
	s.rare.timer.Stop()
	legs := s.pairLocked()
	s.mu.Unlock()
	legs[frame.Client].close()
	legs[frame.Upstream].close()
	s.leaveOld()
	if s.helpedLast() { // otherwise a helper may be blocked in a write
		s.host.Over()
	}
}

// help runs f in a goroutine of the session's. The session is not over before its
// helpers are done: these, and those who count themselves in helpers while the
// session has not finished.
func (s *Session) help(f func()) {
	s.mu.Lock()
	s.helpers++
	s.mu.Unlock()
	go func() {
		defer s.helped()
		f()
	}()
}

// helped is called when a helper is done.
func (s *Session) helped() {
	if !s.helpedLast() {
		return
	}
	if s.events.has() {
		callOver(s)
	} else {
		go s.host.Over() // the caller may be a user's goroutine
	}
}

// helpedLast is helped, but for telling the Host: it reports whether the session is
// over.
func (s *Session) helpedLast() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.helpers--
	return s.finished && s.helpers == 0
}

// now returns the time since the start of the session, on the monotonic clock.
func (s *Session) now() time.Duration { return time.Since(s.began) }

// guard turns a panic, which a custom connection may cause, into the end of
// this session. It must be deferred.
func (s *Session) guard() {
	if v := recover(); v != nil {
		s.panicked(v)
	}
}

func (s *Session) panicked(v any) {
	err := s.host.Panicked(v)
	s.mu.Lock()
	o := s.course.Sever(s.now(), protocol.CausePanic, err)
	legs := s.noteLocked(&o)
	s.mu.Unlock()
	s.carryOut(legs, &o)
}

// blame makes a panic the cause of the session's end, if there is none yet.
func (s *Session) blame(v any) {
	err := s.host.Panicked(v)
	s.mu.Lock()
	s.course.Blame(protocol.CausePanic, err)
	s.mu.Unlock()
}

// noteLocked does what is to be done at once about orders: it arms the timer, wakes
// readers that wait for the rate limit, and drops messages that wait. It returns the
// legs that the orders are for. s.mu is held.
func (s *Session) noteLocked(o *protocol.Orders) pair {
	switch {
	case !o.Arm:
	case s.events.has():
		s.events.arm(s)
	case s.rare != nil && s.rare.timer != nil:
		s.rare.timer.Reset(o.Again - s.now())
	}
	if o.Began && s.rare != nil {
		if s.rare.hastened != nil {
			close(s.rare.hastened)
		}
		s.dropAdditionsLocked()
	}
	return s.pairLocked()
}

// carryOut does what is ordered for the legs, outside of a pump. The caller is one
// of the session's helpers, unless no frame is to be written.
func (s *Session) carryOut(legs pair, o *protocol.Orders) {
	for side, l := range legs {
		order := &o.Legs[side]
		switch {
		case o.Sever:
			if order.Close != 0 {
				l.lastWord(order.Close)
			}
			l.abort()
		case order.Abort:
			l.abort()
		default:
			l.injectInPassing(uint32(order.Close))
		}
		if o.Wake {
			l.wakeIfReset()
		}
	}
}

// settle closes each connection that is done, and sends a FIN if only the
// peer's FIN is missing.
func (s *Session) settle() {
	s.mu.Lock()
	legs := s.pairLocked()
	s.mu.Unlock()
	for _, l := range legs {
		closed := l.is(legClosed)
		talks := closed && l.side == frame.Client && (l.is(legTalks) || l.inputWaits())
		s.mu.Lock()
		done, fin := s.course.Settle(l.side, closed, talks)
		s.mu.Unlock()
		switch {
		case done && l.keeps(): // settle is called again when that is written
		case done:
			l.close()
		case fin:
			l.closeWrite()
		}
	}
}

// settleEnd is settle if the session has begun to end.
func (s *Session) settleEnd() {
	s.mu.Lock()
	ending := s.course.Ending()
	s.mu.Unlock()
	if ending {
		s.settle()
	}
}

// Stop ends the session for a cause for which the proxy is responsible. It does
// not wait for the Close frames to be written: otherwise a peer that accepts no
// bytes would delay the other one, or all sessions of a Shutdown.
func (s *Session) Stop(c *protocol.Cause, err error) {
	s.mu.Lock()
	if s.finished {
		s.mu.Unlock()
		return
	}
	o := s.course.Stop(s.now(), c, err)
	legs := s.noteLocked(&o)
	s.helpers++
	s.mu.Unlock()
	defer s.helped()
	s.carryOut(legs, &o)
}

// Cut ends the session at once, without Close frames.
func (s *Session) Cut(c *protocol.Cause, err error) {
	s.mu.Lock()
	o := s.course.Cut(s.now(), c, err)
	legs := s.noteLocked(&o)
	s.mu.Unlock()
	s.carryOut(legs, &o)
}

// lose gives up a leg. Its reader then finds it closed and informs the other
// side.
func (s *Session) lose(l *leg, err error) {
	s.mu.Lock()
	o := s.course.Lost(s.now(), l.side, err)
	legs := s.noteLocked(&o)
	s.mu.Unlock()
	s.carryOut(legs, &o)
}

// tick is called by the session's timer. It looks at both legs, does what is due,
// and rearms the timer. It runs in a goroutine of its own, and rearms the timer
// first, so that a write that blocks delays nothing.
func (s *Session) tick() {
	s.mu.Lock()
	if s.finished {
		s.mu.Unlock()
		return
	}
	s.helpers++
	defer s.helped()
	defer s.guard()
	look := s.lookLocked()
	o := s.course.Look(&look)
	legs := s.noteLocked(&o)
	s.mu.Unlock()

	for side, l := range legs {
		if o.Legs[side].Moves {
			l.moves(look.Legs[side].Writing, look.Now)
		}
	}
	s.carryOut(legs, &o)
	client, upstream := o.Legs[frame.Client].Need, o.Legs[frame.Upstream].Need
	if client != protocol.NeedNothing && upstream != protocol.NeedNothing && !s.events.has() {
		// A write that blocks must not delay that of the other leg.
		s.help(func() { s.meet(legs[frame.Client], client, look.Now) })
	} else {
		s.meet(legs[frame.Client], client, look.Now)
	}
	s.meet(legs[frame.Upstream], upstream, look.Now)
}

// lookLocked returns what is to be seen of the legs. s.mu is held.
func (s *Session) lookLocked() protocol.Look {
	look := protocol.Look{Now: s.now(), Expiry: s.expiryLocked()}
	legs := s.pairLocked()
	for side, l := range legs {
		p := &s.pumps[side]
		look.Legs[side] = protocol.Facts{
			Heard:   time.Duration(l.heard.Load()),
			Data:    time.Duration(p.data.Load()),
			Pinged:  time.Duration(l.pinged.Load()),
			Writing: l.writingSince(),
			Pings:   l.awaits(),
			Unread:  l.is(legWaits),
			Slowed:  l.threadLeg != nil && l.slowed.Load(),
			Closed:  l.is(legClosed),
			Reset:   l.reset(),
		}
	}
	for side, ask := range s.course.Asks(&look) {
		l, f := legs[side], &look.Legs[side]
		if ask.Input {
			f.Input = l.inputWaits()
		}
		if ask.Acks {
			f.Acks = l.acks()
		}
	}
	return look
}

// meet does what a leg needs.
func (s *Session) meet(l *leg, need protocol.Need, now time.Duration) {
	defer s.guard()
	switch need {
	case protocol.NeedPing:
		l.inject(pingPending)
	case protocol.NeedMoreTime:
		if pinged := l.pinged.Load(); pinged > l.heard.Load() {
			l.pinged.CompareAndSwap(pinged, int64(now))
		}
	case protocol.NeedHearing:
		l.heard.Store(int64(now))
	}
}
