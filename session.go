package wsproxy

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// This file moves bytes: what to do with them it asks the mind in relay.go,
// and when to ping or give up it asks the policy in keepalive.go.

// A session joins two legs from the 101 until both are closed.
//
// Two goroutines carry it, one a direction, and one timer. Each direction
// writes to the leg across; Pings, and Closes that lie with the proxy, are
// injected by whoever has cause to.
type session struct {
	// Set when made.
	began        time.Time
	policy       policy
	closeTimeout time.Duration
	over         func() // called at the end
	legs         [2]leg
	pumps        [2]pump // by the side they read from

	running atomic.Int32 // pumps

	mu       sync.Mutex
	ending   ending         // guarded by mu
	deadline time.Duration  // guarded by mu; when all is cut, 0 before the end begins
	suspect  Side           // guarded by mu; who is blamed if the deadline finds no cause
	timer    *time.Timer    // guarded by mu
	finished bool           // guarded by mu
	helpers  sync.WaitGroup // ticks, and injections that may have to wait
}

// A leg is one side's connection, and what is needed to write whole frames
// to it.
type leg struct {
	// Set when made.
	s    *session
	side Side
	conn net.Conn
	raw  rawLeg
	tag  [8]byte

	// lock is held while bytes are written to the leg, and from there until
	// the frame they belong to is complete. It is a channel so that a wait
	// for it counts as one where time is simulated.
	lock   chan struct{}
	number uint32 // guarded by lock; of the last Ping
	deaf   bool   // guarded by lock; a write failed: nothing more is written

	pending atomic.Uint32 // frames to inject at the next boundary: a Close code, pingPending
	closed  atomic.Bool   // a Close frame was written: nothing may follow it
	shut    atomic.Bool   // conn is to be closed, or is
	reading atomic.Bool   // its reader is inside a callback of raw.conn
	hangUp  sync.Once     // for closing conn
	heard   atomic.Int64  // see life
	pinged  atomic.Int64
	writing atomic.Int64
}

const pingPending = 1 << 16 // a bit above every close code

// A pump carries one direction. It belongs to its goroutine.
type pump struct {
	s        *session
	from, to *leg
	mind     direction
	early    []byte // what had come behind the handshake
	held     []byte // what the mind holds back
	owns     bool   // the frame under way is part-written: to's lock is held
	raw      rawPump
	data     atomic.Int64 // when a data frame's bytes last passed
	waits    atomic.Bool  // for the leg across, rather than for bytes
}

// newSession joins the connections of two finished handshakes. scans has what
// each side's frames must look like; early, what came behind its handshake.
func newSession(conns [2]net.Conn, early [2][]byte, rsvMessage, rsvAny byte, pol policy, closeTimeout time.Duration) *session {
	s := &session{began: time.Now(), policy: pol, closeTimeout: closeTimeout}
	for side := range s.legs {
		l := &s.legs[side]
		l.s, l.side, l.conn = s, Side(side), conns[side]
		l.lock = make(chan struct{}, 1)
		rand.Read(l.tag[:])
		l.writing.Store(-1)
		l.initRaw()

		p := &s.pumps[side]
		p.s, p.from, p.to = s, l, &s.legs[side^1]
		p.mind = direction{tag: l.tag, scan: scanner{masked: Side(side) == Client, rsvMessage: rsvMessage, rsvAny: rsvAny}}
		p.early = early[side]
	}
	return s
}

// run carries the session to its end. Both connections are closed then, and
// nothing of it still runs.
func (s *session) run() {
	done := make(chan struct{})
	s.start(func() { close(done) })
	s.pumps[Upstream].run()
	<-done
}

// detach carries the session in goroutines of its own, and calls over when
// it is.
func (s *session) detach(over func()) {
	s.start(over)
	go s.pumps[Upstream].run()
}

func (s *session) start(over func()) {
	s.over = over
	s.running.Store(2)
	s.mu.Lock()
	s.timer = time.AfterFunc(s.firstTick(), s.tick)
	if s.deadline != 0 {
		s.timer.Reset(s.deadline)
	}
	s.mu.Unlock()
	go s.pumps[Client].run()
}

// finish is called when both pumps have stopped.
func (s *session) finish() {
	s.mu.Lock()
	s.finished = true
	s.timer.Stop()
	s.mu.Unlock()
	s.legs[Client].close()
	s.legs[Upstream].close()
	s.helpers.Wait() // after the closing: one may be stuck in writing
	s.over()
}

// now is the time that the session's clocks show: monotonic, from 0.
func (s *session) now() time.Duration { return time.Since(s.began) }

// run reads the pump's side to its end.
//
// The goroutine's stack is most of what an idle session costs. It stays at
// the smallest size, 2 KiB, as long as no call on the way from here to a
// read or a write needs more: hence no frames between, and no big ones.
func (p *pump) run() {
	defer p.stop()
	if early := p.early; len(early) > 0 {
		p.early = nil
		p.pass(early)
	}
	err := p.receive()
	s, side := p.s, p.from.side
	s.mu.Lock()
	s.ending.over[side] = true
	var tell websocket.StatusCode
	if !s.ending.ended[side] {
		p.mind.ended = true
		tell = s.ending.endFrom(side, causeLost[side], err)
	}
	s.hasten(side)
	s.mu.Unlock()
	if !errors.Is(err, io.EOF) {
		p.from.abort()
	}
	p.leave(tell)
}

// stop, deferred, ends the pump. The last one to stop ends the session.
func (p *pump) stop() {
	if v := recover(); v != nil {
		p.s.panicked(v)
	}
	if p.s.running.Add(-1) == 0 {
		p.s.finish()
	}
}

// guard, deferred, turns a panic (a connection may be of the user's own
// making) into the end of this one session.
func (s *session) guard() {
	if v := recover(); v != nil {
		s.panicked(v)
	}
}

func (s *session) panicked(v any) {
	s.mu.Lock()
	s.ending.begin(causePanic, panicError(v))
	s.sever()
}

func panicError(v any) error { return fmt.Errorf("panic: %v\n%s", v, debug.Stack()) }

// chunkSize is how much is read at once while bytes keep coming.
const chunkSize = 32 << 10

var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// restSize is the size of the buffer that a leg which can't report readiness
// (TLS, or a connection of the user's own) waits in.
const restSize = 512

// receivePlain reads through the connection's own Read.
func (p *pump) receivePlain() error {
	rest := make([]byte, restSize)
	buf := rest
	var burst *[chunkSize]byte
	defer func() {
		if burst != nil {
			chunks.Put(burst)
		}
	}()
	for {
		n := copy(buf, p.held)
		m, err := p.from.conn.Read(buf[n:])
		if m > 0 {
			p.held = p.held[:0]
			p.pass(buf[:n+m])
		}
		if err != nil {
			return err
		}
		switch {
		case burst == nil && n+m == len(buf):
			burst = chunks.Get().(*[chunkSize]byte)
			buf = burst[:]
		case burst != nil && n+m <= restSize:
			chunks.Put(burst)
			burst, buf = nil, rest
		}
	}
}

// pass relays one chunk: what was held back last time, then new bytes.
func (p *pump) pass(b []byte) {
	now := p.s.now()
	p.from.heard.Store(int64(now))
	if p.mind.ended {
		return // RFC 6455, 5.5.1: nothing counts after a Close
	}
	v := p.mind.walk(b)
	if v.data {
		p.data.Store(int64(now))
	}
	switch {
	case p.mind.ended:
		p.passFinal(b, v, now)
		return
	case v.hold > 0:
		p.held = append(p.held, b[len(b)-v.hold:]...)
	}
	if v.n > 0 {
		p.forward(b[:v.n], v.edge, false, now)
	}
}

// passFinal relays the direction's last chunk: with the Close that it ended
// with, if that is to go on.
func (p *pump) passFinal(b []byte, v verdict, now time.Duration) {
	s, side, final := p.s, p.from.side, &p.mind.final
	var verbatim bool
	var tell websocket.StatusCode
	s.mu.Lock()
	if final.broken == nil {
		verbatim, tell = s.ending.closeFrom(side, final.code)
	} else {
		tell = s.ending.endFrom(side, causeProtocol[side], final.broken)
	}
	s.hasten(side)
	s.mu.Unlock()
	if verbatim {
		p.mind.passClose()
		v.n += final.size
	}
	if v.n > 0 {
		p.forward(b[:v.n], v.edge, verbatim, now)
	}
	p.leave(tell)
}

// forward writes b to the leg across, under its lock. edge is the last frame
// boundary in b, -1 where there is none; closes says that b ends with a
// Close frame.
func (p *pump) forward(b []byte, edge int, closes bool, now time.Duration) {
	to := p.to
	p.waits.Store(true)
	if !p.owns {
		select {
		case to.lock <- struct{}{}:
		default: // an injected frame is being written
			to.lock <- struct{}{}
			now = p.s.now()
		}
		p.owns = true
	}
	if to.pending.Load() != 0 && edge >= 0 && edge < len(b) {
		// Somebody waits for a boundary, and in a busy stream of long
		// frames a chunk's end seldom is one.
		to.write(b[:edge], now)
		to.writePending()
		b = b[edge:]
	}
	to.write(b, now)
	if closes {
		to.closed.Store(true)
	}
	if p.mind.left == 0 || to.mute() {
		p.owns = false
		to.release()
	}
	p.waits.Store(false)
}

// leave is called when nothing more will be passed on: it sends the Close
// that the leg across is owed, if any.
func (p *pump) leave(tell websocket.StatusCode) {
	switch {
	case p.owns:
		// A frame is part-written and its rest won't come: no Close is
		// possible there (RFC 6455, 5.4).
		p.to.abort()
	case tell != 0:
		p.to.inject(uint32(tell))
	}
	p.s.settle()
}

// hasten sets the deadline of an end that has begun, and whom to blame should
// no better cause come up. s.mu is held.
func (s *session) hasten(side Side) {
	if s.deadline != 0 {
		return
	}
	s.suspect = side
	s.deadline = s.now() + s.closeTimeout
	if s.timer != nil {
		s.timer.Reset(s.closeTimeout)
	}
}

// settle closes each connection that is done with.
func (s *session) settle() {
	for side := range s.legs {
		l := &s.legs[side]
		closed := l.closed.Load()
		s.mu.Lock()
		e := &s.ending
		done := e.done(l.side, closed)
		fin := !done && closed && e.ended[side] && !e.heard[side] && !e.over[side]
		s.mu.Unlock()
		switch {
		case done:
			l.close()
		case fin:
			// It broke the protocol and has been told so; its own Close
			// can't be made out any more, so wait for its FIN only.
			l.closeWrite()
		}
	}
}

// stop ends the session for a cause that lies with the proxy. It doesn't wait
// for the Close frames to be written: a peer that takes no byte would hold up
// the other one, or all sessions of a Shutdown.
func (s *session) stop(c *cause, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished || !s.ending.begin(c, err) {
		return
	}
	s.hasten(neither)
	for side := range s.legs {
		l, code := &s.legs[side], s.ending.tell(Side(side))
		s.helpers.Go(func() { l.inject(uint32(code)) })
	}
}

// cut ends the session at once, with no Close frames.
func (s *session) cut(c *cause, err error) {
	s.mu.Lock()
	s.ending.begin(c, err)
	s.mu.Unlock()
	s.legs[Client].abort()
	s.legs[Upstream].abort()
}

// firstTick says when the session's timer is first to fire.
func (s *session) firstTick() time.Duration {
	_, again := s.policy.check(0, life{writing: -1})
	_, idle := s.policy.checkIdle(0, 0)
	return min(again, idle)
}

// tick is the session's timer: it looks at both legs, does what is due, and
// arms the timer for when something may next be. It runs in a goroutine of
// its own, and arms the timer first: a write that blocks holds up nothing.
func (s *session) tick() {
	s.mu.Lock()
	if s.finished {
		s.mu.Unlock()
		return
	}
	s.helpers.Add(1)
	defer s.helpers.Done()
	defer s.guard()
	now := s.now()
	if s.deadline != 0 {
		s.expire(now)
		return
	}
	data := max(s.pumps[Client].data.Load(), s.pumps[Upstream].data.Load(),
		s.legs[Client].writing.Load(), s.legs[Upstream].writing.Load())
	idle, again := s.policy.checkIdle(now, time.Duration(data))
	var needs [2]need
	for side := range s.legs {
		l := &s.legs[side]
		var at time.Duration
		needs[side], at = s.policy.check(now, life{
			heard:   time.Duration(l.heard.Load()),
			pinged:  time.Duration(l.pinged.Load()),
			writing: time.Duration(l.writing.Load()),
			unread:  s.pumps[side].waits.Load(),
		})
		again = min(again, at)
	}
	s.timer.Reset(max(again-now, time.Millisecond))
	s.mu.Unlock()

	if idle {
		s.stop(causeIdle, nil)
		return
	}
	if needs[Client] != needNothing && needs[Upstream] != needNothing {
		// A write that blocks is not to hold up the other leg's.
		need := needs[Client]
		s.helpers.Go(func() { s.meet(Client, need, now) })
		needs[Client] = needNothing
	}
	for side, need := range needs {
		s.meet(Side(side), need, now)
	}
}

// meet does what a leg needs.
func (s *session) meet(side Side, need need, now time.Duration) {
	defer s.guard()
	l := &s.legs[side]
	switch need {
	case needPing:
		l.inject(pingPending)
	case needMoreTime:
		l.pinged.Store(int64(now))
	case needHearing:
		l.heard.Store(int64(now))
	case needEndSilent:
		s.lose(l, errSilent)
	case needEndStuck:
		s.lose(l, errStuck)
	}
}

var (
	errSilent = errors.New("no answer to a ping")
	errStuck  = errors.New("no progress in writing")
	errLate   = errors.New("no end within the close timeout")
)

// lose gives a leg up. Its reader finds it closed and tells the other side.
func (s *session) lose(l *leg, err error) {
	s.mu.Lock()
	s.ending.begin(causeLost[l.side], err)
	s.hasten(l.side)
	s.mu.Unlock()
	l.abort()
}

// expire severs a session whose end has taken too long. s.mu is held, and
// released.
func (s *session) expire(now time.Duration) {
	if now < s.deadline {
		s.timer.Reset(s.deadline - now)
		s.mu.Unlock()
		return
	}
	if s.suspect != neither {
		s.ending.begin(causeLost[s.suspect], errLate)
	}
	s.sever()
}

// sever closes both connections, each with a last Close frame if one is still
// owed and can be written without waiting. s.mu is held, and released.
func (s *session) sever() {
	tell := [2]websocket.StatusCode{s.ending.tell(Client), s.ending.tell(Upstream)}
	s.mu.Unlock()
	for side := range s.legs {
		l := &s.legs[side]
		if tell[side] != 0 {
			l.conn.SetWriteDeadline(time.Now().Add(lastWord))
			l.inject(uint32(tell[side]))
		}
		l.abort()
	}
}

// lastWord is how long the Close frame of a session that is cut may take.
const lastWord = 100 * time.Millisecond

// mute says that nothing may be written to the leg any more. lock is held.
func (l *leg) mute() bool { return l.deaf || l.closed.Load() }

// write writes b, or drops it where nothing may be written any more. lock is
// held.
func (l *leg) write(b []byte, now time.Duration) {
	if len(b) == 0 || l.mute() {
		return
	}
	l.writing.Store(int64(now))
	err := l.send(b)
	l.writing.Store(-1)
	if err != nil {
		l.fail()
	}
}

// fail is called when a write failed. The leg isn't closed for it: a peer
// that has sent its last words and closed its end fails our writes, and
// those words may still be waiting to be read. The leg's reader will find
// out; if not, the deadline will. lock is held.
func (l *leg) fail() {
	l.deaf = true
	l.s.mu.Lock()
	l.s.hasten(l.side)
	l.s.mu.Unlock()
}

// release gives the lock back at a frame boundary, and lets through what
// waits for one.
func (l *leg) release() {
	l.writePending()
	<-l.lock
	l.flush()
}

// inject has a Ping (pingPending) or a Close (its code) written at the leg's
// next frame boundary: now, or by whoever holds the lock.
func (l *leg) inject(frame uint32) {
	if frame != 0 {
		l.pending.Or(frame)
		l.flush()
	}
}

func (l *leg) flush() {
	for l.pending.Load() != 0 {
		select {
		case l.lock <- struct{}{}:
		default:
			return // its holder will write them
		}
		l.writeAlone()
	}
}

// writeAlone writes the frames that wait for a boundary, outside of a pump.
// lock is held, and released. It may run in anyone's goroutine: a panic of
// the connection's must neither reach that one nor keep the lock.
func (l *leg) writeAlone() {
	defer l.s.guard()
	defer func() { <-l.lock }()
	l.writePending()
}

// writePending writes the frames that wait for a boundary. lock is held.
func (l *leg) writePending() {
	frames := l.pending.Swap(0)
	if frames == 0 || l.mute() {
		return
	}
	var b []byte
	now := l.s.now()
	if frames&pingPending != 0 {
		l.number++
		l.pinged.Store(int64(now))
		b = appendControl(b, opPing, l.side == Upstream, pingBody(l.tag, l.number))
	}
	code := websocket.StatusCode(frames &^ pingPending)
	if code != 0 {
		b = appendClose(b, l.side == Upstream, code, closeReason(code))
	}
	l.write(b, now)
	if code != 0 && !l.deaf {
		l.closed.Store(true)
		l.s.settle()
	}
}

// close closes the leg's connection.
func (l *leg) close() { l.end(l.conn) }

// abort closes the leg's connection with no goodbye of its own: a TLS alert
// would wait for a peer that may be gone.
func (l *leg) abort() {
	if c, ok := l.conn.(interface{ NetConn() net.Conn }); ok {
		l.end(c.NetConn())
		return
	}
	l.end(l.conn)
}

// end closes the connection, once. Close on a connection of the net package
// waits for callbacks of its RawConn to return, and this may run inside of
// one: then the reader is woken, and closes it when it is out of there.
func (l *leg) end(conn net.Conn) {
	l.shut.Store(true)
	if l.reading.Load() {
		conn.SetDeadline(longAgo)
		return
	}
	l.hangUp.Do(func() {
		defer func() {
			if v := recover(); v != nil { // see guard; there is nothing left to sever
				l.s.mu.Lock()
				l.s.ending.begin(causePanic, panicError(v))
				l.s.mu.Unlock()
			}
		}()
		conn.Close()
	})
}

// closeWrite sends a FIN, where the connection can.
func (l *leg) closeWrite() {
	if c, ok := l.conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite() // an error shows when reading
		return
	}
	l.close()
}
