package wsproxy

import (
	"cmp"
	"crypto/rand"
	"errors"
	"net"
	"time"

	"github.com/coder/websocket"
)

// This file, pump.go and leg.go carry an open session. They do what is decided
// elsewhere: what happens to the bytes by the mind in relay.go, pings and
// giving up by the policy in keepalive.go.

// join joins the connections of two finished handshakes. early is what came
// behind each; the RSV bits are those of scanner.
func (s *Session) join(conns [2]net.Conn, early [2][]byte, rsvMessage, rsvAny byte) {
	s.pace = newPace()
	for side := range s.legs {
		l := &s.legs[side]
		l.s, l.side, l.conn = s, Side(side), conns[side]
		l.writing.Store(-1)
		l.initRaw()

		p, limit := &s.pumps[side], &s.proxy.limits[side]
		p.from, p.to = l, &s.legs[side^1]
		p.mind = direction{scan: scanner{masked: Side(side) == Client, rsvMessage: rsvMessage, rsvAny: rsvAny}}
		if limit.frame > 0 || limit.message > 0 {
			p.mind.limits = limit
		}
		rand.Read(p.mind.tag[:])
		p.held = early[side]
		if limit.rate != (RateLimit{}) {
			p.throttle = newThrottle(limit.rate)
			s.hastened = cmp.Or(s.hastened, make(chan struct{}))
		}
	}
}

// run carries the session to its end. Both connections are closed then, and
// nothing of it still runs.
func (s *Session) run() {
	done := make(chan struct{})
	s.start(func() { close(done) })
	s.pumps[Upstream].run()
	<-done
}

// detach carries the session in goroutines of its own, and calls over when
// it is.
func (s *Session) detach(over func()) {
	s.start(over)
	go s.pumps[Upstream].run()
}

func (s *Session) start(over func()) {
	s.over = over
	s.running.Store(2)
	s.mu.Lock()
	first := s.firstTickLocked()
	if s.deadline != 0 {
		first = s.firstLook()
	}
	s.due = s.now() + first
	s.timer = time.AfterFunc(first, s.tick)
	s.mu.Unlock()
	go s.pumps[Client].run()
}

// finish is called when both pumps have stopped.
func (s *Session) finish() {
	s.mu.Lock()
	s.finished = true
	s.timer.Stop()
	s.mu.Unlock()
	s.legs[Client].close()
	s.legs[Upstream].close()
	s.helpers.Wait() // after the closing: one may be stuck in writing
	s.over()
}

// now is the time that the session's clocks show: monotonic, from 0.
func (s *Session) now() time.Duration { return time.Since(s.began) }

// guard, deferred, turns a panic (a connection may be of the user's own
// making) into the end of this one session.
func (s *Session) guard() {
	if v := recover(); v != nil {
		s.panicked(v)
	}
}

func (s *Session) panicked(v any) {
	s.blame(v)
	s.mu.Lock()
	s.hasten(Self)
	s.sever()
}

// blame makes a panic the cause of the session's end, if there is none yet.
func (s *Session) blame(v any) {
	s.mu.Lock()
	s.ending.begin(causePanic, newPanic("connection", v))
	s.mu.Unlock()
}

// hasten sets the deadline of an end that has begun, and whom to blame should
// no better cause come up. s.mu is held.
func (s *Session) hasten(side Side) {
	if s.deadline != 0 {
		return
	}
	s.suspect = side
	s.deadline = s.now() + s.proxy.closeTimeout
	s.latest = s.deadline + s.proxy.policy.write
	if s.timer != nil {
		s.lookInLocked(s.firstLook())
	}
	if s.hastened != nil {
		close(s.hastened)
	}
}

// settle closes each connection that is done with, and sends a FIN where the
// peer's is all that is still waited for.
func (s *Session) settle() {
	for side := range s.legs {
		l := &s.legs[side]
		closed := l.closed.Load()
		talks := closed && l.side == Client && (s.pumps[side].talks.Load() || inputWaits(l.conn))
		s.mu.Lock()
		e := &s.ending
		done, fin := e.done(l.side, closed, talks), e.fin(l.side, closed)
		s.mu.Unlock()
		switch {
		case done:
			l.close()
		case fin:
			l.closeWrite()
		}
	}
}

// stop ends the session for a cause that lies with the proxy. It doesn't wait
// for the Close frames to be written: a peer that takes no byte would hold up
// the other one, or all sessions of a Shutdown.
func (s *Session) stop(c *cause, err error) {
	s.mu.Lock()
	if s.finished || !s.ending.begin(c, err) {
		s.mu.Unlock()
		return
	}
	s.hasten(Self)
	tell := [2]websocket.StatusCode{s.ending.tell(Client), s.ending.tell(Upstream)}
	s.helpers.Add(1) // under the lock: finish waits for the helpers that there are
	s.mu.Unlock()
	defer s.helpers.Done()
	for side := range s.legs {
		s.legs[side].injectInPassing(uint32(tell[side]))
	}
}

// cut ends the session at once, with no Close frames.
func (s *Session) cut(c *cause, err error) {
	s.mu.Lock()
	s.ending.begin(c, err)
	s.hasten(Self)
	s.mu.Unlock()
	s.legs[Client].abort()
	s.legs[Upstream].abort()
}

// firstTickLocked says when the session's timer is first to fire. s.mu is held.
func (s *Session) firstTickLocked() time.Duration {
	first, _ := s.expiryLocked()
	for side := range s.legs {
		pol := s.policy(Side(side))
		_, again := pol.check(0, life{writing: -1})
		_, idle := pol.checkIdle(0, 0)
		first = min(first, again, idle)
	}
	return first
}

// lookInLocked arms the session's timer. s.mu is held.
func (s *Session) lookInLocked(d time.Duration) {
	s.due = s.now() + d
	s.timer.Reset(d)
}

// lateLocked returns by how much the session's timer has fired too late, if that
// is a reason to put off what it would end. s.mu is held.
func (s *Session) lateLocked(now time.Duration) time.Duration {
	late := now - s.due
	if late <= lateness || s.graces >= mostGraces {
		return 0
	}
	s.graces++
	return late
}

// tick is the session's timer: it looks at both legs, does what is due, and
// arms the timer for when something may next be. It runs in a goroutine of
// its own, and arms the timer first: a write that blocks holds up nothing.
func (s *Session) tick() {
	s.mu.Lock()
	if s.finished {
		s.mu.Unlock()
		return
	}
	s.helpers.Add(1)
	defer s.helpers.Done()
	defer s.guard()
	now := s.now()
	if s.deadline != 0 {
		s.expire(now)
		return
	}
	data := max(s.lastData(), time.Duration(s.legs[Client].writing.Load()), time.Duration(s.legs[Upstream].writing.Load()))
	if s.pumps[Client].slowed.Load() || s.pumps[Upstream].slowed.Load() {
		data = now
	}
	late := s.lateLocked(now) > 0
	idle, again := s.proxy.policy.checkIdle(now, data)
	switch {
	case !idle && !late:
		s.graces = 0
	case idle && late:
		idle, again = false, now+grace
	case idle && s.graces < mostGraces && (inputWaits(s.legs[Client].conn) || inputWaits(s.legs[Upstream].conn)):
		s.graces++
		idle, again = false, now+lateness
	}
	expires, expiry := s.expiryLocked()
	again = min(again, expires)
	var needs [2]need
	for side := range s.legs {
		l := &s.legs[side]
		var at time.Duration
		pol := s.policy(Side(side))
		needs[side], at = pol.check(now, l.life(now, s.pumps[side].waits.Load(), s.pumps[side].slowed.Load(), late))
		again = min(again, at)
		l.noteAnswersLocked(now, &pol)
	}
	s.lookInLocked(max(again-now, time.Millisecond))
	s.mu.Unlock()

	switch {
	case now >= expires:
		s.stop(expiry, nil)
		return
	case idle:
		s.stop(causeIdle, nil)
		return
	}
	if needs[Client] != needNothing && needs[Upstream] != needNothing {
		// A write that blocks is not to hold up the other leg's.
		need := needs[Client]
		s.helpers.Go(func() { s.meet(Client, need, now) })
		needs[Client] = needNothing
	}
	for side, need := range needs {
		s.meet(Side(side), need, now)
	}
}

// meet does what a leg needs.
func (s *Session) meet(side Side, need need, now time.Duration) {
	defer s.guard()
	l := &s.legs[side]
	switch need {
	case needPing:
		l.inject(pingPending)
	case needMoreTime:
		if pinged := l.pinged.Load(); pinged > l.heard.Load() {
			l.pinged.CompareAndSwap(pinged, int64(now))
		}
	case needHearing:
		l.heard.Store(int64(now))
	case needEndSilent:
		s.lose(l, errSilent)
	case needEndStuck:
		s.lose(l, errStuck)
	case needEndReset:
		s.lose(l, errReset)
	}
}

var (
	errSilent = errors.New("no answer to a ping")
	errStuck  = errors.New("no progress in writing")
	errReset  = errors.New("connection reset by peer")
	errLate   = errors.New("no end within the close timeout")
)

// lose gives a leg up. Its reader finds it closed and tells the other side.
func (s *Session) lose(l *leg, err error) {
	s.mu.Lock()
	s.ending.begin(causeLost[l.side], err)
	s.hasten(l.side)
	s.mu.Unlock()
	l.abort()
}

// firstLook is how long after the end has begun expire looks at it.
func (s *Session) firstLook() time.Duration { return min(s.proxy.closeTimeout/2, resetGrace) }

// expire severs a session whose end has taken too long. s.mu is held, and
// released. It is called before that as well: resets that a reader wasn't told
// of are found then, and what a slow peer takes from the first look on shows at
// the deadline.
func (s *Session) expire(now time.Duration) {
	if late := s.lateLocked(now); late > 0 {
		s.deadline = max(s.deadline, min(s.deadline+late, now+s.proxy.closeTimeout), now+min(grace, s.proxy.closeTimeout))
		s.latest = max(s.latest+late, s.deadline)
		for side := range s.legs {
			s.legs[side].lookLocked(now) // what is taken from now on shows
		}
	}
	if now < s.deadline {
		for side := range s.legs {
			l := &s.legs[side]
			if l.ackedAt < s.deadline-s.proxy.closeTimeout {
				l.lookLocked(now)
			}
			l.wakeIfReset()
		}
		s.lookInLocked(min(s.deadline-now, resetGrace))
		s.mu.Unlock()
		return
	}
	if now < s.latest && (s.lingersLocked(Client, now) || s.lingersLocked(Upstream, now)) {
		s.deadline = min(now+s.proxy.closeTimeout, s.latest)
		s.lookInLocked(s.deadline - now)
		s.mu.Unlock()
		return
	}
	if s.suspect != Self {
		s.ending.begin(causeLost[s.suspect], errLate)
	}
	s.sever()
}

// lingersLocked says whether a slow peer is still taking what was sent to it
// before its end, and nothing more will be. s.mu is held.
func (s *Session) lingersLocked(side Side, now time.Duration) bool {
	l := &s.legs[side]
	return l.takesLocked(now) && (l.closed.Load() || s.ending.ended[side.other()])
}

// sever closes both connections, each with a last Close frame if one is still
// owed and can be written without waiting. s.mu is held, and released.
func (s *Session) sever() {
	tell := [2]websocket.StatusCode{s.ending.tell(Client), s.ending.tell(Upstream)}
	s.mu.Unlock()
	for side := range s.legs {
		l := &s.legs[side]
		if tell[side] != 0 {
			l.lastWord(tell[side])
		}
		l.abort()
	}
}
