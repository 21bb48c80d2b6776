//go:build linux && (amd64 || arm64) && !noloop

package relay

import (
	"io"
	"net"
	"os"
	"syscall"
)

// This file reads from the sockets of the event driver and writes to them.

// An eventLeg is a leg's state in the event driver.
//
// The leg's lock, which a writer holds until its frame is complete, is never waited
// for here. While the leg keeps bytes, the lock remains held: by the pump that is
// in the middle of a frame; otherwise the writer hands it over to the loop.
type eventLeg struct {
	tls *tlsSocket // set when made; nil: there is no TLS

	// Owned by the loop.
	ready bool // something may have arrived
	toEnd bool // a short read does not mean that nothing is left
	early bool // what was received after the handshake is to be relayed
	spent bool // it is in loop.spent
	over  bool // nothing more is read from it
	plain bool // no splicing: the kernel refuses it, or there is TLS

	closing bool // guarded by the leg's lock; what is kept ends with a Close frame
	handed  bool // guarded by events.mu; the loop holds the leg's lock, as long as kept is not nil

	tag  int32 // owned by the loop
	fd   int32 // changed by the loop with events.mu; -1: closed
	kept *kept // changed with the leg's lock and events.mu
}

// errShut ends the reading from a leg that the proxy closes.
var errShut error = net.ErrClosed

// take duplicates the descriptor of a connection of the net package, or of one
// below TLS if that is a Conn.
func (l *leg) take(conn net.Conn) (taken bool) {
	conn = l.secure(conn)
	tcp := false
	l.fd, tcp, taken = duplicate(conn)
	l.set(legTCP, tcp)
	l.toEnd = !tcp // a read from a unix socket stops where its peer has sent a descriptor
	return taken
}

// control calls f with the descriptor, unless it is closed.
func (l *leg) control(f func(fd uintptr)) {
	mu := &l.s.events.mu
	mu.Lock()
	defer mu.Unlock()
	if l.fd >= 0 {
		f(uintptr(l.fd))
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
func (l *leg) shutdown() {
	if l.tls != nil {
		l.tls.shutdown()
		return
	}
	l.control(func(fd uintptr) { sendFIN(int(fd)) })
}

// endSoon has the loop close the connection. With TLS, it gets a close_notify
// before if told is set.
func (l *leg) endSoon(told bool) {
	if t := l.ev().tls; t != nil && told && !l.is(legShut) {
		t.closeNotify()
	}
	l.set(legShut, true)
	l.s.events.call(l.s)
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

// sendLocked writes what the connection takes, as sendNow does. events.mu is held.
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
