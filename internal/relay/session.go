// Package relay moves the bytes of open sessions, as package protocol decides: it
// reads from one connection, asks what to do with the bytes, and writes to the
// other one. It knows connections, a clock and goroutines, and nothing of HTTP or
// of the proxy that the session belongs to.
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

// Settings is what all sessions of a proxy share.
type Settings struct {
	Policy protocol.Policy
	Limits [2]protocol.Limits // by the side that is limited
	Totals Totals             // of all sessions

	NoEvents bool // goroutines drive all sessions; for tests
}

// A Census is what the event driver has at a time, in all its loops.
type Census struct {
	Loops    int // that run; each ends a moment after its last session
	Sessions int // that they carry
	Overs    int // sessions whose Host.Over is to be called
	Workers  int // goroutines that call Host.Over
	Strays   int // connections and timers of no session that loops had when they ended, ever
}

// A Host is told of rare events of a session: never of one per frame. No lock is
// held meanwhile.
type Host interface {
	// RoundTrip is called when a side has answered a Ping.
	RoundTrip(side frame.Side, d time.Duration)

	// Panicked is called where the panic v of a connection was recovered. It returns
	// the error that the session ends with.
	Panicked(v any) error

	// Over is called once, when both connections are closed and everything that the
	// session started has ended.
	Over()
}

// A Session is two connections, joined until both are closed.
//
// It has two goroutines, one for each direction, and one timer; or it is one of
// many that a loop carries (loop.go). Each direction writes to the opposite leg.
// Pings and the proxy's own Close frames are injected by the goroutine that decides
// to send them. Its methods are safe for concurrent use; those that act on
// connections must not be called before Join.
type Session struct {
	// Set when joined.
	host   Host
	shared *Settings
	began  time.Time // set by Begin, and guarded by mu until then
	legs   [2]leg    // the first ones: use pair
	pumps  [2]pump   // by the side they read from
	cell   uint8     // that it adds to, of shared.Totals

	finished bool  // guarded by mu
	helpers  int32 // guarded by mu; see help

	events events // set when joined; see has
	mu     sync.Mutex
	course protocol.Course // guarded by mu
	rare   *rare           // guarded by mu; nil: not needed
}

// rare is what few sessions need.
type rare struct {
	hastened chan struct{} // closed when the end begins; set when joined, if there is a rate limit
	expires  time.Time     // zero: never
	expiry   *protocol.Cause
	inlets   *[2]inlet // set when joined; nil: the session has no stage
	resuming *resuming // set before joining; nil: the session ends with its upstream

	additions [2][]*addition // not yet written, by the side that they go to

	// Of a session that goroutines drive.
	timer   *time.Timer
	running atomic.Int32 // pumps; not guarded
}

// A pair is the two legs that a session has at a time, by their sides.
type pair [2]*leg

// pairLocked returns the legs. s.mu is held.
func (s *Session) pairLocked() pair {
	return pair{s.pumps[frame.Client].from, s.pumps[frame.Upstream].from}
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
// apart. stage, unless it is nil, takes the session's messages.
func (s *Session) Join(shared *Settings, h Host, id uint64, conns [2]net.Conn, early [2][]byte, rsvMessage, rsvAny [2]byte, stage Stage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.host, s.shared, s.cell = h, shared, uint8(id%cells)
	s.course = protocol.NewCourse(s.policyLocked(&shared.Policy), protocol.NewPace(rand.Float32()))
	if stage != nil {
		s.rareLocked().inlets = new([2]inlet)
	}
	var threads *[2]threadLeg
	if stage != nil || !s.events.take(s, conns) {
		threads = new([2]threadLeg)
		s.rareLocked()
	}
	for side := range s.legs {
		l := &s.legs[side]
		l.s, l.side = s, frame.Side(side)
		if threads != nil {
			l.threadLeg = &threads[side]
			l.to = &s.legs[side^1]
			l.writing.Store(-1)
			l.conn = conns[side]
			l.initRaw(stage != nil)
		}

		p, limit := &s.pumps[side], &shared.Limits[side]
		p.from = l
		p.mind = protocol.Direction{Scan: frame.Scanner{Masked: frame.Side(side) == frame.Client, RSVMessage: rsvMessage[side], RSVAny: rsvAny[side]}}
		crand.Read(p.mind.Tag[:])
		p.holdBack(early[side])
		if limit.Rate != (protocol.Rate{}) {
			l.throttle = protocol.NewThrottle(limit.Rate)
			x := s.rareLocked()
			x.hastened = cmp.Or(x.hastened, make(chan struct{}))
		}
		if stage != nil {
			s.rare.inlets[side].open(p, stage)
		}
	}
}

// SetExpiry sets when and why the session expires, unless it ends before.
func (s *Session) SetExpiry(at time.Time, c *protocol.Cause) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.rareLocked()
	x.expires, x.expiry = at, c
	if (x.timer != nil || s.events.has()) && !s.finished {
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
	s.mu.Lock()
	l := s.pairLocked()[side]
	s.mu.Unlock()
	if l == nil { // not joined
		return 0
	}
	return time.Duration(l.roundTrip.Load())
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
