package relay

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// A pump relays one direction. It is owned by its goroutine.
type pump struct {
	from  *leg
	mind  protocol.Direction
	back  *[]byte      // see held; nil: nothing was held back so far
	count tally        // only the pump changes it
	data  atomic.Int64 // when bytes of a data frame last passed
}

// to returns the leg that the pump writes to.
func (p *pump) to() *leg {
	if t := p.from.threadLeg; t != nil {
		return t.to
	}
	return &p.from.s.legs[p.from.side^1]
}

// turnLocked has the pump write to the leg that the opposite side has now. s.mu is
// held.
func (p *pump) turnLocked() {
	if t := p.from.threadLeg; t != nil {
		t.to = p.from.s.pairLocked()[p.from.side^1]
	}
}

// throttle returns the rate limit of what the pump reads, or nil if there is none.
func (p *pump) throttle() *protocol.Throttle {
	if t := p.from.threadLeg; t != nil {
		return t.throttle
	}
	return nil // the event driver has no session with a limit
}

// limits returns the limits of what the pump reads. A stage has its own.
func (p *pump) limits() *protocol.Limits { return &p.from.s.shared.Limits[p.from.side] }

// held returns the bytes that the last walk has held back; at first, what was
// received after the handshake.
func (p *pump) held() []byte {
	if p.back == nil {
		return nil
	}
	return *p.back
}

// holdBack holds bytes back, after those that already are.
func (p *pump) holdBack(b []byte) {
	if len(b) == 0 {
		return
	}
	if p.back == nil {
		p.back = new([]byte)
	}
	*p.back = append(*p.back, b...)
}

// dropHeld drops the bytes that were held back.
func (p *pump) dropHeld() {
	if p.back != nil {
		*p.back = (*p.back)[:0]
	}
}

// add counts what was written to the opposite leg. The totals come first:
// whoever sees a session's count finds it in them.
func (p *pump) add(frames, messages, bytes int) {
	p.total().add(frames, messages, bytes)
	p.count.add(frames, messages, bytes)
}

// total returns the tally of all sessions that the pump adds to.
func (p *pump) total() *tally {
	s := p.from.s
	return &s.shared.Totals[s.cell][p.from.side].tally
}

// run reads the pump's side to its end.
//
// The goroutine's stack is most of the cost of an idle session. It keeps the
// smallest size, 2 KiB, as long as no call from here to a read or a write needs
// more: so there are few stack frames between, and no large ones.
func (p *pump) run() {
	defer p.stop()
	if in := p.inlet(); in != nil {
		in.live()
		return
	}
	if len(p.held()) > 0 {
		p.passEarly()
	}
	p.lose(p.receive())
}

// passEarly relays what was received after the handshake.
//
//go:noinline
func (p *pump) passEarly() {
	early := p.held()
	p.back = nil
	c := chunks.Get().(*chunk)
	p.pass(c, early)
	chunks.Put(c)
}

// lose is called when nothing more can be read.
func (p *pump) lose(err error) {
	s, side := p.from.s, p.from.side
	p.mind.Ended = true
	s.mu.Lock()
	p.turnLocked()
	o := s.course.Left(s.now(), side, err, errors.Is(err, io.EOF))
	s.noteLocked(&o)
	s.mu.Unlock()
	if o.Hold {
		p.hold(&o, nil)
		return
	}
	if o.Legs[side].Abort {
		p.from.abort()
	}
	p.leave(o.Legs[p.to().side].Close)
}

// stop ends the pump. It must be deferred. The last pump to stop ends the session.
func (p *pump) stop() {
	defer func() {
		if p.from.s.rare.running.Add(-1) == 0 {
			p.from.s.finish()
		}
	}()
	if v := recover(); v != nil {
		p.from.reading.Store(false) // the panic left the callback
		if p.from.owns {            // who waits for the lock must not wait forever
			p.from.owns, p.to().deaf = false, true
			p.to().unlock()
		}
		p.from.s.panicked(v)
	}
}

// chunkSize is the size of a read while bytes keep arriving. A chunk as a whole
// takes 32 KiB.
const chunkSize = 32<<10 - 256

// A chunk is the buffer of a pump while bytes pass: what one read returned, and
// what to do with it. The verdict is here to keep stacks small.
type chunk struct {
	verdict protocol.Verdict
	raw     rawChunk
	b       [chunkSize]byte
}

var chunks = sync.Pool{New: func() any { return new(chunk) }}

// restSize is the size of the buffer in which a leg waits that cannot report
// readiness (TLS, or a custom connection).
const restSize = 512

// receivePlain reads with the connection's own Read.
func (p *pump) receivePlain() error {
	rest := make([]byte, restSize)
	buf := rest
	var c *chunk // nil: at rest
	defer func() {
		if c != nil {
			chunks.Put(c)
		}
	}()
	for {
		n := copy(buf, p.held())
		m, err := p.from.conn.Read(buf[n:])
		if m > 0 {
			p.dropHeld()
			if c == nil {
				c = chunks.Get().(*chunk)
			}
			p.pass(c, buf[:n+m])
		}
		if err != nil {
			return err
		}
		switch {
		case n+m == len(buf):
			buf = c.b[:]
		case c != nil && n+m <= restSize:
			chunks.Put(c)
			c, buf = nil, rest
		}
	}
}

// pass relays the bytes of one chunk: what was held back last time, then new
// ones. b may be another buffer than c's own.
func (p *pump) pass(c *chunk, b []byte) {
	if n, now := p.take(c, b); n > 0 {
		p.forward(c, b[:n], false, now)
	}
}

// take does what pass does except for the last step: it returns the number of bytes
// to forward. A caller that forwards them itself needs less stack.
//
//go:noinline
func (p *pump) take(c *chunk, b []byte) (n int, now time.Duration) {
	now = p.from.s.now()
	p.from.heard.Store(int64(now))
	if p.mind.Ended {
		p.from.set(legTalks, true)
		return 0, now // RFC 6455, 5.5.1: nothing counts after a Close
	}
	if p.throttle() != nil {
		p.passSlowly(c, b, now)
		return 0, now
	}
	p.look(c, b, p.limits(), protocol.Quota{}, now)
	if p.mind.Ended {
		p.passFinal(c, b, now)
		return 0, now
	}
	return c.verdict.N, now
}

// passSlowly is pass under a rate limit: it forwards piece by piece, each as large
// as the limit allows, and waits in between.
//
//go:noinline
func (p *pump) passSlowly(c *chunk, b []byte, now time.Duration) {
	v := &c.verdict
	for {
		size := len(b)
		quota := protocol.Quota{}
		if t := p.throttle(); t != nil {
			quota, size = t.Allows(now, size)
		}
		p.dropHeld()
		p.look(c, b[:size], p.limits(), quota, now)
		left := len(b) - size + v.Rest
		if p.mind.Ended {
			p.passFinal(c, b[:size], now)
			return
		}
		if v.N > 0 {
			p.forward(c, b[:v.N], false, now)
		}
		if p.throttle() != nil {
			if !p.slowDown(p.from.s.now()) {
				return
			}
			now = p.from.s.now()
		}
		if left == 0 {
			return
		}
		b = b[len(b)-left-v.Hold:]
	}
}

// slowDown waits until the rate limit allows more. Nothing is read in the
// meantime, so the peer is slowed down, too. Once the session has begun to end, it
// is no longer slowed down, unless the peer has left or no longer accepts data,
// which would be a way around the limit. What the peer sent until then is relayed
// for at most the close timeout; what it sent before a reset is dropped. slowDown
// returns false if nothing more is to be forwarded.
//
//go:noinline
func (p *pump) slowDown(now time.Duration) bool {
	wait := p.throttle().Wait(now)
	if wait == 0 {
		return true
	}
	s, until := p.from.s, now+wait
	p.from.set(legWaits, true) // not for bytes: the proxy causes the peer's silence
	p.from.slowed.Store(true)
	timer := time.NewTimer(0)
	defer timer.Stop()
	hastened := s.rare.hastened // does not change
	for ; now < until && !p.mind.Ended; now = s.now() {
		fin, reset := hungUp(p.from.conn)
		switch {
		case p.from.is(legShut): // by us
			p.mind.Ended = true
			continue
		case reset:
			p.mind.Ended = true
			s.lose(p.from, protocol.ErrReset)
			continue
		}
		s.mu.Lock()
		again, free, o := s.course.Slowed(now, p.from.side, fin)
		s.noteLocked(&o)
		s.mu.Unlock()
		switch {
		case free:
			p.from.throttle, until = nil, now
			continue
		case again <= now:
			p.mind.Ended = true
			continue
		}
		timer.Reset(min(until, again) - now)
		select {
		case <-timer.C:
		case <-hastened:
			hastened = nil
		}
	}
	p.from.slowed.Store(false)
	p.from.set(legWaits, false)
	p.data.Store(int64(s.now())) // holding data back does not count as silence
	return !p.mind.Ended
}

// look examines a chunk with walk. It is a function of its own so that its stack is
// free again when the chunk is written.
//
//go:noinline
func (p *pump) look(c *chunk, b []byte, limits *protocol.Limits, quota protocol.Quota, now time.Duration) {
	v := &c.verdict
	p.mind.Walk(b, limits, quota, v)
	if v.Data {
		p.data.Store(int64(now))
	}
	p.holdBack(b[len(b)-v.Hold:])
	frames := v.Frames + v.Absorbed
	if v.Pong != 0 && p.from.answered(v.Pong, now) {
		frames-- // the peer had to send it
	}
	if v.Pings > 0 {
		p.total().pings.Add(uint64(v.Pings))
		p.count.pings.Add(uint64(v.Pings))
	}
	if v.Largest > p.count.largest.Load() {
		p.total().announce(v.Largest)
		p.count.largest.Store(v.Largest)
	}
	if t := p.throttle(); t != nil && !t.Take(now, v.Messages, frames, len(b)-v.Hold-v.Rest) {
		p.mind.Ended, v.N, v.Final.Broken = true, 0, protocol.ErrTooFast
	}
}

// passFinal relays the last chunk of the direction, with the Close that ended
// it if that is to be forwarded.
func (p *pump) passFinal(c *chunk, b []byte, now time.Duration) {
	s, side, v, final := p.from.s, p.from.side, &c.verdict, &c.verdict.Final
	var o protocol.Orders
	s.mu.Lock()
	p.turnLocked()
	if final.Broken == nil {
		o = s.course.Closed(s.now(), side, final.Code)
	} else {
		o = s.course.Broke(s.now(), side, final.Broken)
	}
	s.noteLocked(&o)
	s.mu.Unlock()
	if o.Hold {
		p.hold(&o, b[v.N:v.N+final.Size])
		return
	}
	if o.Verbatim {
		v.N += final.Size
		v.Frames++
	}
	if v.N > 0 {
		p.forward(c, b[:v.N], o.Verbatim, now)
	}
	p.leave(o.Legs[p.to().side].Close)
}

// forward writes the forwarded part of a chunk to the opposite leg, under its
// lock. closes means that the part ends with a Close frame.
func (p *pump) forward(c *chunk, b []byte, closes bool, now time.Duration) {
	to, v := p.to(), &c.verdict
	p.from.set(legWaits, true)
	if !p.from.owns {
		if !to.state.tryLock() { // an injected frame is being written
			to.acquire(nil)
			now = to.s.now()
		}
		p.from.owns = true
	}
	if to.pending.Load() != 0 && !closes {
		b = p.interrupt(v, b, now)
	}
	p.wrote(v, b, to.write(b, now))
	if closes {
		to.sentClose()
	}
	if p.mind.Left == 0 || to.mute() {
		p.from.owns, to.inMessage = false, p.mind.Scan.InMessage
		to.release()
	}
	p.from.set(legWaits, false)
}

// interrupt writes b up to a boundary in it, if there is one, and then the frames
// that wait for one: in a busy stream of long frames, a chunk seldom ends at a
// boundary. The boundary is that of the last frame, or, for a message of the
// program's own, that of the last message.
func (p *pump) interrupt(v *protocol.Verdict, b []byte, now time.Duration) (rest []byte) {
	to := p.to()
	switch at := v.Between; {
	case at > 0 && at < len(b) && to.pending.Load()&additions != 0:
		n := to.write(b[:at], now)
		p.add(0, 0, n) // the frames count with the rest
		to.owe(0, 0, at-n)
		to.inMessage = false
		to.writePending()
		return b[at:]
	case v.Edge >= 0 && v.Edge < len(b):
		at = v.Edge
		p.wrote(v, b[:at], to.write(b[:at], now))
		to.inMessage = p.mind.Continues(b[at])
		to.writePending()
		v.Frames, v.Messages = 0, 0
		return b[at:]
	}
	return b
}

// wrote counts n bytes of b as written; if that is all of b, its frames as
// well.
func (p *pump) wrote(v *protocol.Verdict, b []byte, n int) {
	if n == len(b) {
		p.add(v.Frames, v.Messages, n)
	} else {
		p.add(0, 0, n)
		p.to().owe(v.Frames, v.Messages, len(b)-n)
	}
}

// leave is called when nothing more will be forwarded. It sends the Close that
// is owed to the opposite leg, if any.
func (p *pump) leave(tell frame.Code) {
	cut := p.from.owns && p.mind.Left > 0 && !p.to().mute() // otherwise it is at a boundary; see pump.mayWrite
	if cut {
		p.to().cutShort()
	}
	if p.from.owns {
		p.from.owns = false
		p.to().release()
	}
	if !cut && tell != 0 {
		p.to().inject(uint32(tell))
	}
	p.from.s.settle()
}
