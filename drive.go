package wsproxy

import (
	"cmp"
	crand "crypto/rand"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file, pump.go and leg.go run an open session. They carry out decisions made
// elsewhere: by package protocol.

// settings is what all sessions of a proxy share.
type settings struct {
	policy       protocol.Policy
	pings        [2]protocol.Pinging // by the side that is pinged
	limits       [2]protocol.Limits  // by the side that is limited
	closeTimeout time.Duration
	totals       []cell // sessions add to one of them
}

// A relayHost is told of rare events of a session: never of one per frame.
type relayHost interface {
	RoundTrip(side frame.Side, d time.Duration) // a Ping was answered
	Panicked(v any) error                       // a connection panicked; it returns the error that the session ends with. Called where v is recovered
	Over()                                      // both connections are closed, and everything that the session started has ended
}

// A relaySession is two connections, joined until both are closed.
//
// It has two goroutines, one for each direction, and one timer. Each direction
// writes to the opposite leg. Pings and the proxy's own Close frames are injected
// by the goroutine that decides to send them.
type relaySession struct {
	// Set when joined.
	*settings
	host  relayHost
	began time.Time // set by begin, and guarded by mu until then
	legs  [2]leg
	pumps [2]pump // by the side they read from
	pace  protocol.Pace
	cell  uint8 // of the totals

	graces   uint8      // guarded by mu; how often in a row the end was postponed
	suspect  frame.Side // guarded by mu; the side to blame if the deadline passes without a cause
	finished bool       // guarded by mu

	running atomic.Int32 // pumps

	mu       sync.Mutex
	ending   protocol.Ending // guarded by mu
	deadline time.Duration   // guarded by mu; when everything is cut; 0 before the end begins
	latest   time.Duration   // guarded by mu; how far the deadline may be extended
	timer    *time.Timer     // guarded by mu
	due      time.Duration   // guarded by mu; when it is to fire
	helpers  sync.WaitGroup  // ticks, and injections that may have to wait
	hastened chan struct{}   // nil: nothing waits for it; closed when the end begins
	expiry   *expiry         // guarded by mu; nil: none was set
}

// An expiry is when and why a session expires.
type expiry struct {
	at    time.Time // zero: never
	cause *protocol.Cause
}

// begin sets the start of the session. Its connections are joined later.
func (s *relaySession) begin(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began = now
}

// start returns the start of the session, or the zero time.
func (s *relaySession) start() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.began
}

// join joins the connections of two finished handshakes. early is what was
// received after each; the RSV bits are those of frame.Scanner. id tells sessions
// apart.
func (s *relaySession) join(shared *settings, h relayHost, id uint64, conns [2]net.Conn, early [2][]byte, rsvMessage, rsvAny byte) {
	s.settings, s.host = shared, h
	s.pace, s.cell = protocol.NewPace(rand.Float32()), uint8(id%cells)
	for side := range s.legs {
		l := &s.legs[side]
		l.s, l.side, l.conn = s, frame.Side(side), conns[side]
		l.writing.Store(-1)
		l.initRaw()

		p, limit := &s.pumps[side], &s.limits[side]
		p.from, p.to = l, &s.legs[side^1]
		p.mind = protocol.Direction{Scan: frame.Scanner{Masked: frame.Side(side) == frame.Client, RSVMessage: rsvMessage, RSVAny: rsvAny}}
		if limit.Frame > 0 || limit.Message > 0 {
			p.mind.Limits = limit
		}
		crand.Read(p.mind.Tag[:])
		p.held = early[side]
		if limit.Rate != (protocol.Rate{}) {
			p.throttle = protocol.NewThrottle(limit.Rate)
			s.hastened = cmp.Or(s.hastened, make(chan struct{}))
		}
	}
}

// run runs the upstream's direction in the caller's goroutine, and the rest in
// others. It may return before the session is over.
func (s *relaySession) run() {
	s.launch()
	s.pumps[frame.Upstream].run()
}

// detach runs the session in goroutines of its own.
func (s *relaySession) detach() {
	s.launch()
	go s.pumps[frame.Upstream].run()
}

func (s *relaySession) launch() {
	s.running.Store(2)
	s.mu.Lock()
	first := s.firstTickLocked()
	if s.deadline != 0 {
		first = s.firstLook()
	}
	s.due = s.now() + first
	s.timer = time.AfterFunc(first, s.tick)
	s.mu.Unlock()
	go s.pumps[frame.Client].run()
}

// finish is called when both pumps have stopped.
func (s *relaySession) finish() {
	s.mu.Lock()
	s.finished = true
	s.timer.Stop()
	s.mu.Unlock()
	s.legs[frame.Client].close()
	s.legs[frame.Upstream].close()
	s.helpers.Wait() // after closing: a helper may be blocked in a write
	s.host.Over()
}

// now returns the time since the start of the session, on the monotonic clock.
func (s *relaySession) now() time.Duration { return time.Since(s.began) }

// guard turns a panic, which a custom connection may cause, into the end of
// this session. It must be deferred.
func (s *relaySession) guard() {
	if v := recover(); v != nil {
		s.panicked(v)
	}
}

func (s *relaySession) panicked(v any) {
	s.blame(v)
	s.mu.Lock()
	s.hasten(frame.Self)
	s.sever()
}

// blame makes a panic the cause of the session's end, if there is none yet.
func (s *relaySession) blame(v any) {
	err := s.host.Panicked(v)
	s.mu.Lock()
	s.ending.Begin(protocol.CausePanic, err)
	s.mu.Unlock()
}

// hasten sets the deadline of an end that has begun, and the side to blame if
// no better cause is found. s.mu is held.
func (s *relaySession) hasten(side frame.Side) {
	if s.deadline != 0 {
		return
	}
	s.suspect = side
	s.deadline = s.now() + s.closeTimeout
	s.latest = s.deadline + s.policy.Write
	if s.timer != nil {
		s.lookInLocked(s.firstLook())
	}
	if s.hastened != nil {
		close(s.hastened)
	}
}

// settle closes each connection that is done, and sends a FIN if only the
// peer's FIN is missing.
func (s *relaySession) settle() {
	for side := range s.legs {
		l := &s.legs[side]
		closed := l.closed.Load()
		talks := closed && l.side == frame.Client && (s.pumps[side].talks.Load() || inputWaits(l.conn))
		s.mu.Lock()
		e := &s.ending
		done, fin := e.Done(l.side, closed, talks), e.Fin(l.side, closed)
		s.mu.Unlock()
		switch {
		case done:
			l.close()
		case fin:
			l.closeWrite()
		}
	}
}

// stop ends the session for a cause for which the proxy is responsible. It does
// not wait for the Close frames to be written: otherwise a peer that accepts no
// bytes would delay the other one, or all sessions of a Shutdown.
func (s *relaySession) stop(c *protocol.Cause, err error) {
	s.mu.Lock()
	if s.finished || !s.ending.Begin(c, err) {
		s.mu.Unlock()
		return
	}
	s.hasten(frame.Self)
	tell := [2]frame.Code{s.ending.Tell(frame.Client), s.ending.Tell(frame.Upstream)}
	s.helpers.Add(1) // under the lock: finish waits for the helpers that exist then
	s.mu.Unlock()
	defer s.helpers.Done()
	for side := range s.legs {
		s.legs[side].injectInPassing(uint32(tell[side]))
	}
}

// cut ends the session at once, without Close frames.
func (s *relaySession) cut(c *protocol.Cause, err error) {
	s.mu.Lock()
	s.ending.Begin(c, err)
	s.hasten(frame.Self)
	s.mu.Unlock()
	s.legs[frame.Client].abort()
	s.legs[frame.Upstream].abort()
}

// firstTickLocked returns when the session's timer fires first. s.mu is held.
func (s *relaySession) firstTickLocked() time.Duration {
	first, _ := s.expiryLocked()
	for side := range s.legs {
		pol := s.policyFor(frame.Side(side))
		_, again := pol.Check(0, protocol.Life{Writing: -1})
		_, idle := pol.CheckIdle(0, 0)
		first = min(first, again, idle)
	}
	return first
}

// lookInLocked arms the session's timer. s.mu is held.
func (s *relaySession) lookInLocked(d time.Duration) {
	s.due = s.now() + d
	s.timer.Reset(d)
}

// lateLocked returns how late the session's timer fired, if that is a reason to
// postpone what it would end. s.mu is held.
func (s *relaySession) lateLocked(now time.Duration) time.Duration {
	late := now - s.due
	if late <= protocol.Lateness || s.graces >= protocol.MostGraces {
		return 0
	}
	s.graces++
	return late
}

// tick is called by the session's timer. It checks both legs, does what is due,
// and rearms the timer. It runs in a goroutine of its own, and rearms the timer
// first, so that a write that blocks delays nothing.
func (s *relaySession) tick() {
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
	data := max(s.lastData(), time.Duration(s.legs[frame.Client].writing.Load()), time.Duration(s.legs[frame.Upstream].writing.Load()))
	if s.pumps[frame.Client].slowed.Load() || s.pumps[frame.Upstream].slowed.Load() {
		data = now
	}
	late := s.lateLocked(now) > 0
	idle, again := s.policy.CheckIdle(now, data)
	switch {
	case !idle && !late:
		s.graces = 0
	case idle && late:
		idle, again = false, now+protocol.Grace
	case idle && s.graces < protocol.MostGraces && (inputWaits(s.legs[frame.Client].conn) || inputWaits(s.legs[frame.Upstream].conn)):
		s.graces++
		idle, again = false, now+protocol.Lateness
	}
	expires, expiry := s.expiryLocked()
	again = min(again, expires)
	var needs [2]protocol.Need
	for side := range s.legs {
		l := &s.legs[side]
		var at time.Duration
		pol := s.policyFor(frame.Side(side))
		needs[side], at = pol.Check(now, l.life(now, s.pumps[side].waits.Load(), s.pumps[side].slowed.Load(), late))
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
		s.stop(protocol.CauseIdle, nil)
		return
	}
	if needs[frame.Client] != protocol.NeedNothing && needs[frame.Upstream] != protocol.NeedNothing {
		// A write that blocks must not delay that of the other leg.
		need := needs[frame.Client]
		s.helpers.Go(func() { s.meet(frame.Client, need, now) })
		needs[frame.Client] = protocol.NeedNothing
	}
	for side, need := range needs {
		s.meet(frame.Side(side), need, now)
	}
}

// meet does what a leg needs.
func (s *relaySession) meet(side frame.Side, need protocol.Need, now time.Duration) {
	defer s.guard()
	l := &s.legs[side]
	switch need {
	case protocol.NeedPing:
		l.inject(pingPending)
	case protocol.NeedMoreTime:
		if pinged := l.pinged.Load(); pinged > l.heard.Load() {
			l.pinged.CompareAndSwap(pinged, int64(now))
		}
	case protocol.NeedHearing:
		l.heard.Store(int64(now))
	case protocol.NeedEndSilent:
		s.lose(l, errSilent)
	case protocol.NeedEndStuck:
		s.lose(l, errStuck)
	case protocol.NeedEndReset:
		s.lose(l, errReset)
	}
}

var (
	errSilent = errors.New("no answer to a ping")
	errStuck  = errors.New("no progress in writing")
	errReset  = errors.New("connection reset by peer")
	errLate   = errors.New("no end within the close timeout")
)

// lose gives up a leg. Its reader then finds it closed and informs the other
// side.
func (s *relaySession) lose(l *leg, err error) {
	s.mu.Lock()
	s.ending.Begin(protocol.CauseLost[l.side], err)
	s.hasten(l.side)
	s.mu.Unlock()
	l.abort()
}

// firstLook is the time from the beginning of the end to the first call of
// expire.
func (s *relaySession) firstLook() time.Duration { return min(s.closeTimeout/2, protocol.ResetGrace) }

// expire severs a session whose end takes too long. s.mu is held, and released.
// It is also called earlier, to find resets that a reader has not noticed, and
// to start measuring what a slow peer accepts until the deadline.
func (s *relaySession) expire(now time.Duration) {
	if late := s.lateLocked(now); late > 0 {
		s.deadline = max(s.deadline, min(s.deadline+late, now+s.closeTimeout), now+min(protocol.Grace, s.closeTimeout))
		s.latest = max(s.latest+late, s.deadline)
		for side := range s.legs {
			s.legs[side].lookLocked(now) // start measuring what it accepts
		}
	}
	if now < s.deadline {
		for side := range s.legs {
			l := &s.legs[side]
			if l.ackedAt < s.deadline-s.closeTimeout {
				l.lookLocked(now)
			}
			l.wakeIfReset()
		}
		s.lookInLocked(min(s.deadline-now, protocol.ResetGrace))
		s.mu.Unlock()
		return
	}
	if now < s.latest && (s.lingersLocked(frame.Client, now) || s.lingersLocked(frame.Upstream, now)) {
		s.deadline = min(now+s.closeTimeout, s.latest)
		s.lookInLocked(s.deadline - now)
		s.mu.Unlock()
		return
	}
	if s.suspect != frame.Self {
		s.ending.Begin(protocol.CauseLost[s.suspect], errLate)
	}
	s.sever()
}

// lingersLocked reports whether a slow peer is still accepting what was sent to
// it before its end, and nothing more will be sent. s.mu is held.
func (s *relaySession) lingersLocked(side frame.Side, now time.Duration) bool {
	l := &s.legs[side]
	return l.takesLocked(now) && (l.closed.Load() || s.ending.Ended[side.Other()])
}

// sever closes both connections, each with a last Close frame if one is still
// owed and can be written without waiting. s.mu is held, and released.
func (s *relaySession) sever() {
	tell := [2]frame.Code{s.ending.Tell(frame.Client), s.ending.Tell(frame.Upstream)}
	s.mu.Unlock()
	for side := range s.legs {
		l := &s.legs[side]
		if tell[side] != 0 {
			l.lastWord(tell[side])
		}
		l.abort()
	}
}

// setExpiry sets when and why the session expires, unless it ends before.
func (s *relaySession) setExpiry(at time.Time, c *protocol.Cause) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expiry = &expiry{at, c}
	if s.timer != nil && s.deadline == 0 && !s.finished {
		s.lookInLocked(0) // it will compute the next deadline
	}
}

// expiryLocked returns when the session expires, and why. s.mu is held.
func (s *relaySession) expiryLocked() (at time.Duration, c *protocol.Cause) {
	at, c = protocol.Never, protocol.CauseAge
	if age := s.settings.policy.Age; age > 0 {
		at = s.pace.Of(age)
	}
	if x := s.expiry; x != nil && !x.at.IsZero() {
		if t := x.at.Sub(s.began); t < at {
			return t, x.cause
		}
	}
	return at, c
}

// policyFor returns the session's policy for a side.
func (s *relaySession) policyFor(side frame.Side) protocol.Policy {
	p := s.policy
	p.Ping, p.Pong = s.pace.Of(s.pings[side].Interval), s.pings[side].Timeout
	return p
}

// lastData returns when bytes of a data frame last passed in either direction.
func (s *relaySession) lastData() time.Duration {
	return time.Duration(max(s.pumps[Client].data.Load(), s.pumps[Upstream].data.Load()))
}

// counts returns what has come from a side.
func (s *relaySession) counts(from frame.Side) Counts { return s.pumps[from].count.load() }

// roundTrip returns the time that the side took to answer the last Ping.
func (s *relaySession) roundTrip(side frame.Side) time.Duration {
	return time.Duration(s.legs[side].roundTrip.Load())
}

// ignoresPings reports whether the side has had the time to answer a Ping, and
// has answered none.
func (s *relaySession) ignoresPings(side frame.Side) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.legs[side].ignoresPingsLocked()
}

// result returns why the session ends, nil if it does not, the code of the
// first Close frame, and the underlying error.
func (s *relaySession) result() (c *protocol.Cause, code frame.Code, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ending.Cause, s.ending.Code, s.ending.Err
}
