//go:build linux && (amd64 || arm64) && !noloop

package relay

import (
	"io"
	"os"
	"syscall"
)

// This file relays one direction of a session in the event driver.

// pass relays what has arrived from the pump's side, until there is nothing more,
// the opposite leg takes no more, or the turn is over.
func (l *loop) pass(p *pump) {
	e := p.from.ev()
	if e.spent {
		return
	}
	for left := l.budget; !e.over && (e.ready || e.early || p.from.is(legShut)); {
		waits := !p.mayWrite()
		if waits != p.from.is(legWaits) {
			p.from.set(legWaits, waits)
		}
		if waits {
			return
		}
		switch {
		case e.early:
			e.early = false
			p.passEarly()
		case p.from.is(legShut):
			p.end(errShut)
		case left <= 0:
			e.spent = true
			l.spent = append(l.spent, p.from)
			p.pause()
			return
		default:
			left -= p.move(l)
		}
	}
	p.pause()
}

// resume has the loop go on with the pump that waited for the leg's lock.
func (l *leg) resume() {
	if l.is(legWanted) {
		l.s.events.call(l.s)
	}
}

// mayWrite reports whether the pump may write to the opposite leg: whether it has
// its lock, and nothing is kept there. The pump reads only then. It keeps the lock
// until it pauses.
func (p *pump) mayWrite() bool {
	to := p.to()
	if p.from.owns {
		return to.kept == nil
	}
	if p.from.owns = to.state.tryLock(); !p.from.owns {
		to.set(legWanted, true)
		p.from.owns = to.state.tryLock() // it may have been released before
	}
	if p.from.owns && to.is(legWanted) {
		to.set(legWanted, false)
	}
	return p.from.owns
}

// pause releases the opposite leg's lock at a frame boundary.
func (p *pump) pause() {
	if p.from.owns && (p.mind.Left == 0 || p.to().mute()) {
		p.from.owns = false
		p.to().release()
	}
}

// end ends the pump, because of err.
func (p *pump) end(err error) {
	p.from.ev().over = true
	p.lose(err)
}

// move relays what one system call reads. It returns the number of bytes.
func (p *pump) move(l *loop) int {
	e, c := p.from.ev(), l.chunk
	if p.mind.Left >= spliceFrom && !e.plain && !p.to().mute() {
		if pipe := getPipe(); pipe != nil {
			return p.moveFrame(pipe)
		}
	}
	held := copy(c.b[:], p.held())
	talked := p.from.is(legTalks)
	if p.mind.Ended { // before the bytes are removed from the socket: see settle
		p.from.set(legTalks, true)
	}
	n, err := e.receive(c.b[held:])
	if p.mind.Ended && n <= 0 {
		p.from.set(legTalks, talked)
		p.from.s.settle() // concurrent calls of settle may have seen legTalks
	}
	switch {
	case n > 0:
		e.ready = held+n == len(c.b) || e.toEnd || p.mind.Ended || e.tls != nil
		p.dropHeld()
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
	e, to, s := p.from.ev(), p.to(), p.from.s
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
	across := to.ev()
	s.events.mu.Lock()
	m, errno := pipe.drainNow(across.fd)
	if errno == syscall.EAGAIN {
		to.keep(&kept{pipe: pipe, since: now, frames: frames, messages: messages, bytes: pipe.held})
	}
	s.events.mu.Unlock()
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
		p.from.owns, to.inMessage = false, p.mind.Scan.InMessage
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
