//go:build linux && (amd64 || arm64) && !noloop

package relay

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// An eventLeg is a leg's state in the event driver.
//
// The leg's lock, which a writer holds until its frame is complete, is never waited
// for here. While the leg keeps bytes, the lock remains held: by the pump that is
// in the middle of a frame; otherwise the writer hands it over to the loop.
type eventLeg struct {
	// Set when made.
	tcp bool
	tls *tlsSocket // nil: there is no TLS

	// Owned by the loop.
	tag   int32
	ready bool // something may have arrived
	toEnd bool // a short read does not mean that nothing is left
	early bool // what was received after the handshake is to be relayed
	spent bool // it is in loop.spent
	over  bool // nothing more is read from it
	plain bool // no splicing: the kernel refuses it, or there is TLS

	closing bool        // guarded by leg.lock; what is kept ends with a Close frame
	wanted  atomic.Bool // the pump that writes to the leg waits for its lock

	mu     sync.Mutex // held for a system call at most, and with TLS for encrypting a chunk
	handed bool       // guarded by mu; the loop holds leg.lock, as long as kept is not nil
	fd     int32      // changed by the loop with mu; -1: closed
	kept   *kept      // changed with leg.lock and mu
}

// kept is what the socket has not taken of what was written to a leg: at most one
// chunk, with a few control frames, or what is in a pipe.
type kept struct {
	pipe *pipe  // comes first
	b    []byte // then this

	// What counts of it once it is written.
	frames, messages, bytes int
	additions               []*addition
}

// errShut ends the reading from a leg that the proxy closes.
var errShut error = net.ErrClosed

// take duplicates the descriptor of a connection of the net package, or of one
// below TLS if that is a Conn.
func (e *eventLeg) take(conn net.Conn) (taken bool) {
	conn = e.secure(conn)
	e.fd, e.tcp, taken = duplicate(conn)
	e.toEnd = !e.tcp // a read from a unix socket stops where its peer has sent a descriptor
	return taken
}

// control calls f with the descriptor, unless it is closed.
func (e *eventLeg) control(f func(fd uintptr)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fd >= 0 {
		f(uintptr(e.fd))
	}
}

// arrived notes that there may be something to read.
func (e *eventLeg) arrived() {
	e.ready = true
	if e.tls != nil {
		e.tls.drained = false
	}
}

// shutdown sends a FIN, with TLS a close_notify before it.
func (e *eventLeg) shutdown() {
	if e.tls != nil {
		e.tls.shutdown()
		return
	}
	e.control(func(fd uintptr) { sendFIN(int(fd)) })
}

// endSoon has the loop close the connection. With TLS, it gets a close_notify
// before if told is set.
func (l *leg) endSoon(told bool) {
	if l.ev.tls != nil && told && !l.shut.Load() {
		l.ev.tls.closeNotify()
	}
	l.shut.Store(true)
	l.s.events.call()
}

// writeOrKeep writes b, and keeps what the socket does not take. It returns the
// number of bytes written. lock is held.
func (l *leg) writeOrKeep(b []byte, now time.Duration) (n int) {
	e := l.ev
	e.mu.Lock()
	var errno syscall.Errno
	if e.kept == nil {
		n, errno = e.sendLocked(b)
		if errno == syscall.EAGAIN {
			e.kept = new(kept)
			l.writing.Store(int64(now))
		}
	}
	if e.kept != nil {
		e.kept.b = append(e.kept.b, b[n:]...)
		errno = 0
	}
	e.mu.Unlock()
	if errno != 0 {
		l.fail()
	}
	return n
}

// keeps reports whether the leg keeps bytes.
func (l *leg) keeps() bool { return l.ev != nil && l.writing.Load() >= 0 }

// owe counts what is kept once it is written: nothing after a Close frame. lock is
// held.
func (l *leg) owe(frames, messages, bytes int) {
	if l.ev != nil && l.ev.kept != nil && !l.ev.closing {
		k := l.ev.kept
		k.frames, k.messages, k.bytes = k.frames+frames, k.messages+messages, k.bytes+bytes
	}
}

// handOver leaves the lock to the loop if the leg keeps bytes. It tries to write
// them before: the loop may have ignored the event that the socket takes more,
// because the lock was not its own. lock is held.
func (l *leg) handOver() bool {
	e := l.ev
	if e.kept == nil {
		return false
	}
	e.mu.Lock()
	k := e.kept
	n, errno := e.drainLocked()
	l.moved(k, n)
	e.handed = e.kept != nil
	handed := e.handed
	e.mu.Unlock() // if it is handed over, the loop may have written the rest by now
	if !handed {
		l.wrote(k, errno)
	}
	return handed
}

// writeKept is called by the loop when the socket takes more. It reports whether
// the pump may go on that writes to the leg.
func (l *leg) writeKept() bool {
	e := l.ev
	pump := &l.s.pumps[l.side^1]
	e.mu.Lock()
	k := e.kept
	if k == nil || !e.handed && !pump.owns {
		e.mu.Unlock() // a writer holds the lock, and will try itself
		return false
	}
	n, errno := e.drainLocked()
	l.moved(k, n)
	done := e.kept == nil
	handed := e.handed
	e.handed = handed && !done
	e.mu.Unlock()
	if done {
		l.wrote(k, errno)
	}
	if done && handed {
		l.release()
	}
	return done
}

// drainLocked writes what is kept, as far as the socket takes it. It returns the
// number of bytes written. mu is held.
func (e *eventLeg) drainLocked() (n int, errno syscall.Errno) {
	k := e.kept
	if p := k.pipe; p != nil {
		n, errno = p.drainNow(e.fd)
		if p.held == 0 {
			k.pipe = nil
			p.release()
		}
	}
	if errno == 0 {
		var m int
		m, errno = e.sendLocked(k.b)
		n += m
		k.b = k.b[m:]
	}
	if errno != syscall.EAGAIN {
		e.kept = nil
		k.drop()
	}
	return n, errno
}

// moved records that n bytes of what was kept were written. lock and mu are held.
func (l *leg) moved(k *kept, n int) {
	if n > 0 {
		bytes := min(n, k.bytes)
		k.bytes -= bytes
		l.s.pumps[l.side^1].add(0, 0, bytes)
		l.writing.Store(int64(l.s.now()))
	}
}

// wrote records that what was kept is written, or that no more of it can be. lock
// is held.
func (l *leg) wrote(k *kept, errno syscall.Errno) {
	l.writing.Store(-1)
	closing := l.ev.closing
	l.ev.closing = false
	err := error(nil)
	if errno != 0 {
		err = ErrNotOpen
		l.fail()
	} else {
		l.s.pumps[l.side^1].add(k.frames, k.messages, 0)
	}
	for _, m := range k.additions {
		l.added(m, err)
	}
	if closing && err == nil {
		l.closed.Store(true)
	}
	l.s.settleEnd()
}

// addLater calls added when the message is written, and reports whether bytes of
// it are kept. lock is held.
func (l *leg) addLater(m *addition) bool {
	if l.ev == nil || l.ev.kept == nil {
		return false
	}
	l.ev.kept.additions = append(l.ev.kept.additions, m)
	return true
}

// resume has the loop go on with the pump that waited for the leg's lock.
func (l *leg) resume() {
	if l.ev.wanted.Load() {
		l.s.events.call()
	}
}

// drop closes the pipe, if there is one.
func (k *kept) drop() {
	if k.pipe != nil {
		k.pipe.close()
		k.pipe = nil
	}
}

// mayWrite reports whether the pump may write to the opposite leg: whether it has
// its lock, and nothing is kept there. The pump reads only then. It keeps the lock
// until it pauses.
func (p *pump) mayWrite() bool {
	to := p.to.ev
	if p.owns {
		return to.kept == nil
	}
	if p.owns = p.to.lock.tryAcquire(); !p.owns {
		to.wanted.Store(true)
		p.owns = p.to.lock.tryAcquire() // it may have been released before
	}
	if p.owns && to.wanted.Load() {
		to.wanted.Store(false)
	}
	return p.owns
}

// pause releases the opposite leg's lock at a frame boundary.
func (p *pump) pause() {
	if p.owns && (p.mind.Left == 0 || p.to.mute()) {
		p.owns = false
		p.to.release()
	}
}

// end ends the pump, because of err.
func (p *pump) end(err error) {
	p.from.ev.over = true
	p.lose(err)
}

// move relays what one system call reads. It returns the number of bytes.
func (p *pump) move(l *loop) int {
	if p.mind.Left >= spliceFrom && !p.from.ev.plain && !p.to.mute() {
		if pipe := getPipe(); pipe != nil {
			return p.moveFrame(pipe)
		}
	}
	e, c := p.from.ev, l.chunk
	held := copy(c.b[:], p.held)
	talked := p.talks.Load()
	if p.mind.Ended { // before the bytes are removed from the socket: see settle
		p.talks.Store(true)
	}
	n, err := e.receive(c.b[held:])
	if p.mind.Ended && n <= 0 {
		p.talks.Store(talked)
		p.from.s.settle() // concurrent calls of settle may have seen talks set
	}
	switch {
	case n > 0:
		e.ready = held+n == len(c.b) || e.toEnd || p.mind.Ended || e.tls != nil
		p.held = p.held[:0]
		if m, now := p.take(c, c.b[:held+n]); m > 0 {
			p.forward(c, c.b[:m], false, now)
		}
		return n
	case err == errAgain:
		e.ready = false
	default:
		p.end(err)
	}
	return 0
}

// moveFrame moves bytes of the current frame from socket to socket; see
// splice_linux.go.
func (p *pump) moveFrame(pipe *pipe) int {
	e, to, s := p.from.ev, p.to, p.from.s
	n, errno := splice(int(e.fd), pipe.w, int(min(p.mind.Left, spliceSize)))
	if n <= 0 {
		pipe.release()
		switch errno {
		case 0:
			p.end(io.EOF)
		case syscall.EAGAIN:
			if e.plain = atMark(uintptr(e.fd)); !e.plain {
				e.ready = false
			}
		case syscall.EINTR:
		case syscall.EINVAL, syscall.ENOSYS, syscall.EPERM:
			e.plain = true // for example, a sandbox forbids it
		default:
			p.end(os.NewSyscallError("splice", errno))
		}
		return 0
	}
	now := s.now()
	p.from.heard.Store(int64(now))
	if p.mind.Data {
		p.data.Store(int64(now))
	}
	frames, messages := p.mind.Skip(n)
	pipe.held = int(n)
	to.ev.mu.Lock()
	m, errno := pipe.drainNow(to.ev.fd)
	if errno == syscall.EAGAIN {
		to.ev.kept = &kept{pipe: pipe, frames: frames, messages: messages, bytes: pipe.held}
		to.writing.Store(int64(now))
	}
	to.ev.mu.Unlock()
	switch errno {
	case 0:
		pipe.release()
		p.add(frames, messages, m)
	case syscall.EAGAIN:
		p.add(0, 0, m)
	default:
		pipe.close()
		p.add(0, 0, m)
		to.fail()
	}
	if p.mind.Left == 0 || to.mute() {
		p.owns, to.inMessage = false, p.mind.Scan.InMessage
		to.release()
	}
	return int(n)
}

// drainNow moves the contents of the pipe into the socket, as far as that takes
// them.
func (p *pipe) drainNow(fd int32) (n int, errno syscall.Errno) {
	for p.held > 0 {
		m, errno := splice(p.r, int(fd), p.held)
		switch {
		case m > 0:
			n += int(m)
			p.held -= int(m)
		case errno == 0: // cannot be, and the pipe must not be used again
			return n, syscall.EIO
		case errno != syscall.EINTR:
			return n, errno
		}
	}
	return n, 0
}

// sendNow writes what the socket takes. Unless that is everything, it returns an
// error, EAGAIN if the socket is full.
func sendNow(fd int32, b []byte) (n int, errno syscall.Errno) {
	for n < len(b) {
		m, errno := sendOnce(fd, b[n:])
		switch {
		case errno == 0:
			n += m
		case errno != syscall.EINTR:
			return n, errno
		}
	}
	return n, 0
}

// sendLocked writes what the connection takes, as sendNow does. mu is held.
func (e *eventLeg) sendLocked(b []byte) (n int, errno syscall.Errno) {
	if e.tls != nil {
		return e.tls.send(b)
	}
	return sendNow(e.fd, b)
}

// receive reads what has arrived: errAgain if there is nothing.
func (e *eventLeg) receive(b []byte) (n int, err error) {
	if e.tls != nil {
		return e.tls.conn.Read(b)
	}
	return readNow(e.fd, b)
}

// readNow is receiveNow with an error like that of a Read.
func readNow(fd int32, b []byte) (n int, err error) {
	for {
		n, errno := receiveNow(fd, b)
		switch {
		case n > 0:
			return n, nil
		case errno == 0:
			return 0, io.EOF
		case errno == syscall.EAGAIN:
			return 0, errAgain
		case errno != syscall.EINTR:
			return 0, os.NewSyscallError("recvfrom", errno)
		}
	}
}
