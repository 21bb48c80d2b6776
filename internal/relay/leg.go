package relay

import (
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/frame"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
)

// A leg is one side's connection, with the state for writing whole frames to it.
type leg struct {
	// Set when made.
	s          *Session
	*threadLeg // nil: the event driver has it
	eventLeg   // for the event driver; see ev
	side       frame.Side

	deaf      bool // guarded by the lock; a write failed: nothing more is written
	inMessage bool // guarded by the lock; what was written ends within a fragmented message
	owns      bool // owned by its pump; a frame from it is partly written: the opposite leg's lock is held

	pending atomic.Uint32 // to inject at the next boundary: a Close code, and the bits below

	state legState      // with the leg's lock
	ping  atomic.Uint32 // the number of our last Ping, times 2; plus 1 if it is unanswered

	heard     atomic.Int64 // see protocol.Facts
	pinged    atomic.Int64
	sent      atomic.Int64 // when our last Ping was sent
	roundTrip atomic.Int64 // of the last Ping that was answered
}

// A threadLeg is what a leg needs whose reader is a goroutine.
type threadLeg struct {
	// Set when made.
	conn net.Conn
	raw  rawLeg
	inq  bool // raw reads report what is left to read

	// Owned by its reader.
	to       *leg // that its pump writes to: the opposite side's
	reader   rawReader
	err      error              // that ended raw reading
	throttle *protocol.Throttle // nil: there is no rate limit

	writing atomic.Int64 // see protocol.Facts
	waiters lockWaiters  // for the leg's lock
	slowed  atomic.Bool  // its reader waits for the rate limit
	hangUp  sync.Once    // for closing conn
	busy    atomic.Bool  // its writer has much to write; see setBusy
	reading atomic.Bool  // its reader is inside a callback of raw.conn
}

// ev returns the leg's state in the event driver, or nil: goroutines have it.
func (l *leg) ev() *eventLeg {
	if l.threadLeg == nil {
		return &l.eventLeg
	}
	return nil
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// What is true of a leg at the time; the bits of leg.state.
const (
	legLocked = 1 << iota // see legState
	legClosed             // a Close frame was written: nothing may follow it
	legShut               // the connection is closed or about to be
	legWaits              // its reader waits for the opposite leg or the rate limit, not for bytes
	legTalks              // bytes arrive after its end, and are dropped
	legTCP                // it is TCP, and the event driver has it
	legKeeps              // the event driver keeps what the socket has not taken
	legWanted             // a pump of the event driver waits for its lock
)

// is reports whether that is true of the leg.
func (l *leg) is(what uint32) bool { return l.state.is(what) }

// set sets whether it is.
func (l *leg) set(what uint32, is bool) { l.state.set(what, is) }

// awaits returns the number of our last Ping if it is unanswered, and 0 otherwise.
func (l *leg) awaits() uint32 {
	if ping := l.ping.Load(); ping&1 != 0 {
		return ping >> 1
	}
	return 0
}

// The bits of leg.pending above every close code.
const (
	pingPending = 1 << 16
	sendPending = 1 << 17 // there are additions
	sendHeld    = 1 << 18 // there are additions, and the last message written is unfinished

	closePending = pingPending - 1 // the close code
	additions    = sendPending | sendHeld
)

// answered records a Pong to our Ping of that number, and reports whether it is
// the first.
func (l *leg) answered(number uint32, now time.Duration) bool {
	l.s.mu.Lock() // no other Ping may be noted in between
	sent := l.sent.Load()
	first := l.ping.CompareAndSwap(number<<1|1, number<<1) // otherwise it is for an older Ping, or a duplicate
	l.s.course.Answered(l.side, first)
	l.s.mu.Unlock()
	if first {
		d := max(now-time.Duration(sent), 1)
		l.roundTrip.Store(int64(d))
		l.s.host.RoundTrip(l.side, d)
	}
	return first
}

// mute reports that nothing more may be written to the leg. The lock is held.
func (l *leg) mute() bool {
	if l.deaf || l.is(legClosed) {
		return true
	}
	e := l.ev()
	return e != nil && e.closing
}

// write writes b, or drops it if nothing more may be written. It returns the
// number of bytes written. The event driver keeps the others until the socket
// takes them. The lock is held.
func (l *leg) write(b []byte, now time.Duration) int {
	if l.mute() || len(b) == 0 {
		return 0
	}
	if l.ev() != nil {
		return l.writeOrKeep(b, now)
	}
	l.writing.Store(int64(now))
	n, err := send(l, l.conn, l.raw, b)
	l.writing.Store(-1)
	if err != nil {
		l.fail()
	}
	return n
}

// writingSince returns when the current write last made progress; negative: there is
// none.
func (l *leg) writingSince() time.Duration {
	if l.ev() != nil {
		return l.keptSince()
	}
	return time.Duration(l.writing.Load())
}

// moves restarts the time of the current write, if it has made no progress since.
func (l *leg) moves(since, now time.Duration) {
	if l.ev() != nil {
		l.keptMoves(since, now)
	} else {
		l.writing.CompareAndSwap(int64(since), int64(now))
	}
}

// fail is called when a write failed. It does not close the leg: if a peer has
// sent its last data and closed its end, our writes fail while that data may
// still be waiting to be read. The leg's reader will notice the end, or else
// the deadline applies. The lock is held.
func (l *leg) fail() {
	l.deaf = true
	l.s.mu.Lock()
	o := l.s.course.WriteFailed(l.s.now(), l.side)
	l.s.noteLocked(&o)
	l.s.mu.Unlock()
	l.wakeIfReset()
}

// release releases the lock at a frame boundary, after writing the frames that
// wait for one.
func (l *leg) release() {
	l.writePending()
	l.unlock()
	switch waiting := l.pending.Load(); {
	case waiting&sendPending != 0:
		l.s.help(l.flush) // the caller, a pump, is not held up by one message after the other
	case waiting != 0:
		l.flush()
	}
}

// unlock releases the lock. With the event driver, the lock remains held while
// the leg keeps bytes.
func (l *leg) unlock() {
	if l.ev() == nil {
		l.state.unlock()
		l.waiters.wake(&l.s.mu)
	} else if !l.handOver() {
		l.state.unlock()
		l.resume()
	}
}

// sentClose records that a Close frame was written, and reports whether that is
// complete. The lock is held.
func (l *leg) sentClose() bool {
	if e := l.ev(); e != nil && e.kept != nil {
		e.closing = true
		return false
	}
	l.set(legClosed, true)
	return true
}

// inject writes a Ping (pingPending) or a Close (its code) at the leg's next
// frame boundary: immediately, or by the holder of the lock.
func (l *leg) inject(frame uint32) {
	if frame != 0 {
		l.await(frame)
		l.flush()
	}
}

// injectInPassing is inject for a caller that must not wait. It starts a
// goroutine only if the write might wait, so that ending many sessions at once
// does not take a goroutine for each. The caller is one of the session's
// helpers.
func (l *leg) injectInPassing(frame uint32) {
	if frame == 0 {
		return
	}
	l.await(frame)
	if l.ev() != nil || l.flushAtOnce() {
		l.flush()
	} else {
		l.s.help(l.flush)
	}
}

// flushAtOnce is flush for frames that the socket takes without a wait. It
// returns false if they might wait. It looks with the lock held, so that nobody
// else fills the socket in between.
func (l *leg) flushAtOnce() bool {
	if !l.state.tryLock() {
		return true // the holder will write them
	}
	defer l.s.guard()
	defer l.unlock()
	if !takesAtOnce(l.conn) {
		return false
	}
	l.writePending()
	return true
}

// await adds a frame to those that wait for a boundary. Of two Closes the first
// wins: a side may be sent only one Close (RFC 6455, 5.5.1), and two codes in
// one word would make a third.
func (l *leg) await(frame uint32) {
	for {
		waiting := l.pending.Load()
		if waiting&closePending != 0 {
			frame &^= closePending
		}
		if l.pending.CompareAndSwap(waiting, waiting|frame) {
			return
		}
	}
}

// flush writes the frames that wait for a boundary, unless the holder of the lock
// will, or one who waits for it.
func (l *leg) flush() {
	for l.pending.Load()&^sendHeld != 0 && !l.wanted() && l.writeAlone() {
	}
}

// wanted reports whether somebody waits for the lock, who will write the frames that
// wait for a boundary.
func (l *leg) wanted() bool {
	if l.ev() != nil {
		return l.is(legWanted)
	}
	return l.waiters.waiting.Load() > 0
}

// writeAlone writes the frames that wait for a boundary, outside of a pump. It
// returns false if it cannot have the lock. It may run in any goroutine: a panic
// of the connection must neither propagate there nor keep the lock held.
func (l *leg) writeAlone() bool {
	if !l.state.tryLock() {
		return false
	}
	defer l.s.guard()
	defer l.unlock()
	l.writePending()
	return true
}

// writePending writes the frames that wait for a boundary. The lock is held.
func (l *leg) writePending() {
	waiting := l.pending.Swap(0)
	if frames := waiting &^ additions; frames != 0 && !l.mute() {
		l.writeControl(frames)
	}
	if waiting&additions != 0 {
		l.writeAdditions()
	}
}

// writeControl writes a Ping (pingPending), a Close (its code), or both. lock is
// held.
func (l *leg) writeControl(frames uint32) {
	var b []byte
	now := l.s.now()
	if frames&pingPending != 0 {
		l.pinged.Store(int64(now))
		number := l.ping.Load()>>1 + 1
		l.ping.And(^uint32(1)) // an answer to the previous Ping does not belong to the time below
		l.sent.Store(int64(now))
		l.ping.Store(number<<1 | 1)
		b = frame.AppendControl(b, frame.OpPing, l.side == frame.Upstream, protocol.PingBody(l.s.pumps[l.side].mind.Tag, number))
	}
	code := frame.Code(frames &^ pingPending)
	if code != 0 {
		l.s.mu.Lock()
		reason := l.s.course.Text()
		l.s.mu.Unlock()
		b = frame.AppendClose(b, l.side == frame.Upstream, code, reason)
	}
	l.write(b, now)
	if frames&pingPending != 0 {
		// The write may have waited for room, or for the proxy to run.
		if done := l.s.now(); done-now > protocol.Lateness && l.heard.Load() < int64(now) {
			l.pinged.CompareAndSwap(int64(now), int64(done))
		}
		l.notePing(now)
	}
	if code != 0 && !l.deaf && l.sentClose() {
		l.s.settle()
	}
}

// notePing records that a Ping was just written.
func (l *leg) notePing(now time.Duration) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.s.course.Pinged(now, l.side, l.acks())
}

// lastWordTimeout limits the time for writing the Close frame of a session that
// is cut.
const lastWordTimeout = 100 * time.Millisecond

// lastWord writes a Close before the leg is closed, if that does not take long.
func (l *leg) lastWord(code frame.Code) {
	defer func() {
		if v := recover(); v != nil {
			l.s.blame(v)
		}
	}()
	if l.ev() != nil {
		l.inject(uint32(code))
		return
	}
	if l.conn.SetWriteDeadline(time.Now().Add(lastWordTimeout)) != nil {
		return // it might block forever
	}
	timeout := time.NewTimer(lastWordTimeout)
	defer timeout.Stop()
	if l.acquire(timeout.C) {
		defer l.unlock()
		l.await(uint32(code))
		l.writePending()
	}
}

// close closes the leg's connection.
func (l *leg) close() {
	if l.ev() != nil {
		l.endSoon(true)
		return
	}
	l.end(l.conn)
}

// abort closes the leg's connection without a TLS close_notify, which would
// wait for a peer that may be gone.
func (l *leg) abort() {
	if l.ev() != nil {
		l.endSoon(false)
		return
	}
	if c, ok := l.conn.(*tls.Conn); ok {
		l.end(c.NetConn())
		return
	}
	l.end(l.conn)
}

// end closes the connection, once. Close on a connection of the net package
// waits for callbacks of its RawConn to return, and this may run inside one:
// then end wakes the reader, which closes the connection after it has returned.
func (l *leg) end(conn net.Conn) {
	l.set(legShut, true)
	l.s.endStage()
	if l.reading.Load() {
		conn.SetDeadline(longAgo)
		return
	}
	l.hangUp.Do(func() {
		defer func() {
			if v := recover(); v != nil { // see guard; nothing is left to close
				l.s.blame(v)
			}
		}()
		conn.Close()
	})
}

// cutShort ends the writing to the leg in the middle of a frame whose rest will
// not arrive: no Close is possible there (RFC 6455, 5.4). The peer gets a FIN.
// The leg's reader continues until the peer's own FIN or the deadline, for the
// reason given at closeWrite. The lock is held.
func (l *leg) cutShort() {
	l.deaf = true
	l.closeWrite()
}

// closeWrite sends a FIN, if the connection supports it; over TLS, a
// close_notify before it (RFC 8446, 6.1). What the peer sends is still read and
// dropped: if the connection were closed with unread input, the kernel would
// reset it, and a peer that receives a reset loses data that was written to it
// and has not been read (RFC 1122, 4.2.2.13; RFC 9112, 9.6).
func (l *leg) closeWrite() {
	if l.ev() != nil {
		l.shutdown()
		return
	}
	type halfCloser interface{ CloseWrite() error }
	c, ok := l.conn.(halfCloser)
	if !ok {
		l.close()
		return
	}
	c.CloseWrite() // an error will also show when reading
	if secure, ok := c.(*tls.Conn); ok {
		if c, ok = secure.NetConn().(halfCloser); ok { // not every peer treats close_notify as the end
			c.CloseWrite()
		}
	}
}
