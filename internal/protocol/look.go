package protocol

import (
	"math"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
)

// A Look is what a driver sees when the session's timer fires.
type Look struct {
	Now    time.Duration
	Expiry Expiry
	Legs   [2]Facts
}

// An Expiry is when and why a session expires; without a cause it does not.
type Expiry struct {
	At    time.Duration
	Cause *Cause
}

// Facts is what a driver sees of one leg.
type Facts struct {
	Heard   time.Duration // when bytes last arrived from it
	Data    time.Duration // when bytes of a data frame from it last passed
	Pinged  time.Duration // when our last Ping was sent, or its time restarted
	Writing time.Duration // when the current write last made progress; negative: no write
	Pings   uint32        // the number of our last Ping if it is unanswered; 0 otherwise
	Unread  bool          // its reader waits for the opposite leg to accept bytes, or for the rate limit
	Slowed  bool          // its reader waits for the rate limit
	Closed  bool          // a Close frame was written to it completely
	Reset   bool          // it was reset; its reader may not have noticed

	Input bool // if asked; bytes from it wait in our socket
	Acks  Acks // if asked
}

// Acks is what our kernel knows about the acknowledgements of the peer's.
type Acks struct {
	Known  bool
	Acked  uint64        // bytes that it has acknowledged
	Queued uint64        // bytes that are still to be acknowledged
	Age    time.Duration // since it last acknowledged anything, including a probe
}

// unanswered reports whether a Ping is unanswered.
func (f *Facts) unanswered() bool { return f.Pinged > f.Heard }

// doubtful reports whether something is under way that could fail.
func (f *Facts) doubtful() bool { return f.Writing >= 0 || f.unanswered() }

// An Ask is what [Course.Look] needs to know of a leg in addition, because asking
// the kernel is dear.
type Ask struct{ Input, Acks bool }

// see records what the peer has acknowledged, and reports whether that is more than
// before.
func (l *courseLeg) see(now time.Duration, a Acks) (more bool) {
	if a.Known {
		more = l.acked != uint32(a.Acked)
		l.acked, l.ackedAt = uint32(a.Acked), now
	}
	return more
}

// Answered is the event that a Pong to one of our Pings has arrived from a side:
// to the last one, and the first to it, or to another.
func (c *Course) Answered(side frame.Side, last bool) {
	w := &c.legs[side]
	w.answers = true
	if last {
		w.behind = 0
	}
}

// Pinged is the event that a Ping was written to a side, which has acknowledged so
// much.
func (c *Course) Pinged(now time.Duration, side frame.Side, a Acks) {
	w := &c.legs[side]
	w.see(now, a)
	if a.Known {
		end := a.Acked + a.Queued
		w.behind = uint32(min(uint64(w.behind)+end-min(w.pingEnd, end), math.MaxUint32))
		w.pingEnd = end
	}
}

// IgnoresPings reports whether a side has had the time to answer a Ping, and has
// answered none.
func (c *Course) IgnoresPings(side frame.Side) bool {
	return c.legs[side].ignored && !c.legs[side].answers
}

// Start is the event that the session starts. It returns when to look first.
func (c *Course) Start(now time.Duration, x Expiry) time.Duration {
	first, _ := c.expires(x)
	for side := range c.legs {
		_, again := c.care(side).check(0, life{writing: -1})
		_, idle := c.policy.checkIdle(0, 0)
		first = min(first, again, idle)
	}
	if c.Ending() { // it has begun to end before
		first = c.firstLook()
	}
	c.due = now + max(first, 0)                      // the expiry may have passed
	if r := c.resumes(); r != nil && r.dropAt != 0 { // it has begun to move before
		c.due = min(c.due, r.dropAt)
	}
	return c.due
}

// Expire is the event that the session's expiry has changed. The next look takes
// it into account.
func (c *Course) Expire(now time.Duration) (o Orders) {
	if !c.Ending() {
		c.lookAt(now, &o)
	}
	return o
}

// Asks returns what Look needs to know in addition.
func (c *Course) Asks(l *Look) (asks [2]Ask) {
	_, late := c.late(l.Now)
	if c.Ending() {
		deadline := c.end.deadline
		for side := range asks {
			asks[side].Acks = late || l.Now >= deadline || c.legs[side].ackedAt < deadline-c.policy.Close
		}
		return asks
	}
	idle, _ := c.policy.checkIdle(l.Now, l.data())
	for side := range asks {
		if c.Held() && frame.Side(side) == frame.Upstream {
			continue
		}
		f := &l.Legs[side]
		asks[side] = Ask{Input: idle || f.unanswered(), Acks: f.doubtful()}
	}
	return asks
}

// Look is the event that the session's timer has fired. Before the end it checks
// both legs, and whether the session is idle or too old. Later it looks after the
// end, to find resets that a reader has not noticed, to measure what a slow peer
// accepts, and to sever a session whose end takes too long.
func (c *Course) Look(l *Look) (o Orders) {
	if c.Ending() {
		c.lookAfterEnd(l, &o)
		return o
	}
	now := l.Now
	late := c.postpone(now) > 0
	idle, idleAt := c.policy.checkIdle(now, l.data())
	switch {
	case !idle && !late:
		c.graces = 0
	case idle && late:
		idle, idleAt = false, now+Grace
	case idle && c.graces < MostGraces && (l.Legs[frame.Client].Input || l.Legs[frame.Upstream].Input):
		c.graces++
		idle, idleAt = false, now+Lateness
	}
	expires, expiry := c.expires(l.Expiry)
	again := min(expires, c.lookForDrop(now, &o))
	moving := false
	var needs [2]Need
	for side := range c.legs {
		if c.Held() && frame.Side(side) == frame.Upstream {
			continue // there is none
		}
		f, care := &l.Legs[side], c.care(side)
		life := c.life(side, now, f, late, &o)
		moving = moving || o.Legs[side].Moves || life.unmeasured
		var at time.Duration
		needs[side], at = care.check(now, life)
		again = min(again, at)
		c.legs[side].noteAnswers(now, f, care)
	}
	if idle && moving { // what our kernel holds for a slow peer
		idle, idleAt = false, now+c.policy.Idle/2
	}
	c.lookAt(max(min(again, idleAt), now+time.Millisecond), &o)
	switch {
	case now >= expires:
		c.stop(now, expiry, nil, &o)
		return o
	case idle:
		c.stop(now, CauseIdle, nil, &o)
		return o
	}
	for side, need := range needs {
		switch need {
		case needEndSilent:
			c.lose(now, frame.Side(side), errSilent, &o)
		case needEndStuck:
			c.lose(now, frame.Side(side), errStuck, &o)
		case needEndReset:
			c.lose(now, frame.Side(side), ErrReset, &o)
		default:
			o.Legs[side].Need = need
		}
	}
	return o
}

func (c *Course) lookAfterEnd(l *Look, o *Orders) {
	e, now, timeout := c.end, l.Now, c.policy.Close
	if late := c.postpone(now); late > 0 {
		e.deadline = max(e.deadline, min(e.deadline+late, now+timeout), now+min(Grace, timeout))
		e.latest = max(e.latest+late, e.deadline)
		for side := range c.legs {
			c.legs[side].see(now, l.Legs[side].Acks) // start measuring what it accepts
		}
	}
	if now < e.deadline {
		for side := range c.legs {
			if c.legs[side].ackedAt < e.deadline-timeout {
				c.legs[side].see(now, l.Legs[side].Acks)
			}
		}
		o.Wake = true
		c.lookAt(min(e.deadline, now+resetGrace), o)
		return
	}
	if now < e.latest && (c.lingers(frame.Client, l) || c.lingers(frame.Upstream, l)) {
		e.deadline = min(now+timeout, e.latest)
		c.lookAt(e.deadline, o)
		return
	}
	if e.suspect != frame.Self {
		c.begin(causeLost[e.suspect], errLate)
	}
	c.sever(o)
}

// lingers reports whether a slow peer is still accepting what was sent to it
// before its end, and nothing more will be sent.
func (c *Course) lingers(side frame.Side, l *Look) bool {
	f, w := &l.Legs[side], &c.legs[side]
	takes := w.see(l.Now, f.Acks) && f.Acks.Queued > 0
	return takes && (f.Closed || c.legs[side.Other()].ended)
}

// late returns how late the session's timer fired, and whether that is a reason to
// postpone what it would end.
func (c *Course) late(now time.Duration) (by time.Duration, late bool) {
	by = now - c.due
	return by, by > Lateness && c.graces < MostGraces
}

// postpone returns how late the session's timer fired, if that is a reason to
// postpone what it would end; 0: it is not.
func (c *Course) postpone(now time.Duration) time.Duration {
	by, late := c.late(now)
	if !late {
		return 0
	}
	c.graces++
	return by
}

// data returns when the last data moved, in either direction. Data that the rate
// limit holds back counts as moving.
func (l *Look) data() time.Duration {
	client, upstream := &l.Legs[frame.Client], &l.Legs[frame.Upstream]
	if client.Slowed || upstream.Slowed {
		return l.Now
	}
	return max(client.Data, upstream.Data, client.Writing, upstream.Writing)
}

// expires returns when the session expires, and why.
func (c *Course) expires(x Expiry) (at time.Duration, cause *Cause) {
	at, cause = never, causeAge
	if age := c.policy.Age; age > 0 {
		at = c.pace.Of(age)
	}
	if x.Cause != nil && x.At < at {
		return x.At, x.Cause
	}
	return at, cause
}

// care returns the rules for a side.
func (c *Course) care(side int) care {
	p := c.policy.Pings[side]
	return care{ping: c.pace.Of(p.Interval), pong: p.Timeout, write: c.policy.Write}
}

// life returns what is known about the liveness of a side.
func (c *Course) life(side int, now time.Duration, f *Facts, late bool, o *Orders) life {
	w := &c.legs[side]
	l := life{
		heard:   f.Heard,
		pinged:  f.Pinged,
		writing: f.Writing,
		unread:  f.Unread,
		slowed:  f.Slowed,
		late:    late,
		reset:   f.Reset,
		answers: w.answers,
	}
	if !f.doubtful() {
		return l
	}
	if late && f.Writing >= 0 {
		// The peer may have accepted everything that our kernel had, and could have
		// accepted more. Measure what it accepts from now on.
		l.writing, o.Legs[side].Moves = now, true
	}
	l.input = f.unanswered() && f.Input
	at, a := w.ackedAt, f.Acks
	more := w.see(now, a)
	if !a.Known {
		l.present = true
		return l
	}
	// An acknowledgement of data before the Ping proves as much as one of the Ping
	// itself, which may wait because the peer's receive window is closed.
	l.present = a.Queued == 0 || a.Acked >= w.pingEnd || a.Age < now-f.Pinged-ackSlack
	if a.Acked >= w.pingEnd {
		l.behind = uint64(w.behind)
	}
	// A socket accepts more only when a large part of its buffer is free, which may
	// take minutes with a slow peer; a Ping waits behind all of it.
	since := l.heard
	if l.writing >= 0 {
		since = l.writing
	}
	// A peer tells in steps what it has taken.
	recently := now-at < min(c.policy.Idle/2, Grace)
	l.unmeasured = f.Writing >= 0 && a.Queued > 0 && (at < f.Writing || recently)
	if a.Queued == 0 || !more || at < since {
		return l
	}
	if l.writing >= 0 {
		l.writing, o.Legs[side].Moves = now, true
	}
	l.taking = a.Acked < w.pingEnd
	return l
}

// noteAnswers records whether the peer has had the time to answer a Ping and has
// answered none.
func (l *courseLeg) noteAnswers(now time.Duration, f *Facts, p care) {
	if l.ignored || f.Pings == 0 || l.answers {
		return
	}
	// While none was answered, the number of the last Ping is how many were sent.
	first := f.Pinged - time.Duration(f.Pings-1)*p.ping // or earlier
	l.ignored = now-first >= p.pong
}
