package relay

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file replaces the upstream of a session that has a [Stage]: see
// [protocol.Resume]. The goroutine of the upstream's pump does that: it ends with the
// old connection, waits in [Resumer.Resume], and goes on with the new one, which is a
// leg of its own, so that whatever was decided for the old leg cannot touch it. The
// client's pump notices in its next write.

// A Resumer finds another upstream for a session.
type Resumer interface {
	// Resume is called when the session has lost its upstream. It connects others
	// with [Session.Replace] until [Session.Resumed] makes the session go on, and
	// returns then, or when ended is closed, which means that the session has begun
	// to end, or if it gives up. An error is why the upstream counts as lost.
	Resume(ended <-chan struct{}) error
}

// resuming is the part of a session that can be resumed.
type resuming struct {
	resumer  Resumer
	patience time.Duration // the close timeout

	next  chan struct{} // guarded by the session's mu; closed by Resumed
	trial bool          // guarded by mu; the upstream is one of Replace, and Resumed was not called
	tried *leg          // guarded by mu; the last one of Replace, until Resumed; nil: none
	old   *leg          // guarded by mu; the last upstream, which may still have to close; nil: none
}

// held is how an upstream has left that may be replaced.
type held struct {
	answer frame.Code // that it is owed; 0: none
	close  []byte     // its Close frame; nil: it was lost
}

// Outlive has the session outlive its upstreams, with the help of r. It must be
// called before Join, which must get a stage.
func (s *Session) Outlive(r Resumer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rareLocked().resuming = &resuming{resumer: r, next: make(chan struct{})}
}

// resumingLocked returns the session's resuming; nil: it ends with its upstream.
// s.mu is held.
func (s *Session) resumingLocked() *resuming {
	if s.rare == nil {
		return nil
	}
	return s.rare.resuming
}

// policyLocked returns the policy of the session, if it may outlive its upstream.
func (s *Session) policyLocked(shared *protocol.Policy) *protocol.Policy {
	r := s.resumingLocked()
	if r == nil {
		return shared
	}
	r.patience = shared.Close
	if s.rare.hastened == nil {
		s.rare.hastened = make(chan struct{})
	}
	own := *shared
	own.Resume = new(protocol.Resume)
	return &own
}

// Move has the session leave its upstream for another one, because of c. It returns
// false, and does nothing, if the session cannot.
func (s *Session) Move(c *protocol.Cause) bool {
	s.mu.Lock()
	if s.finished {
		s.mu.Unlock()
		return true
	}
	o, ok := s.course.Move(s.now(), c)
	legs := s.noteLocked(&o)
	s.helpers++
	s.mu.Unlock()
	defer s.helped()
	s.carryOut(legs, &o)
	return ok
}

// Replace makes conn the session's upstream. The client's messages are still held
// back; the program's own are not. It must be called from Resume, and while the
// session has no upstream. The parameters are those of Join.
func (s *Session) Replace(conn net.Conn, early []byte, rsvMessage, rsvAny byte) {
	l := &leg{s: s, side: frame.Upstream, threadLeg: &threadLeg{conn: conn, to: &s.legs[frame.Client], throttle: s.pumps[frame.Upstream].from.throttle}}
	l.writing.Store(-1)
	l.initRaw(true)
	l.heard.Store(int64(s.now()))
	p := &s.pumps[frame.Upstream]
	s.mu.Lock()
	defer s.mu.Unlock()
	p.from = l
	p.mind.Restart(frame.Scanner{RSVMessage: rsvMessage, RSVAny: rsvAny})
	s.rare.inlets[frame.Upstream].reopen(early)
	s.rare.resuming.trial, s.rare.resuming.tried = true, l
}

// Withdraw closes what Replace has connected, if it has, and Resumed was not called.
func (s *Session) Withdraw() {
	s.mu.Lock()
	l, r := s.pairLocked()[frame.Upstream], s.rare.resuming
	trial := r.trial
	r.trial = false
	s.mu.Unlock()
	if !trial {
		return
	}
	if l.conn.SetWriteDeadline(time.Now().Add(lastWordTimeout)) != nil { // it might block forever
		l.abort()
	}
	l.silence(frame.AppendClose(nil, true, frame.GoingAway, ""))
	l.abort()
}

// Resumed makes the session go on with what Replace has connected. It returns false
// if the session has begun to end.
func (s *Session) Resumed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.course.Resumed(s.now())
	if !ok {
		return false
	}
	s.noteLocked(&o)
	r := s.rare.resuming
	r.trial, r.tried = false, nil
	close(r.next)
	r.next = make(chan struct{})
	return true
}

// silence has nothing more be written to the leg, after bye, and after what is being
// written now.
func (l *leg) silence(bye []byte) {
	if !l.state.tryLock() {
		l.acquire(nil)
	}
	if len(bye) > 0 {
		l.write(bye, l.s.now())
	}
	l.deaf = true
	l.release()
}

// hold notes how the upstream has left. close is its Close frame, if there was one.
func (p *pump) hold(o *protocol.Orders, close []byte) {
	in := p.inlet()
	in.hold = &held{answer: o.Legs[frame.Upstream].Close, close: slices.Clone(close)}
}

// replace replaces the upstream, which has left. It returns false if the session ends
// instead.
func (in *inlet) replace() bool {
	p, s, h := in.p, in.p.from.s, in.hold
	s.part(p.from, h)
	s.mu.Lock()
	r, ended := s.rare.resuming, s.rare.hastened
	s.mu.Unlock()
	err := r.resumer.Resume(ended)

	s.mu.Lock()
	if s.course.Held() {
		o := s.course.GiveUp(s.now(), err)
		s.noteLocked(&o)
		s.mu.Unlock()
		in.giveUp(&o, h.close)
		return false
	}
	s.mu.Unlock()
	return true
}

// giveUp ends a session that gets no other upstream.
func (in *inlet) giveUp(o *protocol.Orders, close []byte) {
	p := in.p
	p.from.s.Withdraw()
	p.mind.Ended = true
	if o.Verbatim {
		to := p.to()
		if !to.state.tryLock() {
			to.acquire(nil)
		}
		p.add(1, 0, to.write(close, to.s.now()))
		to.set(legClosed, true)
		to.release()
	}
	p.leave(o.Legs[frame.Client].Close)
}

// part ends with an upstream that has left. If it has sent a Close frame, it gets the
// answer, and the time to close the connection itself (RFC 6455, 7.1.1).
func (s *Session) part(l *leg, h *held) {
	if h.close == nil {
		l.abort()
		l.silence(nil)
		return
	}
	s.mu.Lock()
	r := s.rare.resuming
	older := r.old
	r.old = l
	s.mu.Unlock()
	if older != nil {
		older.abort()
	}
	// A write that is under way may be stuck.
	limit := time.AfterFunc(r.patience, l.abort)
	var bye []byte
	if h.answer != 0 {
		bye = frame.AppendClose(nil, true, h.answer, "")
	}
	l.silence(bye)
	s.help(func() { // the pump runs: finish comes later
		defer limit.Stop()
		defer s.guard()
		defer l.close()
		io.Copy(io.Discard, l.conn) // until the upstream closes, or the time is over
	})
}

// leaveOld closes the connection of an upstream that was replaced.
func (s *Session) leaveOld() {
	s.mu.Lock()
	var old *leg
	if r := s.resumingLocked(); r != nil {
		old = r.old
	}
	s.mu.Unlock()
	if old != nil {
		old.abort()
	}
}

// await waits until the session has another upstream than l. It returns nil if it
// begins to end instead, or cannot have another one.
func (in *inlet) await(l *leg) *leg {
	p, s := in.p, in.p.from.s
	if p.from.side != frame.Client {
		return nil
	}
	p.from.slowed.Store(true) // holding data back does not count as silence
	defer p.from.slowed.Store(false)
	timer := time.NewTimer(awaitLook)
	defer timer.Stop()
	for {
		s.mu.Lock()
		if !s.course.Resumes() {
			s.mu.Unlock()
			return nil
		}
		now, held := s.pairLocked()[frame.Upstream], s.course.Held()
		next, ended := s.rare.resuming.next, s.rare.hastened
		s.mu.Unlock()
		if now != l && !held {
			p.data.Store(int64(s.now()))
			return now
		}
		select {
		case <-next:
		case <-ended:
			return nil
		case <-timer.C:
			if fin, reset := hungUp(p.from.conn); fin || reset {
				s.lose(p.from, io.EOF)
			}
			timer.Reset(awaitLook)
		}
	}
}

// torn is called when l has received a part of a message only. If the upstream could
// be replaced, it no longer can, unless it was only tried: what that has received was
// not the client's, and the next one gets its own.
func (s *Session) torn(l *leg) {
	s.mu.Lock()
	if l.side != frame.Upstream || !s.course.Resumes() || s.rare.resuming.tried == l {
		s.mu.Unlock()
		return
	}
	o := s.course.Torn(s.now(), io.ErrShortWrite)
	legs := s.noteLocked(&o)
	s.mu.Unlock()
	s.carryOut(legs, &o)
}

// reaches reports whether a control frame from the pump's side can go on. While the
// session has no upstream, or is about to leave it, the client's cannot.
func (in *inlet) reaches() bool {
	p, s := in.p, in.p.from.s
	s.mu.Lock()
	p.turnLocked()
	held, resumes := s.course.Held(), s.course.Resumes()
	s.mu.Unlock()
	switch {
	case p.from.side != frame.Client:
		return true
	case held || !resumes:
		return !held
	}
	return !p.to().silenced()
}

// silenced reports that nothing more may be written to the leg.
func (l *leg) silenced() bool {
	if !l.state.tryLock() {
		l.acquire(nil)
	}
	defer l.release()
	return l.mute()
}

// answer answers a Ping of the client's in place of the upstream that is missing:
// otherwise the client might give up the connection. It drops a Pong.
func (in *inlet) answer(control []byte, now time.Duration) {
	if control[0]&0x0F != frame.OpPing {
		return
	}
	const header = 2 + 4 // with a masking key
	body := make([]byte, len(control)-header)
	frame.Unmask(body, control[header:], binary.LittleEndian.Uint32(control[2:header]))
	from := in.p.from
	if !from.state.tryLock() {
		from.acquire(nil)
	}
	from.write(frame.AppendControl(nil, frame.OpPong, false, body), now)
	from.release()
}

// reopen makes the inlet ready for another connection, after which early was
// received.
func (in *inlet) reopen(early []byte) {
	in.err, in.hold, in.large, in.left, in.walked, in.whole = nil, nil, false, early, nil, false
	in.p.back = nil
	in.limit()
}

// missingLocked returns what is closed when a side has another connection than last,
// which nothing more can be written to, or nil if the side need not be waited for.
// s.mu is held.
func (s *Session) missingLocked(side frame.Side, last *leg) <-chan struct{} {
	r := s.resumingLocked()
	if r == nil || side != frame.Upstream || r.trial || !s.course.Resumes() || !s.course.Held() && s.pairLocked()[side] != last {
		return nil
	}
	return r.next
}

// awaitLook is how often a pump that does not read looks whether its peer has left.
const awaitLook = time.Second
