package protocol

import (
	"cmp"
	"errors"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// A Resume is the part of a [Course] for a session that outlives its upstream.
// When the upstream is lost, or leaves in a way that says that another one may
// serve, the session is held: the client stays, nothing is expected of the
// upstream, and the driver looks for another one, until [Course.Resumed] or
// [Course.GiveUp]. Everything else that ends a session also ends a held one.
type Resume struct {
	held   bool          // there is no upstream
	over   bool          // the upstream is not replaced again
	away   *Cause        // why the session leaves its upstream; nil: it does not
	code   frame.Code    // of the upstream's Close; 0: it was lost
	err    error         // why it was lost
	dropAt time.Duration // when it is dropped if it has not left by then; 0: never
}

var errUnwritable = errors.New("write failed")

// resumes returns the state of a session whose upstream may be replaced now, or
// nil.
func (c *Course) resumes() *Resume {
	if r := c.policy.Resume; r != nil && !r.over && c.end == nil {
		return r
	}
	return nil
}

// Resumes reports whether the upstream may be replaced, now or when it leaves.
func (c *Course) Resumes() bool { return c.resumes() != nil }

// Held reports whether the session has no upstream.
func (c *Course) Held() bool { return c.policy.Resume != nil && c.policy.Resume.held }

// passing reports whether a Close with the code says that another upstream, or the
// same one later, may serve: going away, service restart, try again later.
func passing(code frame.Code) bool {
	return code == frame.GoingAway || code == frame.ServiceRestart || code == frame.TryAgainLater
}

// hold holds the session if its upstream, which has just left, may be replaced.
// code is that of its Close frame, 0 if it was lost for err. A session that was
// leaving its upstream has told it so: whatever the code, it is the answer.
func (c *Course) hold(from frame.Side, code frame.Code, err error, o *Orders) bool {
	r := c.resumes()
	if r == nil || from != frame.Upstream || code != 0 && !passing(code) && r.away == nil {
		return false
	}
	l := &c.legs[frame.Upstream]
	if code != 0 && !l.told {
		o.Legs[frame.Upstream].Close = code // RFC 6455, 5.5.1
	}
	l.told, l.ended, l.over = true, true, true
	r.held, r.dropAt, r.code, r.err = true, 0, code, cmp.Or(r.err, err)
	o.Hold = true
	return true
}

// drop orders the end of an upstream that may be replaced: its reader then finds
// the connection closed.
func (c *Course) drop(side frame.Side, err error, o *Orders) bool {
	r := c.resumes()
	if r == nil || side != frame.Upstream {
		return false
	}
	r.err = cmp.Or(r.err, err)
	o.Legs[frame.Upstream].Abort = true
	return true
}

// dropLater drops the upstream at the given time, unless it has left by then.
func (r *Resume) dropLater(c *Course, at time.Duration, o *Orders) {
	if r.dropAt == 0 || at < r.dropAt {
		r.dropAt = at
		c.lookAt(min(c.due, at), o)
	}
}

// lookForDrop drops the upstream if it is time, and returns when to look again.
func (c *Course) lookForDrop(now time.Duration, o *Orders) (again time.Duration) {
	r := c.resumes()
	switch {
	case r == nil || r.dropAt == 0:
		return never
	case now < r.dropAt:
		return r.dropAt
	}
	err := errUnwritable
	if r.away != nil {
		err = errLate
	}
	c.drop(frame.Upstream, err, o)
	return never
}

// Move is the event that the session is to leave its upstream for another one. The
// upstream is sent a Close frame, and the session is held when it has left. ok
// reports that the upstream may be replaced: otherwise nothing happens.
func (c *Course) Move(now time.Duration, cause *Cause) (o Orders, ok bool) {
	r := c.resumes()
	if r == nil {
		return o, false
	}
	if r.held || r.away != nil {
		return o, true
	}
	r.away = cause
	c.legs[frame.Upstream].told = true
	o.Legs[frame.Upstream].Close = goingAway
	r.dropLater(c, now+c.policy.Close, &o)
	return o, true
}

// Torn is the event that the upstream has received only a part of a message. The
// rest would mean nothing to another one: the session ends.
func (c *Course) Torn(now time.Duration, err error) (o Orders) {
	if r := c.policy.Resume; r != nil {
		r.over = true
	}
	c.lose(now, frame.Upstream, err, &o)
	return o
}

// Resumed is the event that a held session has another upstream. ok is false if
// the session has begun to end.
func (c *Course) Resumed(now time.Duration) (o Orders, ok bool) {
	r := c.resumes()
	if r == nil || !r.held {
		return o, false
	}
	*r = Resume{}
	c.legs[frame.Upstream] = courseLeg{}
	c.lookAt(now+time.Millisecond, &o) // to arrange its Pings
	return o, true
}

// GiveUp is the event that a held session gets no other upstream. Unless it has
// begun to end, the client is told what it would have been told without a
// replacement: that the upstream was lost, its Close frame verbatim, or why the
// session had to leave it. err, if not nil, is another reason for its loss.
func (c *Course) GiveUp(now time.Duration, err error) (o Orders) {
	r := c.policy.Resume
	r.held, r.over = false, true
	switch {
	case c.cause() != nil:
		c.tell(frame.Client, &o)
	case err != nil || r.code == 0 && r.away == nil:
		c.begin(causeLost[frame.Upstream], cmp.Or(err, r.err))
		c.tell(frame.Client, &o)
	case r.away != nil:
		c.begin(r.away, nil)
		c.tell(frame.Client, &o)
	default:
		c.begin(causeClosed[frame.Upstream], nil)
		c.end.code, c.legs[frame.Upstream].heard = r.code, true
		c.legs[frame.Client].told, o.Verbatim = true, true
	}
	c.hasten(now, frame.Upstream, &o)
	return o
}
