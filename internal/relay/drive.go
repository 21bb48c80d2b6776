package relay

import (
	"cmp"
	crand "crypto/rand"
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

// Settings is what all sessions of a proxy share.
type Settings struct {
	Policy protocol.Policy
	Limits [2]protocol.Limits // by the side that is limited
	Totals Totals             // of all sessions
}

// A Host is told of rare events of a session: never of one per frame.
type Host interface {
	RoundTrip(side frame.Side, d time.Duration) // a Ping was answered
	Panicked(v any) error                       // a connection panicked; it returns the error that the session ends with. Called where v is recovered
	Over()                                      // both connections are closed, and everything that the session started has ended
}

// A Session is two connections, joined until both are closed.
//
// It has two goroutines, one for each direction, and one timer. Each direction
// writes to the opposite leg. Pings and the proxy's own Close frames are injected
// by the goroutine that decides to send them.
type Session struct {
	// Set when joined.
	host  Host
	total *cell     // of settings.totals
	began time.Time // set by begin, and guarded by mu until then
	legs  [2]leg
	pumps [2]pump // by the side they read from

	finished bool         // guarded by mu
	running  atomic.Int32 // pumps

	mu      sync.Mutex
	course  protocol.Course // guarded by mu
	timer   *time.Timer     // guarded by mu
	helpers sync.WaitGroup  // ticks, and injections that may have to wait
	rare    *rare           // guarded by mu; nil: not needed
}

// rare is what few sessions need.
type rare struct {
	hastened chan struct{} // closed when the end begins; set when joined, if there is a rate limit
	expires  time.Time     // zero: never
	expiry   *protocol.Cause
}

// rareLocked returns the session's rare. s.mu is held.
func (s *Session) rareLocked() *rare {
	if s.rare == nil {
		s.rare = new(rare)
	}
	return s.rare
}

// Begin sets the start of the session. Its connections are joined later.
func (s *Session) Begin(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began = now
}

// Began returns the start of the session, or the zero time.
func (s *Session) Began() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.began
}

// Join joins the connections of two finished handshakes. early is what was
// received after each; the RSV bits are those of frame.Scanner. id tells sessions
// apart.
func (s *Session) Join(shared *Settings, h Host, id uint64, conns [2]net.Conn, early [2][]byte, rsvMessage, rsvAny byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.host, s.total = h, &shared.Totals[id%cells]
	s.course = protocol.NewCourse(&shared.Policy, protocol.NewPace(rand.Float32()))
	for side := range s.legs {
		l := &s.legs[side]
		l.s, l.side, l.conn = s, frame.Side(side), conns[side]
		l.writing.Store(-1)
		l.initRaw()

		p, limit := &s.pumps[side], &shared.Limits[side]
		p.from, p.to = l, &s.legs[side^1]
		p.mind = protocol.Direction{Scan: frame.Scanner{Masked: frame.Side(side) == frame.Client, RSVMessage: rsvMessage, RSVAny: rsvAny}}
		if limit.Frame > 0 || limit.Message > 0 {
			p.mind.Limits = limit
		}
		crand.Read(p.mind.Tag[:])
		p.held = early[side]
		if limit.Rate != (protocol.Rate{}) {
			p.throttle = protocol.NewThrottle(limit.Rate)
			x := s.rareLocked()
			x.hastened = cmp.Or(x.hastened, make(chan struct{}))
		}
	}
}

// Run runs the upstream's direction in the caller's goroutine, and the rest in
// others. It may return before the session is over.
func (s *Session) Run() {
	s.launch()
	s.pumps[frame.Upstream].run()
}

// Detach runs the session in goroutines of its own.
func (s *Session) Detach() {
	s.launch()
	go s.pumps[frame.Upstream].run()
}

func (s *Session) launch() {
	s.running.Store(2)
	s.mu.Lock()
	now := s.now()
	s.timer = time.AfterFunc(s.course.Start(now, s.expiryLocked())-now, s.tick)
	s.mu.Unlock()
	go s.pumps[frame.Client].run()
}

// finish is called when both pumps have stopped.
func (s *Session) finish() {
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
	s.noteLocked(&o)
	s.mu.Unlock()
	s.carryOut(&o)
}

// blame makes a panic the cause of the session's end, if there is none yet.
func (s *Session) blame(v any) {
	err := s.host.Panicked(v)
	s.mu.Lock()
	s.course.Blame(protocol.CausePanic, err)
	s.mu.Unlock()
}

// noteLocked does what is to be done at once about orders: it arms the timer, and
// wakes readers that wait for the rate limit. s.mu is held.
func (s *Session) noteLocked(o *protocol.Orders) {
	if o.Arm && s.timer != nil {
		s.timer.Reset(o.Again - s.now())
	}
	if o.Began && s.rare != nil && s.rare.hastened != nil {
		close(s.rare.hastened)
	}
}

// carryOut does what is ordered for the legs, outside of a pump. The caller is one
// of the session's helpers, unless no frame is to be written.
func (s *Session) carryOut(o *protocol.Orders) {
	for side := range s.legs {
		l, order := &s.legs[side], &o.Legs[side]
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
	for side := range s.legs {
		l := &s.legs[side]
		closed := l.closed.Load()
		talks := closed && l.side == frame.Client && (s.pumps[side].talks.Load() || inputWaits(l.conn))
		s.mu.Lock()
		done, fin := s.course.Settle(l.side, closed, talks)
		s.mu.Unlock()
		switch {
		case done:
			l.close()
		case fin:
			l.closeWrite()
		}
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
	s.noteLocked(&o)
	s.helpers.Add(1) // under the lock: finish waits for the helpers that exist then
	s.mu.Unlock()
	defer s.helpers.Done()
	s.carryOut(&o)
}

// Cut ends the session at once, without Close frames.
func (s *Session) Cut(c *protocol.Cause, err error) {
	s.mu.Lock()
	o := s.course.Cut(s.now(), c, err)
	s.noteLocked(&o)
	s.mu.Unlock()
	s.carryOut(&o)
}

// lose gives up a leg. Its reader then finds it closed and informs the other
// side.
func (s *Session) lose(l *leg, err error) {
	s.mu.Lock()
	o := s.course.Lost(s.now(), l.side, err)
	s.noteLocked(&o)
	s.mu.Unlock()
	s.carryOut(&o)
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
	s.helpers.Add(1)
	defer s.helpers.Done()
	defer s.guard()
	look := s.lookLocked()
	o := s.course.Look(&look)
	s.noteLocked(&o)
	s.mu.Unlock()

	for side := range s.legs {
		if o.Legs[side].Moves {
			s.legs[side].writing.CompareAndSwap(int64(look.Legs[side].Writing), int64(look.Now))
		}
	}
	s.carryOut(&o)
	client, upstream := o.Legs[frame.Client].Need, o.Legs[frame.Upstream].Need
	if client != protocol.NeedNothing && upstream != protocol.NeedNothing {
		// A write that blocks must not delay that of the other leg.
		s.helpers.Go(func() { s.meet(frame.Client, client, look.Now) })
	} else {
		s.meet(frame.Client, client, look.Now)
	}
	s.meet(frame.Upstream, upstream, look.Now)
}

// lookLocked returns what is to be seen of the legs. s.mu is held.
func (s *Session) lookLocked() protocol.Look {
	look := protocol.Look{Now: s.now(), Expiry: s.expiryLocked()}
	for side := range s.legs {
		l, p := &s.legs[side], &s.pumps[side]
		look.Legs[side] = protocol.Facts{
			Heard:   time.Duration(l.heard.Load()),
			Data:    time.Duration(p.data.Load()),
			Pinged:  time.Duration(l.pinged.Load()),
			Writing: time.Duration(l.writing.Load()),
			Pings:   l.awaited.Load(),
			Unread:  p.waits.Load(),
			Slowed:  p.slowed.Load(),
			Closed:  l.closed.Load(),
			Reset:   l.reset(),
		}
	}
	for side, ask := range s.course.Asks(&look) {
		l, f := &s.legs[side], &look.Legs[side]
		if ask.Input {
			f.Input = inputWaits(l.conn)
		}
		if ask.Acks {
			f.Acks = peerAcks(l.conn)
		}
	}
	return look
}

// meet does what a leg needs.
func (s *Session) meet(side frame.Side, need protocol.Need, now time.Duration) {
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
	}
}

// SetExpiry sets when and why the session expires, unless it ends before.
func (s *Session) SetExpiry(at time.Time, c *protocol.Cause) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.rareLocked()
	x.expires, x.expiry = at, c
	if s.timer != nil && !s.finished {
		o := s.course.Expire(s.now())
		s.noteLocked(&o)
	}
}

// expiryLocked returns when and why the session expires. s.mu is held.
func (s *Session) expiryLocked() (x protocol.Expiry) {
	if s.rare != nil && !s.rare.expires.IsZero() {
		x = protocol.Expiry{At: s.rare.expires.Sub(s.began), Cause: s.rare.expiry}
	}
	return x
}

// LastData returns when bytes of a data frame last passed in either direction.
func (s *Session) LastData() time.Duration {
	return time.Duration(max(s.pumps[frame.Client].data.Load(), s.pumps[frame.Upstream].data.Load()))
}

// Counts returns what has come from a side.
func (s *Session) Counts(from frame.Side) Counts { return s.pumps[from].count.load() }

// RoundTrip returns the time that the side took to answer the last Ping.
func (s *Session) RoundTrip(side frame.Side) time.Duration {
	return time.Duration(s.legs[side].roundTrip.Load())
}

// IgnoresPings reports whether the side has had the time to answer a Ping, and
// has answered none.
func (s *Session) IgnoresPings(side frame.Side) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.course.IgnoresPings(side)
}

// Result returns why the session ends, nil if it does not, the code of the
// first Close frame, and the underlying error.
func (s *Session) Result() (c *protocol.Cause, code frame.Code, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.course.Result()
}
