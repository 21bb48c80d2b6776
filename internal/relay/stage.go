package relay

import (
	"io"
	"math"
	"sync"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// This file relays whole messages: those of a session with a [Stage] go through it
// instead of straight from one connection to the other. Everything else is as in
// any session: control frames do not pass through the stage, and the session's
// course decides about its end.

// A Stage takes the messages of a session apart and makes new ones. Its methods
// are called by the two directions at the same time, but only once at a time for
// each of them.
type Stage interface {
	// Take takes the next message from a side. It reads the data frames of which
	// the message consists from in, up to io.EOF. Any other error means that the
	// message will not be complete, and why is known: Take then gives up.
	//
	// send reports that there is a message to be sent on. If cause is set, the
	// session ends with it, because of err; nothing more is taken from that side.
	// Take may block: meanwhile nothing is read from the side.
	Take(from frame.Side, in io.Reader) (send bool, cause *protocol.Cause, err error)

	// Encode appends the message that was taken last from a side to b, as frames
	// for the other side. No other frame is written to that side until these are.
	Encode(from frame.Side, b []byte) ([]byte, error)

	// Done is called when a message that Take wanted sent is done with.
	Done(from frame.Side)

	// Append appends a message of the program's own to b, as frames for a side. No
	// other frame is written to that side until these are.
	Append(to frame.Side, op byte, data, b []byte) ([]byte, error)

	// End is called when a connection is closed, and possibly again. A Take that
	// blocks is to return.
	End()
}

// An inlet is where the messages of one side enter the stage: the part of a pump
// that only sessions with a stage have. It is owned by the pump's goroutine.
type inlet struct {
	p      *pump
	stage  Stage
	limits protocol.Limits
	err    error // why nothing more can be read
	hold   *held // the side is an upstream that is to be replaced

	raw    rawRead
	c      *chunk // nil: at rest
	large  bool   // the next read is into c, not into rest
	left   []byte // received, and not examined yet
	walked []byte // examined, and not read by the stage yet: bytes of the current message
	whole  bool   // the current message ends with walked
	rest   [restSize]byte
}

// open sets up the inlet of a pump that is complete otherwise.
func (in *inlet) open(p *pump, stage Stage) {
	in.p, in.stage = p, stage
	in.limit()
	in.left, p.back = p.held(), nil
}

// limit sets the limits of the pump's direction.
func (in *inlet) limit() {
	in.limits = *in.p.limits()
	in.limits.Apart = true
	if in.limits.Message > 0 && in.p.mind.Scan.RSVMessage != 0 {
		// The stage limits what the messages unpack to. Packed, one may be somewhat
		// larger; but it must not be endless, either.
		in.limits.Message += min(in.limits.Message, 1<<60) + 1024
		in.limits.Message = min(in.limits.Message, math.MaxInt) // the stage adds lengths up in an int
	}
}

// inlet returns the pump's inlet, or nil if the session has no stage.
//
//go:noinline
func (p *pump) inlet() *inlet { return p.from.s.inlet(p.from.side) }

// inlet returns the inlet of a side, or nil if the session has no stage.
func (s *Session) inlet(side frame.Side) *inlet {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rare == nil || s.rare.inlets == nil {
		return nil
	}
	return &s.rare.inlets[side]
}

// endStage tells the stage, if there is one, that a connection is closed, unless it
// is replaced.
func (s *Session) endStage() {
	s.mu.Lock()
	var in *[2]inlet
	if s.rare != nil && !s.course.Resumes() {
		in = s.rare.inlets
	}
	s.mu.Unlock()
	if in != nil {
		in[0].stage.End()
	}
}

// live relays the pump's side to its end, and that of every upstream that follows.
func (in *inlet) live() {
	for {
		err := in.run()
		if in.hold == nil {
			in.p.lose(err)
		}
		if in.hold == nil || !in.replace() {
			return
		}
	}
}

// run relays the pump's side to its end. Between messages the goroutine waits with a
// shallow stack and without a chunk.
func (in *inlet) run() error {
	for in.fill() {
		for in.walk() {
			in.pass()
		}
	}
	if in.c != nil {
		chunks.Put(in.c)
		in.c = nil
	}
	return in.err
}

// fill waits for bytes, unless some are left. It returns false if there will not be
// any.
func (in *inlet) fill() bool {
	p := in.p
	if len(in.left) == 0 {
		if in.err != nil || in.hold != nil {
			return false
		}
		buf := in.rest[:]
		if in.large {
			buf = in.c.b[:]
		} else if in.c != nil {
			chunks.Put(in.c)
			in.c = nil
		}
		n := copy(buf, p.held())
		m := 0
		if m, in.err = in.raw.read(p.from, buf[n:]); m == 0 {
			return in.err == nil
		}
		p.from.heard.Store(int64(p.from.s.now()))
		p.dropHeld()
		in.left = buf[:n+m]
		in.large = n+m == len(buf) || in.large && n+m > restSize
	}
	if in.c == nil {
		in.c = chunks.Get().(*chunk)
	}
	return true
}

// walk examines what was received up to the next bytes of a message, and puts
// these into walked. It returns false if it needs more bytes, or if the direction
// has ended. It forwards the control frames.
func (in *inlet) walk() bool {
	p := in.p
	for len(in.left) > 0 {
		if p.mind.Ended {
			p.from.set(legTalks, true)
			in.left = nil // RFC 6455, 5.5.1: nothing counts after a Close
			break
		}
		b, size := in.left, len(in.left)
		if p.throttle() != nil && !p.slowDown(p.from.s.now()) {
			in.left = nil
			break
		}
		now := p.from.s.now()
		quota := protocol.Quota{}
		if t := p.throttle(); t != nil {
			quota, size = t.Allows(now, size)
		}
		p.dropHeld()
		p.look(in.c, b[:size], &in.limits, quota, now)
		v := &in.c.verdict
		in.left = b[size-v.Rest-v.Hold:]
		if v.Rest == 0 && size == len(b) {
			in.left = nil // what is held back is in p.held()
		}
		switch {
		case p.mind.Ended:
			in.left = nil
			if v.Final.Broken != nil { // the start of a message whose rest is invalid
				v.N, v.Frames = 0, 0
			}
			p.passFinal(in.c, b[:size], now)
		case v.Control && !in.reaches():
			in.answer(b[:v.N], now)
		case v.Control:
			p.forward(in.c, b[:v.N], false, now)
		case v.N > 0:
			in.walked, in.whole = b[:v.N], v.Messages > 0
			return true
		}
	}
	return false
}

// pass passes a message through the stage, whose first bytes are in walked.
func (in *inlet) pass() {
	p, side := in.p, in.p.from.side
	p.from.set(legWaits, true) // the proxy causes the peer's silence
	send, cause, err := in.stage.Take(side, in)
	in.walked = nil
	switch {
	case cause != nil:
		in.refuse(cause, err)
	case send:
		in.emit()
		in.stage.Done(side)
	}
	p.from.set(legWaits, false)
}

// Read returns bytes of the current message. It returns io.EOF at the message's end,
// and io.ErrUnexpectedEOF if the direction ends before it.
func (in *inlet) Read(b []byte) (int, error) {
	for len(in.walked) == 0 {
		if in.whole {
			return 0, io.EOF
		}
		found := in.walk()
		in.p.from.set(legWaits, true) // still; forwarding a control frame has cleared it
		if found {
			break
		}
		in.p.from.set(legWaits, false)
		more := !in.p.mind.Ended && in.fill()
		in.p.from.set(legWaits, true)
		if !more {
			return 0, io.ErrUnexpectedEOF
		}
	}
	n := copy(b, in.walked)
	in.walked = in.walked[n:]
	return n, nil
}

// refuse ends the direction, and with it the session, because of its last message.
func (in *inlet) refuse(cause *protocol.Cause, err error) {
	p, s, side := in.p, in.p.from.s, in.p.from.side
	p.mind.Ended, in.left = true, nil
	s.mu.Lock()
	p.turnLocked()
	o := s.course.Refused(s.now(), side, cause, err)
	s.noteLocked(&o)
	s.mu.Unlock()
	p.from.injectInPassing(uint32(o.Legs[side].Close)) // the pump runs: finish comes later
	p.leave(o.Legs[p.to().side].Close)
}

// emitted holds buffers for the frames of messages.
var emitted = sync.Pool{New: func() any { return new([]byte) }}

// mostEmitted is the largest buffer that is used again.
const mostEmitted = 4 << 20

// emit writes the stage's message to the opposite leg. If nothing more may be
// written there, the message waits for another upstream, or it is dropped, as in any
// session.
func (in *inlet) emit() {
	p, to := in.p, in.p.to()
	buf := emitted.Get().(*[]byte)
	b, n := *buf, 0
	var err error
	for again := true; again; {
		if !to.state.tryLock() {
			to.acquire(nil)
		}
		p.from.owns = true
		if to.mute() {
			to.release()
			p.from.owns = false
			if to = in.await(to); to == nil {
				break
			}
			p.from.to = to
			continue
		}
		b, err = in.stage.Encode(p.from.side, b[:0])
		now := to.s.now()
		p.data.Store(int64(now)) // the stage may have held it back
		n = to.write(b, now)
		again = n == 0 && err == nil
		if err == nil && n == len(b) {
			p.add(1, 1, n)
		} else {
			p.add(0, 0, n)
		}
		to.release()
		p.from.owns = false
		if n > 0 && n < len(b) {
			p.from.s.torn(to)
		}
	}
	if *buf = b; cap(b) <= mostEmitted {
		emitted.Put(buf)
	}
	if err != nil {
		in.refuse(protocol.CausePanic, err)
	}
}
