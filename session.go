package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
)

// A Session is one client's WebSocket: from the moment its handshake is let
// in until both connections are closed. It is handed to the hooks
// ([WithOnOpen], [WithOnClose]) and listed by [Proxy.Sessions]. Its methods
// may be called by many goroutines at once, also when it is over.
type Session struct {
	// Set when made.
	proxy  *Proxy
	id     uint64
	client string
	path   string

	cancel   context.CancelCauseFunc // guarded by proxy.mu; ends the handshake; see begin
	open     bool                    // guarded by proxy.mu; the 101 was sent
	letIn    bool                    // owned by ServeHTTP; the hooks have seen it
	graces   uint8                   // guarded by mu; how often in a row ends were put off
	closing  *cause                  // guarded by proxy.mu; it was ended before the 101
	upstream string                  // set with open
	member   *member                 // guarded by proxy.mu; whose it is; nil: nobody's

	// Two goroutines carry it from the 101 on, one a direction, and one timer.
	// Each direction writes to the leg across; Pings, and Closes that lie with
	// the proxy, are injected by whoever has cause to.
	began time.Time // set with open
	pace  pace      // set with open
	over  func()    // set with open; called at the end
	legs  [2]leg
	pumps [2]pump // by the side they read from

	running atomic.Int32 // pumps

	mu       sync.Mutex
	suspect  Side           // guarded by mu; who is blamed if the deadline finds no cause
	finished bool           // guarded by mu
	decided  bool           // guarded by mu; why it is over won't change any more
	ending   ending         // guarded by mu
	deadline time.Duration  // guarded by mu; when all is cut, 0 before the end begins
	latest   time.Duration  // guarded by mu; how far the deadline may be put off
	timer    *time.Timer    // guarded by mu
	due      time.Duration  // guarded by mu; when it is to fire
	helpers  sync.WaitGroup // ticks, and injections that may have to wait
	hastened chan struct{}  // nil: nothing waits for it; closed when the end begins
	extra    *sessionExtra  // guarded by mu; what few sessions have
	failed   *Error         // guarded by mu; why its handshake came to nothing
}

// sessionExtra is what a session has only if somebody asked for it.
type sessionExtra struct {
	key         string // of WithMaxSessionsPerClient; "": not counted. Set when made
	subprotocol string
	values      map[any]any
	expires     time.Time
	expiry      *cause
	done        chan struct{}
}

// extraLocked returns the session's extra. s.mu is held.
func (s *Session) extraLocked() *sessionExtra {
	if s.extra == nil {
		s.extra = new(sessionExtra)
	}
	return s.extra
}

// A Reason is why a session ended: one of a small set, for logs and
// dashboards to group by. Together with the [Side] that brought it about it
// tells apart what matters: closed by the client or by the upstream, say.
type Reason string

const (
	ReasonClosed        Reason = "closed"          // a side sent a Close frame
	ReasonLost          Reason = "lost"            // a side went without one, or no longer answered
	ReasonProtocolError Reason = "protocol error"  // a side broke RFC 6455
	ReasonLimit         Reason = "limit"           // a side went over a size or a rate
	ReasonIdle          Reason = "idle"            // [WithIdleTimeout]
	ReasonAge           Reason = "age"             // [WithMaxAge]
	ReasonExpired       Reason = "expired"         // [Session.SetExpiry]
	ReasonClosedByProxy Reason = "closed by proxy" // [Session.Close]
	ReasonDrained       Reason = "drained"         // [Proxy.Shutdown]
	ReasonRemoved       Reason = "removed"         // its upstream was taken out by [Proxy.SetUpstreams]
	ReasonDown          Reason = "down"            // its upstream was marked down by [WithHealthCheck]
	ReasonCancelled     Reason = "cancelled"       // the request's context ended
	ReasonCut           Reason = "cut"             // [Proxy.Close], or a Shutdown whose time was up
	ReasonPanic         Reason = "panic"           // in a connection of the user's, or a hook
)

// A SessionError says how a session ended; [Session.Err] returns it. A normal
// end is one, too.
type SessionError struct {
	By     Side                 // who brought it about
	Reason Reason               // why
	Code   websocket.StatusCode // of the Close frame that came first, from a side or from the proxy; 0: none
	Err    error                // what made it so, where something did
}

// Error returns a text such as "wsproxy: session ended: upstream lost (1011): EOF".
func (e *SessionError) Error() string {
	text := fmt.Sprintf("wsproxy: session ended: %v %s (%d)", e.By, e.Reason, e.Code)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the error below.
func (e *SessionError) Unwrap() error { return e.Err }

// ID is the session's number, unique within its proxy.
func (s *Session) ID() uint64 { return s.id }

// Client is the client's address: the connection's, or, behind trusted
// proxies, the one that they tell of.
func (s *Session) Client() string { return s.client }

// Path is the path of the client's request, without its query; a long one is
// cut short after 200 bytes.
func (s *Session) Path() string { return s.path }

// Upstream is the scheme and host that was dialled, and # and the member's
// Address if it has one; empty before the 101.
func (s *Session) Upstream() string {
	s.proxy.mu.Lock()
	defer s.proxy.mu.Unlock()
	return s.upstream
}

// Subprotocol is the one that client and upstream have agreed on; empty if
// none, and before the 101. Some clients put a token there.
func (s *Session) Subprotocol() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.extra == nil {
		return ""
	}
	return s.extra.subprotocol
}

// Start is when the upstream had accepted the session; the zero time before
// that.
func (s *Session) Start() time.Time {
	s.proxy.mu.Lock()
	defer s.proxy.mu.Unlock()
	return s.began
}

// Set keeps a value of the user's with the session, for example the user's
// name, by a key that should be of a type of its own, as with
// [context.WithValue].
func (s *Session) Set(key, value any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.extraLocked()
	if x.values == nil {
		x.values = make(map[any]any)
	}
	x.values[key] = value
}

// Value returns what was kept by the key; nil if nothing was.
func (s *Session) Value(key any) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.extra == nil {
		return nil
	}
	return s.extra.values[key]
}

// Counts is what has passed in one direction: what the proxy has written to
// the side across. Frames of the proxy's own are not in it.
type Counts struct {
	Frames         uint64
	Messages       uint64
	Bytes          uint64 // on the wire, headers included
	Pings          uint64 // the peer's own
	LargestMessage uint64 // bytes of payload, as far as announced; compressed, if it was
}

// Counts returns what has come from a side, [Client] or [Upstream], so far; for
// [Self] it returns zeros.
func (s *Session) Counts(from Side) Counts {
	if from >= Self {
		return Counts{}
	}
	return s.pumps[from].count.load()
}

// LastActivity is when a data frame's bytes last passed, in either direction;
// if none has, it is the session's start. Pings are no activity.
func (s *Session) LastActivity() time.Time {
	began := s.Start()
	if began.IsZero() {
		return began
	}
	return began.Add(s.lastData())
}

func (s *Session) lastData() time.Duration {
	return time.Duration(max(s.pumps[Client].data.Load(), s.pumps[Upstream].data.Load()))
}

// RoundTrip is the time that the side, [Client] or [Upstream], took to answer
// the proxy's last Ping to it; 0 while it has answered none. A side that isn't
// silent isn't pinged ([WithPing]). For [Self] it is 0.
func (s *Session) RoundTrip(side Side) time.Duration {
	if side >= Self {
		return 0
	}
	return time.Duration(s.legs[side].roundTrip.Load())
}

// IgnoresPings reports whether the side, [Client] or [Upstream], has had the
// time of [WithPing] to answer a Ping of the proxy's and has answered none so
// far, neither that one nor a later one. Such a side is not given up for its
// silence. It is false for [Self].
func (s *Session) IgnoresPings(side Side) bool {
	if side != Client && side != Upstream {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.legs[side].ignoresPingsLocked()
}

// Close ends the session: the client is sent a Close frame with the code and
// the reason, at a frame's end, and the upstream one with 1001 and the reason.
// It doesn't wait; [Session.Done] tells of the end. A session that ends already
// ends as it was going to; one whose handshake isn't done is refused with 403.
//
// The code must be one that may be sent (RFC 6455, 7.4), and the reason UTF-8
// of at most 123 bytes; else nothing is done, and that is the error.
func (s *Session) Close(code websocket.StatusCode, reason string) error {
	if err := checkClose(code, reason); err != nil {
		return err
	}
	s.close(causeFor(ReasonClosedByProxy, code, reason))
	return nil
}

func checkClose(code websocket.StatusCode, reason string) error {
	switch {
	case !sendableCloseCode(code):
		return fmt.Errorf("wsproxy: close code %d may not be sent", code)
	case len(reason) > maxControlPayload-2:
		return errors.New("wsproxy: close reason over 123 bytes")
	case !utf8.ValidString(reason):
		return errors.New("wsproxy: close reason is not UTF-8")
	}
	return nil
}

// close ends the session for a cause that lies with the proxy.
func (s *Session) close(c *cause) {
	p := s.proxy
	p.mu.Lock()
	open := s.open
	if !open && s.closing == nil {
		s.closing = c
		if s.cancel != nil {
			s.cancel(errEnded)
		}
	}
	p.mu.Unlock()
	if open {
		s.stop(c, nil)
	}
}

// errEnded: a session was ended by [Session.Close] before it was open.
var errEnded = errors.New("session closed")

// SetExpiry has the session end at t, by Close with the code and the reason to
// the client: when the token ends that the client came with, for example. A
// later call replaces it, and the zero time takes it back. The errors are those
// of [Session.Close].
func (s *Session) SetExpiry(t time.Time, code websocket.StatusCode, reason string) error {
	if !t.IsZero() {
		if err := checkClose(code, reason); err != nil {
			return err
		}
		t = time.Now().Add(time.Until(t)) // by the monotonic clock from here on
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.extraLocked()
	x.expires, x.expiry = t, causeFor(ReasonExpired, code, reason)
	if s.timer != nil && s.deadline == 0 && !s.finished {
		s.lookInLocked(0) // it will look anew
	}
	return nil
}

// expiryLocked returns when the session expires, and why. s.mu is held.
func (s *Session) expiryLocked() (at time.Duration, c *cause) {
	at, c = never, causeAge
	if age := s.proxy.policy.age; age > 0 {
		at = s.pace.of(age)
	}
	if x := s.extra; x != nil && !x.expires.IsZero() {
		if t := x.expires.Sub(s.began); t < at {
			return t, x.expiry
		}
	}
	return at, c
}

// Done returns a channel that is closed when the session is over: before the
// hooks of [WithOnClose] are called, and before a client whose handshake has
// failed is answered. [Session.Err] says why from then on.
func (s *Session) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.extraLocked()
	if x.done == nil {
		x.done = make(chan struct{})
		if s.decided {
			close(x.done)
		}
	}
	return x.done
}

// Err says why the session is over: a [*SessionError], or an [*Error] where
// its handshake came to nothing. It is nil before.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := &s.ending
	switch {
	case !s.decided:
		return nil
	case s.failed != nil:
		return s.failed
	case e.cause == nil: // a panic on the way to the 101, of the user's ResponseWriter say
		return &SessionError{By: Self, Reason: ReasonPanic}
	}
	return &SessionError{By: e.cause.by, Reason: e.cause.name, Code: websocket.StatusCode(e.code), Err: e.err}
}

// decide notes that the session is over, and why: failed, if its handshake came
// to nothing.
func (s *Session) decide(failed *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.decided {
		return
	}
	s.decided, s.failed = true, failed
	if s.extra != nil && s.extra.done != nil {
		close(s.extra.done)
	}
}

// policy returns the session's policy for a side.
func (s *Session) policy(side Side) policy {
	p := s.proxy.policy
	p.ping, p.pong = s.pace.of(s.proxy.pings[side].interval), s.proxy.pings[side].timeout
	return p
}
