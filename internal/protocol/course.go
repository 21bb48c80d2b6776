package protocol

import (
	"errors"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// A Course is how a session lives, and how its end runs its course: who is still
// alive, why the session ends, which side gets which Close frame, how long all
// that may take, and when to look again. It is a state machine: each method is an
// event, and most of them return the [Orders] that follow from it. Times are since
// the start of the session. The driver serializes the calls.
//
// The first cause is kept. Later events that follow from it, such as a reply or an
// EOF, only change who still gets a Close frame.
type Course struct {
	policy *Policy
	end    *ending // nil: the session has not begun to end
	legs   [2]courseLeg
	due    time.Duration // when the timer is to fire
	pace   Pace
	graces uint8 // how often in a row the end was postponed
}

// An ending is what a Course knows about the end. It is made when the end begins, so
// that a session at rest takes no memory for it. Either its cause or its deadline
// may come first.
type ending struct {
	cause    *Cause        // nil: not known yet
	err      error         // the underlying error, if any
	deadline time.Duration // when both connections are closed; 0: not set yet
	latest   time.Duration // how far the deadline may be extended
	owed     [2]frame.Code // see Cause
	code     frame.Code    // of the first Close frame, from a peer or from us
	suspect  frame.Side    // the side to blame if the deadline passes without a cause
}

// A courseLeg is what a Course knows about one side.
type courseLeg struct {
	pingEnd uint64        // bytes that were sent to it, up to the end of our last Ping
	behind  uint32        // those of them after the last Ping that was answered; 2^32-1 at most
	acked   uint32        // bytes that its kernel has acknowledged, modulo 2^32: enough to see that they become more
	ackedAt time.Duration // when acked was read
	answers bool          // it has answered a Ping of ours
	ignored bool          // the timeout passed after a Ping without any answer so far

	told  bool // a Close was sent to it, or is about to be
	ended bool // nothing more from it will be forwarded
	heard bool // its Close has arrived
	over  bool // nothing more can be read from it
}

// Orders is what a driver is to do.
type Orders struct {
	Legs  [2]LegOrders
	Again time.Duration // if Arm: when to look again

	Arm      bool // set the timer to Again
	Began    bool // the end has begun: wake readers that wait for a rate limit
	Verbatim bool // forward the Close frame that arrived
	Wake     bool // make readers notice a reset
	Sever    bool // close both connections: a Close frame is written only if that takes no time
	Hold     bool // the upstream has left: replace it, or give up; see Resume
}

// LegOrders is what a driver is to do for one leg.
type LegOrders struct {
	Close frame.Code // write a Close frame with this code at the next frame boundary; 0: none
	Need  Need
	Moves bool // the current write makes progress: restart its time
	Abort bool // close the connection, without TLS's goodbye
}

// Why a peer is lost, if it has not left by itself.
var (
	ErrReset  = errors.New("connection reset by peer")
	errSilent = errors.New("no answer to a ping")
	errStuck  = errors.New("no write progress within the write timeout")
	errLate   = errors.New("not closed within the close timeout")
)

// NewCourse returns the course of a session that is about to start. The sessions
// of a proxy share the policy.
func NewCourse(p *Policy, pace Pace) Course { return Course{policy: p, pace: pace} }

// Stop is the event that the session is to end for a cause for which the proxy is
// responsible.
func (c *Course) Stop(now time.Duration, cause *Cause, err error) (o Orders) {
	c.stop(now, cause, err, &o)
	return o
}

func (c *Course) stop(now time.Duration, cause *Cause, err error, o *Orders) {
	if c.begin(cause, err) {
		c.hasten(now, frame.Self, o)
		c.tellBoth(o)
	}
}

// Cut is the event that the session is to end at once, without Close frames.
func (c *Course) Cut(now time.Duration, cause *Cause, err error) (o Orders) {
	c.begin(cause, err)
	c.hasten(now, frame.Self, &o)
	o.Legs[frame.Client].Abort, o.Legs[frame.Upstream].Abort = true, true
	return o
}

// Sever is the event that the session cannot go on, because a driver or a
// connection panicked.
func (c *Course) Sever(now time.Duration, cause *Cause, err error) (o Orders) {
	c.begin(cause, err)
	c.hasten(now, frame.Self, &o)
	c.sever(&o)
	return o
}

// Blame names the cause of an end that is under way, if there is none yet.
func (c *Course) Blame(cause *Cause, err error) { c.begin(cause, err) }

// Closed is the event that a Close frame has arrived from a side. Either it is
// forwarded verbatim to the other side, or the other side gets a Close of ours
// instead, or none.
func (c *Course) Closed(now time.Duration, from frame.Side, code frame.Code) (o Orders) {
	if c.hold(from, code, nil, &o) {
		return o
	}
	to := from.Other()
	near, far := &c.legs[from], &c.legs[to]
	near.ended, near.heard = true, true
	switch {
	case c.begin(causeClosed[from], nil):
		// It gets its own code back if the other side does not answer.
		c.end.code, c.end.owed[from] = code, code
		o.Verbatim = !far.told
	case c.end.cause == causeClosed[to]:
		o.Verbatim = !far.told
	default:
		c.tell(to, &o)
	}
	if o.Verbatim {
		far.told = true
	}
	c.hasten(now, from, &o)
	return o
}

// Broke is the event that a side has violated the protocol or exceeded a limit:
// nothing more is forwarded from it.
func (c *Course) Broke(now time.Duration, from frame.Side, err error) (o Orders) {
	c.endFrom(from, CauseOf(from, err), err, &o)
	c.hasten(now, from, &o)
	return o
}

// Refused is the event that a message from a side ends the session for the given
// cause: nothing more is forwarded from it.
func (c *Course) Refused(now time.Duration, from frame.Side, cause *Cause, err error) (o Orders) {
	first := c.cause() == nil
	c.endFrom(from, cause, err, &o)
	if first && cause.By == frame.Self {
		c.tell(from, &o)
		from = frame.Self
	}
	c.hasten(now, from, &o)
	return o
}

// Left is the event that nothing more can be read from a side: because of err,
// unless clean.
func (c *Course) Left(now time.Duration, side frame.Side, err error, clean bool) (o Orders) {
	l := &c.legs[side]
	l.over = true
	if !l.ended && c.hold(side, 0, err, &o) {
		o.Legs[side].Abort = !clean
		return o
	}
	if !l.ended {
		c.endFrom(side, causeLost[side], err, &o)
	}
	c.hasten(now, side, &o)
	o.Legs[side].Abort = !clean
	return o
}

// Lost is the event that a side is dropped. Its reader then finds the connection
// closed.
func (c *Course) Lost(now time.Duration, side frame.Side, err error) (o Orders) {
	c.lose(now, side, err, &o)
	return o
}

func (c *Course) lose(now time.Duration, side frame.Side, err error, o *Orders) {
	if c.drop(side, err, o) {
		return
	}
	c.begin(causeLost[side], err)
	c.hasten(now, side, o)
	o.Legs[side].Abort = true
}

// WriteFailed is the event that a write to a side failed. If the peer has sent its
// last data and closed its end, that data may still be waiting to be read: the
// side's reader will find its end, or else the deadline applies.
func (c *Course) WriteFailed(now time.Duration, side frame.Side) (o Orders) {
	if r := c.resumes(); r != nil && side == frame.Upstream {
		if !r.held {
			r.dropLater(c, now+resetGrace, &o)
		}
		return o
	}
	c.hasten(now, side, &o)
	return o
}

// Settle returns what is to become of a side's connection. closed means that a
// Close frame was written to it completely, talks that the side keeps sending
// after its own.
//
// done reports that the connection may be closed: nothing more that matters will
// be read from it, and nothing more will be written to it. We close the client's
// connection first; the upstream closes its own first (RFC 6455, 7.1.1), so that
// the TIME_WAIT of a proxied session does not use up our ports.
//
// fin reports that it gets a FIN now: everything has been written to it and nothing
// that it sends matters any more. Either it violated the protocol, so that its own
// Close cannot be recognized, or it keeps sending after its Close. Until its own
// FIN arrives, its input is read and dropped, so that what was written arrives
// (RFC 6455, 7.1.1).
func (c *Course) Settle(side frame.Side, closed, talks bool) (done, fin bool) {
	l := &c.legs[side]
	switch {
	case side == frame.Upstream && c.Held(): // there is none, or one that was not told anything
	case side == frame.Client && l.heard && closed && !talks:
		done = true
	case l.over:
		done = closed || c.legs[side.Other()].ended
	default:
		fin = closed && l.ended && (side == frame.Client || !l.heard)
	}
	return done, fin
}

// Slowed is the event that a side's reader waits for the rate limit; gone means
// that the peer has sent its FIN. Once the end has begun, the side is no longer
// slowed down: free. If it has left, or accepts no more, that would be a way
// around the limit; what it sent is then relayed until the deadline at most. The
// reader is to ask again at the given time. If that is not after now, it drops the
// rest.
func (c *Course) Slowed(now time.Duration, side frame.Side, gone bool) (again time.Duration, free bool, o Orders) {
	again = now + resetGrace
	switch {
	case gone, c.Ending() && c.end.suspect == side:
		c.hasten(now, side, &o)
		again = min(again, c.end.deadline)
	case c.Ending():
		free = true
	}
	return again, free, o
}

// Due returns when to look again, as last ordered.
func (c *Course) Due() time.Duration { return c.due }

// Ending reports whether the session has begun to end.
func (c *Course) Ending() bool { return c.end != nil && c.end.deadline != 0 }

// cause returns why the session ends, nil if that is not known or it does not.
func (c *Course) cause() *Cause {
	if c.end == nil {
		return nil
	}
	return c.end.cause
}

// Text returns the reason in the proxy's own Close frames.
func (c *Course) Text() string {
	switch cause, r := c.cause(), c.policy.Resume; {
	case cause != nil:
		return cause.Text
	case r != nil && r.away != nil:
		return r.away.Text
	}
	return ""
}

// Result returns why the session ends, nil if it does not, the code of the first
// Close frame, and the underlying error.
func (c *Course) Result() (cause *Cause, code frame.Code, err error) {
	if c.end == nil {
		return nil, 0, nil
	}
	return c.end.cause, c.end.code, c.end.err
}

// makeEnd returns the ending, which it makes if there is none.
func (c *Course) makeEnd() *ending {
	if c.end == nil {
		c.end = new(ending)
	}
	return c.end
}

// begin names the cause, if there is none yet.
func (c *Course) begin(cause *Cause, err error) bool {
	e := c.makeEnd()
	if e.cause != nil {
		return false
	}
	e.cause, e.err, e.owed = cause, err, cause.Owed
	client, upstream := &e.owed[frame.Client], e.owed[frame.Upstream]
	if cause == causeLost[frame.Upstream] && c.policy.LostCode != 0 {
		*client = c.policy.LostCode
	}
	e.code = max(*client, upstream)
	if cause.By == frame.Self {
		e.code = *client
	}
	return true
}

// endFrom records that nothing more will be forwarded from a side, for a reason
// other than a Close frame.
func (c *Course) endFrom(from frame.Side, cause *Cause, err error, o *Orders) {
	c.begin(cause, err)
	c.legs[from].ended = true
	c.tell(from.Other(), o)
}

// tell orders the Close frame that a side is owed, once. The end has begun.
func (c *Course) tell(to frame.Side, o *Orders) {
	if l, owed := &c.legs[to], c.end.owed[to]; !l.told && owed != 0 {
		l.told = true
		o.Legs[to].Close = owed
	}
}

func (c *Course) tellBoth(o *Orders) {
	c.tell(frame.Client, o)
	c.tell(frame.Upstream, o)
}

// sever orders the end of both connections, each with a last Close frame if one is
// still owed.
func (c *Course) sever(o *Orders) {
	c.tellBoth(o)
	o.Sever = true
}

// hasten sets the deadline of an end that has begun, and the side to blame if no
// better cause is found.
func (c *Course) hasten(now time.Duration, side frame.Side, o *Orders) {
	e := c.makeEnd()
	if e.deadline != 0 {
		return
	}
	e.suspect = side
	e.deadline = now + c.policy.Close
	e.latest = e.deadline + c.policy.Write
	c.lookAt(now+c.firstLook(), o)
	o.Began = true
}

// firstLook is the time from the beginning of the end to the first look.
func (c *Course) firstLook() time.Duration { return min(c.policy.Close/2, resetGrace) }

// lookAt orders the next look.
func (c *Course) lookAt(at time.Duration, o *Orders) { c.due, o.Again, o.Arm = at, at, true }
