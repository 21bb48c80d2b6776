//go:build linux && (amd64 || arm64) && !noloop

package relay

import (
	"syscall"
	"time"
)

// This file keeps what a socket of the event driver does not take, and writes it when
// the socket does.

// kept is what the socket has not taken of what was written to a leg: at most one
// chunk, with a few control frames, or what is in a pipe.
type kept struct {
	pipe *pipe  // comes first
	b    []byte // then this

	since time.Duration // when the socket last took any of it

	// What counts of it once it is written.
	frames, messages, bytes int
	additions               []*addition
}

// writeOrKeep writes b, and keeps what the socket does not take. It returns the
// number of bytes written. The lock is held.
func (l *leg) writeOrKeep(b []byte, now time.Duration) (n int) {
	e := l.ev()
	l.s.events.mu.Lock()
	var errno syscall.Errno
	if e.kept == nil {
		n, errno = e.sendLocked(b)
		if errno == syscall.EAGAIN {
			l.keep(&kept{since: now})
		}
	}
	if e.kept != nil {
		e.kept.b = append(e.kept.b, b[n:]...)
		errno = 0
	}
	l.s.events.mu.Unlock()
	if errno != 0 {
		l.fail()
	}
	return n
}

// keep keeps k. The lock and events.mu are held.
func (l *leg) keep(k *kept) {
	l.kept = k
	l.set(legKeeps, true)
}

// keptSince returns when the socket last took anything of what is kept; negative:
// nothing is.
func (l *leg) keptSince() time.Duration {
	if !l.keeps() {
		return -1
	}
	e := l.ev()
	l.s.events.mu.Lock()
	defer l.s.events.mu.Unlock()
	if e.kept == nil {
		return -1
	}
	return e.kept.since
}

// keptMoves restarts the time in which the socket must take something of what is kept.
func (l *leg) keptMoves(since, now time.Duration) {
	e := l.ev()
	l.s.events.mu.Lock()
	defer l.s.events.mu.Unlock()
	if e.kept != nil && e.kept.since == since {
		e.kept.since = now
	}
}

// keeps reports whether the leg keeps bytes.
func (l *leg) keeps() bool { return l.is(legKeeps) }

// owe counts what is kept once it is written: nothing after a Close frame. lock is
// held.
func (l *leg) owe(frames, messages, bytes int) {
	if e := l.ev(); e != nil && e.kept != nil && !e.closing {
		k := e.kept
		k.frames, k.messages, k.bytes = k.frames+frames, k.messages+messages, k.bytes+bytes
	}
}

// handOver leaves the lock to the loop if the leg keeps bytes. It tries to write
// them before: the loop may have ignored the event that the socket takes more,
// because the lock was not its own. The lock is held.
func (l *leg) handOver() bool {
	e := l.ev()
	if e.kept == nil {
		return false
	}
	l.s.events.mu.Lock()
	k := e.kept
	n, errno := e.drainLocked()
	l.moved(k, n)
	e.handed = e.kept != nil
	handed := e.handed
	l.s.events.mu.Unlock() // if it is handed over, the loop may have written the rest by now
	if !handed {
		l.wrote(k, errno)
	}
	return handed
}

// writeKept is called by the loop when the socket takes more. It reports whether
// the pump may go on that writes to the leg.
func (l *leg) writeKept() bool {
	e := l.ev()
	pump := &l.s.pumps[l.side^1]
	l.s.events.mu.Lock()
	k := e.kept
	if k == nil || !e.handed && !pump.from.owns {
		l.s.events.mu.Unlock() // a writer holds the lock, and will try itself
		return false
	}
	n, errno := e.drainLocked()
	l.moved(k, n)
	done := e.kept == nil
	handed := e.handed
	e.handed = handed && !done
	l.s.events.mu.Unlock()
	if done {
		l.wrote(k, errno)
	}
	if done && handed {
		l.release()
	}
	return done
}

// drainLocked writes what is kept, as far as the socket takes it. It returns the
// number of bytes written. events.mu is held.
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

// moved records that n bytes of what was kept were written. The lock and events.mu are held.
func (l *leg) moved(k *kept, n int) {
	if n > 0 {
		bytes := min(n, k.bytes)
		k.bytes -= bytes
		l.s.pumps[l.side^1].add(0, 0, bytes)
		k.since = l.s.now()
	}
}

// wrote records that what was kept is written, or that no more of it can be. lock
// is held.
func (l *leg) wrote(k *kept, errno syscall.Errno) {
	l.set(legKeeps, false)
	e := l.ev()
	closing := e.closing
	e.closing = false
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
		l.set(legClosed, true)
	}
	l.s.settleEnd()
}

// addLater calls added when the message is written, and reports whether bytes of
// it are kept. The lock is held.
func (l *leg) addLater(m *addition) bool {
	e := l.ev()
	if e == nil || e.kept == nil {
		return false
	}
	e.kept.additions = append(e.kept.additions, m)
	return true
}

// drop closes the pipe, if there is one.
func (k *kept) drop() {
	if k.pipe != nil {
		k.pipe.close()
		k.pipe = nil
	}
}
