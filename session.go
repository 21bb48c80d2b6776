package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
	"unicode/utf8"
	"unique"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/pool"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
	"github.com/seed-ffb73231/wsproxy/internal/relay"
)

// A Session is one client's WebSocket, from the time its handshake is admitted
// until both connections are closed. It is passed to hooks ([WithOnOpen],
// [WithOnClose]) and listed by [Proxy.Sessions]. Its methods are safe for
// concurrent use, also after the session is over.
type Session struct {
	// Set when made.
	proxy *Proxy
	id    uint64
	about string // the client's address, and then the path: one string, to save memory

	neighbors                     // the registry's own
	seat      pool.Seat[endpoint] // its place at a member

	client  uint16 // set when made; the length of the address in about
	letIn   bool   // owned by ServeHTTP; it was passed to the WithOnOpen hooks
	removed bool   // owned by ServeHTTP; it is no longer registered
	decided bool   // guarded by mu; the result is final
	open    bool   // guarded by mu; the 101 was sent
	told    bool   // guarded by mu; a drain has counted it as told to end

	mu       sync.Mutex
	cancel   context.CancelCauseFunc // guarded by mu; ends the handshake; see begin
	upstream unique.Handle[string]   // guarded by mu; zero before the 101. Shared with others, to save memory
	extra    *sessionExtra           // guarded by mu; state that few sessions need

	relay relay.Session
}

// sessionExtra is the state that a session has only if it is used.
type sessionExtra struct {
	key         string // of WithMaxSessionsPerClient; "": not counted. Set when made
	subprotocol string
	values      map[any]any
	done        chan struct{}
	closing     *protocol.Cause // why it was ended before the 101
	failed      *Error          // why its handshake failed
	tap         *tap            // set before the 101; nil: none
	resumption  *resumption     // set before the session is open; nil: it ends with its upstream
}

// extraLocked returns the session's extra. s.mu is held.
func (s *Session) extraLocked() *sessionExtra {
	if s.extra == nil {
		s.extra = new(sessionExtra)
	}
	return s.extra
}

// A Reason says why a session ended. There is a small set of reasons, which
// logs and dashboards can group by. Combined with the [Side] that caused the
// end it distinguishes, for example, closed by the client from closed by the
// upstream.
type Reason string

const (
	ReasonClosed        Reason = "closed"          // a side sent a Close frame
	ReasonLost          Reason = "lost"            // a side left without a Close frame, or stopped answering
	ReasonProtocolError Reason = "protocol error"  // a side violated RFC 6455
	ReasonLimit         Reason = "limit"           // a side exceeded a size or rate limit
	ReasonIdle          Reason = "idle"            // [WithIdleTimeout]
	ReasonAge           Reason = "age"             // [WithMaxAge]
	ReasonExpired       Reason = "expired"         // [Session.SetExpiry]
	ReasonClosedByProxy Reason = "closed by proxy" // [Session.Close]
	ReasonDrained       Reason = "drained"         // [Proxy.Shutdown]
	ReasonRemoved       Reason = "removed"         // [Proxy.SetUpstreams] or [WithSource] removed its upstream
	ReasonDown          Reason = "down"            // [WithHealthCheck] marked its upstream down
	ReasonCancelled     Reason = "cancelled"       // the request's context ended
	ReasonCut           Reason = "cut"             // [Proxy.Close], or the context of Shutdown ended
	ReasonHook          Reason = "hook"            // a hook of [WithOnMessage] returned an error
	ReasonPanic         Reason = "panic"           // a hook or a custom connection panicked
)

// Causes that only the face knows.
var (
	causeCancelled = protocol.CauseFor(string(ReasonCancelled), frame.GoingAway, "going away")
	causeCut       = &protocol.Cause{Reason: string(ReasonCut), By: frame.Self}
	causeRemoved   = protocol.CauseFor(string(ReasonRemoved), frame.ServiceRestart, "upstream removed")
	causeDown      = protocol.CauseFor(string(ReasonDown), frame.ServiceRestart, "upstream down")
)

// A SessionError describes how a session ended, including a normal end.
// [Session.Err] returns it.
type SessionError struct {
	By     Side                 // who caused the end
	Reason Reason               // why
	Code   websocket.StatusCode // of the first Close frame, from a side or from the proxy; 0: none
	Err    error                // the underlying error, if any
}

// Error returns a text such as "wsproxy: session ended: upstream lost (1011): EOF".
func (e *SessionError) Error() string {
	text := fmt.Sprintf("wsproxy: session ended: %v %s (%d)", e.By, e.Reason, e.Code)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns e.Err.
func (e *SessionError) Unwrap() error { return e.Err }

// ID returns the session's number, which is unique within its proxy.
func (s *Session) ID() uint64 { return s.id }

// Client returns the client's address: that of its connection or, behind
// trusted proxies, the one that they report.
func (s *Session) Client() string { return s.about[:s.client] }

// Path returns the path of the client's request, without its query, truncated
// to 200 bytes.
func (s *Session) Path() string { return s.about[s.client:] }

// Upstream returns the scheme and host that was dialled, followed by # and the
// member's Address if it has one. It is empty before the 101. With [WithResume] it
// changes when the session goes on with another upstream.
func (s *Session) Upstream() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.upstream == (unique.Handle[string]{}) {
		return ""
	}
	return s.upstream.Value()
}

func (s *Session) setUpstream(to string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.upstream = unique.Make(to)
}

// Subprotocol returns the subprotocol that client and upstream have agreed on.
// It is empty if there is none, and before the 101. Some clients put a token
// there.
func (s *Session) Subprotocol() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.extra == nil {
		return ""
	}
	return s.extra.subprotocol
}

// Start returns the time at which the upstream accepted the session, or the
// zero time before that.
func (s *Session) Start() time.Time {
	return s.relay.Began()
}

// Set associates a value with the session, for example a user's name. The key
// should be of a type of its own, as with [context.WithValue].
func (s *Session) Set(key, value any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.extraLocked()
	if x.values == nil {
		x.values = make(map[any]any)
	}
	x.values[key] = value
}

// Value returns the value associated with key, or nil if there is none.
func (s *Session) Value(key any) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.extra == nil {
		return nil
	}
	return s.extra.values[key]
}

// Counts holds counters for one direction of a session: what the proxy has
// written to the opposite side. They do not include frames that the proxy
// itself originates.
type Counts struct {
	Frames         uint64
	Messages       uint64
	Bytes          uint64 // on the wire, headers included
	Pings          uint64 // sent by the peer
	LargestMessage uint64 // in bytes of payload, as announced by frame headers; compressed, if it was
}

// Counts returns what has come from a side, [Client] or [Upstream], so far. For
// [Self] it returns zeros.
func (s *Session) Counts(from Side) Counts {
	if from >= Self {
		return Counts{}
	}
	return Counts(s.relay.Counts(frame.Side(from)))
}

// LastActivity returns the time at which bytes of a data frame last passed in
// either direction, or the session's start if none have. Pings are not
// activity.
func (s *Session) LastActivity() time.Time {
	began := s.Start()
	if began.IsZero() {
		return began
	}
	return began.Add(s.relay.LastData())
}

// RoundTrip returns the time that the side, [Client] or [Upstream], took to
// answer the proxy's last Ping, or 0 if it has answered none. The proxy pings
// only silent sides ([WithPing]). For [Self] it returns 0.
func (s *Session) RoundTrip(side Side) time.Duration {
	if side >= Self {
		return 0
	}
	return s.relay.RoundTrip(frame.Side(side))
}

// IgnoresPings reports whether the side, [Client] or [Upstream], has let the
// timeout of [WithPing] pass after a Ping and has not answered any Ping so far.
// Such a side is not dropped for its silence. For [Self] it returns false.
func (s *Session) IgnoresPings(side Side) bool {
	if side != Client && side != Upstream {
		return false
	}
	return s.relay.IgnoresPings(frame.Side(side))
}

// Close ends the session. At a frame boundary, the client is sent a Close frame
// with code and reason, and the upstream one with 1001 and reason. Close does
// not wait; use [Session.Done]. If the session is already ending, Close has no
// effect. If its handshake is not done, the handshake is refused with 403.
//
// Close returns an error and does nothing if the code may not be sent (RFC
// 6455, 7.4), or if reason is not UTF-8 or exceeds 123 bytes.
func (s *Session) Close(code websocket.StatusCode, reason string) error {
	if err := checkClose(code, reason); err != nil {
		return err
	}
	s.close(protocol.CauseFor(string(ReasonClosedByProxy), frame.Code(code), reason))
	return nil
}

func checkClose(code websocket.StatusCode, reason string) error {
	switch {
	case !sendable(code):
		return fmt.Errorf("wsproxy: close code %d may not be sent", code)
	case len(reason) > frame.MaxControlPayload-2:
		return errors.New("wsproxy: close reason exceeds 123 bytes")
	case !utf8.ValidString(reason):
		return errors.New("wsproxy: close reason is not UTF-8")
	}
	return nil
}

// sendable reports whether a Close frame may contain the code.
func sendable(code websocket.StatusCode) bool {
	return 0 <= code && code <= math.MaxUint16 && frame.Code(code).Sendable()
}

// close ends the session for a cause of the proxy's own.
func (s *Session) close(c *protocol.Cause) {
	s.mu.Lock()
	open, cancel := s.open, s.cancel
	if !open {
		if x := s.extraLocked(); x.closing == nil {
			x.closing = c
		}
	}
	s.mu.Unlock()
	switch {
	case open:
		s.relay.Stop(c, nil)
	case cancel != nil:
		cancel(errEnded)
	}
}

// progress returns whether the session is open, and what ends its handshake.
func (s *Session) progress() (open bool, cancel context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open, s.cancel
}

// errEnded: a session was ended by [Session.Close] before it was open.
var errEnded = errors.New("session closed")

// Send adds a message of the program's own to what goes to a side, [Client] or
// [Upstream]. The type is [websocket.MessageText], and data then UTF-8, or
// [websocket.MessageBinary]. The peer cannot tell the message from one of the
// opposite side.
//
// The message is put between two others, never into a fragmented one, and is not
// compressed. Send waits for that, and until the connection has taken the whole
// message, not until the peer has read it. Calls at the same time are written
// whole, in any order. Data is copied, and its size is not limited. It counts for
// neither side, not as activity, and not against a limit.
//
// If ctx ends before the first byte is written, the message is dropped, and Send
// returns ctx's error. If it ends later, Send returns an error that wraps it, and
// the rest is still written; a peer that takes nothing is dropped after the write
// timeout ([WithWriteTimeout]). Send returns [ErrNotOpen] if the session is not
// open yet, as in a hook of [WithOnOpen], or has begun to end.
func (s *Session) Send(ctx context.Context, to Side, t websocket.MessageType, data []byte) error {
	switch {
	case to != Client && to != Upstream:
		return fmt.Errorf("wsproxy: send to the %v: only client and upstream can be sent messages", to)
	case t != websocket.MessageText && t != websocket.MessageBinary:
		return fmt.Errorf("wsproxy: send to the %v: message type %d is neither text nor binary", to, int(t))
	case t == websocket.MessageText && !utf8.Valid(data):
		return fmt.Errorf("wsproxy: send to the %v: text is not UTF-8", to)
	}
	err := ErrNotOpen
	if open, _ := s.progress(); open {
		err = s.relay.Send(ctx, frame.Side(to), byte(t), data) // a type is the frame's opcode
	}
	if err != nil {
		return fmt.Errorf("wsproxy: send to the %v: %w", to, err)
	}
	return nil
}

// SetExpiry ends the session at t, for example when the client's token expires.
// The client is sent a Close frame with code and reason. A later call replaces
// the expiry, and the zero time removes it. The errors are those of
// [Session.Close].
func (s *Session) SetExpiry(t time.Time, code websocket.StatusCode, reason string) error {
	if !t.IsZero() {
		if err := checkClose(code, reason); err != nil {
			return err
		}
		t = time.Now().Add(time.Until(t)) // by the monotonic clock from here on
	}
	s.relay.SetExpiry(t, protocol.CauseFor(string(ReasonExpired), frame.Code(code), reason))
	return nil
}

// Done returns a channel that is closed when the session is over: before the
// hooks of [WithOnClose] are called, and before a client whose handshake has
// failed is answered. From then on [Session.Err] returns the reason.
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

// Err returns why the session is over: a [*SessionError], or an [*Error] if its
// handshake failed. It returns nil before the session is over.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.decided {
		return nil
	}
	if s.extra != nil && s.extra.failed != nil {
		return s.extra.failed
	}
	c, closeCode, err := s.relay.Result()
	if c == nil { // a panic before the 101, for example in a custom ResponseWriter
		return &SessionError{By: Self, Reason: ReasonPanic}
	}
	return &SessionError{By: Side(c.By), Reason: Reason(c.Reason), Code: websocket.StatusCode(closeCode), Err: err}
}

// A sessionHost is a session as its relay knows it.
type sessionHost Session

func (h *sessionHost) RoundTrip(side frame.Side, d time.Duration) {
	h.proxy.stats.roundTrips[side].observe(d)
}

func (h *sessionHost) Panicked(v any) error { return newPanic("connection", v) }

// Over is for a detached session.
func (h *sessionHost) Over() { h.proxy.endDetached((*Session)(h)) }

// A waitingHost is the host of a session that ServeHTTP waits for.
type waitingHost struct {
	*sessionHost
	over chan struct{}
}

func (h waitingHost) Over() { close(h.over) }

// decide records that the session is over, and why: failed is set if its
// handshake failed.
func (s *Session) decide(failed *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.decided {
		return
	}
	s.decided = true
	if failed != nil {
		s.extraLocked().failed = failed
	}
	if s.extra != nil && s.extra.done != nil {
		close(s.extra.done)
	}
}
